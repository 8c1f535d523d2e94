"""A served controller and its replay: `python -m recipes.live CONTROLLER TRACES URL --out FILE`.

The test questions of the set are asked of a running `allot serve`, by the `openai` client, and the
same questions are replayed from the recording. Printed: accuracy and cost of both, what lies
between them, with 95% intervals over questions, who decided, and seconds per question. With
`--beside ARM=URL` the server of an arm is asked the same question by itself, in turns. Run again
to go on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import openai
import typer
from rich.console import Console

from controller.answers import UNSTATED, answer_kind, read_answer
from controller.backends.base import Request
from controller.backends.prompts import messages
from controller.card import markdown_table
from controller.checkpoint import AnyCheckpoint, load_checkpoint
from controller.errors import ConfigError
from controller.policy.pricing import Pricing
from controller.process.actions import ActionKind
from controller.process.lockstep import Floats
from controller.process.terms import Terms
from controller.process.types import Question
from envs.questions.grader import KindGrader
from envs.traces.format import TraceSet
from envs.traces.recorded import read_recorded
from training.cli.app import main as run_program
from training.cli.flags import pairs
from training.compare.simulate import play_checkpoint
from training.compare.summary import Bootstrap

SERVICE = "allot"
"""Who answers when no single arm is asked."""

Row = dict[str, Any]
"""One answer: `question_id`, `asked` (`SERVICE` or an arm), `right`, `seconds`, written `tokens`;
of the service also `allot`, what it tells of it."""


def ask_service(
    client: openai.OpenAI, question: Question, price: float, deadline_s: float = 600
) -> Row:
    """What the service answers; so long a deadline that a slow machine does not decide."""
    started = time.monotonic()
    reply = client.chat.completions.create(
        model=SERVICE,
        messages=[{"role": "user", "content": question.text}],
        extra_body={"allot": {"price": price, "give_up": True, "deadline_s": deadline_s}},
    )
    seconds = time.monotonic() - started
    told = (reply.model_extra or {})["allot"]
    return {
        "question_id": question.question_id,
        "asked": SERVICE,
        "right": KindGrader().is_right(question, told["answer"]),
        "seconds": seconds,
        "tokens": reply.usage.completion_tokens if reply.usage else 0,
        "allot": told,
    }


def ask_arm(client: openai.OpenAI, question: Question, checkpoint: AnyCheckpoint, arm: str) -> Row:
    """What one attempt by an arm brings, asked of its server as the arm was recorded."""
    (model,) = (model for model in checkpoint.models if model.name == arm)
    request = Request(question=question, action=ActionKind.SAMPLE, index=0)
    started = time.monotonic()
    reply = client.chat.completions.create(
        model=arm,
        messages=messages(request, model.prompt),  # type: ignore[arg-type]
        temperature=model.temperature,
        max_tokens=model.max_new_tokens,
    )
    seconds = time.monotonic() - started
    (choice,) = reply.choices
    answer = read_answer(
        choice.message.content or "",
        question.answers,
        answer_kind(UNSTATED),
        cut=choice.finish_reason == "length",
    )
    return {
        "question_id": question.question_id,
        "asked": arm,
        "right": KindGrader().is_right(question, answer),
        "seconds": seconds,
        "tokens": reply.usage.completion_tokens if reply.usage else 0,
    }


def rows_of(path: Path) -> Iterator[Row]:
    """Answers that were written; a line that is cut is left out."""
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(json.JSONDecodeError):
                yield json.loads(line)


def beside_replay(served: Floats, replayed: Floats) -> tuple[float, float, float, float, float]:
    """Means of both, what the first has more, and its 95% interval; the same questions, (Q,)."""
    low, high = Bootstrap(len(served)).interval(served - replayed)
    return (
        float(served.mean()),
        float(replayed.mean()),
        float((served - replayed).mean()),
        low,
        high,
    )


def report(rows: Sequence[Row], checkpoint: AnyCheckpoint, traces: TraceSet) -> str:
    """The tables that are printed."""
    mine = {row["question_id"]: row for row in rows if row["asked"] == SERVICE}
    told = {name: row["allot"] for name, row in mine.items()}
    table = read_recorded(traces, ["test"], [model.name for model in checkpoint.models]).table
    places = [place for place, name in enumerate(table.question_ids) if name in mine]
    names = [table.question_ids[place] for place in places]
    price = told[names[0]]["price"]
    played = play_checkpoint(checkpoint, table, price)
    right = np.array([float(mine[name]["right"]) for name in names])
    cost = np.array([told[name]["cost"] for name in names])
    cells = [
        [of, *(f"{figure:,.{digits}f}" for figure in beside_replay(served, replayed[places]))]
        for of, digits, served, replayed in (
            ("accuracy", 3, right, played.right),
            ("cost", 0, cost, played.cost),
        )
    ]
    decided = [choice["decided_by"] for name in names for choice in told[name]["decisions"]]
    shares = [f"{by} {decided.count(by) / len(decided):.1%}" for by in dict.fromkeys(decided)]
    asked = dict.fromkeys(row["asked"] for row in rows)
    parts = [
        f"{len(names)} questions at price {price:.2g}",
        markdown_table(["", "served", "replayed", "difference", "from", "to"], cells),
        f"{len(decided)} decisions: {', '.join(shares)}",
        markdown_table(
            ["asked", "questions", "right", "seconds, median", "seconds, mean", "tokens, mean"],
            [_seconds([row for row in rows if row["asked"] == name], name) for name in asked],
        ),
    ]
    return "\n\n".join(parts)


def _seconds(rows: Sequence[Row], asked: str) -> list[str]:
    right, seconds, tokens = (
        np.array([float(row[name]) for row in rows]) for name in ("right", "seconds", "tokens")
    )
    times = f"{np.median(seconds):.2f}", f"{seconds.mean():.2f}"
    return [asked, str(len(rows)), f"{right.mean():.1%}", *times, f"{tokens.mean():.0f}"]


def main(
    controller: Annotated[Path, typer.Argument(help="Checkpoint that is served.")],
    traces: Annotated[Path, typer.Argument(help="Trace set.")],
    url: Annotated[str, typer.Argument(help="Of the service, up to and including /v1.")],
    out: Annotated[Path, typer.Option(help="JSONL of what was answered.")],
    price: Annotated[float, typer.Option(help="0: the middle of the controller's range.")] = 0,
    beside: Annotated[list[str] | None, typer.Option(help="ARM=URL.")] = None,
    limit: Annotated[int, typer.Option(help="Ask so many questions only; 0: all.")] = 0,
    clients: Annotated[int, typer.Option(min=1, help="Questions asked at a time.")] = 4,
) -> None:
    """Ask, and compare with the replay."""
    checkpoint, recorded = load_checkpoint(controller), TraceSet.read(traces)
    worth = price or Pricing(checkpoint).price_for(Terms())
    arms = pairs("beside", beside or ())
    for name in arms.keys() - {model.name for model in checkpoint.models}:
        raise ConfigError(f"beside: expected an arm of {controller}, found {name!r}")
    servers = {
        name: openai.OpenAI(base_url=where, api_key="any", timeout=3600, max_retries=0)
        for name, where in {SERVICE: url, **arms}.items()
    }
    questions = read_recorded(recorded, ["test"]).questions[: limit or None]
    done = {(row["question_id"], row["asked"]) for row in rows_of(out)}
    left = [(q, name) for q in questions for name in servers if (q.question_id, name) not in done]

    def ask(asked: tuple[Question, str]) -> Row:
        question, name = asked
        if name == SERVICE:
            return ask_service(servers[name], question, worth)
        return ask_arm(servers[name], question, checkpoint, name)

    with ThreadPoolExecutor(clients) as pool, out.open("a", encoding="utf-8") as file:
        for row in pool.map(ask, left):
            print(json.dumps(row), file=file, flush=True)
    Console(width=1000).print(
        report([*rows_of(out)], checkpoint, recorded), markup=False, highlight=False
    )


if __name__ == "__main__":
    run_program(lambda: typer.run(main))
