"""Attempts to learn from, and what is trained on them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from controller.backends.local.adapters import load_adapters, score_attempts
from controller.backends.local.model import Encoded, StateReadout, load_model, prompt_key
from controller.backends.prompts import VERIFIER, read_prompt
from controller.errors import BackendError
from envs.traces.format import TraceSet
from tests.conftest import CHECKPOINTS
from training.adapters import (
    AttemptText,
    ReviserConfig,
    _similarity,
    distinct,
    revision_examples,
    right_texts,
)
from training.learn.calibration import auroc_within, fit_state_readout


def attempt(text, right=True):
    return AttemptText(question="?", text=text, right=right, logprobs=(-0.1, -0.2))


def test_of_attempts_with_one_text_the_first_counts():
    found = distinct([attempt("a", right=False), attempt("b"), attempt("a")])
    assert {each.text: each.right for each in found} == {"a": False, "b": True}


def test_similarity_grows_with_what_is_shared():
    assert _similarity("1+2=4", "1+2=3") > _similarity("no idea", "1+2=3")


@pytest.fixture(scope="module")
def recorded(allot, tmp_path_factory):
    """A few attempts with their texts."""
    out = tmp_path_factory.mktemp("adapters") / "traces"
    allot("record", "--limit", 12, "--samples", 4, "--max-new-tokens", 64, "--out", out)
    return out


@pytest.fixture(scope="module")
def verifier(allot, recorded):
    out = recorded.parent / "verifier"
    model = ["--model", CHECKPOINTS / "small", "--traces", recorded, "--out", out]
    return out, allot("adapters", "train", "verifier", *model).stdout


def test_a_verifier_reads_hidden_states(allot, verifier, recorded, tmp_path):
    out, told = verifier
    measured = dict(line.split() for line in told.splitlines())
    assert {*measured} == {"auroc", "auroc_within", "ece"}
    assert sorted(path.name for path in out.iterdir()) == ["allot.json", "score.safetensors"]
    allot("verify", recorded, "--verifier", out, "--out", tmp_path / "scored")
    attempts = TraceSet.read(tmp_path / "scored").attempts.to_pandas()
    assert attempts["verifier_score"][attempts["model"] == "small"].between(0, 1).all()
    assert attempts["verifier_score"][attempts["model"] == "large"].isna().all()


def test_what_it_reads_is_the_models_own_whatever_adapter_stands_beside(verifier):
    """And another model's read-out is refused, by its weights or its width."""
    out, _ = verifier
    paths = {"reviser": CHECKPOINTS / "reviser", VERIFIER: out}
    both = load_adapters(load_model(CHECKPOINTS / "small", 0), paths)
    alone = load_adapters(load_model(CHECKPOINTS / "small", 0), {VERIFIER: out})
    texts = [alone.encode_attempt("1 + 1 =", text) for text in ("2", "Answer: 3 and more")]
    logprobs = torch.full((2, 2), float("nan"))
    found = [score_attempts(model, texts, logprobs) for model in (both, alone)]
    assert found[0] == pytest.approx(found[1], abs=1e-5)
    large = load_model(CHECKPOINTS / "large", 0)
    with pytest.raises(BackendError, match="expected finite read-outs of 385 numbers for large"):
        load_adapters(large, {VERIFIER: out})


def test_a_model_that_the_set_does_not_know_is_told(allot, recorded, tmp_path):
    model = f"other={CHECKPOINTS / 'small'}"
    command = ["--model", model, "--traces", recorded, "--out", tmp_path / "x"]
    done = allot("adapters", "train", "verifier", *command, check=False)
    assert "expected right and wrong attempts by other" in done.stderr
    assert "--model NAME=PLACE" in done.stderr


def test_a_reviser_learns_from_right_attempts_and_is_measured(allot, recorded, tmp_path):
    out = tmp_path / "reviser"
    model = ["--model", CHECKPOINTS / "small", "--traces", recorded, "--out", out]
    told = allot("adapters", "train", "reviser", *model, "--epochs", 1).stdout
    shares = {line.split()[0]: float(line.split()[1]) for line in told.splitlines()[-3:]}
    assert {*shares} == {"fixes", "breaks", "fresh"}
    digest = json.loads((out / "allot.json").read_text())["base_digest"]
    assert digest == load_model(CHECKPOINTS / "small", 0).digest


def test_right_attempts_stand_for_solutions_the_shortest_of_each_model(recorded):
    traces = TraceSet.read(recorded)
    solutions, held = right_texts(traces), traces.attempts.to_pandas()
    right = held[held["correct"]]
    for question, rows in right.groupby("question_id"):
        shortest = rows["text"].str.len().groupby(rows["model"]).min()
        assert [len(text) for text in solutions(question)] == sorted(shortest)
    assert not solutions("nowhere")


def test_a_wrong_attempt_is_turned_into_the_solution_closest_to_it(recorded):
    local = load_model(CHECKPOINTS / "small", 0)
    asked = replace(local, prompt=read_prompt("{question} Think."))

    def solutions(question_id):
        return ("Answer: 0", f"{wrong[question_id]} Answer: 1")

    traces = TraceSet.read(recorded)
    held = traces.attempts.to_pandas()
    held = held[(held["model"] == local.name) & ~held["correct"]]
    wrong = held.drop_duplicates("question_id").set_index("question_id")["text"]
    config = ReviserConfig(wrong_per_question=1, right_per_question=0)
    found = list(
        revision_examples(traces, "train", lambda q: q in wrong and solutions(q), config, asked)
    )
    assert found
    for example in found:
        assert example["prompt"][0]["content"].endswith(" Think.")
        assert example["completion"][0]["content"] == f"{example['prompt'][1]['content']} Answer: 1"


def test_a_read_out_ranks_attempts_at_one_question():
    """What tells questions apart is there, too, and does not drown the rest."""
    rng = np.random.default_rng(0)
    question = np.repeat(np.arange(60), 4)
    easy, good = rng.normal(size=60)[question], rng.normal(size=240)
    right = rng.random(240) < 1 / (1 + np.exp(-(2 * easy + 2 * good)))
    noise = rng.normal(size=(240, 20))
    states = np.column_stack([3 * easy + 5, 0.1 * good, noise])
    fold = question % 5
    readouts = fit_state_readout(states, right, question, fold)  # (1 + 5, F + 1)
    scores = states @ readouts[:, :-1].T + readouts[:, -1]
    assert auroc_within(scores[:, 0], right, question) > 0.8
    mine = np.arange(240), fold + 1
    changed = fit_state_readout(states, right ^ (fold == 2), question, fold)
    now = states @ changed[:, :-1].T + changed[:, -1]
    own = [each[mine][fold == 2] for each in (now, scores)]
    assert np.corrcoef(own)[0, 1] > 0.9  # how much it is drawn to zero may differ


def test_questions_that_it_has_learnt_from_are_judged_by_what_others_taught():
    known, new = Encoded((1, 2, 3), begin=2), Encoded((1, 4, 3), begin=2)
    weights = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    readout = StateReadout(weights, torch.tensor([[prompt_key(known), 0]]))
    expected = torch.nn.functional.logsigmoid(torch.tensor([3.0, 1.0]))
    torch.testing.assert_close(readout(torch.ones(2, 1), [known, new])[:, 0], expected)
