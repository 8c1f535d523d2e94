"""Questions from an allow-list of reasoning-gym tasks.

Only tasks whose scorers compare text or numbers are listed: several reasoning-gym
scorers evaluate the candidate answer as code, and no answer is ever executed here.
Every question belongs to one pool by a hash of its *key* (what is asked, without
wording or operand order), so near-duplicates always stay together.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import reasoning_gym

from controller.errors import ConfigError
from controller.process.types import Question

Entry = Mapping[str, Any]

MAX_INDEX = 2**31
"""Questions are drawn from this many reasoning-gym indices per task and level."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One reasoning-gym task.

    Attributes:
        name: reasoning-gym dataset name.
        levels: reasoning-gym settings, from trivial to out of reach.
        key: what is asked, equal for near-duplicates.
    """

    name: str
    levels: tuple[Mapping[str, Any], ...]
    key: Callable[[Entry], str]


@dataclass(frozen=True, kw_only=True)
class DrawnQuestion:
    """A question, its key, and the entry of reasoning-gym's that it is made of."""

    question: Question
    key: str
    entry: Entry


def _sorted_key(*values: Any) -> str:
    return " ".join(sorted(str(v) for v in values))


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="chain_sum",
            levels=(
                {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 1},
                {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2},
                {"min_terms": 3, "max_terms": 4, "min_digits": 2, "max_digits": 2},
                {"min_terms": 3, "max_terms": 4, "min_digits": 3, "max_digits": 3},
                {"min_terms": 5, "max_terms": 6, "min_digits": 5, "max_digits": 5},
            ),
            key=lambda e: _sorted_key(*e["metadata"]["expression"].split()),
        ),
        Task(
            name="products",
            levels=(
                {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1},
                {"min_terms": 4, "max_terms": 4, "min_digits": 1, "max_digits": 1},
                {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2},
                {"min_terms": 2, "max_terms": 2, "min_digits": 3, "max_digits": 3},
                {"min_terms": 2, "max_terms": 2, "min_digits": 5, "max_digits": 5},
            ),
            key=lambda e: _sorted_key(*e["metadata"]["expression"].split()),
        ),
        Task(
            name="gcd",
            levels=(
                *({"min_value": 2, "max_value": m} for m in (25, 50, 100, 300)),
                {"min_value": 10_000, "max_value": 99_999},
            ),
            key=lambda e: _sorted_key(*e["metadata"]["numbers"]),
        ),
        Task(
            name="lcm",
            levels=(
                *({"min_value": 2, "max_value": m} for m in (20, 30, 50, 100)),
                {"min_value": 1_000, "max_value": 9_999},
            ),
            key=lambda e: _sorted_key(*e["metadata"]["numbers"]),
        ),
        Task(
            name="fraction_simplification",
            levels=tuple(
                {
                    "min_value": low,
                    "max_value": high,
                    "min_factor": 2,
                    "max_factor": factor,
                    "styles": ("plain",),
                }
                for low, high, factor in (
                    (1, 9, 9),
                    (1, 15, 15),
                    (1, 30, 30),
                    (1, 99, 50),
                    (1_000, 9_999, 99),
                )
            ),
            key=lambda e: (
                f"{e['metadata']['simplified_numerator']}/{e['metadata']['simplified_denominator']}"
            ),
        ),
        Task(
            name="prime_factorization",
            levels=tuple(
                {"min_value": low, "max_value": high}
                for low, high in ((2, 200), (200, 500), (500, 1500), (1500, 5000), (50_000, 99_999))
            ),
            key=lambda e: str(e["metadata"]["number"]),
        ),
        Task(
            name="count_bits",
            levels=tuple(
                {"min_n": low, "max_n": high}
                for low, high in (
                    (1, 400),
                    (100, 2_000),
                    (1_000, 9_999),
                    (10_000, 50_000),
                    (1_000_000, 4_000_000),
                )
            ),
            key=lambda e: str(e["metadata"]["number"]),
        ),
        Task(
            name="spell_backward",
            levels=tuple(
                {"min_word_len": low, "max_word_len": high}
                for low, high in ((3, 4), (5, 6), (7, 7), (8, 8), (10, 10))
            ),
            key=lambda e: e["metadata"]["word"].lower(),
        ),
        Task(
            name="letter_counting",
            levels=tuple(
                {"min_words": low, "max_words": high}
                for low, high in ((2, 3), (4, 5), (6, 8), (9, 11), (20, 24))
            ),
            key=lambda e: " ".join(e["metadata"]["span"]).lower(),
        ),
    )
}
"""Allowed tasks by name. To add one: read its scorer first, it must execute nothing."""

