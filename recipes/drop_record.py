"""Records attempts with their running marks: `python -m recipes.drop_record OUT`.

A trace set as any other, whose attempts have two columns more, by groups of tokens: `groups`, the
mean log-probability of each, and `places`, how many characters of the text are written after it.
Run again to go on.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer

from controller.answers import UNSTATED
from controller.backends.base import TEMPERATURE, Request, run_now
from controller.backends.local.backend import LocalBackend
from controller.backends.local.model import load_model
from controller.backends.places import ModelPlace
from controller.bundled import bundled
from controller.errors import ConfigError
from controller.files import write_json
from controller.process.actions import ActionKind
from controller.process.types import Question
from envs.questions.files import bundled_questions, noted_kinds, read_questions
from envs.questions.grader import KindGrader
from envs.traces.format import (
    ATTEMPT_SCHEMA,
    MANIFEST,
    QUESTION_SCHEMA,
    tables_digest,
    write_table,
)
from recipes.race import Sample
from training.cli.app import main as run_program
from training.learn.threads import limit_threads
from training.record.plans import question_row, spread
from training.record.recorders import attempt_row
from training.record.recording import planned_manifest
from training.record.settings import RecordConfig

PARTS, PLAN = "recording", "plan.json"
"""Attempts until all are there, in a directory of the set, and what was asked for."""

MARKED = pa.schema(
    [*ATTEMPT_SCHEMA, ("groups", pa.list_(pa.float32())), ("places", pa.list_(pa.int32()))]
)


def record(
    backend: LocalBackend, asked: Sequence[Question], samples: int, group: int
) -> list[dict[str, Any]]:
    """Rows of attempts at some questions, written together."""
    watched = [(question, index, Sample()) for question in asked for index in range(samples)]
    made = run_now(
        backend.attempts(
            [
                Request(question=question, action=ActionKind.SAMPLE, index=index, watcher=sample)
                for question, index, sample in watched
            ]
        )
    )
    known = {question.question_id: question for question in asked}
    return [
        attempt_row(attempt, "small", KindGrader(), known)
        | {"groups": sample.groups(group), "places": sample.places(group)}
        for attempt, (_, _, sample) in zip(made, watched, strict=True)
    ]


def planned(parts: Path, plan: dict[str, Any]) -> Path:
    """The directory of parts. Raises ConfigError: those in it were asked for otherwise."""
    if (parts / PLAN).exists():
        before = json.loads((parts / PLAN).read_text(encoding="utf-8"))
        changed = [name for name, value in plan.items() if before.get(name) != value]
        if changed:
            raise ConfigError(
                f"{parts}: expected the {', '.join(changed)} that it was begun with; "
                "give these again, or another directory"
            )
    parts.mkdir(parents=True, exist_ok=True)
    write_json(parts / PLAN, plan)
    return parts


def main(
    out: Annotated[Path, typer.Argument(help="Trace set.")],
    model: Annotated[str, typer.Option(help="Directory, GGUF file or name on the hub.")] = str(
        bundled("small")
    ),
    questions: Annotated[Path | None, typer.Option(help="File; default: the bundled ones.")] = None,
    limits: Annotated[tuple[int, int, int], typer.Option(help="Questions by split.")] = (
        480,
        0,
        480,
    ),
    samples: Annotated[int, typer.Option(min=1)] = 16,
    group: Annotated[int, typer.Option(min=1, help="Tokens from mark to mark.")] = 8,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 192,
    temperature: Annotated[float, typer.Option(min=0)] = TEMPERATURE,
    licence: Annotated[str | None, typer.Option(help="Of the recorded texts.")] = None,
    at_once: Annotated[int, typer.Option(min=1, help="Questions written together.")] = 32,
) -> None:
    """Record and write the set."""
    drawn = read_questions(questions) if questions else bundled_questions()
    asked = [
        (replace(question, answers=question.answers or UNSTATED), split)
        for (split, members), limit in zip(drawn.items(), limits, strict=True)
        for question, _ in spread([(q, split) for q in members])[:limit]
    ]
    plan = {
        "model": model,
        "questions": [question.question_id for question, _ in asked],
        "samples": samples,
        "group": group,
        "decoding": {"temperature": temperature, "max_new_tokens": max_new_tokens, "seed": 0},
        "at_once": at_once,
    }
    parts = planned(out / PARTS, plan)
    local = load_model(ModelPlace.parse(model), 0)
    limit_threads(local.parameters)
    backend = LocalBackend(
        local, temperature=temperature, max_new_tokens=max_new_tokens, max_cached_prompts=0
    )
    started = time.monotonic()
    for begin in range(0, len(asked), at_once):
        part = parts / f"{begin:06}.parquet"
        if not part.exists():
            rows = record(backend, [q for q, _ in asked[begin : begin + at_once]], samples, group)
            write_table(part, pa.Table.from_pylist(rows, schema=MARKED))
        done = min(begin + at_once, len(asked))
        seconds = time.monotonic() - started
        print(f"{done} of {len(asked)} questions, {seconds:.0f} s", flush=True)
    described = [question_row(question, split) for question, split in asked]
    write_table(out / "questions.parquet", pa.Table.from_pylist(described, schema=QUESTION_SCHEMA))
    attempts = [pq.read_table(part, schema=MARKED) for part in sorted(parts.glob("*.parquet"))]
    write_table(out / "attempts.parquet", pa.concat_tables(attempts))
    spec = local.spec(temperature, max_new_tokens)
    notes = {"licence": licence} if licence else {}
    manifest = {
        **planned_manifest(RecordConfig(samples=samples), [spec], notes),
        "decoding": plan["decoding"],
        "answers": noted_kinds(question for question, _ in asked),
        "group": group,
        "questions": len(asked),
        "splits": dict(Counter(split for _, split in asked)),
        "digest": tables_digest(out),
    }
    write_json(out / MANIFEST, manifest)
    shutil.rmtree(parts)


if __name__ == "__main__":
    run_program(lambda: typer.run(main))
