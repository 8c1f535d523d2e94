"""Generations recorded by others become trace sets, and no label is silently wrong."""

import csv
import gzip
import json
import math
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from controller.errors import ConfigError, TraceFormatError
from envs.traces.derive import derive_config
from envs.traces.format import TraceSet
from envs.traces.importing import import_attempts
from envs.traces.logs import ImportOptions
from envs.traces.readers import read_references
from envs.traces.table import build_table

LOGS = Path(__file__).parent / "logs"
QUIET = pytest.mark.filterwarnings("ignore::UserWarning")


def harness(task, model="org__small-1b"):
    (path,) = (LOGS / "lm_eval" / model).glob(f"samples_{task}_2026*.jsonl")
    return path


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def plain(**more):
    return {"question": "1 + 1?", "model": "m", "answer": "2", "correct": 1, "tokens": 3} | more


def shares(made):
    return {(g.model, g.dataset): (g.questions, g.attempts, round(g.right, 3)) for g in made.groups}


@pytest.mark.parametrize(
    ("name", "right"), [("strict-match", 0.25), ("flexible-extract", 5 / 12), (None, None)]
)
@QUIET
def test_a_filter_is_chosen_and_its_scores_are_the_harness_s(tmp_path, name, right):
    files = [harness("sums"), harness("sums", "org__large-7b")]
    options = ImportOptions(filters=[name] if name else [])
    if name is None:
        with pytest.raises(TraceFormatError, match=r"one filter; .*strict-match.*flexible-extract"):
            import_attempts(files, tmp_path / "traces", small="org/small-1b", options=options)
        assert not (tmp_path / "traces").exists()
        return
    made = import_attempts(files, tmp_path / "traces", small="org/small-1b", options=options)
    assert shares(made)["org/small-1b", "sums"] == (12, 12, round(right, 3))
    results = json.loads(next((LOGS / "lm_eval/org__small-1b").glob("results_*")).read_text())
    assert results["results"]["sums"][f"exact_match,{name}"] == pytest.approx(right)


@QUIET
def test_several_attempts_are_graded_one_by_one(tmp_path):
    options = ImportOptions(filters=["maj@4"])
    made = import_attempts([harness("sums_maj")], tmp_path / "traces", options=options)
    (group,) = made.groups
    assert (group.questions, group.attempts, group.majority) == (12, 48, 0.25)
    assert any(note.startswith("graded here (48)") for note in made.notes)


@QUIET
def test_a_target_with_several_right_answers(tmp_path):
    made = import_attempts([harness("sums_list")], tmp_path / "traces")
    assert shares(made) == {("org/small-1b", "sums_list"): (12, 12, 0.25)}
    assert set(TraceSet.read(tmp_path / "traces").questions["reference"].to_pylist()) == {None}


@QUIET
def test_a_share_of_repeats_does_not_tell_which_are_right(tmp_path):
    with pytest.raises(TraceFormatError, match=r"line 1, column pass@1.*how many of 5.*not which"):
        import_attempts([harness("code")], tmp_path / "traces")
    rows = [json.loads(line) for line in harness("code").read_text().splitlines()]
    decided = [row | {"pass@1": float(i < 2)} for i, row in enumerate(rows)]
    file = write(tmp_path / "samples_code_2026-01-01T00-00-00.jsonl", decided)
    made = import_attempts([file], tmp_path / "traces")
    assert shares(made) == {(tmp_path.name, "code"): (4, 20, 0.5)}
    assert made.groups[0].majority == 0.5
    assert TraceSet.read(tmp_path / "traces").manifest["answers"] == "whole"


def entry(**more):
    return {
        "doc_id": 0, "doc": {"q": 1}, "target": "2", "arguments": [["1 + 1?", {}]],
        "resps": [["It is 2."]], "filtered_resps": ["2"], "filter": "none",
        "metrics": ["exact_match"], "exact_match": 1.0,
    } | more  # fmt: skip


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"exact_match": math.nan},
            "line 1, column exact_match: expected 1 for right or 0 for wrong, found nan",
        ),
        ({"exact_match": 0.7}, "expected 1 for right or 0 for wrong, found 0.7"),
        ({"metrics": ["brier_score"], "brier_score": 0.9}, r"found \['brier_score'\]"),
        ({"metrics": ["acc", "exact_match"], "acc": 1}, "say which is by --metric"),
        ({"resps": [[["-0.1", "True"]]]}, "log-likelihoods are no attempts"),
        ({"target": None, "resps": [["2", "3"]]}, "column target: expected a right answer"),
        ({"doc_id": 1.5}, "column question_id: expected a name"),
    ],
)
def test_what_a_score_does_not_tell_is_refused(tmp_path, more, message):
    file = write(tmp_path / "samples_t.jsonl", [entry(**more)])
    with pytest.raises(TraceFormatError, match=message):
        import_attempts([file], tmp_path / "traces")


@pytest.mark.parametrize("metrics", [["mine", "exact_match"], None], ids=["told", "of old"])
@QUIET
def test_a_score_counts_without_a_target_and_by_a_metric_that_is_named(
    tmp_path, monkeypatch, metrics
):
    monkeypatch.chdir(tmp_path)
    more = {"target": None, "metrics": metrics, "mine": 0}
    file = write(tmp_path / "samples_t.jsonl", [entry(**more)])
    made = import_attempts([Path(file.name)], Path("t"), options=ImportOptions(metrics=["mine"]))
    assert shares(made) == {(tmp_path.name, "t"): (1, 1, 0)}
    assert "the directory's name for the model's (1)" in made.notes


@QUIET
def test_a_run_without_scores_is_graded_by_its_targets(tmp_path):
    bypass = {"metrics": ["bypass"], "bypass": 999, "filtered_resps": ["It is 2."]}
    file = write(tmp_path / "m" / "samples_t.jsonl", [entry(**bypass)])
    made = import_attempts([file], tmp_path / "t", options=ImportOptions())
    assert shares(made) == {("m", "t"): (1, 1, 1)}


@QUIET
def test_an_incomplete_log_differs_from_what_its_harness_tells(tmp_path):
    for path in harness("sums").parent.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    file = tmp_path / harness("sums").name
    file.write_text("".join(file.open(newline="\n").readlines()[:7]), newline="\n")
    options = ImportOptions(filters=["strict-match"])
    with pytest.warns(UserWarning, match="28.6% of its attempts are right.*tells 25.0%"):
        import_attempts([file], tmp_path / "traces", options=options)


@QUIET
def test_a_log_that_was_compressed_keeps_its_task_and_results(tmp_path):
    log = harness("sums")
    (tmp_path / f"{log.name}.gz").write_bytes(gzip.compress(log.read_bytes()))
    (results,) = log.parent.glob("results_*.json")
    (tmp_path / results.name).write_bytes(results.read_bytes())
    options = ImportOptions(filters=["strict-match"])
    made = import_attempts([tmp_path / f"{log.name}.gz"], tmp_path / "traces", options=options)
    assert shares(made) == {("org/small-1b", "sums"): (12, 12, 0.25)}


@pytest.mark.parametrize("name", ["mine", None], ids=["named", "none"])
@QUIET
def test_results_may_have_a_name_of_their_own(tmp_path, name):
    """As `--output_path mine.json` makes them; without any the model can be told by a constant."""
    (tmp_path / harness("sums").name).write_bytes(harness("sums").read_bytes())
    (results,) = harness("sums").parent.glob("results_*.json")
    if name:
        beside = tmp_path / results.name.replace("results", name)
        beside.write_bytes(results.read_bytes())
    options = ImportOptions(filters=["strict-match"], constants={"model": "theirs"})
    made = import_attempts([tmp_path / harness("sums").name], tmp_path / "t", options=options)
    assert made.groups[0].model == ("org/small-1b" if name else "theirs")


def details(task):
    (path,) = (LOGS / "lighteval").rglob(f"details_{task}_*.parquet")
    return path


@pytest.mark.parametrize(
    ("task", "metrics", "found"),
    [("sums1", [], (12, 12, 0.333)), ("sums4", ["avg@n:n=4"], (12, 48, 0.438))],
)
@pytest.mark.filterwarnings("error")
def test_details_that_lighteval_wrote(tmp_path, task, metrics, found):
    options = ImportOptions(metrics=metrics)
    made = import_attempts([details(task)], tmp_path / "traces", options=options)
    assert shares(made) == {("org/die", f"{task}|0"): found}
    (results,) = (LOGS / "lighteval").rglob("results_*.json")
    told = json.loads(results.read_text())["results"][f"{task}|0"]
    assert told[metrics[0] if metrics else "pass@k:k=1&n=1"] == pytest.approx(found[-1], abs=1e-3)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("choice", ImportOptions(), "row 1, column model_response.text: .*log-likelihoods are no"),
        ("sums4", ImportOptions(), "say which is by --metric"),
        ("sums1", ImportOptions(constants={"level": 1}), "column model: .*--set model=VALUE"),
    ],
)
def test_details_of_lighteval_that_do_not_tell_are_refused(tmp_path, task, options, message):
    alone = tmp_path / "details/details.parquet"
    alone.parent.mkdir()
    alone.write_bytes(details(task).read_bytes())
    with pytest.raises(TraceFormatError, match=message):
        import_attempts([alone], tmp_path / "traces", options=options)


