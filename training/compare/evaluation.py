"""An evaluation as files: what a report, W&B or a notebook reads.

`evaluation/decisions.parquet` in a run directory holds one row per question and price
with all decisions; `evaluation/evaluation.json`, written last, holds every figure of the
comparison and makes both valid.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import TypeAdapter

from controller.card import file_digest
from controller.checkpoint import AnyCheckpoint
from controller.errors import EvaluationError
from controller.files import write_atomically, write_json
from controller.granularity import SEGMENTS
from controller.loop import Decision
from controller.process.actions import ActionKind
from controller.process.episodes import NO_ANSWER
from controller.process.lockstep import Ints
from controller.process.types import Attempt, Question
from controller.segments.types import Segment
from envs.segments import SegmentTable
from envs.traces.format import ATTEMPT_SCHEMA, QUESTION_SCHEMA
from envs.traces.recorded import Recorded
from training.compare.results import Results
from training.compare.simulate import Played, play_checkpoint
from training.record.plans import question_row


@dataclass(frozen=True, kw_only=True)
class PlayedEpisode:
    """One question at one price, from the first decision to the answer.

    Attributes:
        decisions: in order, the last one STOP unless nothing else was left to do.
        answer: what was returned; None when it gave up or none could be read.
        right_answers: those of the recorded answers that the grader accepts.
        cost: in small-model tokens.
    """

    question: Question
    price: float
    decisions: tuple[Decision, ...]
    answer: str | None
    right_answers: frozenset[str]
    cost: float

    @property
    def right(self) -> bool:
        """Whether the answer is right."""
        return self.answer in self.right_answers


class _Watch:
    """Takes down by row the decisions of a controller while it is played, one row in `every`."""

    replay: Any

    def __init__(self, checkpoint: AnyCheckpoint, recorded: Recorded[Any, Any], every: int) -> None:
        self._checkpoint, self._recorded, self._every = checkpoint, recorded, every
        self.seen: dict[int, list[tuple[Decision, Any]]] = {}

    @torch.no_grad()
    def __call__(self, replay: Any, rows: Ints, actions: Ints) -> None:
        """Take down what is about to be done in `rows`, (n,): `actions`, (n,)."""
        self.replay, watched = replay, rows % self._every == 0
        rows, actions = rows[watched], actions[watched]
        observation = replay.observe(rows)  # (n, D)
        policy, mask = self._checkpoint.policy, torch.from_numpy(replay.episodes.mask(rows))
        probabilities = policy.log_probs(torch.from_numpy(observation), mask).exp().tolist()
        value = policy.value(torch.from_numpy(observation)).tolist()
        chosen, features = self._checkpoint.config.actions, self._checkpoint.granularity.features
        for i, row in enumerate(rows.tolist()):
            place, floor = _place(replay, row), self._checkpoint.floor
            rule = floor.rule_at(float(replay.episodes.price[row])) if floor else None
            decision = Decision(
                action=chosen[int(actions[i])],
                probabilities=dict(zip(chosen.names, probabilities[i], strict=True)),
                value=value[i],
                observation=dict(zip(features, observation[i].tolist(), strict=True)),
                leader=_leader(self._recorded, row, place),
                cost=float(replay.episodes.spent[row]),
                floor=None if rule is None else str(rule),
            )
            self.seen.setdefault(row, []).append((decision, place))


def play_decisions(
    checkpoint: AnyCheckpoint, recorded: Recorded[Any, Any], prices: Sequence[float]
) -> Iterator[PlayedEpisode]:
    """Play each question once at each price and keep every decision.

    Of trees the first at each question is played. Episodes come by price, then in the order of the
    questions.
    """
    each = recorded.table.num_attempts
    for price in prices:
        watch = _Watch(checkpoint, recorded, each)
        play_checkpoint(checkpoint, recorded.table, price, repeats=1, watch=watch)
        for number, question in enumerate(recorded.questions):
            row = number * each
            last = _place(watch.replay, row)
            decisions, places = zip(*watch.seen[row], strict=True)
            steps = zip(decisions, places, (*places[1:], last), strict=True)
            yield PlayedEpisode(
                question=question,
                price=price,
                decisions=tuple(
                    replace(made, brought=_brought(recorded, watch.replay, row, made, *ends))
                    for made, *ends in steps
                ),
                answer=_leader(recorded, row, last),
                right_answers=recorded.grader.right[question.question_id],
                cost=float(watch.replay.episodes.spent[row]),
            )


def _place(replay: Any, row: int) -> Any:
    """Where an episode stands: the node of its tree, or its leading answer and its attempts."""
    if isinstance(replay.table, SegmentTable):
        return int(replay.node[row])
    return int(replay.episodes.leader[row]), int(replay.episodes.num_attempts[row])


def _leader(recorded: Recorded[Any, Any], row: int, place: Any) -> str | None:
    """What STOP returns there: the leading answer, or of a tree the one at the node, if forced."""
    table = recorded.table
    if isinstance(table, SegmentTable):
        return None if place == table.root[row] else recorded.backend.answer(place)
    return None if place[0] == NO_ANSWER else table.answers[row][place[0]]


def _brought(
    recorded: Recorded[Any, Any], replay: Any, row: int, decision: Decision, before: Any, after: Any
) -> tuple[Any, ...]:
    """Attempts, or the segment, that an action brought between two places."""
    if not isinstance(recorded.table, SegmentTable):
        return tuple(recorded.attempts[a] for a in replay.attempts[row, before[1] : after[1]])
    by_large = decision.action.kind is ActionKind.ESCALATE
    rung = replay.config.num_rungs - 1 if by_large else 0
    return () if decision.stops else (recorded.backend.segment(after, rung),)


EVALUATION_VERSION = 2

_DIRECTORY = "evaluation"
_SETTINGS = "evaluation.json"
_DECISIONS = "decisions.parquet"
_BATCH = 1024


@dataclass(frozen=True, kw_only=True)
class About:
    """What was compared on what, for people: controllers that were pooled, set, models."""

    controllers: tuple[str, ...]
    traces: str
    traces_digest: str | None
    models: tuple[str, ...]
    repeats: int


_ABOUT = TypeAdapter(About)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A saved evaluation; `decisions` is a parquet file of `decision_schema`."""

    about: About
    results: Results
    decisions: Path

    @property
    def is_segmented(self) -> bool:
        """Whether decisions were made inside attempts."""
        return self.decision_names("observation") == list(SEGMENTS.features)

    def decision_names(self, column: str) -> list[str]:
        """Names behind `probabilities` or `observation` of every decision."""
        decision = pq.read_schema(self.decisions).field("decisions").type.value_type
        return [field.name for field in decision.field(column).type]

    def episodes(self, *columns: str) -> pd.DataFrame:
        """Columns of a row per question and price, and `actions`, the names of what was done."""
        file = pq.ParquetFile(self.decisions)
        read = file.read(columns=[*columns, "decisions.list.element.action"])
        rows = read.to_pandas(integer_object_nulls=True)
        rows["actions"] = [[made["action"] for made in each] for each in rows.pop("decisions")]
        return rows


