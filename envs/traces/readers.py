"""Attempts from tables and from what services and trainers write, and which log is of which kind.

A function turns one entry of a log into attempts, by the columns of `envs.traces.logs`, and
leaves out what the log does not tell. Nothing is checked or graded here.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from dataclasses import replace
from itertools import chain, product
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from controller.backends.openai.tokens import counted
from controller.errors import ConfigError, TraceFormatError
from envs.records import Record, Row, read_records
from envs.traces import harness
from envs.traces.format import ARM, VARIANT
from envs.traces.logs import (
    COLUMNS,
    FAILED,
    HELD,
    NONE,
    SHOWS,
    SLOT,
    ImportOptions,
    Log,
    conversation,
    is_chat,
    is_message,
    message_text,
    opened_chat,
    said_last,
    scored,
    speaker,
)

SHOWN = "attempts at questions with images or other media, which are not imported"

EMPTY = "rows without an attempt, left out"
_UNKNOWN = "questions without a reference, left out"

_OF_ATTEMPTS = (
    *("attempt_id", "text", "answer", "correct", "completion_tokens", "finish_reason"),
    *("mean_logprob", "min_logprob", "reasoning_tokens", "seconds", "cost_usd"),
    *("verifier_score", "verifier_tokens"),
)
_TOLD_OF_EACH = ("model", "prompt_tokens", "cached_tokens", VARIANT, ARM)
"""What a list of attempts may tell of each, and else a row of all."""
_WRITTEN = ("text", "answer", "completion_tokens")
_OF_QUESTIONS = ("question", "reference", "dataset", "split", "level")


def table_attempts(record: Record, log: Log) -> Iterator[Row]:
    """Attempts of a row of a plain table; `tokens` is short for `completion_tokens`.

    Where one of texts, answers and the like is a list, all are, with an entry for each attempt;
    where questions are, so is all that tells one attempt from another. What a row lacks of its
    question is taken from `--references`.
    """
    row, options, named = dict(record.row), log.options, dict[str, str]()
    maps = [(theirs, _SHORT.get(ours, ours)) for theirs, ours in options.columns.items()]
    maps += ((metric, "correct") for metric in options.metrics)
    for theirs, ours in maps:
        name = theirs.removesuffix(_SPELLED)
        if name in row and not SLOT.search(theirs):
            if ours in named and ours != NONE:
                raise record.error(ours, f"one of {named[ours]} and {theirs}", row)
            named[ours] = theirs
            row[ours] = _opened(record, theirs, row.pop(name))
            log.used.add(theirs)
    row.pop(NONE, None)
    for short, name in _SHORT.items():
        if short in row and name not in row:
            row[name] = row.pop(short)
    wide = {theirs: ours for theirs, ours in maps if SLOT.search(theirs)}
    for each in _long(record, row, wide, log) if wide else [row]:
        for attempt in _one_by_one(record, each, log):
            chat = opened_chat(attempt.get("question"))
            if attempt.get("text") is None and is_chat(chat) and speaker(chat[-1]) == "assistant":
                attempt |= {"question": chat[:-1], "text": chat[-1:]}
            if not attempt.get("error"):
                attempt.pop("error", None)
            elif not any(attempt.get(name) for name in _WRITTEN):
                log.notes[FAILED] += 1
                continue
            yield attempt


_SHORT = {"tokens": "completion_tokens"}

_SPELLED = "[]"
"""Ends the name of a column whose lists are spelled as text."""


def _opened(record: Record, theirs: str, value: Any) -> Any:
    """What a column holds, or the list that its text spells."""
    if not theirs.endswith(_SPELLED) or not isinstance(value, str):
        return value
    try:
        found = ast.literal_eval(value)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        found = None
    if not isinstance(found, list):
        raise record.error(theirs, "a list, as Python spells it", value)
    return found


def _long(record: Record, row: Row, wide: Mapping[str, str], log: Log) -> Iterator[Row]:
    """Rows of a wide one, for each name that stands in the place of `{model}` or the like.

    Names are those that one of `wide` columns lists, or all that stand in any with more to it.
    """
    parts = {theirs: SLOT.split(theirs.removesuffix(_SPELLED)) for theirs in wide}
    (field,) = {field for _, field, _, _ in parts.values()}
    values = next((given.split(",") for _, _, given, _ in parts.values() if given), [])
    for before, _, _, after in parts.values() if not values else ():
        if before or after:
            pattern = re.compile(f"{re.escape(before)}(.+){re.escape(after)}")
            values += [found[1] for found in map(pattern.fullmatch, row) if found]
    made: dict[str, Row] = {value: {field: value} for value in values}
    for value, (theirs, ours) in product(made, wide.items()):
        before, _, _, after = parts[theirs]
        if (name := f"{before}{value}{after}") in row:
            made[value][ours] = _opened(record, theirs, row.pop(name))
            log.used.add(theirs)
    if not made:
        yield row
        return
    log.unread |= dict.fromkeys(name for name in row if name not in (*COLUMNS, "error"))
    row = {name: held for name, held in row.items() if name not in log.unread}
    for told in made.values():
        # A column total_cost is no model's whose columns are {model}_cost.
        if any(told.get(name) is not None for name in (*_WRITTEN, "correct")):
            yield row | told
        else:
            log.notes[EMPTY] += 1


def _one_by_one(record: Record, row: Row, log: Log) -> Iterator[Row]:
    """Attempts of a row, which may hold several."""
    if log.options.references:
        asked = _wording(row.get("question"))
        name = row.get("question_id")
        known = log.known(str(asked if name is None else name), asked) or {}
        row = {n: known.get(n) for n in _OF_QUESTIONS} | {
            n: value for n, value in row.items() if value is not None
        }
    several = isinstance(row.get("question"), list) and not is_chat(row["question"])
    lists = {
        name: row[name]
        for name in ((*COLUMNS, "error") if several else (*_OF_ATTEMPTS, *_TOLD_OF_EACH))
        if isinstance(row.get(name), list) and (not is_chat(row[name]) or _are_replies(row[name]))
    }
    if not lists.keys() - _TOLD_OF_EACH:
        yield row
        return
    (first, some), *_ = lists.items()
    if not some:
        log.notes[EMPTY] += 1
    for name in (*lists, *_OF_ATTEMPTS):
        # What is told of a single attempt is its own.
        entries = lists.get(name, some if len(some) == 1 else ())
        if row.get(name) is not None and len(entries) != len(some):
            raise record.error(name, f"a list of {len(some)}, one for each {first}", row[name])
    for entries in zip(*lists.values(), strict=True):
        yield from _one_by_one(record, row | dict(zip(lists, entries, strict=True)), log)


def table_entries(row: Row) -> Iterator[tuple[str, Row]]:
    """The row, or the rows of a table in one object, as MLflow, wandb and pandas write it."""
    names, cells = row.get("columns"), row.get("data")
    if not (isinstance(names, list) and isinstance(cells, list)):
        yield "", row
        return
    for number, entry in enumerate(cells, start=1):
        if len(entry) != len({*names}):
            raise ValueError(f"{len(entry)} cells for the columns {names}")
        yield f"data {number}", dict(zip(names, entry, strict=True))


def _are_replies(chat: list[Any]) -> bool:
    """Whether messages are several replies, as of one request for several choices, and no chat."""
    return len(chat) > 1 and all(speaker(message) == "assistant" for message in chat)


def flattened(row: Row, named: Collection[str] = ()) -> Row:
    """The columns of a row, those of objects in it by their path; a list of objects is lists.

    A message is a column; where a path that is `named` leads into it, it stands for its text there.

    >>> flattened({"usage": {"cost": 0.1}, "samples": [{"text": "2"}, {"text": "3"}]})
    {'usage.cost': 0.1, 'samples.text': ['2', '3']}
    """
    found: Row = {}
    for name, value in row.items():
        entries, several = _objects(value), isinstance(value, list)
        below = [path.removeprefix(f"{name}.") for path in named if path.startswith(f"{name}.")]
        whole = any(map(is_message, entries)) and (not below or name in named)
        if whole or not entries:
            found[name] = value if not entries else entries if several else entries[0]
        parts = [_fields(entry, below) for entry in entries if below or not whole]
        for inner in dict.fromkeys(chain.from_iterable(parts)):
            values = [part.get(inner) for part in parts]
            found[f"{name}.{inner}"] = values if several else values[0]
    return found


def _fields(entry: Row, named: Collection[str]) -> Row:
    if not is_message(entry):
        return flattened(entry, named)
    rest = {k: v for k, v in entry.items() if k not in (*HELD, "role", "from", "type")}
    return flattened(rest, named) | {name: entry for name in HELD if name in entry}


def _objects(value: Any) -> list[Row]:
    """The objects that a value is or lists, but thoughts; LangChain nests and wraps them."""
    found = value if isinstance(value, list) else [value]
    found = found[0] if len(found) == 1 and isinstance(found[0], list) else found
    if not all(isinstance(entry, dict) and entry for entry in found):
        return []
    found = [
        entry["kwargs"] | {"type": entry["id"][-1].removesuffix("Message").lower()}
        if entry.keys() >= {"lc", "id", "kwargs"}
        else entry
        for entry in found
    ]
    thoughts = {"thinking": "thinking", "reasoning": "summary"}  # types, and what these hold
    return [entry for entry in found if thoughts.get(str(entry.get("type"))) not in entry]


_EPISODE, _VERSION = "episode", 1

_COPIED = (
    *("model", "rung", "action", "answer", "text", "prompt_tokens", "completion_tokens"),
    *("mean_logprob", "min_logprob", "verifier_score"),
)


def served_attempts(record: Record, log: Log) -> Iterator[Row]:
    """Attempts of an episode whose reference is known.

    Attempts that failed tell about servers, not about models, and are left out.

    Raises:
        TraceFormatError: an episode of an unknown version, or without its answers.
    """
    row = record.row
    if not _is_episode(record):
        return
    name, question = row["question_id"], row["question"] or row["question_id"]
    known = log.known(name, question)
    if known is None:
        log.notes[_UNKNOWN] += 1
        return
    if row.get("answers_hidden"):
        raise record.error(
            "answers_hidden",
            f"answers of {name} that can be graded, not digests, as they are whole texts; serve "
            "with --log-texts",
            True,
        )
    sizes = {model["name"]: model["parameters"] for model in row["models"]}
    for attempt in row["attempts"]:
        if attempt["error"] is not None:
            log.notes["attempts that failed, left out"] += 1
            continue
        parent = attempt["parent_id"]
        yield {column: attempt[column] for column in _COPIED} | {
            "question": question,
            "question_id": name,
            "dataset": "served",
            "reference": known["reference"],
            "parameters": sizes.get(attempt["model"]),
            # Each episode counts its attempts from 0.
            "attempt_id": f"{row['episode_id']}/{attempt['attempt_id']}",
            "parent_id": None if parent is None else f"{row['episode_id']}/{parent}",
        }


def read_episodes(path: Path) -> list[Row]:
    """Episodes of a log; raises TraceFormatError if it is none, or of an unknown version."""
    rows = []
    for record in read_records(path):
        if "event" not in record.row:
            raise record.error("event", "a line of a log of allot serve", None)
        if _is_episode(record):
            rows.append(record.row)
    return rows


def _is_episode(record: Record) -> bool:
    """Whether a line tells of one; raises TraceFormatError if of an unknown version."""
    row = record.row
    if row["event"] != _EPISODE:
        return False
    if row.get("version") != _VERSION:
        raise record.error("version", str(_VERSION), row.get("version"))
    return True


_ALIASES = {
    "question_id": ("task_id", "custom_id"),
    "question": ("prompt", "body.messages", "body.input", "body.prompt"),
}
"""What problems of EvalPlus and requests of the OpenAI batch API call it."""


def read_references(
    *paths: Path, columns: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Row]:
    """Rows with references, by question id and by question; `columns` are names of theirs by path.

    What one row lacks of a question another tells, as of requests and of their labels. A problem
    that programs solve has no reference: its tests have been run.

    Raises:
        TraceFormatError: a question without one, a row that names none, or two that contradict one
            another.
        ConfigError: no row has one of `columns`.
    """
    names = ["question_id", *_OF_QUESTIONS]
    if unknown := sorted(set(columns.values()).difference(names)):
        raise ConfigError(f"map_references: expected names among {names}, found {unknown}")
    found: dict[str, Row] = {}
    lacking: list[tuple[Record, Row]] = []
    unused = dict(columns)
    for record in chain.from_iterable(map(read_records, paths)):
        row = flattened(record.row, columns)
        for theirs, ours in columns.items():
            if theirs in row:
                row[ours] = row.pop(theirs)
                unused.pop(theirs, None)
        for name, aliases in _ALIASES.items():
            told = (row[alias] for alias in aliases if row.get(alias) not in (None, ""))
            row.setdefault(name, next(told, None))
        row["question"] = _wording(row["question"])
        keys = [str(row[name]) for name in _ALIASES if row[name] not in (None, "")]
        if not keys:
            expected = "question_id or question, see --map-references THEIRS=question_id"
            raise record.error("question_id", expected, f"columns {[*record.row]}")
        # Ids tell questions apart that are worded alike.
        alike = (found[key] for key in keys if key in found)
        ids = (None, row["question_id"])
        known = next((k for k in alike if None in ids[1:] or k["question_id"] in ids), row)
        for key in keys:
            before = found.setdefault(key, known).get("reference")
            if None not in (before, row.get("reference")) and before != row["reference"]:
                raise record.error("reference", f"one right answer for {key!r}", row)
        known |= {name: value for name, value in row.items() if known.get(name) is None}
        lacking += [(record, known)] if row.get("reference") is None else []
    if unused:
        named = [str(path) for path in paths]
        raise ConfigError(f"map_references: expected columns of {named}, found {[*unused]}")
    for record, known in lacking:
        if known.get("reference") is None and "entry_point" not in known:
            expected = "a right answer, see --map-references THEIRS=reference"
            raise record.error("reference", expected, f"columns {[*record.row]}")
    return found


def _wording(question: Any) -> Any:
    """What was asked, in words, by a text, the only one of a list, or a chat; else as it is."""
    question = question[0] if isinstance(question, list) and len(question) == 1 else question
    question = [question] if is_message(question) else opened_chat(question)
    return conversation(question) if is_chat(question) else question


def batch_attempts(record: Record, log: Log) -> Iterator[Row]:
    """Attempts of one reply in the output of OpenAI's or Anthropic's batch API.

    The output holds neither questions nor references: `--references` does, by `custom_id` or by
    what stays of it without a number at its end, since repeated requests need different ids.
    """
    row = record.row
    reply = row.get("response") or {}
    body = reply["body"] if reply.get("status_code") == 200 else None
    body = None if row.get("error") else (row.get("result") or {}).get("message", body)
    if body is None:
        log.notes[FAILED] += 1
        return
    name = str(row["custom_id"])
    known = log.known(name) or log.known(re.sub(r"[-_:/#.]\d+$", "", name))
    if known is None:
        log.notes[_UNKNOWN] += 1
        return
    if known.get("question") is None:
        expected = "its wording in --references, by question_id, in a column question or prompt"
        raise record.error("question", expected, [k for k, v in known.items() if v is not None])
    texts, used = [*_choices(body), *_outputs(body)], counted(body)
    alone = len(texts) == 1
    if not texts:
        log.notes[FAILED] += 1
    for text, reason in texts:
        yield {
            "question_id": known.get("question_id") or name,
            **{name: known.get(name) for name in _OF_QUESTIONS},
            "model": body.get("model"),
            "text": text,
            "finish_reason": reason,
            "prompt_tokens": used.prompt,
            "cached_tokens": used.cached or None,
            # All texts share one count.
            "completion_tokens": used.completion if alone else None,
            "reasoning_tokens": (used.thought or None) if alone else None,
        }


def _choices(body: Row) -> Iterator[tuple[str, str | None]]:
    """Texts of a chat or a completion, or of Anthropic's message, and why each ended."""
    if body.get("type") == "message":
        yield message_text(body), body.get("stop_reason")
    for choice in body.get("choices", ()):
        message = choice.get("message")
        text = choice.get("text") if message is None else message_text(message)
        yield text or "", choice.get("finish_reason")


