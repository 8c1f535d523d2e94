"""Trace sets from generations that others recorded; `envs.traces.sources` tells from which."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from controller.errors import ConfigError, TraceFormatError
from envs.traces.checks import COLUMNS
from envs.traces.format import MANIFEST, TRACE_VERSION, tables_digest, write_json
from envs.traces.intake import Intake
from envs.traces.logs import REFERENCES, ImportOptions, Log
from envs.traces.summary import Group, doubts, groups

_TOLERANCE = 0.005
"""Of the share that is right, against the one that a harness tells."""

_DEFAULT = ImportOptions()


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import made.

    Attributes:
        groups: what there is of each model on each data set.
        missing: what the logs lack, and what that means, one sentence each.
        notes: what was chosen, guessed or left out, one sentence each.
    """

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

    Warns of what is doubtful: answers that cannot be read, models that are always or never right,
    texts that repeat, shares that differ from those that a harness tells.

    Args:
        files: logs and tables.
        out: directory of the trace set.
        small: the model that samples; the one with most attempts when None. All others
            can be escalated to.
        parameters: by model name, for the ledger.
        options: how logs are to be read.

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
        with Intake(Path(staging), options) as rows:
            logs = [rows.read(file) for file in files]
        _refuse_unused(options, logs)
        rows.sizes |= _checked_sizes(parameters or {}, rows.models)
        rows.check(logs)
        chosen = rows.small(small)
        rows.write_attempts(chosen)
        manifest = {
            "version": TRACE_VERSION,
            "digest": tables_digest(Path(staging)),
            "models": {
                model: {
                    "tier": "small" if model == chosen else "large",
                    "parameters": rows.sizes.get(model),
                }
                for model in rows.models
            },
            "answers": rows.kinds(),
            "source": [file.name for file in files],
            "questions": len(rows.questions),
        }
        out.mkdir(exist_ok=True)
        for name in ("questions.parquet", "attempts.parquet"):
            (Path(staging) / name).replace(out / name)
        write_json(out / MANIFEST, manifest)
    found = groups(rows.columns(), list(rows.models), list(rows.datasets))
    for message in (*rows.unread(), *rows.leaks(), *doubts(found), *_differences(logs)):
        warnings.warn(message, stacklevel=2)
    return Imported(
        groups=found, missing=list(rows.missing(chosen, found)), notes=list(_notes(logs))
    )


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
    for option, names in (
        ("filter", options.filters),
        ("metric", options.metrics),
        ("map", options.columns),
        ("references", [REFERENCES] if options.references else []),
    ):
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


def _differences(logs: Iterable[Log]) -> Iterator[str]:
    """What to warn of in each log."""
    for log in logs:
        for doubt, count in log.doubts.items():
            yield f"{log.path}: {count} {doubt}"
        right = log.right / max(log.attempts, 1)
        if log.stated is not None and abs(right - log.stated) > _TOLERANCE:
            yield (
                f"{log.path}: {right:.1%} of its attempts are right, where its harness tells "
                f"{log.stated:.1%}; is the log complete, and of that run?"
            )
        if not log.attempts:
            yield f"{log.path}: no attempts in it"
        if log.unread:
            yield (
                f"{log.path}: columns {', '.join(log.unread)} mean nothing here; --map THEIRS=OURS "
                "names what they are"
            )
        if len(log.steps) > 1:
            yield (
                f"{log.path}: attempts of training steps {min(log.steps)} to {max(log.steps)} are "
                "taken for those of one model"
            )


def _notes(logs: Iterable[Log]) -> Iterator[str]:
    notes = sum((log.notes for log in logs), Counter[str]())
    for note, count in notes.items():
        yield f"{note} ({count})"