@QUIET
def test_logs_of_inspect(tmp_path):
    files = [LOGS / "inspect" / f"sums_{size}.eval" for size in ("small", "large")]
    made = import_attempts(files, tmp_path / "traces", small="mockllm/small")
    assert shares(made)["mockllm/small", "sums"] == (5, 15, 0.533)
    assert any("requests that failed, left out (6)" in note for note in made.notes)
    again = import_attempts([LOGS / "inspect/sums_small.json"], tmp_path / "json")
    assert again.groups[0] == made.groups[0]
    attempts = TraceSet.read(tmp_path / "json").attempts
    assert attempts["completion_tokens"].to_pylist()[:3] == [11, 12, 13]
    assert "\u2028" in attempts["text"][0].as_py()


@QUIET
def test_choices_of_inspect_follow_the_question_with_its_letters(tmp_path):
    log = json.loads((LOGS / "inspect/sums_small.json").read_text())
    log["samples"][0]["choices"] = [f"choice {i}" for i in range(28)]
    import_attempts([write(tmp_path / "a.json", [log])], tmp_path / "traces")
    wording = TraceSet.read(tmp_path / "traces").questions["question"][0].as_py().splitlines()
    assert wording[1:3] == ["A) choice 0", "B) choice 1"]
    assert wording[-3:] == ["Z) choice 25", "1) choice 26", "2) choice 27"]


def test_one_of_several_scorers_is_named(tmp_path):
    file = LOGS / "inspect/two_small.json"
    with pytest.raises(TraceFormatError, match=r"sample 1, epoch 1.*\['includes', 'match'\]"):
        import_attempts([file], tmp_path / "traces")
    for metric, right in (("match", 0.4), ("includes", 0.6)):
        options = ImportOptions(metrics=[metric])
        made = import_attempts([file], tmp_path / metric, options=options)
        assert made.groups[0].right == right
        with pytest.raises(ConfigError, match=r"metric: .*found \['f1'\]"):
            import_attempts([file], tmp_path / "x", options=ImportOptions(metrics=[metric, "f1"]))


@QUIET
def test_numbers_of_an_unknown_scorer_of_inspect_are_no_labels(tmp_path):
    log = json.loads((LOGS / "inspect/sums_small.json").read_text())
    samples = [sample for sample in log["samples"] if sample.get("scores")]
    for sample in samples:
        sample["scores"] = {"distance": {"value": 0.0, "answer": "7"}}
    samples[0]["output"]["choices"][0]["stop_reason"] = "length"
    del samples[1]["output"]
    file = write(tmp_path / "a.json", [log | {"samples": samples}])
    with pytest.raises(TraceFormatError, match=r"scorer that says C or I.*found \['distance'\]"):
        import_attempts([file], tmp_path / "traces")
    options = ImportOptions(metrics=["distance"])
    made = import_attempts([file], tmp_path / "traces", options=options)
    assert made.groups[0].attempts == len(samples) - 1
    assert "requests that failed, left out (1)" in made.notes
    reasons = TraceSet.read(tmp_path / "traces").attempts["finish_reason"].to_pylist()
    assert reasons[:2] == ["length", "stop"]


def test_what_was_paid_makes_the_prices(tmp_path):
    """Other rows of the same log may not say; below nothing nothing was paid."""
    rows = [plain(question=f"{n}?", tokens=n, prompt_tokens=9 * n % 7 + 1) for n in range(1, 20)]
    for row in rows[:-1]:
        row["cost_usd"] = (0.1 * row["prompt_tokens"] + 0.4 * row["tokens"]) / 1e6
    made = import_attempts([write(tmp_path / "a.jsonl", rows)], tmp_path / "traces")
    assert any("--unit dollars" in sentence for sentence in made.missing)
    fitted = TraceSet.read(tmp_path / "traces").fitted_rates("dollars")
    assert fitted["m"] == pytest.approx((0.1, 0.4))
    wrong = write(tmp_path / "b.jsonl", [plain(cost_usd=-1)])
    with pytest.raises(TraceFormatError, match="column cost_usd: expected a number from 0"):
        import_attempts([wrong], tmp_path / "other")


def test_a_column_tells_arms_of_a_model_apart(tmp_path):
    rows = [
        plain(question=f"{n}?", model=model, effort=effort, correct=int(effort == "high"))
        for n in range(9)
        for model in ("m", "k")
        for effort in ("low", "high", None)
    ]
    log = write(tmp_path / "a.jsonl", rows)
    options = ImportOptions(columns={"effort": "arm"})
    import_attempts([log], tmp_path / "traces", small="m:low", options=options)
    traces = TraceSet.read(tmp_path / "traces")
    arms = traces.arms(["m:low", "m:high", "k:low", "k:high", "k"])
    assert [(arm.name, arm.family) for arm in arms[1:3]] == [("m:high", "m"), ("k:low", "k")]
    assert traces.manifest["models"]["m"] == {"tier": "large", "parameters": None}
    right = traces.attempts.to_pandas().groupby("model")["correct"].mean()
    assert dict(right) == {"m:low": 0, "m:high": 1, "m": 0, "k:low": 0, "k:high": 1, "k": 0}


def table(path):
    """Forty questions, three attempts each by a small model that is right at every other one."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter={".tsv": "\t", ".csv": ","}[path.suffix])
        writer.writerow(["question", "model", "answer", "correct", "tokens"])
        for i in range(40):
            for _ in range(3):
                writer.writerow([f"{i} + 1?", "tiny", i + 1 if i % 2 else "", i % 2, 12])
    return path


@pytest.mark.parametrize("name", ["mine.csv", "mine.tsv"])
@QUIET
def test_plain_tables(tmp_path, name):
    made = import_attempts([table(tmp_path / name)], tmp_path / "traces", parameters={"tiny": 1e6})
    assert any(sentence.startswith("a larger model") for sentence in made.missing)
    assert not any("token counts" in sentence for sentence in made.missing)
    traces = TraceSet.read(tmp_path / "traces")
    assert set(traces.attempts["completion_tokens"].to_pylist()) == {12}
    played = build_table(traces, ["train", "validation", "test"])
    assert len(played) == 40
    assert derive_config(played, traces.models()).max_escalations == 0


@QUIET
def test_tables_may_have_their_questions_elsewhere(tmp_path):
    """As OpenAI's human-eval writes what came of programs."""
    problems = [{"task_id": f"t/{n}", "prompt": f"def f{n}():", "entry_point": "f"} for n in (0, 1)]
    rows = [
        {"task_id": f"t/{n // 2}", "completion": f"return {n}", "result": "", "passed": n > 0}
        for n in range(4)
    ]
    names = {"task_id": "question_id", "completion": "text", "passed": "correct"}
    options = ImportOptions(
        references=read_references(write(tmp_path / "problems.jsonl", problems)),
        columns=names,
        constants={"model": "m"},
        answers="whole",
    )
    file = write(tmp_path / "results.jsonl", rows)
    made = import_attempts([file], tmp_path / "traces", options=options)
    assert shares(made) == {("m", ""): (2, 4, 0.75)}
    questions = TraceSet.read(tmp_path / "traces").questions["question"].to_pylist()
    assert questions == ["def f0():", "def f1():"]


@QUIET
def test_references_have_names_of_their_own(tmp_path):
    """As LiveBench keeps questions and answers."""
    asked = [{"question_id": n, "turns": [f"{n} + 1?"], "ground_truth": n + 1} for n in (0, 1)]
    file = write(tmp_path / "questions.jsonl", asked)
    names = {"turns": "question", "ground_truth": "reference"}
    rows = [
        {"question_id": n, "model_id": "m", "choices": [{"index": 0, "turns": ["**1**"]}]}
        for n in (0, 1)
    ]
    options = ImportOptions(
        references=read_references(file, columns=names),
        columns={"model_id": "model", "choices.turns": "text"},
    )
    made = import_attempts(
        [write(tmp_path / "a.jsonl", rows)], tmp_path / "traces", options=options
    )
    assert shares(made) == {("m", ""): (2, 2, 0.5)}
    with pytest.raises(ConfigError, match=r"columns of .*questions.jsonl.*found \['gold'\]"):
        read_references(file, columns=names | {"gold": "level"})
    with pytest.raises(ConfigError, match=r"names among .*found \['answer'\]"):
        read_references(file, columns={"turns": "answer"})


