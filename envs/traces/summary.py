"""What sets hold of each model, and what an import tells: what is doubtful, guessed or missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pyarrow.dataset as ds

from controller.answers import EXAMPLES, unread_warning
from envs.traces.format import ModelRows, TraceSet
from envs.traces.logs import Log

_FEW = 20
"""Attempts below which a share tells nothing, and columns above which not all are named."""

_MUCH, _SELDOM = 1 / 3, 0.1
"""Share of attempts that one answer is given in, and share of these that it is right in."""

_DOUBTED = 0.1
"""Share of attempts of a log whose verdicts are not what answers and references say."""

_TOLERANCE = 0.005
"""Of the share that is right, against the one that a harness tells."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Attempts of one model on one data set.

    Attributes:
        model, dataset: names; "" for no data set.
        questions, attempts: how many.
        read, right: shares of attempts that have an answer, and that are right.
        majority: share of questions whose most frequent answer is right.
        tokens: per attempt.
        guessed: share of attempts whose tokens were estimated.
        repeated: share of further attempts at a question whose text was there before.
        disputed: answers that are right in one attempt at a question and wrong in another.
    """

    model: str
    dataset: str
    questions: int
    attempts: int
    read: float
    right: float
    majority: float
    tokens: float
    guessed: float
    repeated: float
    disputed: int

    @property
    def shown(self) -> dict[str, Any]:
        """What people look at; ~ marks tokens that were guessed."""
        names = ("model", "questions", "attempts", "read", "right", "majority")
        tokens = f"{'~' if self.guessed else ''}{self.tokens:.0f}"
        return {name: getattr(self, name) for name in names} | {"tokens": tokens}


def votes(attempts: pd.DataFrame) -> pd.DataFrame:
    """By `question` and `answer` how often it was given, and how often that is `correct`.

    Returns:
        Columns `size`, `sum` and `first`, the first verdict; the earliest answers come first.
    """
    given = attempts.dropna(subset=["answer"]).groupby(["question", "answer"], sort=False)
    return given["correct"].agg(["size", "sum", "first"])


def majority(votes: pd.DataFrame) -> int:
    """Questions whose most frequent answer is right; of equally many the earliest leads."""
    leaders = votes.sort_values("size", ascending=False, kind="stable").groupby("question")
    return int(leaders["first"].first().sum())


def groups(attempts: pd.DataFrame) -> Iterator[Group]:
    """One group for each model and data set that has attempts.

    Columns are `model`, `dataset`, `question`, `tokens`, `correct`, `guessed_tokens`, `answer` and
    `text`, or what stands for it; NaN for none.
    """
    for (model, dataset), part in attempts.groupby(["model", "dataset"], sort=False, observed=True):
        questions, found = part["question"].nunique(), votes(part)
        again = part.dropna(subset=["text"]).duplicated(["question", "text"]).sum()
        yield Group(
            model=model,
            dataset=dataset,
            questions=questions,
            attempts=len(part),
            read=float(part["answer"].notna().mean()),
            right=float(part["correct"].mean()),
            majority=majority(found) / questions,
            tokens=float(part["tokens"].mean()),
            guessed=float(part["guessed_tokens"].mean()),
            repeated=float(again / max(len(part) - questions, 1)),
            disputed=int(found["sum"].between(0, found["size"], inclusive="neither").sum()),
        )


@dataclass(kw_only=True)
class KnownModel:
    """What there is by a model: attempts, those read, tries at each question, texts not read."""

    attempts: int = 0
    read: int = 0
    tried: Counter[int] = field(default_factory=Counter)
    unread: list[str] = field(default_factory=list)


def unread(models: Mapping[str, KnownModel]) -> Iterator[str]:
    """A message for each model of whose attempts less than 80% could be read."""
    for name, model in models.items():
        if message := unread_warning(name, model.attempts, model.read, model.unread):
            yield message


def doubts(found: Iterable[Group]) -> Iterator[str]:
    """Warnings of what models are said to have done."""
    for group in found:
        who = f"{group.model} on {group.dataset}" if group.dataset else group.model
        if group.attempts >= _FEW and group.right in (0, 1):
            yield f"{who}: {group.right:.0%} of {group.attempts} attempts are right; is that so?"
        if group.repeated > 0.5:
            yield (
                f"{who}: {group.repeated:.0%} of further attempts at a question repeat a text, as "
                "at temperature 0, or from a log that is there twice"
            )
        if group.disputed:
            yield (
                f"{who}: {group.disputed} answers are right in one attempt and wrong in another at "
                "the same question; the verdict of the first one counts for all"
            )


def shared(attempts: pd.DataFrame) -> Iterator[str]:
    """A warning if what models answered is right in one's attempts and wrong in another's."""
    given = attempts.groupby(["question", "answer"])
    common = given[["model", "correct"]].nunique().query("model > 1")
    if (count := int((common["correct"] > 1).sum())) > _DOUBTED * len(common):
        yield (
            f"{count} of {len(common)} answers that several models gave are right by one and wrong "
            "by another; is the column answer what is right? --map answer=reference says so"
        )


def differences(logs: Sequence[Log]) -> Iterator[str]:
    """Warnings of what logs say."""
    steps: set[int] = set().union(*(log.steps for log in logs))
    if len(steps) > 1:
        yield (
            f"{logs[0].path}: attempts of training steps {min(steps)} to {max(steps)} are taken "
            "for those of one model"
        )
    for log in logs:
        for doubt, count in (+log.doubts).items():
            yield f"{log.path}: {count} {doubt}"
        right = log.right / max(log.attempts, 1)
        if log.stated is not None and abs(right - log.stated) > _TOLERANCE:
            why = "as --answers grades them" if log.graded_again else "is the log complete?"
            yield (
                f"{log.path}: {right:.1%} of its attempts are right, where its harness tells "
                f"{log.stated:.1%}; {why}"
            )
        if log.otherwise > _DOUBTED * log.attempts:
            yield (
                f"{log.path}: by answer and reference {log.otherwise} of {log.attempts} attempts "
                "are graded otherwise than by the log, whose verdicts stand"
            )
        if not log.attempts:
            yield f"{log.path}: no attempts in it"
        if log.unread:
            named = ", ".join([*log.unread][:_FEW]) + (" and more" * (len(log.unread) > _FEW))
            yield (
                f"{log.path}: columns {named} mean nothing here; --map THEIRS=OURS names what they "
                "are"
            )


def notes(logs: Iterable[Log]) -> Iterator[str]:
    """What was chosen, guessed or left out, one sentence each."""
    for note, count in sum((log.notes for log in logs), Counter[str]()).items():
        yield f"{note} ({count})"


def missing(
    found: Sequence[Group], held: Mapping[str, int], small: str, sizes: Mapping[str, float]
) -> Iterator[str]:
    """What logs lack, and what that means, one sentence each.

    `held` are attempts that have each column, `small` is the model that samples, `sizes` are
    parameters.
    """
    total, models = sum(group.attempts for group in found), {group.model for group in found}
    if held["completion_tokens"] < total:
        yield "token counts: estimated from the length of the text, four characters each"
    if held["prompt_tokens"] < total:
        yield "prompt_tokens: estimated from the length of the question"
    for column, meaning in (
        ("mean_logprob", "the policy goes without confidence"),
        ("verifier_score", "no VERIFY"),
        ("parent_id", "no REVISE"),
    ):
        if not held[column]:
            yield f"{column}: {meaning}"
    yield "prompt states: difficulty is estimated from the wording alone"
    if len(models) == 1:
        yield "a larger model: no ESCALATE"
    if all(group.attempts == group.questions for group in found if group.model == small):
        yield f"repeated samples of {small}: nothing to vote on"
    if unknown := sorted(models - sizes.keys()):
        how = "say --parameters MODEL=COUNT for true costs"
        how += ", or train with --unit dollars for what was paid" if held["cost_usd"] else ""
        yield f"parameters of {', '.join(unknown)}: {how}"


def answer_warnings(traces: TraceSet, models: Sequence[str]) -> Iterator[str]:
    """What people are to be told of models whose answers cannot be read, or are always the same."""
    kept = "text" in traces.stored.schema.names
    for model in models:
        rows = traces.model_rows.get(model, ModelRows())
        unread = (ds.field("model") == model) & ds.field("answer").is_null()
        found = traces.stored.scanner(["text"], filter=unread).head(EXAMPLES) if kept else None
        texts = [] if found is None else [text for text in found["text"].to_pylist() if text]
        if message := unread_warning(model, rows.attempts, rows.read, texts):
            yield message
        mine = traces.stored.scanner(["answer", "correct"], filter=ds.field("model") == model)
        if message := _stuck(mine.to_table().to_pandas()):
            yield f"{model}: {message}"


def _stuck(attempts: pd.DataFrame) -> str | None:
    """What is told of an `answer` that many attempts give and that is seldom `correct`, or None."""
    given = attempts.groupby("answer", observed=True)["correct"].agg(["size", "mean"])
    if len(attempts) < _FEW or given.empty:
        return None
    answer, size, right = next(given.nlargest(1, "size").itertuples(name=None))
    if size <= _MUCH * len(attempts) or right > _SELDOM:
        return None
    return (
        f"{size / len(attempts):.0%} of {len(attempts)} attempts answer {str(answer)[:20]!r}, and "
        f"{right:.0%} of these are right; does the prompt show that as an example?"
    )
