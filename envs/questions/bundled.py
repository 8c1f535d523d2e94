"""Questions with worked solutions, from an allow-list of reasoning-gym tasks.

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
        family: arithmetic, number theory or strings.
        phrases: fixed wording of its prompts; each becomes one token of the
            bundled tokenizer.
        levels: reasoning-gym settings, from trivial to out of reach.
        key: what is asked, equal for near-duplicates.
        solve: worked steps that lead to the answer, one per line.
    """

    name: str
    family: str
    phrases: tuple[str, ...]
    levels: tuple[Mapping[str, Any], ...]
    key: Callable[[Entry], str]
    solve: Callable[[Entry], list[str]]


@dataclass(frozen=True, kw_only=True)
class WorkedQuestion:
    """A question together with what only training and grading may see."""

    question: Question
    solution: str
    key: str


def _euclid(a: int, b: int) -> tuple[int, list[str]]:
    steps = []
    a, b = max(a, b), min(a, b)
    while b:
        steps.append(f"{a}={a // b}*{b}+{a % b}")
        a, b = b, a % b
    return a, steps


def _solve_chain_sum(entry: Entry) -> list[str]:
    total, *rest = entry["metadata"]["expression"].split()
    value, steps = int(total), []
    for sign, term in zip(rest[::2], rest[1::2], strict=True):
        after = value + int(term) if sign == "+" else value - int(term)
        steps.append(f"{value}{sign}{term}={after}")
        value = after
    return steps


def _solve_products(entry: Entry) -> list[str]:
    value, *factors = (int(f) for f in entry["metadata"]["expression"].split(" * "))
    steps = []
    for factor in factors:
        partials = [int(d) * 10**i for i, d in enumerate(reversed(str(factor))) if d != "0"]
        total = 0
        for partial in partials:
            steps.append(f"{value}*{partial}={value * partial}")
            if total:
                steps.append(f"{total}+{value * partial}={total + value * partial}")
            total += value * partial
        value = total
    return steps


def _solve_gcd(entry: Entry) -> list[str]:
    return _euclid(*entry["metadata"]["numbers"])[1]


def _solve_lcm(entry: Entry) -> list[str]:
    a, b = entry["metadata"]["numbers"]
    divisor, steps = _euclid(a, b)
    return [*steps, f"{a}/{divisor}={a // divisor}", f"{a // divisor}*{b}={a // divisor * b}"]


def _solve_fraction(entry: Entry) -> list[str]:
    top, bottom = entry["metadata"]["numerator"], entry["metadata"]["denominator"]
    divisor, steps = _euclid(top, bottom)
    return [*steps, f"{top}/{divisor}={top // divisor}", f"{bottom}/{divisor}={bottom // divisor}"]


def _solve_factors(entry: Entry) -> list[str]:
    value, steps = entry["metadata"]["number"], []
    for factor in entry["metadata"]["factors"][:-1]:
        steps.append(f"{value}/{factor}={value // factor}")
        value //= factor
    return steps


def _solve_count_bits(entry: Entry) -> list[str]:
    value, ones, steps = entry["metadata"]["number"], 0, []
    while value:
        ones += value % 2
        steps.append(f"{value} {ones}")
        value //= 2
    return steps


def _solve_letter_counting(entry: Entry) -> list[str]:
    count, steps = 0, []
    for word in entry["metadata"]["span"]:
        count += word.lower().count(entry["metadata"]["target_letter"].lower())
        steps.append(f"{word} {count}")
    return steps