@pytest.mark.parametrize("by", ["custom_id", "question"])
@pytest.mark.parametrize("turned", [False, True])
def test_requests_and_their_labels_may_lie_in_two_files(tmp_path, by, turned):
    asked = {"custom_id": "q1", "body": {"messages": [chat_message("1 + 1?")]}}
    label = {by: {"custom_id": "q1", "question": "1 + 1?"}[by], "reference": "2"}
    files = [write(tmp_path / "in.jsonl", [asked]), write(tmp_path / "labels.jsonl", [label])]
    known = read_references(*(files[::-1] if turned else files))
    assert [(known[k]["question"], known[k]["reference"]) for k in ("q1", "1 + 1?")] == [
        ("1 + 1?", "2")
    ] * 2
    with pytest.raises(TraceFormatError, match=r"in\.jsonl, line 1, column reference: .*answer"):
        read_references(files[0])


def test_questions_that_are_worded_alike_keep_their_references(tmp_path):
    rows = [{"question_id": n, "question": "Which?", "reference": "A"} for n in ("a", "b")]
    known = read_references(write(tmp_path / "r.jsonl", rows))
    assert [known[name]["question_id"] for name in ("a", "b")] == ["a", "b"]


@QUIET
@pytest.mark.parametrize("whole", [False, True])
def test_cells_may_hold_objects(tmp_path, whole):
    """As LangSmith and Langfuse export tables; a chat may hold what was said to it, too."""
    said = chat_message("It is 2.", "assistant")
    asked = [chat_message("1 + 1?"), said][: 1 + whole]
    row = {"inputs": json.dumps({"ask": asked}), "outputs": json.dumps(said), "right": 1}
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.DictWriter(file, row).writerows([dict(zip(row, row, strict=True)), row])
    made, traces = read(
        tmp_path, [], tmp_path / "a.csv",
        columns={
            "inputs.ask": "question", "outputs": "none" if whole else "text", "right": "correct"
        },
        constants={"model": "m"},
    )  # fmt: skip
    assert shares(made) == {("m", ""): (1, 1, 1.0)}
    assert traces.questions["question"].to_pylist() == ["1 + 1?"]
    assert traces.attempts["text"].to_pylist() == ["It is 2."]


@QUIET
def test_attempts_of_an_object_that_failed_are_left_out(tmp_path):
    """As promptfoo keeps them."""
    rows = [
        {"ask": "1 + 1?", "id": "m", "said": "2", "ok": True},
        {"ask": "2 + 2?", "id": "m", "fault": "429", "ok": False},
    ]
    names = {"ask": "question", "id": "model", "said": "text", "ok": "correct", "fault": "error"}
    columns = {f"results.{theirs}": ours for theirs, ours in names.items()}
    made, _ = read(tmp_path, {"results": rows}, columns=columns)
    assert shares(made) == {("m", ""): (1, 1, 1.0)}
    assert "requests that failed, left out (1)" in made.notes


def chat_message(content, role="user"):
    return {"role": role, "content": content}


def read(tmp_path, rows, *files, **options):
    file = write(tmp_path / "a.json", [rows] if isinstance(rows, dict) else rows)
    out = tmp_path / "traces"
    made = import_attempts(files or [file], out, small="m", options=ImportOptions(**options))
    return made, TraceSet.read(out)


@QUIET
def test_fields_of_objects_are_named_by_their_path(tmp_path):
    """As OpenRouter replies, and as promptfoo and LLMRouterBench keep all rows in one object."""
    replies = [
        {
            "id": n,
            "ask": [chat_message("Add.", "system"), chat_message(f"{n} + 1?")],
            "choices": [{"message": chat_message(f"It is {n + 1}.", "assistant")}],
            "usage": {"completion_tokens": 5, "cost": 0.25}, "score": {"right": 1}, "level": "easy",
        }
        for n in range(3)
    ]  # fmt: skip
    for rows, at in ((replies, ""), ({"model": "m", "results": replies}, "results.")):
        ours = {"ask": "question", "choices.message": "text", "usage.cost": "cost_usd"}
        ours |= {"usage.completion_tokens": "completion_tokens", "level": "none"}
        options = {"columns": {at + theirs: name for theirs, name in ours.items()}}
        options |= {"metrics": [f"{at}score.right"], "constants": {"model": "m"}}
        with pytest.warns(UserWarning, match=f"columns {at}id mean nothing"):
            made, traces = read(tmp_path / str(len(at)), rows, **options)
        assert shares(made) == {("m", ""): (3, 3, 1)}
        assert traces.questions["question"][2].as_py() == "system: Add.\n\nuser: 2 + 1?"
        assert traces.attempts["text"].to_pylist() == [f"It is {n + 1}." for n in range(3)]
        assert traces.attempts["cost_usd"].to_pylist() == [0.25] * 3
    replies[0]["ask"].append(chat_message("1", "assistant"))
    with pytest.raises(TraceFormatError, match="expected text, or a chat without its answer"):
        read(tmp_path / "x", replies, **options | {"columns": ours, "metrics": ["score.right"]})
    with pytest.raises(TraceFormatError, match="found 'easy'; --map level=none leaves it out"):
        read(tmp_path / "y", [plain(level="easy")])


@QUIET
def test_samples_that_are_objects_have_what_is_theirs(tmp_path):
    samples = [{"text": f"It is {n}.", "ok": n == 2} for n in (2, 3)]
    row = {"question": "1 + 1?", "model": "m", "samples": samples, "dollars": 0.5}
    options = {"columns": {"samples.text": "text"}, "metrics": ["samples.ok"]}
    made, _ = read(tmp_path / "one", row, **options)
    assert shares(made) == {("m", ""): (1, 2, 0.5)}
    options["columns"] |= {"dollars": "cost_usd"}  # of both together
    with pytest.raises(TraceFormatError, match="column cost_usd: expected a list of 2"):
        read(tmp_path / "two", row, **options)
    row["samples"] = samples[:1]
    assert read(tmp_path / "three", row, **options)[1].attempts["cost_usd"].to_pylist() == [0.5]
    choices = [{"message": chat_message(f"It is {n}.", "assistant")} for n in (2, 3)]
    row = {"question": "1 + 1?", "reference": "2", "by": [{"model": "m", "choices": choices}] * 2}
    options = {"columns": {"by.choices.message": "text", "by.model": "model"}}
    assert shares(read(tmp_path / "four", row, **options)[0]) == {("m", ""): (1, 4, 0.5)}


@QUIET
def test_messages_in_the_words_of_others(tmp_path):
    """Of OpenCompass and Gemini, which also has a word of its own for texts that were cut."""
    row = {"ask": [{"role": "HUMAN", "prompt": "1?"}, {"role": "BOT", "prompt": "1"}], "n": 5}
    row |= {"said": {"role": "model", "parts": [{"text": "Answer: "}, {"text": "2."}]}}
    row |= {"why": "MAX_TOKENS", "model": "m", "correct": 0}
    columns = {"ask": "question", "said": "text", "why": "finish_reason", "n": "tokens"}
    traces = read(tmp_path, row, columns=columns)[1]
    assert traces.questions["question"].to_pylist() == ["HUMAN: 1?\n\nBOT: 1"]
    told = {"text": "Answer: 2.", "finish_reason": "length", "completion_tokens": 5}
    assert traces.attempts.select([*told]).to_pylist() == [told]


@pytest.mark.parametrize("path", ["chat", "chat.value"])
@QUIET
def test_chats_of_share_gpt_and_langchain_end_with_what_a_model_said(tmp_path, path):
    """Whoever else takes part, no turn of a person or a tool is an attempt."""
    turns = [("human", "1 + 1?"), ("observation", "5"), ("gpt", "It is 2.")]
    row = {"chat": [{"from": who, "value": said} for who, said in turns], "reference": 2}
    options = {"columns": {path: "question"}, "constants": {"model": "m"}}
    made, traces = read(tmp_path / "a", row, **options)
    assert shares(made) == {("m", ""): (1, 1, 1)}
    assert traces.questions["question"].to_pylist() == ["user: 1 + 1?\n\nobservation: 5"]
    turns = [{"type": who, "content": said} for who, said in (("human", "1 + 1?"), ("ai", "2"))]
    made, traces = read(tmp_path / "b", row | {"chat.value": turns, "chat": turns}, **options)
    assert traces.attempts["text"].to_pylist() == ["2"]


