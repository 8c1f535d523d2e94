"""Where attempts come from: one line per kind of log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from envs.records import Record
from envs.traces.harness import harness_attempts
from envs.traces.logs import Log, Row
from envs.traces.readers import (
    batch_attempts,
    completion_attempts,
    inspect_attempts,
    inspect_entries,
    program_attempts,
    program_entries,
    rollout_attempts,
    scenario_attempts,
    scenario_entries,
    simple_attempts,
    simple_entries,
    table_attempts,
    trace_attempts,
    trace_entries,
)
from envs.traces.served import served_attempts


@dataclass(frozen=True, kw_only=True)
class Source:
    """A kind of log.

    Attributes:
        name: for people.
        columns: that its records have, and no other's.
        attempts: of one entry.
        entries: of one record, by the name of the place where each stands in it; None for the
            record alone.
    """

    name: str
    columns: frozenset[str]
    attempts: Callable[[Record, Log], Iterator[Row]]
    entries: Callable[[Row], Iterator[tuple[str, Row]]] | None = None

    def read(self, record: Record, log: Log) -> Iterator[tuple[Record, Row]]:
        """Attempts of a record, each with the entry that it was found in."""
        entries = [record]
        if self.entries:
            entries = [
                Record(path=record.path, place=place, row=row)
                for place, row in self.entries(record.row)
            ]
        for entry in entries:
            for attempt in self.attempts(entry, log):
                yield entry, attempt


SOURCES = tuple(
    Source(name=name, columns=frozenset(columns), attempts=attempts, entries=entries)
    for name, columns, attempts, entries in (
        ("lm-evaluation-harness", {"doc", "resps"}, harness_attempts, None),
        ("allot serve", {"event", "logger"}, served_attempts, None),
        ("inspect_ai", {"epoch", "target", "scores"}, inspect_attempts, None),
        ("inspect_ai", {"version", "eval"}, inspect_attempts, inspect_entries),
        ("OpenAI batch", {"custom_id", "response"}, batch_attempts, None),
        ("trl", {"step", "prompt", "completion", "advantage"}, completion_attempts, None),
        ("verifiers", {"example_id", "completion", "reward"}, rollout_attempts, None),
        ("verifiers", {"env", "task", "traces"}, trace_attempts, trace_entries),
        ("HELM", {"adapter_spec", "request_states"}, scenario_attempts, scenario_entries),
        ("simple-evals", {"htmls", "convos"}, simple_attempts, simple_entries),
        ("EvalPlus", {"eval", "hash"}, program_attempts, program_entries),
    )
)

TABLE = Source(name="table", columns=frozenset(), attempts=table_attempts)


def source_of(record: Record) -> Source:
    """The kind of log that a record is of; a plain table if it is of no other."""
    return next((source for source in SOURCES if source.columns <= record.row.keys()), TABLE)
