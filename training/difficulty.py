"""Fits the read-out that tells from a prompt state how hard a question is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial import cKDTree
from scipy.special import logit

from controller.difficulty import Difficulty
from envs.table import TraceTable

Floats = NDArray[np.float64]

_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)


def success_rates(table: TraceTable) -> Floats:
    """Share of recorded independent attempts that are right, (Q, R)."""
    return np.asarray(table.right(table.stream).sum(2) / table.stream_length)


def _fit(hidden: NDArray[np.float32], rates: Floats, penalty: float) -> Difficulty:
    """Ridge logistic regression on shares of right attempts, one output per rung."""
    mean, scale = hidden.mean(0), hidden.std(0) + 1e-6
    features = ((hidden - mean) / scale).astype(np.float64)  # (Q, H)
    width = features.shape[1]

    def fit_rung(target: Floats) -> Floats:
        def loss(parameters: Floats) -> tuple[float, Floats]:
            logits = features @ parameters[:width] + parameters[width]
            error = 1 / (1 + np.exp(-logits)) - target
            value = np.mean(np.logaddexp(0, logits) - target * logits)
            gradient = np.append(features.T @ error / len(target), error.mean())
            gradient[:width] += penalty * parameters[:width]
            return value + penalty / 2 * np.sum(parameters[:width] ** 2), gradient

        return np.asarray(minimize(loss, np.zeros(width + 1), jac=True, method="L-BFGS-B").x)

    columns = np.stack([fit_rung(rates[:, rung]) for rung in range(rates.shape[1])], 1)  # (H+1, R)
    return Difficulty(
        weight=columns[:width].astype(np.float32),
        bias=columns[width].astype(np.float32),
        mean=mean.astype(np.float32),
        scale=scale.astype(np.float32),
    )


def _log_loss(logits: Floats, rates: Floats) -> float:
    return float(np.mean(np.logaddexp(0, logits) - rates * logits))


def fit_difficulty(
    train: TraceTable, validation: TraceTable, *, folds: int = 5
) -> tuple[Difficulty, Floats] | None:
    """Read-out for use on other questions, and log-odds for the train questions.

    A policy that trains on questions the read-out was fitted on would trust it too much,
    so each train question's log-odds come from a read-out fitted without its fold.

    Args:
        train: questions to fit on.
        validation: questions that choose the penalty.
        folds: parts of the train split.

    Returns:
        The read-out and (Q, R) log-odds of the train questions, or None if the traces
        hold no prompt states.
    """
    if train.hidden is None or validation.hidden is None:
        return None
    rates, held_out = success_rates(train), success_rates(validation)
    fitted = {penalty: _fit(train.hidden, rates, penalty) for penalty in _PENALTIES}
    losses = {p: _log_loss(d.log_odds(validation.hidden), held_out) for p, d in fitted.items()}
    penalty = min(losses, key=lambda p: losses[p])
    fold = np.random.default_rng(0).permutation(len(train)) % folds
    log_odds = np.empty_like(rates)  # (Q, R)
    for part in range(folds):
        inside = fold == part
        readout = _fit(train.hidden[~inside], rates[~inside], penalty)
        log_odds[inside] = readout.log_odds(train.hidden[inside])
    return fitted[penalty], log_odds


def neighbours(known: TraceTable, new: TraceTable, *, k: int = 30) -> tuple[Floats, Floats]:
    """Log-odds of both tables' questions by the success of their nearest known ones.

    Args:
        known: questions with prompt states, Q; a question is no neighbour of itself.
        new: other questions, Q'.
        k: neighbours.

    Returns:
        (Q, R) and (Q', R).
    """
    assert known.hidden is not None
    assert new.hidden is not None
    mean, scale = known.hidden.mean(0), known.hidden.std(0) + 1e-6
    points, others = (known.hidden - mean) / scale, (new.hidden - mean) / scale
    rates, tree = success_rates(known), cKDTree(points)
    inside = tree.query(points, k + 1)[1][:, 1:]
    outside = tree.query(others, k)[1]
    inside_rates, outside_rates = (
        (rates[places].sum(1) + 0.5) / (k + 1) for places in (inside, outside)
    )
    return logit(inside_rates), logit(outside_rates)
