"""Records trees of segments: every continuation that a decision process may ask for.

python -m recipes.trees runs/trees --text
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer
from numpy.typing import NDArray
from safetensors.numpy import save

from controller.answers import UNSTATED
from controller.backends.local.segments import SegmentWriter
from controller.bundled import bundled
from controller.errors import ConfigError
from controller.files import write_atomically, write_json
from controller.policy.readouts import Readout
from controller.process.types import Question
from controller.segments.types import Prefix, Segment, Segmentation, SegmentBackend, SegmentRequest
from envs.questions.files import bundled_questions, noted_kinds, read_questions
from envs.questions.grader import Grader, KindGrader
from envs.segments import (
    ESCALATE,
    KIND,
    PROMPT,
    SAMPLE,
    SEGMENT_TRACE_VERSION,
    TABLES,
    TO_END,
    VALUE_FILE,
    SegmentTraces,
    build_trees,
)
from envs.traces.format import MANIFEST, QUESTION_SCHEMA, tables_digest, write_table
from training.cli.app import main
from training.learn.difficulty import FOLDS, Outcomes, cross_fit, fit_networks, fold_of
from training.record.plans import question_row, spread
from training.record.recording import planned_manifest
from training.record.settings import RecordConfig
from training.record.sources import find_source
from training.report.view import progress_bar

SEGMENT_SCHEMA = pa.schema(
    [
        ("question_id", pa.string()),
        ("attempt", pa.int16()),
        ("node", pa.int32()),
        ("before", pa.int32()),
        ("action", pa.string()),
        ("draws", pa.list_(pa.int8())),
        ("prompt_tokens", pa.list_(pa.int32())),
        ("num_tokens", pa.int16()),
        ("small_tokens", pa.int16()),
        ("mean_logprob", pa.float32()),
        ("min_logprob", pa.float32()),
        ("entropy", pa.float32()),
        ("value", pa.float32()),
        ("done", pa.bool_()),
        ("answer", pa.string()),
        ("correct", pa.bool_()),
        ("forced_tokens", pa.int16()),
        ("text", pa.string()),
        ("hidden", pa.list_(pa.float32())),
    ]
)
"""One row per node; see docs/segments.md."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class TreeConfig:
    """How much to record of attempts as trees.

    Attributes:
        attempts: trees per question.
        draws: how often each segment is written, by the number of places before it where
            another draw than the first was taken.
        keep_text: whether to record what the segments say.
        shard_questions: questions whose trees grow side by side.
    """

    attempts: int = 1
    draws: tuple[int, ...] = (3, 2, 1)
    keep_text: bool = False
    shard_questions: int = 64

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.shard_questions < 1 or not self.draws or min(self.draws) < 1:
            raise ConfigError(
                "segments: expected attempts, shard_questions and draws of at least 1, found "
                f"{self.attempts}, {self.shard_questions} and {self.draws}"
            )


@dataclass(eq=False)
class _Node:
    """A prefix in the tree of one attempt."""

    prefix: Prefix
    number: int
    before: _Node | None = None
    action: str = PROMPT
    draws: list[int] = field(default_factory=list)
    redone: int = 0
    escalated: bool = False
    forced: Segment | None = None