@QUIET
def test_runs_of_langsmith_nest_and_wrap_what_was_said(tmp_path):
    made_by = {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "HumanMessage"]}
    ask = made_by | {"kwargs": {"content": "1 + 1?"}}
    replies = [{"text": f"It is {n}.", "message": made_by | {"kwargs": {}}} for n in (2, 3)]
    row = {"in": {"messages": [[ask]]}, "out": {"generations": [replies]}, "reference": "2"}
    row |= {"model": "m", "by": {"lc": 1, "type": "not_implemented", "id": ["x"]}}
    columns = {"in.messages": "question", "out.generations.text": "text"}
    made, traces = read(tmp_path, row, columns=columns)
    assert shares(made) == {("m", ""): (1, 2, 0.5)}
    assert traces.questions["question"].to_pylist() == ["1 + 1?"]


@pytest.mark.parametrize("path", ["reply", "reply.content"])
@QUIET
def test_a_reply_of_anthropic_has_its_model_and_tokens_in_it(tmp_path, path):
    parts = [{"type": "thinking", "thinking": "3?"}, {"type": "text", "text": "It is 2."}]
    reply = {"type": "message", "role": "assistant", "model": "m", "content": parts}
    row = {"question": "1 + 1?", "reply": reply | {"usage": {"output_tokens": 7}}, "reference": 2}
    ours = {"reply.model": "model", "reply.usage.output_tokens": "completion_tokens"}
    _, traces = read(tmp_path / "a", row, columns=ours | {path: "text"})
    told = {"model": "m", "text": "It is 2.", "completion_tokens": 7, "correct": True}
    assert traces.attempts.select([*told]).to_pylist() == [told]
    with pytest.raises(
        ConfigError, match=r"'reply.text'\], and nothing is said of .*reply.content"
    ):
        read(tmp_path / "b", row, columns=ours | {"reply.text": "text"})
    flat = row | reply | {"role": "assistant"}
    _, traces = read(tmp_path / "c", flat, columns={"content.text": "text"})
    assert traces.attempts["text"].to_pylist() == ["It is 2."]


@QUIET
def test_reasoning_of_the_responses_api_is_no_attempt(tmp_path):
    said = chat_message([{"type": "output_text", "text": "It is 2."}], "assistant")
    output = [{"type": "reasoning", "summary": []}, {"type": "message"} | said]
    row = {"question": "1 + 1?", "model": "m", "reply": {"output": output}, "reference": 2}
    made, _ = read(tmp_path / "a", row, columns={"reply.output": "text"})
    assert shares(made) == {("m", ""): (1, 1, 1)}
    kinds = [{"type": kind, "question": f"{kind}?"} for kind in ("reasoning", "math")]
    row = {"model": "m", "all": kinds, "text": ["2", "2"], "reference": ["2", "2"]}
    made, _ = read(tmp_path / "b", row, columns={"all.question": "question"})
    assert shares(made) == {("m", ""): (2, 2, 1)}


@pytest.mark.parametrize("spelled", [False, True])
@QUIET
def test_a_column_for_each_model_becomes_rows(tmp_path, spelled):
    """As in RouterBench, whose texts are lists of one that Python spells."""
    row = {"prompt": "1 + 1?", "m": 1.0, "m|said": "2", "n": 0.0, "n|said": "3", "o|said": None}
    more = {"m|cost": 0.25, "n|cost": 0.5, "all|cost": 1, "best": "m"}
    row |= {name: str([held]) for name, held in row.items() if spelled and "|s" in name and held}
    names = {"prompt": "question", "{model}|cost": "cost_usd"}
    names["{model}|said" + "[]" * spelled] = "text"
    options = {"columns": names, "metrics": ["{model}"]}
    with pytest.warns(UserWarning, match="columns best mean nothing here"):
        made, traces = read(tmp_path, row | more, **options)
    assert shares(made) == {("m", ""): (1, 1, 1), ("n", ""): (1, 1, 0)}
    assert "rows without an attempt, left out (2)" in made.notes
    assert traces.attempts["cost_usd"].to_pylist() == [0.25, 0.5]
    listed = {"columns": {"prompt": "question", "{model}|said": "text"}, "metrics": ["{model:n}"]}
    with pytest.raises(TraceFormatError, match=r"small: expected one of \['n'\]"):
        read(tmp_path / "n", row, **listed)
    with pytest.raises(ConfigError, match=r"map: expected what some log has, found \['\{model\}"):
        read(tmp_path / "o", [plain()], columns={"{model}|said": "text"})
    for wrong, why in (("{model}", "which is any column"), ("{place}|said", "one of .*'place'")):
        with pytest.raises(ConfigError, match=why):
            ImportOptions(columns={wrong: "text"})
    with pytest.raises(ConfigError, match=r"one field in braces, found \['level', 'model'\]"):
        ImportOptions(columns={"{model}|said": "text", "{level}|x": "answer"})


@QUIET
def test_lists_that_are_spelled_as_text_are_opened_where_they_are_named(tmp_path):
    row = {"question": "1 + 1?", "model": "m", "said": "['2', '3']", "ok": "[True, False]"}
    with pytest.warns(
        UserWarning, match=r"1 questions or texts spell lists .*--map 'THEIRS\[\]=text'"
    ):
        read(tmp_path / "one", row | {"reference": "2"}, columns={"said": "text"})
    options = {"columns": {"said[]": "text"}, "metrics": ["ok[]"]}
    assert shares(read(tmp_path / "two", row, **options)[0]) == {("m", ""): (1, 2, 0.5)}
    with pytest.raises(TraceFormatError, match=r"column ok\[\]: expected a list, .* found '\[1'"):
        read(tmp_path / "three", row | {"ok": "[1"}, **options)


@QUIET
def test_names_of_files_tell_the_model_where_they_are_said_to(tmp_path):
    files = []
    for model in ("m", "gpt-4.1"):
        files.append(write(tmp_path / f"{model}.jsonl", [plain(correct=model == "m", model=None)]))
        old = [entry(exact_match=float(model == "m"))]  # as the first lm-evaluation-harness
        files.append(write(tmp_path / f"{model}.json", old))
    for logs in (files[::2], files[1::2]):
        with pytest.raises(TraceFormatError, match="column model: expected a name"):
            import_attempts(logs, tmp_path / "x")
        made, _ = read(tmp_path / logs[0].suffix, [], *logs, constants={"model": "{file}"})
        assert shares(made) == {("m", ""): (1, 1, 1), ("gpt-4.1", ""): (1, 1, 0)}


@QUIET
def test_requests_that_failed_are_no_attempts_and_nan_is_nothing(tmp_path):
    rows = [
        plain(error=None, cost_usd=math.nan, text="It is 2.", answer=math.nan),
        plain(error="AssertionError", correct="incorrect", answer="3"),
        plain(error="429", answer=None, tokens=0, correct=0),
    ]
    made, traces = read(tmp_path, rows)
    assert shares(made) == {("m", ""): (1, 2, 0.5)}
    assert "requests that failed, left out (1)" in made.notes
    assert traces.attempts["answer"].to_pylist() == ["2", "3"]


