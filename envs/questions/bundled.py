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
    """A task, its settings from trivial to out of reach, and what is asked by an entry of it."""

    name: str
    levels: tuple[Mapping[str, Any], ...]
    key: Callable[[Entry], str]


@dataclass(frozen=True, kw_only=True)
class DrawnQuestion:
    """A question, its key, and the entry of reasoning-gym's that it is made of."""

    question: Question
    key: str
    entry: Entry


def _spans(*names: str, levels: Sequence[Sequence[int]], **fixed: Any) -> tuple[Entry, ...]:
    """Settings by level, which gives the least and the greatest of each of `names` in turn."""
    ends = [f"{end}_{name}" for name in names for end in ("min", "max")]
    return tuple(dict(zip(ends, level, strict=True)) | fixed for level in levels)


def _operands(entry: Entry) -> str:
    return " ".join(sorted(entry["metadata"]["expression"].split()))


def _numbers(entry: Entry) -> str:
    return " ".join(sorted(map(str, entry["metadata"]["numbers"])))


def _number(entry: Entry) -> str:
    return str(entry["metadata"]["number"])


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="chain_sum",
            levels=_spans(
                *("terms", "digits"),
                levels=((2, 4, 1, 1), (2, 2, 2, 2), (3, 4, 2, 2), (3, 4, 3, 3), (5, 6, 5, 5)),
            ),
            key=_operands,
        ),
        Task(
            name="products",
            levels=_spans(
                *("terms", "digits"),
                levels=((2, 3, 1, 1), (4, 4, 1, 1), (2, 2, 2, 2), (2, 2, 3, 3), (2, 2, 5, 5)),
            ),
            key=_operands,
        ),
        Task(
            name="gcd",
            levels=_spans("value", levels=((2, 25), (2, 50), (2, 100), (2, 300), (10_000, 99_999))),
            key=_numbers,
        ),
        Task(
            name="lcm",
            levels=_spans("value", levels=((2, 20), (2, 30), (2, 50), (2, 100), (1_000, 9_999))),
            key=_numbers,
        ),
        Task(
            name="fraction_simplification",
            levels=_spans(
                *("value", "factor"),
                levels=(
                    *((1, 9, 2, 9), (1, 15, 2, 15), (1, 30, 2, 30), (1, 99, 2, 50)),
                    (1_000, 9_999, 2, 99),
                ),
                styles=("plain",),
            ),
            key=lambda e: "{simplified_numerator}/{simplified_denominator}".format(**e["metadata"]),
        ),
        Task(
            name="prime_factorization",
            levels=_spans(
                "value", levels=((2, 200), (200, 500), (500, 1500), (1500, 5000), (50_000, 99_999))
            ),
            key=_number,
        ),
        Task(
            name="count_bits",
            levels=_spans(
                "n",
                levels=(
                    *((1, 400), (100, 2_000), (1_000, 9_999), (10_000, 50_000)),
                    (1_000_000, 4_000_000),
                ),
            ),
            key=_number,
        ),
        Task(
            name="spell_backward",
            levels=_spans("word_len", levels=((3, 4), (5, 6), (7, 7), (8, 8), (10, 10))),
            key=lambda e: e["metadata"]["word"].lower(),
        ),
        Task(
            name="letter_counting",
            levels=_spans("words", levels=((2, 3), (4, 5), (6, 8), (9, 11), (20, 24))),
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
    """Pool that a `DrawnQuestion.key` belongs to, by hash alone."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    position = int.from_bytes(digest, "big") / 2**64
    for pool, share in POOLS.items():
        position -= share
        if position < 0:
            return pool
    return "test"


class QuestionSource:
    """Draws questions of one task and level, from 1; raises ConfigError if there are no such."""

    def __init__(self, task: str, level: int) -> None:
        if task not in TASKS:
            raise ConfigError(f"task: expected one of {sorted(TASKS)}, found {task!r}")
        most = len(TASKS[task].levels)
        if not 1 <= level <= most:
            raise ConfigError(f"level of {task}: expected 1..{most}, found {level}")
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
    """Distinct questions of a pool, so many of every task and level; as the bundled set by default.

    Trivial levels hold fewer distinct questions than that; what they hold is taken. A question
    that several levels can ask belongs to the lowest of them. Which pool a question belongs to
    never depends on the seed. `num_draws` random questions are looked through per level.
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