def _outputs(body: Row) -> Iterator[tuple[str, str | None]]:
    """The text of a reply of the responses API, and why it ended.

    A reply that was cut while the model thought has none, and is an attempt all the same.
    """
    cut, output = body.get("status") == "incomplete", body.get("output") or ()
    if cut or (output and body.get("status") != "failed"):
        messages = [item for item in output if item.get("type") == "message"]
        yield "".join(map(message_text, messages)), "length" if cut else "stop"


def completion_attempts(record: Record, log: Log) -> Iterator[Row]:
    """The attempt of a row of the completions that trl's trainers write (`log_completions`)."""
    row = record.row
    numbers = [name for name, value in row.items() if isinstance(value, (int, float))]
    metric = log.metric(record, [n for n in numbers if n not in ("step", "advantage")])
    log.steps.add(row["step"])
    yield {
        "question": conversation(opened_chat(row["prompt"])),
        "dataset": "trl",
        "text": said_last(opened_chat(row["completion"])),
        "correct": scored(record, metric, row[metric]),
    }


def rollout_attempts(record: Record, log: Log) -> Iterator[Row]:
    """The attempt of a rollout in the results of verifiers (`results.jsonl`)."""
    row, run = record.row, log.beside("metadata.json")
    if row.get("error") or not row["completion"]:
        log.notes[FAILED] += 1
        return
    # In its first year metrics were columns, and `id` was that of another example.
    metrics = row.get("metrics") or row
    metric = log.metric(record, ["reward", *(metrics if log.options.metrics else ())])
    if metric == "reward":
        log.stated = run.get("avg_reward")
    usage, cut = row.get("token_usage") or {}, row.get("is_truncated")
    yield {
        "question": conversation(opened_chat(row["prompt"])),
        "question_id": row.get("example_id"),
        "dataset": row.get("task") or run.get("env_id"),
        "reference": row.get("answer"),
        "model": run.get("model"),
        "text": said_last(opened_chat(row["completion"])),
        "correct": scored(record, metric, metrics.get(metric, row["reward"])),
        "prompt_tokens": usage.get("input_tokens"),
        "completion_tokens": usage.get("output_tokens"),
        "finish_reason": None if cut is None else "length" if cut else "stop",
    }