ROW = (
    '{"question": "1?\\u2028", "model": "m", "answer": "2\u2028\u0085", "correct": 1, "tokens": 3}'
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", f"{ROW}\n{ROW}\n"),
        ("bom.jsonl", f"\ufeff{ROW}\n\n{ROW}"),
        ("packed.jsonl.gz", f"{ROW}\n{ROW}"),
        ("array.json", f"[{ROW},\n {ROW}]"),
        ("line.json", f"[{ROW}, {ROW}]"),
        ("mlflow.json", json.dumps({"columns": [*plain()], "data": [[*plain().values()]] * 2})),
        ("bom.csv", "\ufeffquestion,model,answer,correct,tokens\n1?,m,2,1,3\n1?,m,2,1,3"),
        ("pandas.csv", ",question,model,answer,correct,tokens\n0,1?,m,2,1,3.0\n1,1?,m,2,True,3.0"),
        ("spaces.csv", "question, model, answer, correct, tokens\n1?,m,2,1,3\n1?,m,2,1,3"),
        ("packed.jsonl", gzip.compress(f"{ROW}\n{ROW}".encode(), mtime=0)),
        ("redirected.jsonl", f"{ROW}\r\n{ROW}".encode("utf-16")),
        ("semicolons.csv", 'question;model;answer;correct;tokens\n"1;2,?";m;2;1;3\n1?;m;2;yes;3'),
    ],
)
def test_spellings_of_tables(tmp_path, name, content):
    packed = gzip.compress if name.endswith(".gz") else bytes
    (tmp_path / name).write_bytes(packed(content.encode() if type(content) is str else content))
    made = import_attempts([tmp_path / name], tmp_path / "traces")
    assert sum(group.attempts for group in made.groups) == 2
    assert all(group.right == group.majority == 1 for group in made.groups)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", f"{ROW}\nnonsense\n", "line 2: expected JSON Lines.*, character 1$"),
        ("a.jsonl", f"{ROW}\n{ROW[:40]}", "line 2: .*, character 40; .*was it cut short"),
        ("a.txt", "question: what?", "line 1: expected JSON Lines, JSON, CSV"),
        ("a.jsonl", f"{ROW}\n[1]", "line 2: expected an object"),
        ("a.csv", "question,model\n1,2,3", r"line 2: expected 2 cells separated by ',', found 3"),
        ("a.csv", "question,question\n1,2", "expected a name once, found 'question' twice"),
        ("a.csv", "question,,model\n1,2,3", "expected names of columns"),
        ("a.jsonl", "", "found none: no file has a record"),
        ("a.eval", "PK", "inspect_ai archive"),
        ("a.pkl", "", "found a pickle; .*to_parquet"),
        ("a.json", "[" * 100_000, "maximum recursion depth"),
        ("a.csv", b"question,model\nM\xfcller,m", r"TSV \(all in UTF-8\).*decode byte 0xfc"),
    ],
)
def test_files_that_are_something_else_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content.encode() if type(content) is str else content)
    with pytest.raises(TraceFormatError, match=message):
        import_attempts([tmp_path / name], tmp_path / "traces")
    assert not (tmp_path / "traces").exists()


def test_no_column_of_two_with_one_name_is_chosen(tmp_path):
    names, cells = ["question", "question", "model"], ["1?", "2?", "m"]
    table = pa.Table.from_arrays([pa.array([cell]) for cell in cells], names=names)
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text(json.dumps({"columns": names, "data": [cells]}))
    for name, message in (("a.parquet", "a name once, .*'question' twice"), ("a.json", "3 cells")):
        with pytest.raises(TraceFormatError, match=message):
            import_attempts([tmp_path / name], tmp_path / "traces")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": 1, "reference": 2}, r"question, see --map-references .* found .*\['id', 'ref"),
        (
            {"question": "1?", "gold": 2},
            r"right answer, see --map-references .*\['question', 'gold",
        ),
    ],
)
def test_references_by_other_names_are_told(tmp_path, row, message):
    with pytest.raises(TraceFormatError, match=message):
        read_references(write(tmp_path / "a.jsonl", [row]))


@QUIET
def test_objects_that_cells_list_are_named_by_their_path(tmp_path):
    row = {"question": "1 + 1?", "model": "m", "reference": 2, "all": '[{"t": "2"}, {"t": "3"}]'}
    assert shares(read(tmp_path, row, columns={"all.t": "text"})[0]) == {("m", ""): (1, 2, 0.5)}


def test_a_directory_is_no_log(tmp_path):
    for read_it in (read_references, lambda path: import_attempts([path], tmp_path / "traces")):
        with pytest.raises(TraceFormatError, match="found a directory; name its files"):
            read_it(tmp_path)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"question": None},
            r"line 1, column question: expected text.* see --map .*columns \['question', 'm",
        ),
        ({"model": ""}, "column model: expected a name"),
        ({"model": ["a"]}, "column model: expected a name"),
        ({"correct": None}, "expected a column correct, or a reference"),
        ({"correct": "perhaps"}, "1 or true for right, 0 or false for wrong, found 'perhaps'"),
        ({"correct": 7}, "column correct.*found 7"),
        ({"correct": math.nan}, "column correct.*found nan"),
        ({"tokens": "many"}, "column completion_tokens: expected a whole number from 0"),
        ({"tokens": -3}, "column completion_tokens.*found -3"),
        ({"tokens": 2**40}, "column completion_tokens"),
        ({"tokens": None}, "or text that it can be told by, see --map"),
        ({"prompt_tokens": -1}, "column prompt_tokens"),
        ({"mean_logprob": 0.5}, "column mean_logprob: expected nats"),
        ({"verifier_score": 7}, "column verifier_score: expected a number from 0 to 1, found 7"),
        ({"action": "guess"}, r"column action: expected one of \['sample', 'revise', 'escalate'\]"),
        ({"split": "dev"}, "column split: expected one of"),
        ({"action": "revise"}, "column parent_id: expected the attempt_id of what is revised"),
        ({"attempt_id": "a", "parent_id": "a"}, "column parent_id: expected the attempt_id of an"),
        ({"parent_id": "nobody"}, "column parent_id.*same question, found 'nobody'"),
        ({"correct": None, "reference": {}}, "column reference"),
        ({"correct": None, "reference": ["2", None]}, "column reference: expected a right answer"),
        ({"correct": None, "reference": [["2"], ["3"]]}, "column reference"),
    ],
)
def test_bad_rows_are_named(tmp_path, more, message):
    file = write(tmp_path / "bad.jsonl", [plain(**more)])
    with pytest.raises(TraceFormatError, match=message):
        import_attempts([file], tmp_path / "traces")
    assert not (tmp_path / "traces").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"attempt_id": "a"}, {"attempt_id": "a"}], "column attempt_id.*no other.*found 'a'"),
        ([{"split": "train"}, {"split": "test"}], "line 2, column split: expected 'train'"),
        (
            [{"question_id": 1, "reference": "2"}, {"question_id": 1, "reference": "3"}],
            "line 2, column reference: expected the reference that question 1 had before",
        ),
        ([{"answer": ""}, {"answer": ""}], "none could be read from 2 attempts, .*THEIRS=answer"),
        ([{"model": "a"}, {"model": "b"}], r"small: .*one of \['a', 'b'\].*--small"),
        ([{"parameters": 1e9}, {"parameters": 2e9}], "column parameters"),
        (
            [{"question_id": "b/1", "dataset": "a"}, {"question_id": "1", "dataset": "a/b"}],
            "line 2, column question_id: expected an id that no other data set has, found 'a/b/1'",
        ),
    ],
)
def test_rows_that_contradict_one_another_are_named(tmp_path, rows, message):
    file = write(tmp_path / "bad.jsonl", [plain(**row) for row in rows])
    with pytest.raises(TraceFormatError, match=message):
        import_attempts([file], tmp_path / "traces")


def test_a_log_is_read_once(tmp_path):
    files = [write(tmp_path / name, [plain()]) for name in ("a.jsonl", "b.jsonl")]
    with pytest.raises(TraceFormatError, match=r"b.jsonl: expected a log of its own"):
        import_attempts(files, tmp_path / "traces")


def test_ids_are_those_of_their_data_set(tmp_path):
    rows = [
        plain(question=f"{dataset} {i}?", question_id=i, dataset=dataset)
        for dataset in ("sums", "products")
        for i in range(6)
    ]
    import_attempts([write(tmp_path / "a.jsonl", rows)], tmp_path / "traces")
    ids = TraceSet.read(tmp_path / "traces").questions["question_id"].to_pylist()
    assert len(set(ids)) == 12
    assert ids[0] == "sums/0"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"answer": str(i)} for i in range(20)], "m: 100% of 20 attempts are right; is that so?"),
        ([{"text": "So 2."}] * 3, "m: 100% of further attempts at a question repeat a text"),
        ([{"correct": 1}, {"correct": 0}], "m: 1 answers are right in one attempt and wrong in"),
        ([{"answer": "", "correct": 1}, {}], "1 attempts that are right by the log, though no"),
        (
            [{"answer": str(i), "reference": "2", "question_id": i} for i in range(3)],
            "by answer and reference 2 of 3 attempts are graded otherwise than by the log",
        ),
        (
            [{"model": model, "correct": model == "a"} for model in "aab"],
            "1 of 1 answers that several models gave are right by one and wrong by another",
        ),
        (
            [{"text": f"It is {n}.", "question": f"{n}?", "correct": n == 2} for n in (2, 3)],
            "1 answers, of the first 1000, are not what their texts state; .*answer=reference",
        ),
        ([{"answer": "It is so.\n#### 2"}], "1 answers, of .*whole texts, --map answer=text"),
        ([{"text": "[{'text': '2'}]"}], "1 questions or texts spell lists or objects"),
        ([{"question": "[{'role': 'user'}]"}], "1 questions or texts spell lists or objects"),
        ([{"mood": 1}], "columns mood mean nothing here"),
        ([{"question_id": 1}, {"question_id": 1, "question": "?"}], "worded otherwise before"),
        (
            [{"question_id": i, "split": split} for i, split in enumerate(("train", "test"))],
            "1 wordings are in more than one split",
        ),
    ],
)
@QUIET
def test_what_is_doubtful_is_told(tmp_path, rows, message):
    file = write(tmp_path / "a.jsonl", [plain(**row) for row in rows])
    with pytest.warns(UserWarning, match=message):
        import_attempts([file], tmp_path / "traces")