class TreeRecorder:
    """Records trees breadth first, those of some questions side by side.

    Where the longest attempt of the backend, which writes segments, is reached, nothing follows.
    """

    def __init__(self, backend: SegmentBackend, grader: Grader, config: TreeConfig) -> None:
        self.models, self.backend, self.grader = backend.models, backend, grader
        self.config = config

    def record(self, asked: Sequence[tuple[Question, str]]) -> tuple[Rows, Rows]:
        """Rows of questions, each with its split, and a row per node as in `SEGMENT_SCHEMA`."""
        number = self.config.attempts
        prompts = self.backend.open([(q, i) for q, _ in asked for i in range(number)])
        self._numbers = dict.fromkeys((q.question_id for q, _ in asked), 0)
        level = [self._node(prompt) for prompt in prompts]
        rows: Rows = []
        while level:
            unfinished = [node for node in level if node.before and not node.prefix.done]
            forced = self.backend.force([node.prefix for node in unfinished])
            for node, answer in zip(unfinished, forced, strict=True):
                node.forced = answer
            rows += [self._row(node) for node in level]
            level = self._grown(level)
        described = [
            question_row(question, split, prompt.hidden)
            for (question, split), prompt in zip(asked, prompts[::number], strict=True)
        ]
        return described, rows

    def _node(self, prefix: Prefix, **more: Any) -> _Node:
        question = prefix.question.question_id
        self._numbers[question] += 1
        return _Node(prefix, self._numbers[question] - 1, **more)

    def _grown(self, level: Sequence[_Node]) -> list[_Node]:
        """The nodes after those of a level."""
        longest = self.models[0].max_new_tokens or 1
        asked = [
            (node, action, request)
            for node in level
            if not node.prefix.done and node.prefix.num_tokens < longest
            for action, request in self._requests(node)
        ]
        siblings: dict[tuple[int, str, str], _Node] = {}
        written = self.backend.write([request for _, _, request in asked])
        for (node, action, request), prefix in zip(asked, written, strict=True):
            assert prefix.segment is not None
            key = id(node), action, prefix.segment.text
            if key not in siblings:
                siblings[key] = self._node(
                    prefix,
                    before=node,
                    action=action,
                    redone=node.redone + (request.index > 0),
                    escalated=node.escalated or action != SAMPLE,
                )
            siblings[key].draws.append(request.index)
        return list(siblings.values())

    def _requests(self, node: _Node) -> list[tuple[str, SegmentRequest]]:
        draws = 1 if node.escalated else (*self.config.draws, 1)[node.redone]
        requests = [
            (SAMPLE, SegmentRequest(prefix=node.prefix, index=index)) for index in range(draws)
        ]
        large = len(self.models) - 1
        if large and not node.escalated and not node.redone:
            over = SegmentRequest(prefix=node.prefix, rung=large)
            end = SegmentRequest(prefix=node.prefix, rung=large, to_end=True)
            requests += [(ESCALATE, over), (TO_END, end)]
        return requests

    def _row(self, node: _Node) -> dict[str, Any]:
        prefix, segment = node.prefix, node.prefix.segment
        row: dict[str, Any] = {
            "question_id": prefix.question.question_id,
            "attempt": prefix.attempt,
            "node": node.number,
            "before": None if node.before is None else node.before.number,
            "action": node.action,
            "draws": node.draws,
            "prompt_tokens": list(prefix.prompt_tokens) if segment is None else None,
            "done": prefix.done,
            "value": prefix.value,
            "hidden": None if prefix.hidden is None else prefix.hidden.tolist(),
        }
        if segment is None:
            return row
        answer = (node.forced or segment).answer
        if node.forced is not None:
            row["forced_tokens"] = node.forced.num_tokens
        if self.config.keep_text:
            row["text"] = segment.text
        names = ("num_tokens", "small_tokens", "mean_logprob", "min_logprob", "entropy")
        return row | {
            **{name: getattr(segment, name) for name in names},
            "answer": answer,
            "correct": self.grader.is_right(prefix.question, answer),
        }


