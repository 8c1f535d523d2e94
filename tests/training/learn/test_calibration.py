"""A score that ranks the attempts at one question, and says how likely each is right."""

import numpy as np
import pytest
import torch
from scipy.special import expit

from controller.backends.local.adapters import probability
from training.learn.calibration import auroc, calibrate, expected_calibration_error

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


def test_without_the_writer_the_verifier_alone_decides(attempts):
    judged, writer, right, question = attempts
    calibration = calibrate(judged, writer, right, question)
    unknown = torch.full((len(right), 2), float("nan"))
    score = probability(calibration, torch.tensor(judged).float(), unknown).numpy()
    assert expected_calibration_error(score.astype(np.float64), right) < 0.05