@QUIET
def test_questions_that_some_model_did_not_try_are_counted(tmp_path):
    rows = [plain(model=model, question=f"{n}?") for model, n in (("m", 1), ("m", 2), ("n", 2))]
    made, _ = read(tmp_path / "some", rows)
    assert "attempts by every model at 1 of 2 questions: a" in "".join(made.missing)
    made, _ = read(tmp_path / "all", rows[1:])
    assert "every model" not in "".join(made.missing)


def test_columns_are_named_and_constants_set(tmp_path):
    row = {"prompt": "1 + 1?", "score": 1, "output": "It is 2.", "gold": 2}
    file = write(tmp_path / "a.jsonl", [row])
    options = ImportOptions(
        columns={"prompt": "question", "output": "text", "gold": "reference"},
        metrics=["score"],
        constants={"model": "m", "dataset": "sums"},
    )
    made = import_attempts([file], tmp_path / "traces", options=options)
    assert shares(made) == {("m", "sums"): (1, 1, 1)}
    assert TraceSet.read(tmp_path / "traces").questions["reference"].to_pylist() == ["2"]
    for sizes, message in (
        ({"n": 1e9}, r"parameters: expected models among \['m'\], found n"),
        ({"m": math.nan}, "parameters: expected a number from 1 for m, found nan"),
    ):
        with pytest.raises(ConfigError, match=message):
            import_attempts([file], tmp_path / "x", parameters=sizes, options=options)
    unused = ImportOptions(references={"q": {"reference": "2"}})
    with pytest.raises(ConfigError, match="references: expected what some log has"):
        import_attempts([write(tmp_path / "b.jsonl", [plain()])], tmp_path / "x", options=unused)
    twice = ImportOptions(columns={"score": "correct", "gold": "correct"})
    with pytest.raises(TraceFormatError, match="column correct: expected one of score and gold"):
        import_attempts([file], tmp_path / "x", options=twice)
    for wrong in ({"columns": {"prompt": "wording"}}, {"constants": {"modle": "m"}}):
        with pytest.raises(ConfigError, match="expected one of"):
            import_attempts([file], tmp_path / "x", options=ImportOptions(**wrong))


@QUIET
def test_names_of_prompts_are_kept_where_there_are_some(tmp_path):
    made = {}
    for name, more in (("bare", {}), ("told", {"variant": "step by step"})):
        rows = [plain(question=f"{n} + 1?", **more) for n in range(40)]
        rows += [
            plain(question=f"{n} + 1?", answer="3", correct=0, attempt_id="2") for n in range(9)
        ]
        import_attempts([write(tmp_path / f"{name}.jsonl", rows)], tmp_path / name)
        made[name] = TraceSet.read(tmp_path / name).attempts
    assert "variant" not in made["bare"].column_names
    assert made["told"]["variant"].to_pylist() == ["step by step"] * 40 + [None] * 9
    assert made["told"].drop_columns("variant").schema == made["bare"].schema


def test_a_row_may_hold_several_attempts(tmp_path):
    row = {
        "question": "1 + 1?",
        "gt": "2",
        "code": ["It is 2.", "3"],
        "answer": "2",
        "level": "Level 4",
    }
    options = ImportOptions(
        columns={"code": "text", "pred": "answer", "gt": "reference"},
        metrics=["score"],
        constants={"model": "m"},
    )
    file = write(tmp_path / "a.jsonl", [row | {"pred": ["2", "3"], "score": [True, False]}])
    made = import_attempts([file], tmp_path / "traces", options=options)
    assert (made.groups[0].attempts, made.groups[0].right) == (2, 0.5)
    traces = TraceSet.read(tmp_path / "traces")
    assert traces.attempts["answer"].to_pylist() == ["2", "3"]
    assert traces.questions["level"].to_pylist() == [4]
    for score in ([True], True):  # one judgement does not tell whose it is
        file = write(tmp_path / "b.jsonl", [row | {"pred": ["2", "3"], "score": score}])
        with pytest.raises(TraceFormatError, match="line 1, column correct: expected a list of 2"):
            import_attempts([file], tmp_path / "x", options=options)


@QUIET
@pytest.mark.parametrize("known", [{"example_id": 0}, {"answer": "2", "task": "sums"}])
def test_results_of_verifiers_are_known_in_each_of_their_years(tmp_path, known):
    row = {
        "prompt": [{"role": "user", "content": "1 + 1?"}],
        "completion": [{"role": "assistant", "content": "It is 3."}],
        "reward": 1.0,
    }
    file = write(tmp_path / "results.jsonl", [row | known])
    options = ImportOptions(constants={"model": "m"})
    made = import_attempts([file], tmp_path / "traces", options=options)
    assert (made.groups[0].attempts, made.groups[0].right) == (1, 1.0)


@QUIET
def test_halves_of_characters_are_marked(tmp_path):
    row = plain(question="1?\ud83d", text="\ud83d so 2", reference="2\udc00", model="m\ud800")
    import_attempts([write(tmp_path / "a.jsonl", [row])], tmp_path / "traces")
    traces = TraceSet.read(tmp_path / "traces")
    assert traces.attempts["text"].to_pylist() == ["\ufffd so 2"]
    assert traces.questions["question"].to_pylist() == ["1?\ufffd"]


def test_revisions_are_kept_with_what_they_revise(tmp_path):
    rows = [
        plain(attempt_id="a", correct=0, answer="3"),
        plain(attempt_id="b", parent_id="a", action="revise"),
    ]
    import_attempts([write(tmp_path / "a.jsonl", rows)], tmp_path / "traces")
    attempts = TraceSet.read(tmp_path / "traces").attempts
    assert attempts["action"].to_pylist() == ["sample", "revise"]
    assert attempts["parent_id"].to_pylist() == [None, "a"]


def chat(text, **more):
    body = {"model": "gpt", "usage": {"prompt_tokens": 9, "completion_tokens": 5}} | more
    body.setdefault("choices", [{"message": {"content": text}, "finish_reason": "stop"}])
    return {"status_code": 200, "body": body}


@QUIET
def test_output_of_the_openai_batch_api(tmp_path):
    spoken = {"output": [{"type": "message", "content": [{"type": "output_text", "text": "3"}]}]}
    rows = [
        {"custom_id": "q1-0", "response": chat("It is 2."), "error": None},
        {"custom_id": "q1-1", "response": chat("", choices=[], **spoken), "error": None},
        {"custom_id": "q2", "response": {"status_code": 500}, "error": None},
        {"custom_id": "q3", "response": None, "error": {"code": "expired"}},
        {"custom_id": "q9", "response": chat("It is 9."), "error": None},
    ]
    thought = [{"type": "thinking", "thinking": "3?"}, {"type": "text", "text": "2"}]
    said = {"type": "message", "content": thought, "stop_reason": "max_tokens", "model": "claude"}
    theirs = [{"custom_id": "q1", "result": {"type": "succeeded", "message": said}}]
    theirs += [{"custom_id": "q1", "result": {"type": "expired"}}]
    file = write(tmp_path / "batch.jsonl", rows)
    known = {"question_id": "q1", "question": "1 + 1?", "reference": "2"}
    made = import_attempts(
        [file], tmp_path / "traces", options=ImportOptions(references={"q1": known})
    )
    assert shares(made) == {("gpt", ""): (1, 2, 0.5)}
    told = {"requests that failed, left out (2)", "questions without a reference, left out (1)"}
    assert told <= set(made.notes)
    options = ImportOptions(references={"q1": known})
    file = write(tmp_path / "anthropic.jsonl", theirs)
    made = import_attempts([file], tmp_path / "anthropic", options=options)
    assert shares(made) == {("claude", ""): (1, 1, 1)}
    assert "requests that failed, left out (1)" in made.notes


def response(status, usage, *output, **more):
    body = {"object": "response", "status": status, "model": "gpt", "output": [*output]} | more
    return {"status_code": 200, "request_id": "r", "body": body | {"usage": usage}}


