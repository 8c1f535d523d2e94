"""Attempts from logs of evaluation harnesses, a function or two for each.

Those are lm-evaluation-harness (`lm_eval --log_samples`), lighteval (`--save-details`), inspect_ai,
HELM, simple-evals and EvalPlus.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from itertools import chain, count
from string import ascii_uppercase
from typing import Any

from controller.answers import is_one_of, read_answer, right_answers
from envs.records import Record, Row
from envs.traces.logs import FAILED, Log, conversation, message_text, scored

_NAME = re.compile(r"samples_(?P<task>.+)_(?P<time>\d{4}-\d\d-\d\dT\d\d[-.:\d]+)")

METRICS = frozenset(
    {
        *("exact_match", "acc", "pass@1", "em", "math_verify", "extractive_match"),
        *("quasi_exact_match", "prefix_exact_match", "prompt_level_strict_acc"),
        *("prompt_level_loose_acc", "mgsm_exact_match", "is_correct", "correct"),
    }
)
"""Metrics that are 1 for a right and 0 for a wrong attempt."""

_BYPASS = "bypass"
"""The metric of a run that is not scored (`--predict_only`)."""

_INVALID = (None, "", "[invalid]")


def harness_attempts(record: Record, log: Log) -> Iterator[Row]:
    """Attempts of one entry: a document as one filter reads it.

    The harness scores an entry, which may hold several attempts. A single one has its score;
    several are read and graded here, and compared with the score where the harness read the same
    answer. Of several programs the score tells how many are right: none, all, or which is unknown.

    Raises:
        TraceFormatError: log-likelihoods, no clear metric or filter, or a score that does not
            tell which attempts are right.
    """
    row = record.row
    if "filter" in row and str(row["filter"]) != log.filter(record):
        return
    task, results = _task_and_results(log)
    texts = _flat(row["resps"])
    if not texts or not all(isinstance(text, str) for text in texts):
        raise record.error("resps", "generated texts (log-likelihoods are no attempts)", texts)
    numbers = (name for name, value in row.items() if isinstance(value, (int, float)))
    found = row.get("metrics") or [name for name in numbers if name != "doc_id"]
    metric = _BYPASS if [*found] == [_BYPASS] else log.metric(record, found, METRICS)
    programs = metric.startswith("pass@")
    log.kind = log.kind or ("whole" if programs else None)
    answers = _flat(row.get("filtered_resps") or [])
    verdicts: list[bool | None]
    if len(answers) != len(texts) or metric == _BYPASS:
        answers = [read_answer(text, None, log.answer_kind) for text in texts]
    if metric == _BYPASS or (log.options.answers and not programs):
        verdicts = [None] * len(texts)
    elif len(texts) == 1 or programs:
        verdicts = [scored(record, metric, row.get(metric), len(texts))] * len(texts)
        shares = results.get("results", {}).get(task, {})
        share = shares.get(f"{metric},{row.get('filter') or 'none'}")
        log.stated = share if _is_number(share) else None
    else:
        verdicts = [*_graded(record, log, answers)]
        _compare(record, log, metric, answers, verdicts)
    for text, answer, right in zip(texts, answers, verdicts, strict=True):
        yield {
            "question": _prompt(row),
            "question_id": row["doc_id"],
            "dataset": task or None,
            "reference": right_answers(row.get("target")),
            "model": results.get("model_name") or (log.folder_as_model if task else None),
            "parameters": results.get("config", {}).get("model_num_parameters"),
            "answer": "" if answer in _INVALID else str(answer),
            "text": text,
            "correct": right,
        }


def _task_and_results(log: Log) -> tuple[str, Row]:
    """The task that a log's name tells, and the results of the same run.

    They are in `results_TIME.json`, or in `NAME_TIME.json` after `--output_path NAME.json`.
    """
    name = _NAME.fullmatch(log.stem)
    if not name:
        # In its first versions names began with the model's, and its logs lay in one directory.
        return log.stem.partition("samples_")[2], {}
    if "results" not in log.beside_it:
        named = (path.name for path in log.path.parent.glob(f"*_{name['time']}.json"))
        results = next((n for n in sorted(named) if not n.startswith("samples_")), None)
        log.beside_it["results"] = log.beside(results) if results else {}
    return name["task"], log.beside_it["results"]


def _flat(entries: Any) -> list[Any]:
    """Texts of the one request of an entry, however deeply its logs nest them."""
    nested = entries[0] if len(entries) == 1 and isinstance(entries[0], list) else entries
    return list(nested)


def _graded(record: Record, log: Log, answers: list[Any]) -> list[bool]:
    references = tuple(right_answers(record.row.get("target")))
    if not references:
        raise record.error("target", "a right answer to grade attempts with", None)
    log.notes["graded here"] += len(answers)
    return [is_one_of(log.answer_kind, answer, references) for answer in answers]


def _compare(
    record: Record, log: Log, metric: str, answers: list[Any], verdicts: list[bool | None]
) -> None:
    """Note where grades differ from the harness's score of the same answer."""
    theirs = _flat(record.row.get("filtered_resps") or [])
    if len(theirs) != 1 or theirs[0] in _INVALID:
        return
    verdict, kind = scored(record, metric, record.row.get(metric)), log.answer_kind
    graded = zip(answers, verdicts, strict=True)
    same = (r for a, r in graded if a is not None and kind.same(a, str(theirs[0])))
    if next(same, verdict) != verdict:
        log.doubts["answers that the harness scores otherwise than they are graded here"] += 1