def trace_entries(row: Row) -> Iterator[tuple[str, Row]]:
    """Traces of an episode in the runs of verifiers from version 1 on (`traces.jsonl`)."""
    for number, trace in enumerate(row["traces"], start=1):
        yield f"trace {number}", {"env": row["env"]} | trace


def trace_attempts(record: Record, log: Log) -> Iterator[Row]:
    """The attempt of one trace of verifiers: the last message that the model wrote."""
    row, task = record.row, record.row["task"]
    written = [node["message"] for node in row["nodes"] if node.get("sampled")]
    scores = {name: reward["score"] for name, reward in row.get("rewards", {}).items() if reward}
    if not written or not scores or row.get("ok") is False:
        log.notes[FAILED] += 1
        return
    scores |= row.get("metrics", {}) if log.options.metrics else {}
    metric = log.metric(record, scores)
    usages = [call["usage"] for call in row["calls"] if call.get("usage")]
    read = sum(u["prompt_tokens"] + (u.get("cached_input_tokens") or 0) for u in usages)
    yield {
        "question": conversation(task["data"]["prompt"]),
        "question_id": task["data"].get("id") or task.get("key"),
        "dataset": row["env"].get("id"),
        "reference": task["data"].get("answer"),
        "model": row["calls"][-1].get("model") or row["agent"]["config"].get("model"),
        "text": message_text(written[-1]),
        "correct": scored(record, metric, scores[metric]),
        "prompt_tokens": read or None,
        "completion_tokens": sum(usage["completion_tokens"] for usage in usages) or None,
        "finish_reason": row["calls"][-1].get("finish_reason"),
    }