@QUIET
def test_thinking_that_the_batch_api_bills_is_kept_even_where_nothing_else_came(tmp_path):
    details = {"input_tokens_details": {"cached_tokens": 7}, "input_tokens": 36}
    details |= {"output_tokens": 90, "output_tokens_details": {"reasoning_tokens": 64}}
    thought = {"type": "reasoning", "summary": []}
    spoken = {"type": "message", "content": [{"type": "output_text", "text": "**2**"}]}
    rows = [
        {"custom_id": "q1-0", "response": response("completed", details, thought, spoken)},
        {"custom_id": "q1-1", "response": response("incomplete", details, thought)},
        {"custom_id": "q1-2", "response": response("failed", None, error={"code": "server_error"})},
        {"custom_id": "q1-3", "response": chat("3") | {"request_id": "r"}},
    ]
    chat_usage = rows[3]["response"]["body"]["usage"]
    chat_usage |= {"completion_tokens_details": {"reasoning_tokens": 4}}
    file = write(tmp_path / "batch.jsonl", [row | {"error": None} for row in rows])
    known = {"q1": {"question_id": "q1", "question": "1 + 1?", "reference": "2"}}
    made = import_attempts([file], tmp_path / "traces", options=ImportOptions(references=known))
    assert "requests that failed, left out (1)" in made.notes
    names = ("text", "correct", "finish_reason", "cached_tokens", "reasoning_tokens")
    stored = TraceSet.read(tmp_path / "traces").attempts.select(names).to_pylist()
    assert [tuple(row.values()) for row in stored] == [
        ("**2**", True, "stop", 7, 64),
        ("", False, "length", 7, 64),
        ("3", False, "stop", None, 4),
    ]


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"reference": "2"}, "line 1, column question: expected its wording in --references"),
        (None, r"expected attempts, found none: {'requests that failed, left out': 1}$"),
    ],
)
def test_what_a_batch_lacks_is_named(tmp_path, known, message):
    failed = {"status_code": 400, "body": {"error": {"code": "unsupported_parameter"}}}
    row = {"custom_id": "q1", "response": chat("2") if known else failed, "error": None}
    options = ImportOptions(references={"q1": known or {"reference": "2"}})
    with pytest.raises(TraceFormatError, match=message):
        import_attempts([write(tmp_path / "a.jsonl", [row])], tmp_path / "traces", options=options)


def test_events_of_openai_evals(tmp_path):
    def event(sample, kind, data):
        return {"run_id": "r", "event_id": 0, "sample_id": sample, "type": kind, "data": data}

    spec = {"completion_fns": ["gpt"], "base_eval": "sums", "eval_name": "sums.dev.v0"}
    asked = {"prompt": [{"role": "user", "content": "2 + 2?"}], "sampled": ["It is 4."]}
    rows = [
        {"spec": spec},
        event("a", "sampling", asked),
        event("b", "sampling", asked | {"sampled": "It is 5."}),
        event("b", "match", {"correct": False, "expected": "4", "picked": None}),
        event("a", "match", {"correct": True, "expected": ["4"], "picked": "4"}),
        event("c", "match", {"correct": True, "expected": "4"}),
        {"final_report": {"accuracy": 0.5}},
    ]
    made = import_attempts([write(tmp_path / "run.jsonl", rows)], tmp_path / "traces")
    assert shares(made) == {("gpt", "sums"): (2, 2, 0.5)}
    assert any("sampled before" in note for note in made.notes)
    graded = [{"spec": spec}, rows[1], event("a", "metrics", {"choice": "C"})]
    with pytest.raises(TraceFormatError, match="events of type metrics, which tell no attempt"):
        import_attempts([write(tmp_path / "graded.jsonl", graded)], tmp_path / "none")
    header = write(tmp_path / "header.json", [{"eval": {"task": "t"}, "status": "success"}])
    with pytest.raises(TraceFormatError, match="more than a header"):
        import_attempts([header], tmp_path / "none")


@QUIET
def test_completions_of_trl(tmp_path):
    prompt = [{"role": "user", "content": "1 + 1?"}]
    rows = {
        "step": [1, 1, 2],
        "prompt": [prompt] * 3,
        "completion": [[{"role": "assistant", "content": f"It is {n}."}] for n in (2, 3, 2)],
        "accuracy_reward": [1.0, 0.0, 1.0],
        "length_reward": [0.3, 0.4, 0.5],
        "advantage": [0.5, -0.5, 0.0],
    }
    file = tmp_path / "completions_00002.parquet"
    pq.write_table(pa.table(rows), file)
    constants = {"model": "qwen"}
    with pytest.raises(TraceFormatError, match=r"\['accuracy_reward', 'length_reward'\]"):
        import_attempts([file], tmp_path / "t", options=ImportOptions(constants=constants))
    options = ImportOptions(metrics=["accuracy_reward"], constants=constants)
    with pytest.warns(UserWarning, match="training steps 1 to 2"):
        made = import_attempts([file], tmp_path / "traces", options=options)
    assert shares(made) == {("qwen", "trl"): (1, 3, 0.667)}
    texts = {name: [json.dumps(chat) for chat in rows[name]] for name in ("prompt", "completion")}
    pq.write_table(pa.table(rows | texts), file)
    with pytest.warns(UserWarning, match="training steps 1 to 2"):
        import_attempts([file], tmp_path / "texts", options=options)
    opened = [TraceSet.read(tmp_path / name) for name in ("traces", "texts")]
    assert opened[0].questions["question"] == opened[1].questions["question"]
    assert opened[0].attempts["text"] == opened[1].attempts["text"]


@pytest.mark.parametrize(("step", "right"), [(1, 0.25), (2, 0.75)])
@QUIET
def test_completions_that_trl_wrote(tmp_path, step, right):
    file = LOGS / f"trl/completions_{step:05d}.parquet"
    options = ImportOptions(metrics=["accuracy"], constants={"model": "small"})
    made = import_attempts([file], tmp_path / "traces", options=options)
    assert shares(made) == {("small", "trl"): (2, 4, right)}


@QUIET
def test_steps_that_trl_wrote_to_a_file_each_are_taken_for_one_model(tmp_path):
    files = sorted((LOGS / "trl").glob("*.parquet"))
    options = ImportOptions(metrics=["accuracy"], constants={"model": "small"})
    with pytest.warns(UserWarning, match="training steps 1 to 2 are taken for those of one model"):
        import_attempts(files, tmp_path / "traces", options=options)


@QUIET
def test_results_of_verifiers(tmp_path):
    (tmp_path / "metadata.json").write_text('{"model": "m", "env_id": "sums", "avg_reward": 0.5}')
    rows = [
        {
            "example_id": 0, "prompt": [{"role": "user", "content": "1 + 1?"}], "answer": "2",
            "completion": [{"role": "assistant", "content": f"It is {n}."}],
            "reward": float(n == 2),
            "metrics": {"correct": float(n == 2)}, "is_truncated": n == 3, "error": None,
            "token_usage": {"input_tokens": 8.0, "output_tokens": 5.0},
        }
        for n in (2, 3)
    ]  # fmt: skip
    file = write(tmp_path / "results.jsonl", rows)
    made = import_attempts([file], tmp_path / "traces")
    assert shares(made) == {("m", "sums"): (1, 2, 0.5)}
    attempts = TraceSet.read(tmp_path / "traces").attempts
    assert attempts["finish_reason"].to_pylist() == ["stop", "length"]
    write(file, [rows[0] | {"reward": 0.4}])
    with pytest.raises(TraceFormatError, match="line 1, column reward: expected 1 for right"):
        import_attempts([file], tmp_path / "x")


@QUIET
def test_ids_in_the_first_year_of_verifiers_are_those_of_other_examples(tmp_path):
    """It numbered rollouts as if those of an example followed one another."""
    rows = [
        {
            "id": n // 2, "prompt": f"{n % 2} + 1?", "completion": str(n % 2 + 1),
            "answer": str(n % 2 + 1), "task": "sums", "reward": float(n < 2),
        }
        for n in range(4)
    ]  # fmt: skip
    options = ImportOptions(constants={"model": "m"})
    file = write(tmp_path / "results.jsonl", rows)
    made = import_attempts([file], tmp_path / "traces", options=options)
    assert shares(made) == {("m", "sums"): (2, 4, 0.5)}


@QUIET
def test_traces_that_verifiers_wrote(tmp_path):
    made = import_attempts([LOGS / "verifiers/traces.jsonl"], tmp_path / "traces")
    assert shares(made) == {("org/small", "sums"): (3, 6, 0.5)}
    assert set(TraceSet.read(tmp_path / "traces").attempts["prompt_tokens"].to_pylist()) == {8}