ASKED = ("question_id", "dataset", "level", "question", "reference")
"""Columns of a question, as trace sets and files of decisions have them."""

_BROUGHT = (
    *("attempt_id", "parent_id", "model", "action", "answer", "correct", "prompt_tokens"),
    *("completion_tokens", "mean_logprob", "min_logprob", "verifier_score", "text"),
)
"""What a file of decisions keeps of an attempt that an action brings."""


def decision_schema(checkpoint: AnyCheckpoint) -> pa.Schema:
    """Columns of decisions.parquet: one row per question and price.

    Each row is one episode, beside `mean_correct` and `mean_cost` over all episodes that
    were played. Probabilities and observations are structs, their fields named after actions
    and features.
    """
    actions, features = checkpoint.config.actions.names, checkpoint.granularity.features
    brought = pa.struct([ATTEMPT_SCHEMA.field(name) for name in _BROUGHT])
    decision = pa.struct(
        [
            ("action", pa.string()),
            ("probabilities", pa.struct([(name, pa.float32()) for name in actions])),
            ("value", pa.float32()),
            ("observation", pa.struct([(name, pa.float32()) for name in features])),
            ("cost", pa.float64()),
            ("leader", pa.string()),
            ("attempts", pa.list_(brought)),
        ]
    )
    return pa.schema(
        [
            *(QUESTION_SCHEMA.field(name) for name in ASKED),
            ("price", pa.float64()),
            ("decisions", pa.list_(decision)),
            ("answer", pa.string()),
            ("correct", pa.bool_()),
            ("cost", pa.float64()),
            ("mean_correct", pa.float64()),
            ("mean_cost", pa.float64()),
        ]
    )


