"""Recorded traces behind the interfaces of the scalar environment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, Generic

from typing_extensions import TypeVar

from controller.backends.base import PromptState
from controller.backends.recorded import ReplayBackend
from controller.process.actions import REVISING, ActionKind
from controller.process.cost import Usage
from controller.process.types import Attempt, Question
from envs.questions.files import stored_questions
from envs.questions.grader import RecordedGrader
from envs.traces.format import TraceSet
from envs.traces.table import TraceTable, build_table

_KEPT = (
    *("attempt_id", "question_id", "model", "parent_id", "prompt_tokens", "completion_tokens"),
    *("text", "finish_reason", "mean_logprob", "min_logprob", "verifier_score"),
    "verifier_tokens",
)
"""Columns of the trace set that an attempt has as they are."""

B = TypeVar("B", default=ReplayBackend)
T = TypeVar("T", default=TraceTable)


@dataclass(frozen=True, kw_only=True)
class Recorded(Generic[B, T]):
    """Questions of some splits, in the order of the table, backend and grader.

    The grader calls right what was right when it was recorded. Attempts, in the order of the
    table's, are there if it is one of whole attempts.
    """

    questions: tuple[Question, ...]
    backend: B
    grader: RecordedGrader
    table: T
    attempts: tuple[Attempt, ...] = ()


def read_recorded(
    traces: TraceSet, splits: Iterable[str], ladder: Sequence[str] | None = None
) -> Recorded:
    """Recorded questions and attempts of some splits; `ladder` as in `TraceSet.models`."""
    models = traces.models(ladder)
    table = build_table(traces, splits, [model.name for model in models])
    states = {
        question_id: PromptState(
            prompt_tokens=tuple(table.prompt_tokens[q].tolist()),
            hidden=None if table.hidden is None else table.hidden[q],
        )
        for q, question_id in enumerate(table.question_ids)
    }
    attempts = _attempts(traces, table)
    return recorded(traces, table, ReplayBackend(models, attempts, states), attempts)


def recorded(
    traces: Any, table: Any, backend: Any, attempts: tuple[Attempt, ...] = ()
) -> Recorded[Any, Any]:
    """What there is of a set of either granularity, given its table and the backend over it."""
    stored = stored_questions(traces.questions, traces.manifest)
    questions = {question.question_id: question for question in stored}
    verdicts = zip(table.question_ids, table.answers, table.answer_correct, strict=True)
    right = {name: frozenset(compress(answers, known)) for name, answers, known in verdicts}
    return Recorded(
        questions=tuple(questions[name] for name in table.question_ids),
        backend=backend,
        grader=RecordedGrader(right),
        table=table,
        attempts=attempts,
    )


def _attempts(traces: TraceSet, table: TraceTable) -> tuple[Attempt, ...]:
    attempts = []
    answers = dict(zip(table.question_ids, table.answers, strict=True))
    rungs, given = table.attempts["rung"].tolist(), table.attempts["answer"].tolist()
    for i, row in enumerate(traces.attempts.take(table.attempts["row"]).to_pylist()):
        fresh = ActionKind.ESCALATE if rungs[i] else ActionKind.SAMPLE
        attempts.append(
            Attempt(
                rung=rungs[i],
                action=ActionKind(row["action"]) if row["action"] in REVISING else fresh,
                index=i,
                answer=None if given[i] < 0 else answers[row["question_id"]][given[i]],
                usage=Usage(reasoning_tokens=row.get("reasoning_tokens") or 0),
                **{name: row.get(name) for name in _KEPT},
            )
        )
    return tuple(attempts)
