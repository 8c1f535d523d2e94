"""Natural-language questions for real models: `python -m recipes.real_questions OUT`.

Writes JSONL with question_id, question, reference, dataset, level, split and answers. Questions of
one template of word problems are near-duplicates: templates that training never sees, and tasks
that it never sees, are test questions under a dataset of their own, `TASK/unseen`. Puzzles come
by size, from trivial to hopeless, all with one solution; the moves of a tower's disks are asked for
in a line, whose form is the same for all sizes.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import reasoning_gym

SHARES = {"train": 0.6, "validation": 0.15, "test": 0.25}
UNSEEN_TEMPLATES = 0.25
"""Share of the templates of word problems that only unseen test questions are made from."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Questions of one generator of reasoning-gym.

    Attributes:
        name: of the generator.
        counts: questions per level.
        levels: settings of the generator per level; one level without settings by default.
        answers: kind of the answers.
        unseen: whether training never sees the task.
        settings: of the generator at every level.
    """

    name: str
    counts: int
    levels: Sequence[Mapping[str, Any]] = ({},)
    answers: str = "number"
    unseen: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


def _sizes(low: str, high: str, *sizes: int) -> tuple[dict[str, int], ...]:
    return tuple({low: size, high: size} for size in sizes)


TASKS: tuple[Task, ...] = (
    Task(name="gsm_symbolic", counts=240),
    Task(name="basic_arithmetic", counts=15, levels=_sizes("min_terms", "max_terms", 2, 3, 4, 5)),
    Task(
        name="simple_equations",
        counts=20,
        levels=({"max_value": 10}, {"max_value": 20}, {"max_value": 50}),
        settings={"min_terms": 2, "max_terms": 3},
    ),
    Task(name="number_sequence", counts=20, levels=tuple({"max_complexity": n} for n in (1, 2, 3))),
    Task(name="gcd", counts=15, levels=({"max_value": 30}, {"max_value": 100}, {"max_value": 300})),
    Task(
        name="leg_counting",
        counts=15,
        levels=_sizes("min_animals", "max_animals", 1, 2, 3, 4),
        settings={"max_instances": 9},
    ),
    Task(
        name="base_conversion",
        counts=20,
        levels=({"max_value": 30}, {"max_value": 200}),
        answers="text",
    ),
    Task(name="products", counts=15, levels=_sizes("min_digits", "max_digits", 1, 2, 3)),
    # Puzzles by size.
    Task(
        name="zebra_puzzles",
        counts=12,
        levels=tuple({"num_people": n, "num_characteristics": n} for n in (2, 3, 4, 5)),
        answers="text",
    ),
    Task(
        name="tower_of_hanoi",
        counts=8,
        levels=_sizes("min_disks", "max_disks", 1, 2, 3, 4, 5),
        answers="list",
        settings={"min_pegs": 3, "max_pegs": 3},
    ),
    Task(
        name="chain_sum",
        counts=10,
        levels=_sizes("min_terms", "max_terms", 2, 3, 4, 6, 8, 12),
        settings={"min_digits": 2, "max_digits": 2},
    ),
    Task(
        name="letter_counting",
        counts=10,
        levels=_sizes("min_words", "max_words", 1, 3, 6, 10, 15),
    ),
    # Tasks that training never sees.
    Task(name="lcm", counts=30, unseen=True, settings={"max_value": 30}),
    Task(name="complex_arithmetic", counts=25, unseen=True, answers="text"),
    Task(name="aiw", counts=30, unseen=True),
    Task(name="fraction_simplification", counts=25, unseen=True, settings={"styles": ("plain",)}),
)


def rows(seed: int) -> Iterator[dict[str, Any]]:
    """All questions, no wording twice."""
    for task in TASKS:
        for level, settings in enumerate(task.levels, start=1):
            yield from _level(task, level, {**task.settings, **settings}, seed)


def _level(
    task: Task, level: int, settings: Mapping[str, Any], seed: int
) -> Iterator[dict[str, Any]]:
    drawn = reasoning_gym.create_dataset(
        task.name, size=20 * task.counts, seed=seed + 1000 * level, **settings
    )
    rng, seen, made = random.Random(f"{task.name}/{level}/{seed}"), set[str](), 0
    templates = getattr(drawn, "task_indices", None)
    held_back = _held_back(templates or [], rng)
    for place in range(len(drawn)):
        text, reference = _asked(task, drawn[place])
        if text in seen:
            continue
        seen.add(text)
        unseen = task.unseen or (templates is not None and templates[place] in held_back)
        split = "test" if unseen else rng.choices(list(SHARES), list(SHARES.values()))[0]
        template = "" if templates is None else f"t{templates[place]}-"
        yield {
            "question_id": f"{task.name}/{level}/{template}{place}",
            "question": text,
            "reference": reference,
            "dataset": f"{task.name}/unseen" if unseen else task.name,
            "level": level,
            "split": split,
            "answers": task.answers,
        }
        made += 1
        if made == task.counts:
            return


def _asked(task: Task, entry: Mapping[str, Any]) -> tuple[str, str]:
    """A question and its reference; a tower's moves as disks and where they go."""
    text, reference = entry["question"].strip(), str(entry["answer"])
    if task.name != "tower_of_hanoi":
        return text, reference
    rules, _, _ = text.partition("Provide the sequence of moves.")
    form = 'Give the fewest moves, each as disk-peg, as in "Answer: 1-3, 2-2, 1-2".'
    moves = re.findall(r"Move disk (\d+) from Peg \d+ to Peg (\d+)", reference)
    return rules + form, ", ".join(f"{disk}-{peg}" for disk, peg in moves)


def _held_back(templates: Sequence[int], rng: random.Random) -> set[int]:
    distinct = sorted(set(templates))
    return set(rng.sample(distinct, round(UNSEEN_TEMPLATES * len(distinct))))


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="JSONL file to write")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    lines = [json.dumps(row, ensure_ascii=False) for row in rows(given.seed)]
    random.Random(given.seed).shuffle(lines)
    given.out.write_text("\n".join(lines) + "\n")
    print(f"{given.out}: {len(lines)} questions")


if __name__ == "__main__":
    main()
