"""Draws questions that share a context: a story, a list of numbers, a table of goods.

python -m recipes.contexts runs/contexts.jsonl
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Set
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from envs.questions.bundled import MAX_INDEX, TASKS, QuestionSource, pool_of
from training.cli.app import main as run_program

LIKELY, OTHER = 1, 2
"""Level of a question that is expected about a context, and of one that is not."""

EACH = 8
"""Questions of either level about a context."""

CONTEXTS = {"train": 36, "validation": 9, "test": 24}
"""Contexts of each kind by split."""

_STORY_LEVELS = (2, 3, 4)
_NUMBERS, _MOST = 8, 150


class Asked(NamedTuple):
    """A question about a context; `key` is what is asked, without its wording."""

    key: str
    text: str
    reference: str


class Context(NamedTuple):
    """What questions are about, as text, and those that are likely and those that are not."""

    text: str
    likely: list[Asked]
    others: list[Asked]


def story(rng: random.Random, seen: Set[str]) -> Context:
    """Words; the letters that occur most are likely to be asked for."""
    source = QuestionSource("letter_counting", rng.choice(_STORY_LEVELS))
    drawn = source[rng.randrange(MAX_INDEX)]
    text = " ".join(drawn.entry["metadata"]["span"])
    counts = Counter(dict.fromkeys("abcdefghijklmnopqrstuvwxyz", 0))
    counts.update(letter for letter in text.lower() if letter in counts)
    letters = [letter for letter, _ in counts.most_common(2 * EACH)]
    asked = [
        Asked(
            f"{drawn.key}:{letter}",
            f'How many times does the letter "{letter}" appear in the text: "{text}"?',
            str(counts[letter]),
        )
        for letter in letters
    ]
    taken = _taught(drawn.key) or asked[0].key in seen
    return Context(text, [] if taken else asked[:EACH], asked[EACH:])


def numbers(rng: random.Random, seen: Set[str]) -> Context:
    """Numbers; the greatest common divisor of two is likely, the least common multiple is not."""
    found = rng.sample(range(2, _MOST), _NUMBERS)
    pairs = [(a, b) for i, a in enumerate(found) for b in found[i + 1 :]]
    rng.shuffle(pairs)
    divisors = (
        Asked(
            _key("gcd", numbers=pair),
            "Find the Greatest Common Divisor (GCD) of these numbers: {}, {}. "
            "Give only the GCD as your final answer.".format(*pair),
            str(math.gcd(*pair)),
        )
        for pair in pairs
    )
    multiples = (
        Asked(
            _key("lcm", numbers=pair),
            "Find the Least Common Multiple (LCM) of these numbers: {}, {}".format(*pair),
            str(math.lcm(*pair)),
        )
        for pair in pairs
    )
    text = ", ".join(map(str, found))
    return Context(text, _untaught(divisors, seen), _untaught(multiples, seen))


def table(rng: random.Random, seen: Set[str]) -> Context:
    """Goods with count and price; what a row comes to is likely, how prices compare is not."""
    drawn = {_product(row): row for row in (_row(rng) for _ in range(100))}
    rows = [drawn[one] for one in _untaught(drawn, seen)]
    prices = [price for _, price in rows]
    pairs = [(a, b) for i, a in enumerate(prices) for b in prices[i + 1 :]]
    rng.shuffle(pairs)
    compared = (
        Asked(
            _key("chain_sum", expression=f"{a} {sign} {b}"),
            f"State the final answer to the following arithmetic problem: {a} {sign} {b} =",
            str(a + b if sign == "+" else a - b),
        )
        for a, b in pairs
        for sign in "+-"
    )
    text = "count, price\n" + "\n".join(f"{count}, {price}" for count, price in rows)
    return Context(text, [_product(row) for row in rows], _untaught(compared, seen))


def _row(rng: random.Random) -> tuple[int, int]:
    return rng.randint(10, 99), rng.randint(10, 99)


def _product(row: tuple[int, int]) -> Asked:
    expression = "{} * {}".format(*row)
    return Asked(
        _key("products", expression=expression),
        f"Solve the following multiplication: {expression}. "
        "Give only the result as your final answer.",
        str(math.prod(row)),
    )


def _key(task: str, **metadata: object) -> str:
    return f"{task}:{TASKS[task].key({'metadata': metadata})}"


def _taught(key: str) -> bool:
    """Whether the bundled models may have learned from a question."""
    return pool_of(key) == "language_model"


def _untaught(asked: Iterable[Asked], seen: Set[str]) -> list[Asked]:
    found = {one.key: one for one in asked if not _taught(one.key) and one.key not in seen}
    return list(found.values())[:EACH]


KINDS: dict[str, Callable[[random.Random, Set[str]], Context]] = {
    "story": story,
    "numbers": numbers,
    "table": table,
}


def draw_contexts(kind: str, count: int, rng: random.Random, seen: set[str]) -> Iterator[Context]:
    """So many contexts; what is asked about them goes to `seen`, and nothing that was there is."""
    while count:
        context = KINDS[kind](rng, seen)
        keys = {one.key for one in (*context.likely, *context.others)}
        if len(keys) == 2 * EACH:
            seen |= keys
            count -= 1
            yield context


def main(
    out: Annotated[Path, typer.Argument(help="JSONL file.", metavar="FILE")],
    seed: Annotated[int, typer.Option(help="Other contexts.")] = 0,
) -> None:
    """Write questions for `allot record --questions FILE`, by context."""
    rows = []
    for kind in KINDS:
        rng, seen = random.Random(f"{seed}/{kind}"), set[str]()
        for split, count in CONTEXTS.items():
            for number, context in enumerate(draw_contexts(kind, count, rng, seen)):
                for level, asked in ((LIKELY, context.likely), (OTHER, context.others)):
                    rows += [
                        {
                            "question_id": f"{kind}/{split}{number}/{level}/{place}",
                            "dataset": kind,
                            "level": level,
                            "question": one.text,
                            "reference": one.reference,
                            "split": split,
                            "answers": "exact",
                        }
                        for place, one in enumerate(asked)
                    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{len(rows)} questions about {len(rows) // 2 // EACH} contexts")


if __name__ == "__main__":
    run_program(lambda: typer.run(main))