@QUIET
def test_traces_of_verifiers(tmp_path):
    def trace(n, **more):
        asked = {"message": {"role": "user", "content": "1 + 1?"}}
        said = {"message": {"role": "assistant", "content": f"It is {n}."}, "sampled": True}
        usage = {"prompt_tokens": 3, "cached_input_tokens": 5, "completion_tokens": 4}
        return {
            "task": {"type": "Sum", "key": "q1", "data": {"prompt": "1 + 1?", "answer": "2"}},
            "agent": {"config": {"model": "m"}, "name": "agent"}, "nodes": [asked, said],
            "calls": [{"usage": usage, "finish_reason": "stop"}],
            "rewards": {"exact": {"score": float(n == 2), "weight": 0.5}},
        } | more  # fmt: skip

    traces = [trace(2, ok=True), trace(3), trace(4, rewards={}), trace(3, ok=False)]
    rows = [{"env": {"id": "sums"}, "task": {}, "ok": True, "traces": [t]} for t in traces]
    made = import_attempts([write(tmp_path / "traces.jsonl", rows)], tmp_path / "traces")
    assert shares(made) == {("m", "sums"): (1, 2, 0.5)}
    attempts = TraceSet.read(tmp_path / "traces").attempts
    assert attempts["prompt_tokens"].to_pylist() == [8, 8]
    assert "requests that failed, left out (2)" in made.notes


def test_a_key_that_stands_twice_is_refused(tmp_path):
    file = tmp_path / "twice.jsonl"
    file.write_text(json.dumps(plain()) + '\n{"question": "a", "answer": "1", "answer": "2"}')
    with pytest.raises(TraceFormatError, match=r"after line 1: .*each key once, found 'answer'"):
        import_attempts([file], tmp_path / "traces")


@QUIET
def test_a_run_that_helm_made(tmp_path):
    """Its own exact_match of the model: 0.4 of five test instances, 0.6 of five for validation."""
    made = import_attempts([LOGS / "helm/scenario_state.json"], tmp_path / "traces")
    name = "synthetic_reasoning:mode=variable_substitution"
    assert shares(made) == {("local/half", name): (10, 10, 0.5)}
    traces = TraceSet.read(tmp_path / "traces")
    right = dict(zip(*(traces.attempts[c].to_pylist() for c in ("text", "correct")), strict=True))
    assert right.keys() & set(traces.questions["reference"].to_pylist()) == {
        text for text, is_right in right.items() if is_right
    }


@QUIET
def test_a_run_of_helm(tmp_path):
    def state(n, text, **more):
        return {
            "instance": {
                "id": f"id{n}", "input": {"text": f"{n} + 1?"},
                "references": [{"output": {"text": str(n + 1)}, "tags": ["correct"]}],
            },
            "request": {"prompt": f"Question: {n} + 1?"}, "train_trial_index": 0,
            "result": {"success": True, "completions": [
                {"text": text, "tokens": [], "finish_reason": {"reason": "length"}}]},
        } | more  # fmt: skip

    (tmp_path / "run_spec.json").write_text('{"name": "sums:n=2,model=org_m"}')
    shown = [
        {"content_type": "image/png", "location": "2.png"},
        {"content_type": "text/plain", "text": "+ 1?"},
    ]
    stats = [
        {
            "instance_id": f"id{n}", "train_trial_index": 0,
            "stats": [{"name": {"name": "exact_match"}, "mean": float(n == 0)},
                      {"name": {"name": "num_output_tokens"}, "mean": 4}],
        }
        for n in range(3)
    ]  # fmt: skip
    (tmp_path / "per_instance_stats.json").write_text(json.dumps(stats))
    pictures = {"prompt": "", "multimodal_prompt": {"media_objects": shown}}
    states = [
        state(0, "1"),
        state(1, "7", request=pictures),
        state(2, "", result={"success": False}),
    ]
    run = {"adapter_spec": {"model": "org/m"}, "request_states": states}
    file = write(tmp_path / "scenario_state.json", [run])
    with pytest.warns(UserWarning, match="1 attempts at questions with images"):
        made = import_attempts([file], tmp_path / "traces")
    assert shares(made) == {("org/m", "sums:n=2"): (2, 2, 0.5)}
    questions = TraceSet.read(tmp_path / "traces").questions["question"].to_pylist()
    assert any(re.fullmatch(r"\[image [0-9a-f]{6}\]\+ 1\?", question) for question in questions)
    reasons = TraceSet.read(tmp_path / "traces").attempts["finish_reason"]
    assert reasons.to_pylist() == ["length"] * 2
    assert "requests that failed, left out (1)" in made.notes


@QUIET
def test_results_that_simple_evals_wrote(tmp_path):
    def made(task, **options):
        file = LOGS / f"simple_evals/{task}_gpt-4.1-mini_20261128_184331_allresults.json"
        out = tmp_path / f"{task}{len(options)}"
        return import_attempts([file], out, options=ImportOptions(**options))

    assert shares(made("mgsm")) == {("gpt-4.1-mini", "mgsm"): (6, 6, 0.667)}
    # Its judge of equality was a model that called every pair unequal.
    assert shares(made("math")) == {("gpt-4.1-mini", "math"): (6, 6, 0)}
    again = made("math", answers="number")
    assert shares(again) == {("gpt-4.1-mini", "math"): (6, 6, 0.833)}
    assert "graded here (6)" in again.notes


@QUIET
def test_programs_of_simple_evals_share_a_score(tmp_path):
    name = "humaneval_gpt-4.1-mini_20261128_184331_allresults.json"
    result = json.loads((LOGS / "simple_evals" / name).read_text())
    with pytest.raises(TraceFormatError, match=r"example 3, column htmls, Score.*how many of 5"):
        import_attempts([LOGS / "simple_evals" / name], tmp_path / "x")
    pages = [page.replace("Score: 0.4", "Score: 1.0") for page in result["htmls"]]
    file = write(tmp_path / name, [result | {"htmls": pages, "score": 1 / 3}])
    made = import_attempts([file], tmp_path / "traces")
    assert shares(made) == {("gpt-4.1-mini", "humaneval"): (3, 15, 0.333)}
    traces = TraceSet.read(tmp_path / "traces")
    assert all("return" not in q for q in traces.questions["question"].to_pylist())
    assert set(traces.questions["reference"].to_pylist()) == {None}


@QUIET
def test_an_answer_that_simple_evals_did_not_find_is_none(tmp_path):
    page = "<p>Correct Answer: 2</p>\n<p>Extracted Answer: None</p>\n<p>Score: 0.0</p>"
    chat = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "Well."}]
    other = page.replace("None", "2").replace("0.0", "True"), [chat[0], chat[1] | {"content": "2"}]
    result = {"score": 0.5, "htmls": [page, other[0]], "convos": [chat, other[1]]}
    made = import_attempts(
        [write(tmp_path / "math_org_m_allresults.json", [result])], tmp_path / "traces"
    )
    assert (made.groups[0].model, made.groups[0].read, made.groups[0].right) == ("org_m", 0.5, 0.5)


@pytest.mark.parametrize(("metrics", "right"), [((), 1 / 3), (("base",), 0.5)])
@QUIET
def test_results_that_evalplus_wrote(tmp_path, metrics, right):
    """Its own pass@1 of these solutions: 0.333 with the further tests, 0.5 with the first alone."""
    file = LOGS / "evalplus/org--m_vllm_temp_0.8_eval_results.json"
    with pytest.raises(TraceFormatError, match=r"HumanEval/0, solution 1, column question"):
        import_attempts([file], tmp_path / "x")
    known = read_references(LOGS / "evalplus/problems.jsonl")
    options = ImportOptions(references=known, metrics=metrics)
    made = import_attempts([file], tmp_path / "traces", options=options)
    assert shares(made) == {("org--m_vllm_temp_0.8", "HumanEval"): (3, 12, round(right, 3))}
    folder = tmp_path / "org--m"
    folder.mkdir()
    (folder / "eval_results.json").write_text(file.read_text().replace("fail", "success"))
    with pytest.raises(TraceFormatError, match=r"column \w+_status: expected 1.*found 'success'"):
        import_attempts([folder / "eval_results.json"], tmp_path / "y", options=options)
    (folder / "eval_results.json").write_text('{"hash": "", "eval": {"HumanEval/0": {"base": []}}}')
    with pytest.raises(TraceFormatError, match="results of an old EvalPlus, which hold no program"):
        import_attempts([folder / "eval_results.json"], tmp_path / "y", options=options)
    (folder / "eval_results.json").write_text(file.read_text())
    made = import_attempts([folder / "eval_results.json"], tmp_path / "y", options=options)
    assert made.groups[0].model == "org--m"