POOLS: dict[str, float] = {
    "language_model": 0.60,
    "adapters": 0.15,
    "train": 0.165,
    "validation": 0.03,
    "test": 0.055,
}
"""Share of all keys per pool. `language_model` trains the models, `adapters` the
reviser and the verifier; `train`, `validation` and `test` are the splits of traces."""


def pool_of(key: str) -> str:
    """Pool that a question key belongs to, by hash alone.

    Args:
        key: task name and what is asked, as in `DrawnQuestion.key`.
    """
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    position = int.from_bytes(digest, "big") / 2**64
    for pool, share in POOLS.items():
        position -= share
        if position < 0:
            return pool
    return "test"


class QuestionSource:
    """Draws questions of one task and level.

    Args:
        task: name from `TASKS`.
        level: 1-based difficulty level.

    Raises:
        ConfigError: unknown task or level.
    """

    def __init__(self, task: str, level: int) -> None:
        if task not in TASKS:
            raise ConfigError(f"task: expected one of {sorted(TASKS)}, found {task!r}")
        if not 1 <= level <= len(TASKS[task].levels):
            raise ConfigError(
                f"level of {task}: expected 1..{len(TASKS[task].levels)}, found {level}"
            )
        self.task, self.level = TASKS[task], level
        settings = self.task.levels[level - 1]
        self._dataset = reasoning_gym.create_dataset(task, size=MAX_INDEX, seed=level, **settings)

    def __getitem__(self, index: int) -> DrawnQuestion:
        entry = self._dataset[index]
        key = f"{self.task.name}:{self.task.key(entry)}"
        question = Question(
            question_id=f"{self.task.name}/{self.level}/{index}",
            dataset=self.task.name,
            text=entry["question"].strip(),
            reference=entry["answer"],
            level=self.level,
            answers="exact",
        )
        return DrawnQuestion(question=question, key=key, entry=entry)

    def draw(self, pool: str, rng: random.Random, num_draws: int) -> Iterator[DrawnQuestion]:
        """Those of `num_draws` random questions that belong to a pool; some may repeat."""
        if pool not in POOLS:
            raise ConfigError(f"pool: expected one of {list(POOLS)}, found {pool!r}")
        for _ in range(num_draws):
            drawn = self[rng.randrange(MAX_INDEX)]
            if pool_of(drawn.key) == pool:
                yield drawn


SPLIT_SIZES: dict[str, tuple[int, ...]] = {
    "train": (95, 95, 86, 66, 30),
    "validation": (16, 16, 14, 10, 6),
    "test": (32, 32, 28, 20, 10),
}
"""Questions per task of the bundled trace set, by level. The last level, which no
model is trained on, takes about a twelfth."""


def draw_split(
    pool: str, sizes: Sequence[int] | None = None, *, seed: int = 0, num_draws: int = 20_000
) -> list[Question]:
    """Distinct questions of a pool, so many of every task and level.

    Trivial levels hold fewer distinct questions than that; what they hold is taken. A
    question that several levels can ask belongs to the lowest of them.

    Args:
        pool: one of `POOLS`.
        sizes: questions per task, by level; those of the bundled set when None.
        seed: of the draw; which pool a question belongs to never depends on it.
        num_draws: how many random questions to look through per task and level.
    """
    sizes = SPLIT_SIZES[pool] if sizes is None else sizes
    questions: list[Question] = []
    for task in TASKS.values():
        seen: set[str] = set()
        for level, size in enumerate(sizes, start=1):
            rng = random.Random(f"{seed}/{pool}/{task.name}/{level}")
            wanted = len(seen) + size
            for drawn in QuestionSource(task.name, level).draw(pool, rng, num_draws):
                if len(seen) == wanted:
                    break
                if drawn.question.text not in seen:
                    seen.add(drawn.question.text)
                    questions.append(drawn.question)
    return questions