def event_attempts(record: Record, log: Log) -> Iterator[Row]:
    """The attempt that an event of OpenAI's evals grades: what its sample was answered before."""
    row, known = record.row, log.beside_it
    known |= {name: row[name] for name in ("spec", "final_report") if name in row}
    log.stated = known.get("final_report", {}).get("accuracy")
    if row.get("type") == "sampling":
        known.setdefault(row["sample_id"], row["data"])
    if (kind := row.get("type")) != "match":
        log.notes[f"events of type {kind}, which tell no attempt"] += kind not in (None, "sampling")
        return
    asked, data, spec = known.pop(row["sample_id"], {}), row["data"], known.get("spec", {})
    if not asked:
        log.notes["matches of nothing that was sampled before, left out"] += 1
        return
    texts = asked["sampled"] if isinstance(asked["sampled"], list) else [asked["sampled"]]
    log.notes["right by match"] += 1
    yield {
        "question": conversation(asked["prompt"]),
        "question_id": row["sample_id"],
        "dataset": spec.get("base_eval"),
        "reference": data.get("expected"),
        "model": next(iter(spec.get("completion_fns", ())), None),
        "text": str(texts[0]),
        "correct": data["correct"],
    }


class Source(NamedTuple):
    """A kind of log: its name, and the columns that its records have and no other's.

    Attributes:
        attempts: of one entry.
        entries: of one record, by the name of the place where each stands, "" for its own; None
            for itself alone.
    """

    name: str
    columns: Set[str]
    attempts: Callable[[Record, Log], Iterator[Row]]
    entries: Callable[[Row], Iterator[tuple[str, Row]]] | None = None