def record_trees(
    questions: Mapping[str, Sequence[Question]],
    recorder: TreeRecorder,
    out: Path,
    notes: Mapping[str, Any],
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Record trees of questions, by split, as a trace set.

    Notes go to `trace.json`, `models` among them by name; `progress` is called with the number of
    questions done.

    Raises:
        ConfigError: `out` holds a trace set.
    """
    if (out / MANIFEST).exists():
        raise ConfigError(f"{out}: expected no trace set there yet; choose another directory")
    config = recorder.config
    asked = [
        (replace(question, answers=question.answers or UNSTATED), split)
        for split, members in questions.items()
        for question in members
    ]
    described, nodes = [], []
    for start in range(0, len(asked), config.shard_questions):
        rows, more = recorder.record(asked[start : start + config.shard_questions])
        described.append(pa.Table.from_pylist(rows, QUESTION_SCHEMA))
        nodes.append(pa.Table.from_pylist(more, SEGMENT_SCHEMA))
        progress(start + len(rows))
    manifest: dict[str, Any] = {
        **planned_manifest(RecordConfig(), recorder.models, notes),
        "version": SEGMENT_TRACE_VERSION,
        "kind": KIND,
        "recorded": asdict(config),
        "questions": len(asked),
        "splits": dict(Counter(split for _, split in asked)),
        "answers": noted_kinds(question for question, _ in asked),
        "segmentation": asdict(recorder.backend.segmentation),
    }
    out.mkdir(parents=True, exist_ok=True)
    asked_of, nodes_of = pa.concat_tables(described), pa.concat_tables(nodes)
    traces = SegmentTraces(path=out, manifest=manifest, questions=asked_of, segments=nodes_of)
    segments = with_values(traces)
    empty = [name for name in ("text", "value") if segments[name].null_count == len(segments)]
    write_table(out / "segments.parquet", halved(segments.drop_columns(["hidden", *empty])))
    write_table(out / "questions.parquet", halved(traces.questions))
    write_json(out / MANIFEST, manifest | {"digest": tables_digest(out, TABLES)})


def with_values(traces: SegmentTraces) -> pa.Table:
    """Segments with the values of prefixes, which a read-out of their hidden states tells.

    As with difficulty, the values of a train question come from a read-out that was fitted
    without it. The read-out is saved beside the tables; there is none where there is too little to
    fit it on.
    """
    if traces.questions["split"].to_pylist().count("train") < FOLDS:
        return traces.segments
    readout, values = _fit(traces)
    tensors = {name: np.ascontiguousarray(x) for name, x in readout.arrays().items()}
    write_atomically(traces.path / VALUE_FILE, lambda to: to.write_bytes(save(tensors)))
    column = pa.array(values, pa.float32(), from_pandas=True)
    place = traces.segments.column_names.index("value")
    return traces.segments.set_column(place, "value", column)


def halved(table: pa.Table) -> pa.Table:
    """With three significant digits of every number, which is enough, and half the file."""

    def half(kind: pa.DataType) -> pa.DataType:
        if pa.types.is_list(kind):
            return pa.list_(half(kind.value_type))
        return pa.float16() if pa.types.is_float32(kind) else kind

    return table.cast(pa.schema([field.with_type(half(field.type)) for field in table.schema]))


def _fit(traces: SegmentTraces) -> tuple[Readout, NDArray[np.float64]]:
    """The read-out, and values of all nodes, NaN where an attempt is done."""
    hidden = traces.segments["hidden"].to_pylist()
    table = build_trees(traces, ["train"])
    question = table.question[table.tree]
    fold = fold_of(len(table.question_ids), FOLDS)[question]
    learned = ~table.segments["done"]
    rows = table.rows[learned]
    states = np.array([hidden[row] for row in rows], np.float32)
    rates = table.values[learned][:, None]
    readout, log_odds = cross_fit(states, Outcomes(rates), fit_networks, fold[learned])
    known = np.array([h is not None for h in hidden])
    values = np.full(len(hidden), np.nan)
    values[known] = readout(np.array([h for h in hidden if h], np.float32))[:, 0]
    values[rows] = log_odds[:, 0]
    return readout, values


app = typer.Typer()


@app.command()
def trees(
    out: Annotated[Path, typer.Argument(help="Directory of the trace set.")],
    small: Annotated[str, typer.Option(help="Model.")] = str(bundled("small")),
    large: Annotated[str, typer.Option(help="Model.")] = str(bundled("large")),
    questions: Annotated[Path | None, typer.Option(help="As of `allot record`.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many per split.")] = None,
    attempts: Annotated[int, typer.Option(help="Trees per question.")] = 1,
    draws: Annotated[str, typer.Option(help="Of a segment, by places redone before.")] = "3,2,1",
    lines: Annotated[bool, typer.Option(help="End segments at line breaks.")] = True,
    segment_tokens: Annotated[int, typer.Option(help="Longest segment.", min=1)] = 32,
    text: Annotated[bool, typer.Option(help="Keep the text of segments.")] = False,
) -> None:
    """Record trees of all that may follow each segment of an attempt."""
    try:
        numbers = tuple(int(number) for number in draws.split(","))
    except ValueError:
        raise ConfigError(
            f"draws: expected whole numbers separated by commas, found {draws!r}"
        ) from None
    source = find_source([small, large])
    writer = SegmentWriter(
        source.load(),
        seed=source.seed,
        temperature=source.temperature,
        segmentation=Segmentation(lines=lines, max_tokens=segment_tokens),
        max_new_tokens=source.max_new_tokens,
    )
    config = TreeConfig(attempts=attempts, draws=numbers, keep_text=text)
    asked = read_questions(questions, UNSTATED) if questions else bundled_questions(1)
    chosen = {
        split: [q for q, _ in spread((q, split) for q in members)[:limit]]
        for split, members in asked.items()
    }
    recorder, total = TreeRecorder(writer, KindGrader(), config), sum(map(len, chosen.values()))
    with progress_bar("recording", total) as update:
        record_trees(chosen, recorder, out, source.notes(out), update)
    print(f"{out}: {total} questions")


if __name__ == "__main__":
    main(app)
