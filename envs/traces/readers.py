"""Attempts from what evaluations and services write: a function per kind of log.

A function turns one entry of a log into attempts, by the columns of `envs.traces.checks`, and
leaves out what the log does not tell. Nothing is checked or graded here.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, count
from string import ascii_uppercase
from typing import Any

from controller.errors import TraceFormatError
from envs.records import Record
from envs.traces.harness import harness_attempts
from envs.traces.lighteval import details_attempts
from envs.traces.logs import SHOWS, Log, Row, conversation, message_text, scored
from envs.traces.served import served_attempts

FAILED = "requests that failed, left out"
SHOWN = "attempts at questions with images or other media, which are not imported"

EMPTY = "rows without an attempt, left out"

_OF_ATTEMPTS = (
    *("attempt_id", "text", "answer", "correct", "completion_tokens", "finish_reason"),
    *("mean_logprob", "min_logprob"),
)
_SIMPLE = re.compile(r"((?:healthbench_)?[^_]+)_(.+?)(?:_\d{8}_\d{6})?(?:_DEBUG)?_allresults")
_LETTERS = ("a scorer that says C or I",)
_CUT = ("max_tokens", "model_length", "length")
"""Why inspect_ai says that a text was cut; the last one in logs of its first year."""


def table_attempts(record: Record, log: Log) -> Iterator[Row]:
    """Attempts of a row of a plain table; `tokens` is short for `completion_tokens`.

    Where one of texts, answers and the like is a list, all are, with an entry for each attempt.
    """
    row, options, named = dict(record.row), log.options, dict[str, str]()
    if "tokens" in row and "completion_tokens" not in row:
        row["completion_tokens"] = row.pop("tokens")
    for theirs, ours in (*options.columns.items(), *((m, "correct") for m in options.metrics)):
        if theirs in row:
            if ours in named:
                raise record.error(ours, f"one of {named[ours]} and {theirs}", row)
            named[ours] = theirs
            row[ours] = row.pop(theirs)
            log.used.add(theirs)
    lists = {name: row[name] for name in _OF_ATTEMPTS if isinstance(row.get(name), list)}
    if not lists:
        yield row
        return
    (first, some), *_ = lists.items()
    if not some:
        log.notes[EMPTY] += 1
    for name in _OF_ATTEMPTS:
        if row.get(name) is not None and len(lists.get(name, ())) != len(some):
            raise record.error(name, f"a list of {len(some)}, one for each {first}", row[name])
    for entries in zip(*lists.values(), strict=True):
        yield row | dict(zip(lists, entries, strict=True))


def inspect_entries(row: Row) -> Iterator[tuple[str, Row]]:
    """Samples of a log of inspect_ai as JSON."""
    for sample in row.get("samples") or ():
        yield f"sample {sample['id']!r}, epoch {sample['epoch']}", {"eval": row["eval"]} | sample


def inspect_attempts(record: Record, log: Log) -> Iterator[Row]:
    """The attempt of one sample of inspect_ai, in the epoch that it was taken in.

    Samples of a run that was not scored are graded by their targets.
    """
    row, run, output = record.row, record.row["eval"], record.row.get("output")
    if row.get("error") or not output or not output["choices"]:
        log.notes[FAILED] += 1
        return
    scores, right, answer = row.get("scores") or {}, None, None
    if scores:
        graded = [name for name, score in scores.items() if not _is_number(score["value"])]
        metric = log.metric(record, scores, graded or _LETTERS)
        right = scored(record, f"scores.{metric}", scores[metric]["value"])
        answer = scores[metric].get("answer")
    choice = output["choices"][0]
    # Long texts stand elsewhere in a sample.
    long = {f"attachment://{name}": text for name, text in row.get("attachments", {}).items()}
    question, text = conversation(row["input"]), message_text(choice["message"])
    # inspect_ai counts on from 1 after Z.
    lettered = zip(chain(ascii_uppercase, count(1)), row.get("choices") or (), strict=False)
    question = "\n".join([long.get(question, question), *(f"{a}) {b}" for a, b in lettered)])
    usage = _usage(row, run["model"])
    yield {
        "question": question,
        "question_id": row["id"],
        "dataset": run["task"],
        "reference": row["target"],
        "model": run["model"],
        "text": long.get(text, text),
        "answer": answer,
        "correct": right,
        "prompt_tokens": usage.get("input_tokens"),
        "completion_tokens": usage.get("output_tokens"),
        "finish_reason": "length" if choice.get("stop_reason") in _CUT else "stop",
        "seconds": row.get("total_time"),
    }


def _is_number(score: Any) -> bool:
    return isinstance(score, (int, float)) and not isinstance(score, bool)


def _usage(row: Row, model: str) -> Row:
    """Tokens of a sample of inspect_ai: of its one turn, or of all turns by the model."""
    turns = sum(message["role"] == "assistant" for message in row.get("messages", ()))
    all_turns = row.get("model_usage", {}).get(model) if turns > 1 else None
    return all_turns or row["output"].get("usage") or {}


def batch_attempts(record: Record, log: Log) -> Iterator[Row]:
    """Attempts of one reply in the output of the OpenAI batch API.

    The output holds neither questions nor references: `--references` does, by `custom_id` or by
    what stays of it without a number at its end, since repeated requests need different ids.
    """
    row, reply = record.row, record.row["response"] or {}
    if row.get("error") or reply.get("status_code") != 200:
        log.notes[FAILED] += 1
        return
    name = str(row["custom_id"])
    known = log.known(name) or log.known(re.sub(r"[-_:/#.]\d+$", "", name))
    if known is None:
        log.notes["questions without a reference, left out"] += 1
        return
    if known.get("question") is None:
        expected = "its wording in --references, by question_id, in a column question or prompt"
        raise record.error("question", expected, [k for k, v in known.items() if v is not None])
    body = reply["body"]
    texts, usage = [*_choices(body), *_outputs(body)], body.get("usage") or {}
    if not texts:
        log.notes[FAILED] += 1
    for text, reason in texts:
        yield {
            "question_id": known.get("question_id") or name,
            **{k: known.get(k) for k in ("question", "reference", "dataset", "split", "level")},
            "model": body.get("model"),
            "text": text,
            "finish_reason": reason,
            **_billed(usage, ("prompt", "input"), "cached"),
            **(_billed(usage, ("completion", "output"), "reasoning") if len(texts) == 1 else {}),
        }


def _billed(usage: Row, names: tuple[str, str], part: str) -> Row:
    """Tokens, and the part of them that has a price or meaning of its own, as either API says."""
    found = next((name for name in names if usage.get(f"{name}_tokens") is not None), names[0])
    details = usage.get(f"{found}_tokens_details") or {}
    ours, parts = f"{names[0]}_tokens", f"{part}_tokens"
    return {ours: usage.get(f"{found}_tokens"), parts: details.get(parts)}


def _choices(body: Row) -> Iterator[tuple[str, str | None]]:
    """Texts of a chat or a completion, and why each ended."""
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
    completion = row["completion"]
    yield {
        "question": conversation(row["prompt"]),
        "dataset": "trl",
        "text": completion if isinstance(completion, str) else conversation(completion[-1:]),
        "correct": scored(record, metric, row[metric]),
    }


def rollout_attempts(record: Record, log: Log) -> Iterator[Row]:
    """The attempt of a rollout in the results of verifiers (`results.jsonl`)."""
    row, run = record.row, log.beside("metadata.json")
    if row.get("error") or not row["completion"]:
        log.notes[FAILED] += 1
        return
    # In its first year metrics were columns, and an example's number its id.
    metrics = row.get("metrics") or row
    metric = log.metric(record, ["reward", *(metrics if log.options.metrics else ())])
    if metric == "reward":
        log.stated = run.get("avg_reward")
    completion, usage = row["completion"], row.get("token_usage") or {}
    text = completion if isinstance(completion, str) else conversation(completion[-1:])
    cut = row.get("is_truncated")
    yield {
        "question": conversation(row["prompt"]),
        "question_id": row.get("example_id", row.get("id")),
        "dataset": row.get("task") or run.get("env_id"),
        "reference": row.get("answer"),
        "model": run.get("model"),
        "text": text,
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


def scenario_entries(row: Row) -> Iterator[tuple[str, Row]]:
    """Requests of a run of HELM, `scenario_state.json`."""
    for number, state in enumerate(row["request_states"], start=1):
        yield f"request state {number}", {"spec": row["adapter_spec"]} | state


def scenario_attempts(record: Record, log: Log) -> Iterator[Row]:
    """Attempts at one request of HELM; `per_instance_stats.json` beside it tells what is right."""
    state, result = record.row, record.row.get("result")
    instance = state["instance"]
    if instance.get("perturbation") or state.get("reference_index") is not None:
        log.notes["perturbed or scored by likelihood, left out"] += 1
        return
    if not result or not result["success"]:
        log.notes[FAILED] += 1
        return
    scores = _scores(log).get((instance["id"], state["train_trial_index"]), {})
    metric = log.metric(record, sorted(scores), {"exact_match", "exact_set_match"})
    name = log.beside("run_spec.json").get("name") or log.folder
    for number, completion in enumerate(result["completions"]):
        text = completion["text"]
        yield {
            "question": _shown(state["request"]),
            "question_id": instance["id"],
            "dataset": re.sub(r"[:,]model=[^,]*", "", name),
            "reference": [
                r["output"]["text"] for r in instance["references"] if "correct" in r["tags"]
            ],
            "model": state["spec"]["model"],
            "text": text,
            "answer": (state.get("output_mapping") or {}).get(text.strip()),
            # The scores are those of the first completion.
            "correct": None if number else scored(record, metric, scores[metric]),
            "completion_tokens": len(completion["tokens"]) or None,
            "finish_reason": (completion.get("finish_reason") or {}).get("reason"),
            "seconds": result.get("request_time"),
        }


def _shown(request: Row) -> str:
    """What a model was asked by HELM: a prompt, or texts and media in turn."""
    media = (request.get("multimodal_prompt") or {}).get("media_objects")
    return message_text({"content": media}) if media else str(request["prompt"])


def _scores(log: Log) -> dict[Any, Row]:
    """Scores of HELM by instance and trial."""
    scores: dict[Any, Row] | None = log.beside_it.get("scores")
    if scores is None:
        scores = log.beside_it["scores"] = {
            (entry["instance_id"], entry["train_trial_index"]): {
                stat["name"]["name"]: stat.get("mean") for stat in entry["stats"]
            }
            for entry in log.beside("per_instance_stats.json") or ()
            if not entry.get("perturbation")
        }
    return scores


def simple_entries(row: Row) -> Iterator[tuple[str, Row]]:
    """Examples of simple-evals (`*_allresults.json`): conversations, and verdicts within HTML."""
    examples = zip(row["convos"], row["htmls"], strict=True)
    for number, (chat, page) in enumerate(examples, start=1):
        yield f"example {number}", {"chat": chat, "page": page, "score": row["score"]}


def simple_attempts(record: Record, log: Log) -> Iterator[Row]:
    """Attempts at one example of simple-evals: what follows on the last message that is no reply.

    The file's name tells task, model and time. One score stands for all programs of an example.
    """
    chat, page = record.row["chat"], record.row["page"]
    name = _SIMPLE.fullmatch(log.path.stem)
    task, model = name.groups() if name else ("", None)
    programs, log.stated = task == "humaneval", record.row["score"]
    log.kind = "whole" if programs else None
    told = {
        name: html.unescape(found[1]) if found else None
        for name in ("Correct Answer", "Extracted Answer", "Score")
        for found in [re.search(rf"<p>{name}: (.*?)</p>", page, re.DOTALL)]
    }
    asked = max(n for n, message in enumerate(chat, start=1) if message["role"] != "assistant")
    right = scored(record, "htmls, Score", told["Score"], len(chat) - asked)
    answer = "" if told["Extracted Answer"] == "None" else told["Extracted Answer"]
    for message in chat[asked:]:
        yield {
            "question": conversation(chat[:asked]),
            "dataset": task,
            # Of programs these are verdicts, in the order that the checker ended in.
            "reference": None if programs else told["Correct Answer"],
            "answer": None if programs else answer,
            "model": model,
            "text": message_text(message),
            "correct": right,
        }


def program_entries(row: Row) -> Iterator[tuple[str, Row]]:
    """Solutions of EvalPlus (`*_eval_results.json`)."""
    for task, solutions in row["eval"].items():
        for number, solution in enumerate(solutions, start=1):
            yield f"{task}, solution {number}", {"task_id": task} | solution


def program_attempts(record: Record, log: Log) -> Iterator[Row]:
    """The attempt of one solution of EvalPlus; `--references` has its problems, with prompts."""
    solution, log.kind = record.row, "whole"
    found = [name for name in ("plus", "base") if solution[f"{name}_status"] is not None]
    metric = log.metric(record, found if log.options.metrics else found[:1])
    # As in EvalPlus, `plus` means that the first tests pass, too.
    counted = [f"{name}_status" for name in ("base", metric)]
    known = log.known(solution["task_id"])
    if known is None:
        expected = "the task's prompt; give EvalPlus's problems (task_id, prompt) by --references"
        raise record.error("question", expected, None)
    yield {
        "question": known.get("question"),
        "question_id": solution["task_id"],
        "dataset": solution["task_id"].partition("/")[0],
        # Solutions that lie in a directory have their results in it.
        "model": log.path.stem.removesuffix("eval_results").rstrip("_") or log.folder_as_model,
        "text": solution["solution"],
        "correct": all(scored(record, name, solution[name]) for name in counted),
    }


@dataclass(frozen=True, kw_only=True)
class Source:
    """A kind of log: its name, and the columns that its records have and no other's.

    Attributes:
        attempts: of one entry.
        entries: of one record, by the name of the place where each stands; None for itself alone.
    """

    name: str
    columns: frozenset[str]
    attempts: Callable[[Record, Log], Iterator[Row]]
    entries: Callable[[Row], Iterator[tuple[str, Row]]] | None = None


SOURCES = tuple(
    Source(name=name, columns=frozenset(columns), attempts=attempts, entries=entries)
    for name, columns, attempts, entries in (
        ("lm-evaluation-harness", {"doc", "resps"}, harness_attempts, None),
        ("lighteval", {"doc", "model_response", "metric"}, details_attempts, None),
        ("allot serve", {"event", "logger"}, served_attempts, None),
        ("inspect_ai", {"epoch", "target", "scores"}, inspect_attempts, None),
        ("inspect_ai", {"eval", "status"}, inspect_attempts, inspect_entries),
        ("OpenAI batch", {"custom_id", "response"}, batch_attempts, None),
        ("trl", {"step", "prompt", "completion", "advantage"}, completion_attempts, None),
        ("verifiers", {"example_id", "completion", "reward"}, rollout_attempts, None),
        ("verifiers", {"prompt", "completion", "reward", "task"}, rollout_attempts, None),
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


def attempts_of(source: Source, record: Record, log: Log) -> Iterator[tuple[Record, Row]]:
    """Attempts of a record, each with its entry; TraceFormatError unless it is as `source` says."""
    try:
        for entry in _entries(source, record):
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


def _entries(source: Source, record: Record) -> Iterator[Record]:
    if source.entries is None:
        yield record
        return
    for place, row in source.entries(record.row):
        yield Record(path=record.path, place=place, row=row)
