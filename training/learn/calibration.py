"""How likely attempts are right: by a verifier's score, an arm's judgements, or on a tie."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

from controller.process.episodes import EpisodeConfig, log_odds
from controller.process.features import quotient
from controller.process.lockstep import Array, Bools, Floats, Ints, chance
from envs.traces.derive import enough
from envs.traces.table import TraceTable
from training.learn.difficulty import FOLDS, fold_of

_LEAST_FACTOR = 1e-3
"""Of log-odds of judgements that tell nothing, so that others can be divided by it."""


def calibrate(judged: Floats, logprobs: Floats, right: Bools, question: Ints) -> Tensor:
    """Calibration of a verifier, see `controller.backends.local.adapters.probability`.

    Args:
        judged: (n, 2) what the verifier thinks of the tokens.
        logprobs: (n, 2) what the writer thought of them.
        right: (n,).
        question: (n,) number of the question that each tries to answer, in order.
    """
    from controller.backends.local.adapters import score_features

    pairs, weight = _pairs(right, question)
    rows = []
    for known in (logprobs, np.zeros_like(logprobs)):
        features = score_features(torch.from_numpy(judged), torch.from_numpy(known)).numpy()
        scale = features.std(0) + 1e-6
        scale[-1] = 1.0
        inputs = features / scale
        ahead = inputs[pairs[:, 0]] - inputs[pairs[:, 1]]  # (pairs, 7)
        given = inputs, right, ahead, weight
        rows.append(minimize(_loss, np.zeros(inputs.shape[1]), given, jac=True).x / scale)
    return torch.from_numpy(np.stack(rows)).float()


def with_calibration(train: TraceTable, config: EpisodeConfig) -> tuple[TraceTable, EpisodeConfig]:
    """What to learn from, and a process that knows what its arm's judgements of attempts mean.

    See `cross_calibrated` for the table.
    """
    inputs, right, _ = _judgements(train, config)
    config = replace(config, verifier_calibration=tuple(_platt(inputs, right).tolist()))
    return cross_calibrated(train, config), config


def cross_calibrated(table: TraceTable, config: EpisodeConfig) -> TraceTable:
    """A table whose judgements, revisions' too, tell nothing of the answers to their question.

    Of each the process's calibration makes the probability that a calibration fitted on other
    questions finds; without one the table stays as it is.
    """
    if not config.verifier_calibration:
        return table
    inputs, right, question = _judgements(table, config)
    fold = fold_of(len(table), FOLDS)
    fits = [_platt(inputs[fold[question] != p], right[fold[question] != p]) for p in range(FOLDS)]
    attempts, of = table.attempts.copy(), table.question_of_attempt
    places = np.flatnonzero((of >= 0) & ~np.isnan(attempts["verifier_score"]))
    score, rung = attempts["verifier_score"][places].astype(np.float64), attempts["rung"][places]
    own, (factor, *added) = np.array(fits)[fold[of[places]]], config.verifier_calibration
    odds = own[:, 0] * log_odds(score) + own[np.arange(len(own)), 1 + rung]
    attempts["verifier_score"][places] = chance((odds - np.array(added)[rung]) / factor)
    return replace(table, attempts=attempts)


def _judgements(table: TraceTable, config: EpisodeConfig) -> tuple[Floats, Array, Array]:
    """Judgements of independent attempts for `_platt`, which are right, and questions; n rows."""
    question, rung, places = table.independent
    judged = ~np.isnan(table.attempts["verifier_score"][places])
    odds = log_odds(table.attempts["verifier_score"][places[judged]].astype(np.float64))
    inputs = np.column_stack([odds, np.eye(config.num_rungs)[rung[judged]]])  # (n, 1 + R)
    return inputs, table.right(table.stream)[table.stream >= 0][judged], question[judged]


def _platt(inputs: Floats, right: Bools) -> Floats:
    """See `EpisodeConfig.verifier_calibration`; scores as they are where nothing is to be learnt.

    Source: Platt 1999, with a ridge on how arms differ.
    """
    if right.all() or not right.any():
        return np.asarray(np.eye(inputs.shape[1])[0])
    fitted = LogisticRegression(C=10.0, max_iter=1000).fit(inputs, right)
    weights: Floats = fitted.coef_[0]
    weights[1:] += fitted.intercept_[0]
    weights[0] = np.copysign(max(abs(weights[0]), _LEAST_FACTOR), weights[0])
    return weights


def with_tie_breaks(train: TraceTable, config: EpisodeConfig) -> EpisodeConfig:
    """A process that knows who leads on a tie, where a question has a right and a wrong answer.

    Logistic regression on which of two attempts at a question is right, where one of them is, by
    arm, log-probability and length.

    Source: Bradley and Terry 1952, "Rank Analysis of Incomplete Block Designs".
    """
    train = enough(train)
    question, rung, places = train.independent
    right = train.right(train.stream)[train.stream >= 0]
    answered = train.attempts["answer"][places] >= 0
    question, rung, right = question[answered], rung[answered], right[answered]
    made = train.attempts[places[answered]]
    pairs, weight = _pairs(right, question)
    if not len(pairs):
        return config
    arms = np.eye(train.stream.shape[1])[rung]  # (n, R)
    logprob = made["mean_logprob"].astype(np.float64)
    known = ~np.isnan(logprob) & config.reads_logprobs
    logprob = np.where(known, logprob, 0.0)
    usual = quotient(logprob @ arms, known @ arms)  # (R,)
    above = np.where(known, logprob - usual[rung], 0.0)
    length = np.log(np.maximum(made["completion_tokens"], 1))
    inputs = np.concatenate([arms, arms * above[:, None], arms * length[:, None]], 1)  # (n, 3R)
    scale = inputs.std(0) + 1e-6
    ahead = (inputs[pairs[:, 0]] - inputs[pairs[:, 1]]) / scale
    # The first of each pair is right: half of them are turned round, so that there are two classes.
    sign = np.where(np.arange(len(pairs)) % 2, 1.0, -1.0)
    weight = weight * len(np.unique(question[pairs[:, 0]]))
    fitted = LogisticRegression(fit_intercept=False, max_iter=1000)
    fitted.fit(ahead * sign[:, None], sign > 0, weight)
    base, per_nat, per_length = np.split(fitted.coef_[0] / scale, 3)
    numbers = np.stack([base, usual, per_nat, per_length], 1).ravel()
    return replace(config, tie_breaks=tuple(numbers.tolist()))


def _pairs(right: Bools, question: Ints) -> tuple[Ints, Floats]:
    """All pairs of a right and a wrong attempt at one question, (pairs, 2), and their weights.

    Each question weighs the same; all weights add up to 1.
    """
    pairs, weights = [np.empty((0, 2), np.int64)], [np.empty(0)]
    _, begin = np.unique(question, return_index=True)
    for attempts in np.split(np.arange(len(question)), begin[1:]):
        good, bad = attempts[right[attempts]], attempts[~right[attempts]]
        product = np.stack(np.meshgrid(good, bad), -1).reshape(-1, 2)
        pairs.append(product)
        weights.append(np.full(len(product), 1 / max(len(product), 1)))
    weight = np.concatenate(weights)
    return np.concatenate(pairs), weight / max(weight.sum(), 1e-9)


def _loss(
    weights: Floats, features: Floats, right: Bools, ahead: Floats, weight: Floats
) -> tuple[float, Floats]:
    """How badly a score says how likely attempts are right and ranks them, and the gradient.

    Logistic regression alone would learn which questions are easy, which says little about
    the attempts at one of them; so the loss of RankNet on pairs of these is added.

    Source: Burges et al. 2005, "Learning to Rank using Gradient Descent", eq. 3.
    """
    logits, lead = features @ weights, ahead @ weights
    error = (chance(logits) - right) / len(right)
    value = float(np.mean(np.logaddexp(0, logits) - right * logits))
    value += float(weight @ np.logaddexp(0, -lead))
    return value, features.T @ error - ahead.T @ (weight * chance(-lead))


_RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3)
"""To choose from by the loss on held-out questions."""


def fit_state_readout(states: Floats, right: Bools, question: Ints, fold: Ints) -> Floats:
    """Weights of a score of hidden states, (n, F), and its constant; see `calibrate`.

    Returns:
        (1 + K, F + 1): fitted to all, and to all but those of each fold, (n,) in 0..K-1.
    """
    mean, scale = states.mean(0), states.std(0) + 1e-6
    inputs = np.column_stack([(states - mean) / scale, np.ones(len(states))])

    def known(rows: Bools) -> tuple[Floats, Bools, Floats, Floats]:
        mine = inputs[rows]
        pairs, weight = _pairs(right[rows], question[rows])
        return mine, right[rows], mine[pairs[:, 0]] - mine[pairs[:, 1]], weight

    def fitted(rows: Bools, ridge: float) -> Floats:
        of = known(rows)

        def loss(weights: Floats) -> tuple[float, Floats]:
            value, gradient = _loss(weights, *of)
            free = np.append(weights[:-1], 0.0)
            return value + ridge / 2 * float(free @ free), gradient + ridge * free

        start = np.zeros(inputs.shape[1])
        return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B").x)

    held = [fold == place for place in range(int(fold.max()) + 1)]
    crossed = {ridge: [fitted(~rows, ridge) for rows in held] for ridge in _RIDGES}
    losses = {
        ridge: sum(_loss(w, *known(rows))[0] for w, rows in zip(fits, held, strict=True))
        for ridge, fits in crossed.items()
    }
    best = min(losses, key=losses.__getitem__)
    weights = np.array([fitted(np.ones(len(right), bool), best), *crossed[best]])
    per_state = weights[:, :-1] / scale
    return np.column_stack([per_state, weights[:, -1] - per_state @ mean])


def auroc(score: Floats, right: Bools) -> float:
    """Chance that a right attempt scores above a wrong one; ties count half; NaN of one kind alone.

    >>> auroc(np.array([0.1, 0.4, 0.8]), np.array([False, True, True]))
    1.0
    """
    return float("nan") if right.all() or not right.any() else float(roc_auc_score(right, score))


def auroc_within(score: Floats, right: Bools, question: Ints) -> float:
    """Mean of `auroc` over the questions that have a right and a wrong attempt.

    >>> score, right = np.array([0.9, 0.8, 0.1, 0.2]), np.array([True, False, True, False])
    >>> auroc(score, right), auroc_within(score, right, np.array([0, 0, 1, 1]))
    (0.5, 0.5)
    """
    groups = [question == place for place in np.unique(question)]
    mixed = [g for g in groups if len({*right[g].tolist()}) == 2]
    return float(np.mean([auroc(score[g], right[g]) for g in mixed])) if mixed else float("nan")


def expected_calibration_error(probability: Floats, right: Bools, bins: int = 15) -> float:
    """Mean gap between probability and share of right attempts, over bins of equal width.

    Source: Guo et al. 2017 (arXiv 1706.04599), eq. 3.

    >>> expected_calibration_error(np.array([0.25] * 4), np.array([True, False, False, False]))
    0.0
    """
    place = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = np.bincount(place, probability - right, bins)
    return float(np.abs(gaps).sum() / len(right))
