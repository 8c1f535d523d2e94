"""A score that ranks the attempts at one question, and says how likely each is right."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import expit

from controller.backends.local.adapters import probability
from controller.process.episodes import calibrated
from envs.traces.derive import derive_config
from envs.traces.format import TraceSet
from envs.traces.table import build_table
from tests.menus import write_menu
from training.learn.calibration import (
    auroc,
    calibrate,
    cross_calibrated,
    expected_calibration_error,
    with_calibration,
    with_tie_breaks,
)

QUESTIONS, ATTEMPTS = 400, 8


@pytest.fixture(scope="module")
def attempts():
    """Right more often on easy questions, which the writer knows, and where the verifier agrees."""
    rng = np.random.default_rng(0)
    question = np.repeat(np.arange(QUESTIONS), ATTEMPTS)
    ease = rng.normal(size=QUESTIONS)[question]
    agrees = rng.random(len(question))
    right = rng.random(len(question)) < expit(2 * ease + 3 * (agrees - 0.5))
    judged = np.log(np.stack([agrees, agrees], 1) + 1e-9)
    # The writer is surer on easy questions, and on attempts at one question it misleads.
    writer = np.stack([ease - agrees, ease - agrees], 1)
    return judged, writer, right, question


def test_attempts_at_one_question_are_ranked_and_probabilities_are_kept(attempts):
    judged, writer, right, question = attempts
    calibration = calibrate(judged, writer, right, question)
    score = probability(
        calibration, torch.tensor(judged).float(), torch.tensor(writer).float()
    ).numpy()

    def ranked(values):
        """Share of questions with both kinds where the best attempt by value is right."""
        chosen = values.reshape(QUESTIONS, ATTEMPTS).argmax(1)
        hit = right.reshape(QUESTIONS, ATTEMPTS)
        mixed = hit.any(1) & ~hit.all(1)
        return hit[np.arange(QUESTIONS), chosen][mixed].mean()

    assert ranked(score) > ranked(writer[:, 0]) + 0.05
    assert ranked(score) > ranked(judged[:, 0]) - 0.02
    assert auroc(score, right) > auroc(judged[:, 0], right) + 0.05
    assert expected_calibration_error(score.astype(np.float64), right) < 0.06


def test_judgements_become_probabilities_that_others_questions_tell(tmp_path):
    """Of arms that are right unlike often; a judgement does not tell of its own answer."""
    menu = TraceSet.read(write_menu(tmp_path / "menu", 600, revisers=("cat",), verifier="whale"))
    models, arms = menu.models(), menu.arms()
    train, test = (build_table(menu, [s], [m.name for m in models]) for s in ("train", "test"))
    plain = derive_config(train, models, arms)
    learnt, config = with_calibration(train, plain)

    def seen(table, process):
        said = table.attempts["verifier_score"].astype(float)
        meant = calibrated(process.verifier_calibration, said, table.attempts["rung"])
        return (
            said,
            meant,
            table.answer_correct[table.question_of_attempt, table.attempts["answer"]],
        )

    said, meant, right = seen(test, config)
    assert expected_calibration_error(meant, right) < 0.05
    assert expected_calibration_error(said, right) > 0.08
    _, crossed, right = seen(learnt, config)
    assert expected_calibration_error(crossed, right) < 0.05
    flipped = train.answer_correct.copy()
    flipped[1] = ~flipped[1]
    relabelled = replace(train, answer_correct=flipped)
    revises = np.ones(len(crossed), bool)
    revises[train.independent[2]] = False
    own = train.question_of_attempt == 1
    for table, process in (
        with_calibration(relabelled, plain),
        (cross_calibrated(relabelled, config), config),
    ):
        moved = np.abs(seen(table, process)[1] - crossed)
        for some in (revises, ~revises):
            assert 10 * moved[own & some].max() < moved[some].max()


def test_of_questions_left_out_no_attempt_is_known(tmp_path):
    menu = TraceSet.read(write_menu(tmp_path / "menu", 60, revisers=("cat", "whale")))
    table = build_table(menu, ["train"], [model.name for model in menu.models()])
    of = table.question_of_attempt
    assert of.min() == 0
    assert np.array_equal(of, np.sort(of))
    kept = table.take(np.array([3, 1])).question_of_attempt
    assert all((kept[of == q] == new).all() for q, new in ((3, 0), (1, 1)))
    assert (kept[(of != 3) & (of != 1)] == -1).all()


def test_without_the_writer_the_verifier_alone_decides(attempts):
    judged, writer, right, question = attempts
    calibration = calibrate(judged, writer, right, question)
    unknown = torch.full((len(right), 2), float("nan"))
    score = probability(calibration, torch.tensor(judged).float(), unknown).numpy()
    assert expected_calibration_error(score.astype(np.float64), right) < 0.05


def test_ties_are_broken_by_what_tells_right_from_wrong_at_one_question(traces):
    """By log-probability here, which is known; of the better arm an attempt is surer as it is."""
    table = build_table(traces, ["validation"])
    config = derive_config(table, traces.models())
    small, large = np.reshape(with_tie_breaks(table, config).tie_breaks, (2, 4))
    usual = np.nanmean(
        table.attempts["mean_logprob"][table.independent[2]][table.independent[1] == 0]
    )
    assert large[0] > small[0]
    assert small[1] == pytest.approx(usual, abs=0.02)
    assert min(small[2], large[2]) > 1
    unread = np.reshape(
        with_tie_breaks(table, replace(config, reads_logprobs=False)).tie_breaks, (2, 4)
    )
    assert not unread[:, 1:3].any()
    assert unread[:, 3].any()


def test_without_a_right_and_a_wrong_answer_ties_are_broken_as_before(traces):
    table = build_table(traces, ["validation"])
    config = derive_config(table, traces.models())
    wrong = replace(table, answer_correct=np.zeros_like(table.answer_correct))
    assert with_tie_breaks(wrong, config).tie_breaks == ()