def _prompt(row: Row) -> str:
    """What the model was asked; of a log without arguments, the document."""
    first: Any = row.get("arguments")
    while isinstance(first, (list, dict)) and first:
        first = first[0] if isinstance(first, list) else next(iter(first.values()))
    return str(first if isinstance(first, str) else json.dumps(row["doc"], sort_keys=True))


_SHARES = ("pass@k:k=1", "avg@n")
"""How metrics begin that are a share of the attempts at a question: of a single one, 1 or 0."""


def details_attempts(record: Record, log: Log) -> Iterator[Row]:
    """Attempts at one question. A single one has its score; several are graded here.

    Raises:
        TraceFormatError: log-likelihoods, no clear metric, or a score that is neither 1 nor 0.
    """
    doc, reply, scores = (record.row[name] for name in ("doc", "model_response", "metric"))
    texts = reply["text"]
    if not texts:
        raise record.error("model_response.text", "texts (log-likelihoods are no attempts)", texts)
    found = [name for name, score in scores.items() if score is not None]
    known = METRICS.union(name for name in found if name.startswith(_SHARES))
    metric = log.metric(record, found, known)
    single = len(texts) == 1
    right = scored(record, f"metric.{metric}", scores[metric]) if single else None
    run = _results(log)
    if single or metric.startswith(_SHARES):
        log.stated = run.get("results", {}).get(doc["task_name"], {}).get(metric)
    golds = doc["gold_index"] if isinstance(doc["gold_index"], list) else [doc["gold_index"]]
    written = reply["output_tokens"] or [None] * len(texts)
    for text, tokens in zip(texts, written, strict=True):
        yield {
            "question": "\n".join(filter(None, (doc["instruction"], doc["query"]))),
            "question_id": doc["id"],
            "dataset": doc["task_name"],
            "reference": [doc["choices"][gold].strip() for gold in golds],
            "model": run.get("config_general", {}).get("model_name"),
            "text": text,
            "correct": right,
            "prompt_tokens": len(reply["input_tokens"]) or None,
            "completion_tokens": None if tokens is None else len(tokens),
        }


def _results(log: Log) -> Row:
    """What `results/MODEL/results_TIME.json` beside `details/MODEL/TIME/` says of the run."""
    above = log.path.resolve().parents
    root = next((folder for folder in above[1:] if folder.name == "details"), None)
    if root is None:
        return {}
    *model, time = above[0].relative_to(root).parts
    return log.beside(str(root.with_name("results").joinpath(*model, f"results_{time}.json")))


_LETTERS = ("a scorer that says C or I",)


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
    if scores and (log.options.metrics or not log.graded_again):
        graded = [name for name, score in scores.items() if not _is_number(score["value"])]
        metric = log.metric(record, scores, graded or _LETTERS)
        if not log.graded_again:
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
        "finish_reason": choice.get("stop_reason"),
        "seconds": row.get("total_time"),
    }


def _is_number(score: Any) -> bool:
    return isinstance(score, (int, float)) and not isinstance(score, bool)


def _usage(row: Row, model: str) -> Row:
    """Tokens of a sample of inspect_ai: of its one turn, or of all turns by the model."""
    turns = sum(message["role"] == "assistant" for message in row.get("messages", ()))
    all_turns = row.get("model_usage", {}).get(model) if turns > 1 else None
    return all_turns or row["output"].get("usage") or {}


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
    if not _scores(log):
        expected = "the run's scores in per_instance_stats.json beside it"
        raise record.error("stats", expected, "no such file, or an empty one")
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


_SIMPLE = re.compile(r"((?:healthbench_)?[^_]+)_(.+?)(?:_\d{8}_\d{6})?(?:_DEBUG)?_allresults")


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
    name = _SIMPLE.fullmatch(log.stem)
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
        if isinstance(solutions, dict):
            raise ValueError("results of an old EvalPlus, which hold no programs")
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
        "model": log.stem.removesuffix("eval_results").rstrip("_") or log.folder_as_model,
        "text": solution["solution"],
        "correct": all(scored(record, name, solution[name]) for name in counted),
    }
