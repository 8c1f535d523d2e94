"""Trace sets from generations that others recorded; `envs.traces.readers` tells from which."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from controller.errors import ConfigError, TraceFormatError
from controller.files import write_json
from envs.traces import summary
from envs.traces.checks import COLUMNS
from envs.traces.format import MANIFEST, TRACE_VERSION, tables_digest
from envs.traces.intake import Intake
from envs.traces.logs import REFERENCES, ImportOptions, Log
from envs.traces.summary import Group

_DEFAULT = ImportOptions()


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Shares by model and data set, and sentences about what is missing or guessed."""

    groups: Sequence[Group]
    missing: Sequence[str]
    notes: Sequence[str]


def import_attempts(
    files: Sequence[Path],
    out: Path,
    *,
    small: str | None = None,
    parameters: Mapping[str, float] | None = None,
    options: ImportOptions = _DEFAULT,
) -> Imported:
    """Write a trace set from recorded generations, a part at a time.

    `small` samples, the model with most attempts if None; all others can be escalated to.
    `parameters` are by model, for the ledger.

    Warns of what is doubtful: answers that cannot be read, models that are always or never right,
    texts that repeat, shares that differ from those that a harness tells.

    Raises:
        TraceFormatError: a file cannot be read, a row holds what it may not, rows contradict one
            another, no answer can be read, or `out` holds a trace set.
    """
    if (out / MANIFEST).exists():
        raise TraceFormatError(f"{out}: expected no trace set there yet; choose another directory")
    _check_options(options)
    _refuse_copies(files)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as staging:
        rows = Intake(Path(staging), options)
        for file in files:
            rows.read(file)
        rows.close()
        if rows.models:
            _refuse_unused(options, rows.logs)
        rows.sizes |= _checked_sizes(parameters or {}, rows.models)
        rows.check()
        chosen = rows.small(small)
        rows.write_attempts(chosen)
        tiers = {model: "small" if model == chosen else "large" for model in rows.models}
        manifest = {
            "version": TRACE_VERSION,
            "digest": tables_digest(Path(staging)),
            "models": {
                model: {"tier": tier, "parameters": rows.sizes.get(model)}
                for model, tier in tiers.items()
            },
            "answers": rows.kinds(),
            "source": [file.name for file in files],
            "questions": rows.num_questions,
        }
        out.mkdir(exist_ok=True)
        for name in ("questions.parquet", "attempts.parquet"):
            (Path(staging) / name).replace(out / name)
        write_json(out / MANIFEST, manifest)
    found = list(summary.groups(rows.attempts))
    doubts = *summary.doubts(found), *summary.differences(rows.logs)
    for message in (*rows.unread(), *rows.leaks(), *doubts):
        warnings.warn(message, stacklevel=2)
    missing = summary.missing(found, rows.held, chosen, rows.sizes)
    return Imported(groups=found, missing=[*missing], notes=[*summary.notes(rows.logs)])


def _check_options(options: ImportOptions) -> None:
    for option, names in (("map", options.columns.values()), ("set", options.constants)):
        for name in names:
            if name not in COLUMNS:
                raise ConfigError(f"{option}: expected one of {sorted(COLUMNS)}, found {name!r}")


def _checked_sizes(sizes: Mapping[str, float], models: Collection[str]) -> Mapping[str, float]:
    column = COLUMNS["parameters"]
    for model, size in sizes.items():
        if model not in models:
            raise ConfigError(f"parameters: expected models among {sorted(models)}, found {model}")
        try:
            column.read(size)
        except ValueError:
            raise ConfigError(
                f"parameters: expected {column.expected} for {model}, found {size}"
            ) from None
    return sizes


def _refuse_unused(options: ImportOptions, logs: Sequence[Log]) -> None:
    used = set().union(*(log.used for log in logs))
    references = [REFERENCES] if options.references else []
    asked = {"filter": options.filters, "metric": options.metrics, "map": options.columns}
    for option, names in (asked | {"references": references}).items():
        if unused := [name for name in names if name not in used]:
            raise ConfigError(f"{option}: expected what some log has, found {unused}")


def _refuse_copies(files: Sequence[Path]) -> None:
    known: dict[str, Path] = {}
    for file in files:
        if not file.is_file():
            raise TraceFormatError(f"{file}: expected a file, found none")
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "blake2b").hexdigest()
        if (first := known.setdefault(digest, file)) is not file:
            raise TraceFormatError(
                f"{file}: expected a log of its own, found the content of {first}; name it once"
            )
