"""Decision records and the files that they are kept in."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from controller.checkpoint import load_checkpoint
from controller.errors import EvaluationError
from controller.process.actions import ActionKind
from envs.traces.recorded import read_recorded
from tests.conftest import CHECKPOINTS
from tests.training.compare.test_results import results
from training.compare.evaluation import About, play_decisions, read_evaluation, save_evaluation
from training.compare.simulate import play_checkpoint

PRICES = [5e-6, 2e-4, 2e-3]
ABOUT = About(controllers=("c",), traces="bundled", traces_digest=None, models=(), repeats=2)


@pytest.fixture(scope="module")
def checkpoint():
    return load_checkpoint(CHECKPOINTS / "controller")


@pytest.fixture(scope="module")
def recorded(traces):
    return read_recorded(traces, ["test"])


@pytest.fixture(scope="module")
def episodes(checkpoint, recorded):
    return list(play_decisions(checkpoint, recorded, PRICES))


def test_outcomes_are_those_of_play(checkpoint, recorded, episodes):
    for price in PRICES:
        played = play_checkpoint(checkpoint, recorded.table, price, repeats=1)
        ours = [e for e in episodes if e.price == price]
        assert [e.question.question_id for e in ours] == list(recorded.table.question_ids)
        np.testing.assert_array_equal([e.right for e in ours], played.right)
        np.testing.assert_array_equal([e.cost for e in ours], played.cost)


def test_the_most_probable_action_is_taken(episodes):
    for decision in (d for e in episodes for d in e.decisions):
        probabilities = decision.probabilities
        assert max(probabilities, key=probabilities.get) == str(decision.action)
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)


def test_attempts_account_for_the_cost(checkpoint, recorded, episodes):
    weights, ledger = checkpoint.config.cost.weights, checkpoint.config.cost
    for episode in episodes:
        costs = [d.cost for d in episode.decisions] + [episode.cost]
        warm, unverified = {0} if checkpoint.config.reads_prompt else set(), 0
        for i, decision in enumerate(episode.decisions):
            spent = 0.0
            for attempt in decision.attempts:
                assert attempt.question_id == episode.question.question_id
                revises = attempt.action is ActionKind.REVISE
                prompt = 0 if attempt.rung in warm and not revises else attempt.prompt_tokens
                warm |= set() if revises else {attempt.rung}
                weight = ledger.reviser_weight if revises else weights[attempt.rung]
                spent += weight * (prompt + attempt.completion_tokens)
                if attempt.verifier_score is not None:
                    q = recorded.table.question_ids.index(attempt.question_id)
                    unverified += recorded.table.prompt_tokens[q, 0] + attempt.completion_tokens
            if decision.action.kind is ActionKind.VERIFY:
                assert not decision.attempts
                spent, unverified = ledger.verifier_weight * unverified, 0
            else:
                assert len(decision.attempts) == (
                    0 if decision.action.kind is ActionKind.STOP else decision.action.width
                )
            assert costs[i + 1] - costs[i] == pytest.approx(spent)


def test_an_answer_was_seen_and_led_before_stop(episodes):
    for episode in episodes:
        seen = {a.answer for d in episode.decisions for a in d.attempts}
        assert episode.answer is None or episode.answer in seen
        last = episode.decisions[-1]
        if last.action.kind is ActionKind.STOP:
            assert last.leader == episode.answer


@pytest.fixture
def run(tmp_path, checkpoint, recorded):
    save_evaluation(
        tmp_path,
        ABOUT,
        results(tuple(PRICES)),
        checkpoint=checkpoint,
        recorded=recorded,
        played=[play_checkpoint(checkpoint, recorded.table, p, repeats=2) for p in PRICES],
    )
    return tmp_path


def test_files_hold_what_was_played(run, checkpoint, recorded, episodes):
    evaluation = read_evaluation(run)
    assert evaluation.about == ABOUT
    assert evaluation.results.to_json() == results(tuple(PRICES)).to_json()
    rows = pq.read_table(evaluation.decisions).to_pylist()
    assert len(rows) == len(episodes)
    last = play_checkpoint(checkpoint, recorded.table, PRICES[-1], repeats=2)
    np.testing.assert_array_equal([r["mean_cost"] for r in rows[-len(last.cost) :]], last.cost)
    for row, episode in list(zip(rows, episodes, strict=True))[::100]:
        assert row["question"] == episode.question.text
        assert row["correct"] == episode.right
        for stored, decision in zip(row["decisions"], episode.decisions, strict=True):
            assert stored["action"] == str(decision.action)
            assert stored["observation"] == pytest.approx(decision.observation)
            assert stored["probabilities"] == pytest.approx(decision.probabilities)
            assert [a["text"] for a in stored["attempts"]] == [a.text for a in decision.attempts]


def test_an_evaluation_that_does_not_fit_is_refused(run, tmp_path):
    settings = run / "evaluation" / "evaluation.json"
    text = settings.read_text()
    settings.write_text(json.dumps({**json.loads(text), "version": 99}))
    with pytest.raises(EvaluationError, match="expected version 2, found 99"):
        read_evaluation(run)
    settings.write_text(text[:100])
    with pytest.raises(EvaluationError, match="expected an evaluation"):
        read_evaluation(run)
    settings.write_text(text)
    (run / "evaluation" / "decisions.parquet").write_bytes(b"of another evaluation")
    with pytest.raises(EvaluationError, match="allot evaluate"):
        read_evaluation(run)
    with pytest.raises(EvaluationError, match="found none"):
        read_evaluation(tmp_path / "nowhere")