SOURCES = (
    Source("lm-evaluation-harness", {"doc", "resps"}, harness.harness_attempts),
    Source("lighteval", {"doc", "model_response", "metric"}, harness.details_attempts),
    Source("allot serve", {"event", "logger"}, served_attempts),
    Source("inspect_ai", {"epoch", "target", "scores"}, harness.inspect_attempts),
    Source("inspect_ai", {"eval", "status"}, harness.inspect_attempts, harness.inspect_entries),
    Source("OpenAI batch", {"custom_id", "response"}, batch_attempts),
    Source("Anthropic batch", {"custom_id", "result"}, batch_attempts),
    Source("trl", {"step", "prompt", "completion", "advantage"}, completion_attempts),
    Source("verifiers", {"example_id", "completion", "reward"}, rollout_attempts),
    Source("verifiers", {"prompt", "completion", "reward", "task"}, rollout_attempts),
    Source("verifiers", {"env", "task", "traces"}, trace_attempts, trace_entries),
    Source(
        "HELM",
        {"adapter_spec", "request_states"},
        harness.scenario_attempts,
        harness.scenario_entries,
    ),
    Source("simple-evals", {"htmls", "convos"}, harness.simple_attempts, harness.simple_entries),
    Source("EvalPlus", {"eval", "hash"}, harness.program_attempts, harness.program_entries),
    Source("OpenAI evals", {"event_id", "sample_id", "data"}, event_attempts),
)