def _sorted_key(*values: Any) -> str:
    return " ".join(sorted(str(v) for v in values))


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="chain_sum",
            family="arithmetic",
            phrases=("State the final answer to the following arithmetic problem:",),
            levels=(
                {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 1},
                {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2},
                {"min_terms": 3, "max_terms": 4, "min_digits": 2, "max_digits": 2},
                {"min_terms": 3, "max_terms": 4, "min_digits": 3, "max_digits": 3},
                {"min_terms": 5, "max_terms": 6, "min_digits": 5, "max_digits": 5},
            ),
            key=lambda e: _sorted_key(*e["metadata"]["expression"].split()),
            solve=_solve_chain_sum,
        ),
        Task(
            name="products",
            family="arithmetic",
            phrases=(
                "Solve the following multiplication:",
                "Give only the result as your final answer.",
            ),
            levels=(
                {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1},
                {"min_terms": 4, "max_terms": 4, "min_digits": 1, "max_digits": 1},
                {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2},
                {"min_terms": 2, "max_terms": 2, "min_digits": 3, "max_digits": 3},
                {"min_terms": 2, "max_terms": 2, "min_digits": 5, "max_digits": 5},
            ),
            key=lambda e: _sorted_key(*e["metadata"]["expression"].split()),
            solve=_solve_products,
        ),
        Task(
            name="gcd",
            family="number theory",
            phrases=(
                "Find the Greatest Common Divisor (GCD) of these numbers:",
                "Give only the GCD as your final answer.",
            ),
            levels=(
                *({"min_value": 2, "max_value": m} for m in (25, 50, 100, 300)),
                {"min_value": 10_000, "max_value": 99_999},
            ),
            key=lambda e: _sorted_key(*e["metadata"]["numbers"]),
            solve=_solve_gcd,
        ),
        Task(
            name="lcm",
            family="number theory",
            phrases=("Find the Least Common Multiple (LCM) of these numbers:",),
            levels=(
                *({"min_value": 2, "max_value": m} for m in (20, 30, 50, 100)),
                {"min_value": 1_000, "max_value": 9_999},
            ),
            key=lambda e: _sorted_key(*e["metadata"]["numbers"]),
            solve=_solve_lcm,
        ),
        Task(
            name="fraction_simplification",
            family="number theory",
            phrases=(
                "Simplify the fraction",
                "to its lowest terms. Give only the simplified fraction as your final answer.",
            ),
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
            solve=_solve_fraction,
        ),
        Task(
            name="prime_factorization",
            family="number theory",
            phrases=(
                "Find the prime factorization of",
                "Write the factors separated by × (Example: for 12 the answer would be: 2 × 2 × 3)",
            ),
            levels=tuple(
                {"min_value": low, "max_value": high}
                for low, high in ((2, 200), (200, 500), (500, 1500), (1500, 5000), (50_000, 99_999))
            ),
            key=lambda e: str(e["metadata"]["number"]),
            solve=_solve_factors,
        ),
        Task(
            name="count_bits",
            family="number theory",
            phrases=("How many 1 bits are there in the binary representation of the number",),
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
            solve=_solve_count_bits,
        ),
        Task(
            name="spell_backward",
            family="strings",
            phrases=("Spell this word backward (example: sun -> nus):",),
            levels=tuple(
                {"min_word_len": low, "max_word_len": high}
                for low, high in ((3, 4), (5, 6), (7, 7), (8, 8), (10, 10))
            ),
            key=lambda e: e["metadata"]["word"].lower(),
            solve=lambda e: [],
        ),
        Task(
            name="letter_counting",
            family="strings",
            phrases=("How many times does the letter", "appear in the text:"),
            levels=tuple(
                {"min_words": low, "max_words": high}
                for low, high in ((2, 3), (4, 5), (6, 8), (9, 11), (20, 24))
            ),
            key=lambda e: " ".join(e["metadata"]["span"]).lower(),
            solve=_solve_letter_counting,
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
        key: task name and what is asked, as in `WorkedQuestion.key`.
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

    def __getitem__(self, index: int) -> WorkedQuestion:
        entry = self._dataset[index]
        key = f"{self.task.name}:{self.task.key(entry)}"
        steps = [*self.task.solve(entry), f"Answer: {entry['answer']}"]
        question = Question(
            question_id=f"{self.task.name}/{self.level}/{index}",
            dataset=self.task.name,
            text=entry["question"].strip(),
            reference=entry["answer"],
            level=self.level,
            answers="exact",
        )
        return WorkedQuestion(question=question, solution="\n".join(steps), key=key)

    def draw(self, pool: str, rng: random.Random, num_draws: int) -> Iterator[WorkedQuestion]:
        """Those of `num_draws` random questions that belong to a pool; some may repeat."""
        if pool not in POOLS:
            raise ConfigError(f"pool: expected one of {list(POOLS)}, found {pool!r}")
        for _ in range(num_draws):
            worked = self[rng.randrange(MAX_INDEX)]
            if pool_of(worked.key) == pool:
                yield worked


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
            for worked in QuestionSource(task.name, level).draw(pool, rng, num_draws):
                if len(seen) == wanted:
                    break
                if worked.question.text not in seen:
                    seen.add(worked.question.text)
                    questions.append(worked.question)
    return questions