def _brought_row(made: Attempt | Segment, right: frozenset[str]) -> dict[str, Any]:
    """An attempt; a segment of one is kept like it, without an answer of its own."""
    if isinstance(made, Segment):
        kept = {**vars(made), "completion_tokens": made.num_tokens, "text": made.text or None}
        return {**kept, "answer": None}
    return {**vars(made), "action": str(made.action), "correct": made.answer in right}


def save_evaluation(
    run: Path,
    about: About,
    results: Results,
    *,
    checkpoint: AnyCheckpoint,
    recorded: Recorded[Any, Any],
    played: Sequence[Played],
) -> Evaluation:
    """Write an evaluation, with all decisions of one checkpoint, in place of an older one."""
    directory = run / _DIRECTORY
    directory.mkdir(parents=True, exist_ok=True)
    decisions = directory / _DECISIONS
    means = ((float(r), float(c)) for p in played for r, c in zip(p.right, p.cost, strict=True))
    episodes = play_decisions(checkpoint, recorded, results.prices)  # few are in memory
    rows = (_episode_row(episode, *mean) for episode, mean in zip(episodes, means, strict=True))
    schema = decision_schema(checkpoint)
    write_atomically(decisions, lambda path: _write_decisions(path, schema, rows))
    settings = {
        "version": EVALUATION_VERSION,
        "decisions": file_digest(decisions),
        "about": asdict(about),
        "summary": results.to_json(),
    }
    write_json(directory / _SETTINGS, settings)
    return Evaluation(about=about, results=results, decisions=decisions)


def read_evaluation(run: Path) -> Evaluation:
    """Read the evaluation of a run directory.

    Raises:
        EvaluationError: there is none, it is damaged, or its version is unknown.
    """
    path, decisions = run / _DIRECTORY / _SETTINGS, run / _DIRECTORY / _DECISIONS
    again = f"run `allot evaluate {run}`"
    if not path.exists() or not decisions.exists():
        raise EvaluationError(
            f"{run}: expected an evaluation ({_DIRECTORY}/{_SETTINGS} and {_DECISIONS}), found "
            f"none; {again}"
        )
    try:
        settings = json.loads(path.read_text())
        version, digest = settings["version"], settings["decisions"]
    except (KeyError, TypeError, ValueError) as error:
        raise EvaluationError(f"{path}: expected an evaluation: {error!r}; {again}") from None
    if version != EVALUATION_VERSION:
        raise EvaluationError(
            f"{path}: expected version {EVALUATION_VERSION}, found {version!r}; {again}"
        )
    if digest != file_digest(decisions):
        raise EvaluationError(
            f"{decisions}: expected the decisions that {path.name} was written with, found others; "
            f"{again}"
        )
    try:
        about = _ABOUT.validate_python(settings["about"])
        results = Results.from_json(settings["summary"])
    except (KeyError, TypeError, ValueError) as error:
        raise EvaluationError(f"{path}: expected figures: {error!r}; {again}") from None
    return Evaluation(about=about, results=results, decisions=decisions)


def _write_decisions(path: Path, schema: pa.Schema, rows: Iterator[dict[str, Any]]) -> None:
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while batch := list(islice(rows, _BATCH)):
            writer.write_table(pa.Table.from_pylist(batch, schema))


def _episode_row(episode: PlayedEpisode, mean_correct: float, mean_cost: float) -> dict[str, Any]:
    right = episode.right_answers
    return {
        **question_row(episode.question),
        "price": float(episode.price),
        "decisions": [
            {
                **vars(d),
                "action": str(d.action),
                "attempts": [_brought_row(made, right) for made in d.brought],
            }
            for d in episode.decisions
        ],
        "answer": episode.answer,
        "correct": episode.right,
        "cost": episode.cost,
        "mean_correct": mean_correct,
        "mean_cost": mean_cost,
    }