TABLE = Source("table", set(), table_attempts, table_entries)


def source_of(record: Record) -> Source:
    """The kind of log that a record is of; a plain table if it is of no other."""
    if record.row.keys() == {"spec"}:
        return SOURCES[-1]
    return next((source for source in SOURCES if source.columns <= record.row.keys()), TABLE)


def attempts_of(source: Source, record: Record, log: Log) -> Iterator[tuple[Record, Row]]:
    """Attempts of a record, each with its entry; TraceFormatError unless it is as `source` says."""
    try:
        for entry in _entries(source, record, log.options):
            for attempt in source.attempts(entry, log):
                if SHOWS.search(str(attempt.get("question"))):
                    log.doubts[SHOWN] += 1
                yield entry, attempt
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, TraceFormatError):
            raise
        raise TraceFormatError(
            f"{record.path}, {record.place}: expected an entry as {source.name} writes it, found "
            f"{error!r}"
        ) from error


def _spelled_objects(row: Row, options: ImportOptions) -> Row:
    """Objects that cells spell as JSON, of those whose fields are named by their path."""
    paths = (theirs for theirs in (*options.columns, *options.metrics) if theirs not in row)
    names = {theirs.partition(".")[0] for theirs in paths if "." in theirs}
    cells = {name: row[name] for name in names if str(row.get(name)).startswith(("{", "[{"))}
    return {name: json.loads(cell) for name, cell in cells.items() if isinstance(cell, str)}


def _entries(source: Source, record: Record, options: ImportOptions) -> Iterator[Record]:
    """Entries of a record; those of tables without objects in them."""
    for place, row in source.entries(record.row) if source.entries else [("", record.row)]:
        if source is TABLE:
            row = row | _spelled_objects(row, options)
            nested = any(isinstance(value, (dict, list)) for value in row.values())
            row = flattened(row, (*options.columns, *options.metrics)) if nested else row
        yield replace(record, place=place or record.place, row=row)
