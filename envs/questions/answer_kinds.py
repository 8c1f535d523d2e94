"""Kinds of answers in question files and trace sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from controller.answers import (
    EXAMPLES,
    UNNAMED,
    UNSTATED,
    AnswerKind,
    answer_kind,
    unread_warning,
)
from controller.errors import ConfigError, TraceFormatError
from controller.process.types import Question
from envs.traces.format import TraceSet


def kinds_of(manifest: Mapping[str, Any], datasets: Iterable[str]) -> list[AnswerKind]:
    """The kind of each question's answers, as `trace.json` says; `exact` where it says nothing.

    Args:
        manifest: `trace.json`; `answers` names a kind, or one for each data set.
        datasets: of the questions.

    Raises:
        TraceFormatError: an unknown kind, or a data set without one.
    """
    named = manifest.get("answers", UNNAMED)
    kinds: dict[str, AnswerKind] = {}
    datasets = list(datasets)
    for dataset in dict.fromkeys(datasets):
        name = named.get(dataset) if isinstance(named, Mapping) else named
        try:
            kinds[dataset] = answer_kind(str(name))
        except ConfigError as error:
            raise TraceFormatError(f"trace.json, data set {dataset!r}: {error}") from None
    return [kinds[dataset] for dataset in datasets]


def only_kind(manifest: Mapping[str, Any]) -> str:
    """The kind for further questions: the one that a trace set has, `auto` if there are several."""
    named = manifest.get("answers", UNNAMED)
    names = set(named.values()) if isinstance(named, Mapping) else {named}
    return str(names.pop()) if len(names) == 1 else UNSTATED


def noted_kinds(questions: Iterable[Question]) -> str | dict[str, str]:
    """What `trace.json` says about the answers of questions.

    Raises:
        ConfigError: two kinds in one data set.
    """
    found: dict[str, str] = {}
    for question in questions:
        name = question.answers or UNSTATED
        if found.setdefault(question.dataset, name) != name:
            raise ConfigError(
                f"answers: expected one kind in data set {question.dataset!r}, found "
                f"{found[question.dataset]} and {name}; give their rows different `dataset`s"
            )
    return found if len(set(found.values())) > 1 else next(iter(found.values()), UNSTATED)


def unread_warnings(traces: TraceSet, models: Sequence[str]) -> Iterator[str]:
    """A message for each model of whose attempts less than 80% could be read."""
    attempts, read = Counter[str](), Counter[str]()
    for batch in traces.scan(["model", "answer"]):
        counts = (
            pa.table(batch).group_by("model").aggregate([("answer", "count"), ([], "count_all")])
        )
        for row in counts.to_pylist():
            attempts[row["model"]] += row["count_all"]
            read[row["model"]] += row["answer_count"]
    kept = "text" in traces.stored.schema.names
    for model in models:
        unread = (ds.field("model") == model) & ds.field("answer").is_null()
        found = traces.stored.scanner(["text"], filter=unread).head(EXAMPLES) if kept else None
        texts = [] if found is None else [text for text in found["text"].to_pylist() if text]
        if message := unread_warning(model, attempts[model], read[model], texts):
            yield message
