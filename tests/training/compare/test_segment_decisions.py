"""Decision records inside attempts and the files that they are kept in."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from controller.checkpoint import load_segment_checkpoint
from controller.errors import EvaluationError
from controller.loop import Controller
from controller.process.actions import ActionKind
from envs.segments import read_trees
from tests.training.compare.test_results import results
from training.compare.evaluation import About, play_decisions, read_evaluation, save_evaluation
from training.compare.simulate import play_checkpoint

PRICES = [5e-6, 2e-4, 2e-3]


@pytest.fixture(scope="module")
def checkpoint(redoing):
    return load_segment_checkpoint(redoing)


@pytest.fixture(scope="module")
def recorded(trees):
    return read_trees(trees, ["test"])


@pytest.fixture(scope="module")
def episodes(checkpoint, recorded):
    return list(play_decisions(checkpoint, recorded, PRICES))


def test_decisions_are_those_of_the_deployed_controller(checkpoint, recorded, episodes):
    controller, played = Controller.load(checkpoint, recorded.backend), iter(episodes)
    actions = set()
    for price in PRICES:
        for question in recorded.questions:
            outcome, episode = controller.answer(question, price=price), next(played)
            assert (episode.question, episode.price) == (question, price)
            assert (episode.answer, episode.cost) == (outcome.answer, outcome.cost)
            for ours, theirs in zip(episode.decisions, outcome.decisions, strict=False):
                assert (ours.action, ours.cost) == (theirs.action, theirs.cost)
                assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-4)
                assert ours.observation == theirs.observation
                assert ours.value == pytest.approx(theirs.value, abs=1e-4)
                assert (ours.segment is None) == (theirs.segment is None)
                if ours.segment is not None:
                    assert ours.segment == replace(theirs.segment, usage=())
            actions |= {decision.action.kind for decision in episode.decisions}
            # Where nothing else is left to do, the deployed controller is not asked any more.
            unasked = episode.decisions[len(outcome.decisions) :]
            assert [d.action.kind for d in unasked] in ([], [ActionKind.STOP])
    assert {ActionKind.STOP, ActionKind.SAMPLE, ActionKind.REVISE} <= actions


def test_answers_are_what_stopping_returns(checkpoint, recorded, episodes):
    for episode in episodes:
        assert episode.decisions[0].leader is None
        assert episode.decisions[-1].action.kind is ActionKind.STOP
        assert episode.decisions[-1].leader == episode.answer
    seen = {d.leader for e in episodes for d in e.decisions[:-1]}
    assert len(seen) > 1, "no answer forced on the way"


def saved(checkpoint, recorded, out):
    played = [play_checkpoint(checkpoint, recorded.table, price) for price in PRICES]
    save_evaluation(
        out,
        About(controllers=("c",), traces="trees", traces_digest=None, models=(), repeats=1),
        results(tuple(PRICES)),
        checkpoint=checkpoint,
        recorded=recorded,
        played=played,
    )
    return pq.read_table(read_evaluation(out).decisions).to_pylist(), played


def test_files_hold_what_was_played(checkpoint, recorded, episodes, tmp_path):
    rows, played = saved(checkpoint, recorded, tmp_path)
    assert read_evaluation(tmp_path).is_segmented
    means = np.concatenate([p.cost for p in played])
    np.testing.assert_array_equal([row["mean_cost"] for row in rows], means)
    for row, episode in zip(rows, episodes, strict=True):
        assert row["correct"] == episode.right
        for stored, decision in zip(row["decisions"], episode.decisions, strict=True):
            assert stored["action"] == str(decision.action)
            assert stored["observation"] == pytest.approx(decision.observation)
            assert stored["leader"] == decision.leader
            assert bool(stored["attempts"]) == (decision.segment is not None)
            for kept in stored["attempts"]:
                assert (kept["text"] or "") == decision.segment.text
                assert kept["min_logprob"] == decision.segment.min_logprob


def test_traces_without_text_leave_none_behind(trees, checkpoint, tmp_path):
    silent = replace(trees, segments=trees.segments.drop_columns("text"))
    recorded = read_trees(silent, ["test"])
    rows, _ = saved(checkpoint, recorded, tmp_path)
    segments = [made for row in rows for d in row["decisions"] for made in d["attempts"]]
    assert segments
    assert not any(segment["text"] for segment in segments)


def test_a_missing_evaluation_names_the_command_that_makes_it(redoing):
    with pytest.raises(EvaluationError, match=f"allot evaluate {redoing}"):
        read_evaluation(redoing)
