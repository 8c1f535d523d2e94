"""Fits what a question tells before it is asked: how hard it is, and how long its prompt is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial import cKDTree
from scipy.special import logit
from threadpoolctl import threadpool_limits
from torch.nn import functional

from controller.backends.openai.prompt_lengths import fit_prompt_length
from controller.policy.difficulty import Difficulty, Reads
from controller.policy.readouts import Forest, Network, Readout
from controller.process.actions import ActionKind
from controller.process.lockstep import Floats, chance
from controller.process.types import ModelSpec
from envs.questions.table import QuestionTable
from envs.traces.format import TraceSet
from envs.traces.table import TraceTable
from training.learn.forests import grow

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Outcomes:
    """What attempts at Q questions came to.

    Attributes:
        rates: (Q, R) share that is right.
        lengths: (Q, R) natural logarithm of their mean length over that of all questions; None
            where read-outs are to tell nothing about it.
    """

    rates: Floats
    lengths: Floats | None = None

    @cached_property
    def standard_lengths(self) -> tuple[Floats, Floats]:
        """Lengths, (Q, R or 0), at mean 0 and deviation 1, and their deviations."""
        lengths = self.rates[:, :0] if self.lengths is None else self.lengths
        deviations = np.maximum(lengths.std(0), _LEAST_SCALE)
        return lengths / deviations, deviations

    def take(self, rows: NDArray[np.int64]) -> Outcomes:
        """Those of some questions."""
        lengths = None if self.lengths is None else self.lengths[rows]
        return Outcomes(self.rates[rows], lengths)


Fitted = tuple[Difficulty, Floats]
"""A read-out, and the outlook of the questions that it was fitted on, each without it."""

Subsets = Sequence[NDArray[np.int64]]
Fit = Callable[[Features, Outcomes, Subsets], Sequence[Sequence[Readout]]]
"""From prompt features (Q, H), their outcomes and subsets of Q: read-outs to choose from, each as
one per subset."""

_PENALTIES = (1e-2, 1e-1, 1.0, 10.0)

FOLDS = 5
_LEAST_SCALE = 1e-4

# Chosen by the cross-fitted loss on the train split of the bundled traces.
_UNITS = 128
_BATCH = 256
_EPOCHS = 60
_STEPS = (100, 2000)
"""Least and most gradient steps, whatever the number of questions."""
_LEARNING_RATE = 1e-2
_WEIGHT_DECAY = 0.3
_LEAVES = (16, 64, 256)
"""Of the trees of a forest, at most, to choose from."""
_FEATURES = 40
"""Of which a tree takes the best, at a time; all shapes, and some of the words."""
_TREE_QUESTIONS = 10_000
"""Questions that a tree is grown on, at most."""
_SHRINKAGE = 0.02
"""Of chances towards their means: no leaf is sure."""
_MAX_DIRECTIONS = 256
"""Wider prompt states are reduced to so many principal components first."""


def attempt_outcomes(table: TraceTable) -> Outcomes:
    """What the recorded independent attempts came to."""
    tokens = table.attempts["completion_tokens"][table.stream] * (table.stream >= 0)
    means = np.maximum(tokens.sum(2) / table.stream_length, 1.0)  # (Q, R)
    return Outcomes(table.success_rates, np.log(means / means.mean(0)))


def fit_linear(
    features: Features,
    outcomes: Outcomes,
    subsets: Subsets,
    penalties: Sequence[float] = _PENALTIES,
) -> list[list[Network]]:
    """Ridge logistic regressions on shares of right attempts, and ridge regressions on lengths.

    Args:
        features: (Q, H), of the prompts.
        outcomes: of Q questions.
        subsets: questions to fit on, for each read-out.
        penalties: on squared weights, per question, to choose from.
    """
    # Products of a matrix and a vector take BLAS up to ten times as long on several threads.
    with threadpool_limits(1, user_api="blas"):
        known = [(features[rows], outcomes.take(rows)) for rows in subsets]
        return [[_ridge(*part, penalty) for part in known] for penalty in penalties]


def _ridge(features: Features, outcomes: Outcomes, penalty: float) -> Network:
    rates = outcomes.rates
    mean, scale = _moments(features)
    inputs = ((features - mean) / scale).astype(np.float64)  # (Q, H)
    width = inputs.shape[1]

    def fit_rung(target: Floats) -> Floats:
        def loss(parameters: Floats) -> tuple[float, Floats]:
            logits = inputs @ parameters[:width] + parameters[width]
            error = chance(logits) - target
            value = np.mean(np.logaddexp(0, logits) - target * logits)
            gradient = np.append(inputs.T @ error / len(target), error.mean())
            gradient[:width] += penalty * parameters[:width]
            return value + penalty / 2 * np.sum(parameters[:width] ** 2), gradient

        return np.asarray(minimize(loss, np.zeros(width + 1), jac=True, method="L-BFGS-B").x)

    lengths, deviations = outcomes.standard_lengths
    gram = inputs.T @ inputs / len(inputs) + penalty * np.eye(width)
    slopes = np.linalg.solve(gram, inputs.T @ (lengths - lengths.mean(0)) / len(inputs))
    of_lengths = np.vstack([slopes, lengths.mean(0)]) * deviations
    chances = np.stack([fit_rung(target) for target in rates.T], 1)  # (H+1, R)
    columns = np.hstack([chances, of_lengths])
    return Network(
        mean=mean,
        scale=scale,
        weights=(columns[:width].astype(np.float32),),
        biases=(columns[width].astype(np.float32),),
    )


def fit_networks(features: Features, outcomes: Outcomes, subsets: Subsets) -> list[list[Network]]:
    """Networks with one hidden layer, all trained at once; see `fit_linear` for arguments."""
    mean, scale = _moments(features)
    inputs = torch.from_numpy((features - mean) / scale)  # (Q, H)
    directions = _directions(inputs)  # (H, D)
    lengths, deviations = outcomes.standard_lengths
    inputs, rungs = inputs @ directions, outcomes.rates.shape[1]
    targets = torch.from_numpy(np.hstack([outcomes.rates, lengths]).astype(np.float32))
    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor([len(rows) for rows in subsets])[:, None]
    members = torch.nn.utils.rnn.pad_sequence(
        [torch.from_numpy(rows) for rows in subsets], batch_first=True
    )  # (M, most)

    def layer(inputs: int, outputs: int) -> list[torch.Tensor]:
        bound = inputs**-0.5
        shapes = (len(subsets), inputs, outputs), (len(subsets), 1, outputs)
        return [
            ((torch.rand(shape, generator=generator) * 2 - 1) * bound).requires_grad_()
            for shape in shapes
        ]

    first, last = layer(inputs.shape[1], _UNITS), layer(_UNITS, targets.shape[1])
    optimizer = torch.optim.AdamW(
        [*first, *last], _LEARNING_RATE, weight_decay=_WEIGHT_DECAY, fused=True
    )
    # One random number holds coins for eight units.
    numbers = torch.empty(len(subsets) * _BATCH * _UNITS // 8, dtype=torch.int64)
    least, most = _STEPS
    steps = min(max(_EPOCHS * len(features) // _BATCH, least), most)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = _LEARNING_RATE * (1 - step / steps)
        drawn = torch.rand((len(subsets), _BATCH), generator=generator) * counts
        rows = members.gather(1, drawn.long())  # (M, B)
        units = torch.baddbmm(first[1], inputs[rows], first[0]).relu()
        coins = numbers.random_(generator=generator).view(torch.uint8).view(units.shape) & 1
        logits = torch.baddbmm(last[1], 2 * units * coins, last[0])  # a dropout of one half
        wanted = targets[rows]  # (M, B, R or 2R)
        loss = functional.binary_cross_entropy_with_logits(logits[..., :rungs], wanted[..., :rungs])
        if lengths.size:
            loss = loss + functional.mse_loss(logits[..., rungs:], wanted[..., rungs:]) / 2
        optimizer.zero_grad()
        # Each network's gradient as if it were alone.
        (loss * len(subsets)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    units = torch.from_numpy(np.hstack([np.ones(rungs), deviations]).astype(np.float32))
    weight, bias = (tensor.detach() for tensor in first)
    weight_out, bias_out = (tensor.detach() * units for tensor in last)
    networks = [
        Network(
            mean=mean,
            scale=scale,
            weights=((directions @ weight[m]).numpy(), weight_out[m].numpy()),
            biases=(bias[m, 0].numpy(), bias_out[m, 0].numpy()),
        )
        for m in range(len(subsets))
    ]
    return [networks]


def _moments(features: Features) -> tuple[Features, Features]:
    """Mean and scale of each feature; of those that never vary, one that makes them vanish."""
    scale = features.std(0)
    return features.mean(0), np.where(scale > _LEAST_SCALE, scale, np.float32(1e6))


def _directions(features: torch.Tensor) -> torch.Tensor:
    """Orthonormal columns that keep most of the variance; all of it if there are few features."""
    if features.shape[1] <= _MAX_DIRECTIONS:
        return torch.eye(features.shape[1])
    rows: torch.Tensor = torch.linalg.svd(features, full_matrices=False).Vh
    return rows[:_MAX_DIRECTIONS].T


def fold_of(num_questions: int, folds: int) -> NDArray[np.int64]:
    """Fold of each question, (Q,): as large as one another, and always the same."""
    return np.random.default_rng(0).permutation(num_questions) % folds


def cross_fit(
    features: Features, outcomes: Outcomes, fit: Fit, fold: NDArray[np.int64] | None = None
) -> tuple[Readout, Floats]:
    """A read-out fitted on all n rows, and the outlook of each by one fitted without its fold.

    Of several to choose from, that of the least log loss by these outlooks. Features are (n, H);
    folds, (n,) in 0..4, are drawn where None are given.
    """
    if fold is None:
        fold = fold_of(len(features), FOLDS)
    outside = [np.flatnonzero(fold != part) for part in range(FOLDS)]
    crossed = []
    for whole, *parts in fit(features, outcomes, [np.arange(len(features)), *outside]):
        outlook = np.empty((len(features), whole.num_outputs))
        for part, readout in enumerate(parts):
            outlook[fold == part] = readout(features[fold == part])
        crossed.append((whole, outlook))
    return min(crossed, key=lambda entry: _loss(entry[1], outcomes))


def fit_forests(features: Features, outcomes: Outcomes, subsets: Subsets) -> list[list[Forest]]:
    """Extremely randomised trees of three sizes; see `fit_linear` for arguments."""
    forests = [_trees(features[rows], outcomes.take(rows)) for rows in subsets]
    return [list(of_size) for of_size in zip(*forests, strict=True)]


def _trees(features: Features, outcomes: Outcomes) -> list[Forest]:
    """A forest for each number of leaves.

    Where a tree splits first, it gains most: one of few leaves is the beginning of one of many.
    """
    rates = outcomes.rates
    lengths = rates[:, :0] if outcomes.lengths is None else outcomes.lengths
    forest = grow(
        features,
        np.hstack([rates, lengths]),
        min(len(features), _TREE_QUESTIONS),
        max_leaf_nodes=_LEAVES[-1],
        max_features=min(1.0, _FEATURES / features.shape[1]),
    )
    grown = [tree.tree_ for tree, _ in forest]
    return [_beginning(grown, leaves, rates.mean(0), features.shape[1]) for leaves in _LEAVES]


def _beginning(grown: Sequence[Any], most_leaves: int, mean: Floats, num_inputs: int) -> Forest:
    """The trees as they were at so many leaves; chances move a little towards the mean (R,)."""
    nodes, roots, leaves = [], [], []
    num_nodes = num_leaves = 0
    for tree in grown:
        count = min(tree.node_count, 2 * most_leaves - 1)
        left, right = tree.children_left[:count], tree.children_right[:count]
        ends = (left < 0) | (left >= count)
        rows = num_leaves + np.cumsum(ends) - 1
        low, high = (np.where(ends, rows, num_nodes + child) for child in (left, right))
        feature = np.where(ends, -1, tree.feature[:count])
        threshold = np.where(ends, 0, tree.threshold[:count])
        nodes.append(np.stack([feature, threshold, low, high], 1))
        roots.append(num_nodes)
        leaves.append(tree.value[:count][ends].reshape(ends.sum(), -1))
        num_nodes, num_leaves = num_nodes + count, num_leaves + len(leaves[-1])
    values = np.concatenate(leaves)
    chances = values[:, : len(mean)]
    chances += _SHRINKAGE * (mean - chances)
    return Forest(
        nodes=np.concatenate(nodes).astype(np.float32),
        roots=np.array(roots, np.float32),
        leaves=values.astype(np.float32),
        num_inputs=num_inputs,
        num_rungs=len(mean),
    )


TREES: Sequence[tuple[Reads, Fit]] = (("shape", fit_forests), ("words", fit_forests))
"""What the wording is read by where questions are many; of each the best one."""

FREE: Sequence[tuple[Reads, Fit]] = (("words", fit_linear), ("shape", fit_networks), *TREES)
"""What it is read by, however many there are; of each the best one."""

_WORTH = 0.01
"""Log loss that a prompt state must save."""

_STACK_PENALTY = 0.01
"""On how far weights of read-outs are from equal ones, per question, squared."""


@dataclass(frozen=True, kw_only=True)
class Readings:
    """Single read-outs of the same questions.

    Attributes:
        wording: of the wording, the linear one first; empty where wordings are not known or the
            questions are fewer than folds.
        line, network: of prompt states; None where these were not recorded.
    """

    wording: Sequence[Fitted]
    line: Fitted | None
    network: Fitted | None

    def take(self, rows: NDArray[np.int64]) -> Readings:
        """The same read-outs, and what they tell of some of the questions they were fitted on."""
        return Readings(
            wording=[(readout, outlook[rows]) for readout, outlook in self.wording],
            line=self.line and (self.line[0], self.line[1][rows]),
            network=self.network and (self.network[0], self.network[1][rows]),
        )


def fit_readings(prompts: QuestionTable, outcomes: Outcomes) -> Readings:
    """All single read-outs, which take most of the time that fitting takes."""
    return Readings(
        wording=_read_wording(prompts, outcomes, FREE),
        line=fit_readout(prompts, outcomes, "prompt", fit_linear),
        network=fit_readout(prompts, outcomes, "prompt", fit_networks),
    )


def _read_wording(
    prompts: QuestionTable, outcomes: Outcomes, by: Sequence[tuple[Reads, Fit]]
) -> list[Fitted]:
    fitted = (fit_readout(prompts, outcomes, reads, fit) for reads, fit in by)
    return [fit for fit in fitted if fit is not None]


def fit_plans(prompts: QuestionTable, right: Floats, cost: Floats) -> Fitted:
    """`Difficulty.plans` and the outlook of these questions, each by read-outs without it.

    Following K plans at Q questions was right and cost so much, (Q, K) each. What it costs is told
    as its mean, as a share of the most: the mean of logarithms would be that of another quantity,
    and lower for plans that cost little or much.
    """
    outcomes = Outcomes(np.hstack([right, cost / cost.max(0)]))
    return stack(_read_wording(prompts, outcomes, TREES), outcomes)


def fit_difficulty(
    prompts: QuestionTable, outcomes: Outcomes, read: Readings | None = None
) -> Fitted | None:
    """Read-out for other questions, and the outlook of these ones.

    `read` are `fit_readings` of these questions, where that has been done.

    Whoever learns from questions that the read-out was fitted on would trust it too much, so
    the outlook of these comes from five read-outs, each fitted without a fifth of them. A prompt
    state, which the small model has to be paid for, has to be worth it by log loss on these.

    Returns:
        The read-out and `Difficulty.outlook` of these questions, or None if their wordings are not
        known or they are fewer than folds.
    """
    read = fit_readings(prompts, outcomes) if read is None else read
    if not read.wording:
        return None
    readout, outlook = stack(read.wording, outcomes)
    if read.line is not None and read.network is not None:
        paid = min((read.line, read.network), key=lambda fit: _loss(fit[1], outcomes))
        paying, known = stack([*read.wording, paid], outcomes)
        if _loss(known, outcomes) < _loss(outlook, outcomes) - _WORTH:
            readout, outlook = paying, known
    shapes = prompts.features("shape")
    assert shapes is not None  # Whatever is read, the wording is.
    return replace(readout, low=shapes.min(0), high=shapes.max(0)), outlook


def stack(fitted: Sequence[Fitted], outcomes: Outcomes) -> Fitted:
    """A weighted sum of single read-outs, by the cross-fitted outlooks of each.

    Source: Breiman 1996, "Stacked regressions": weights are not negative.
    """
    outlooks = np.stack([outlook for _, outlook in fitted])  # (M, Q, R or 2R)
    lengths, deviations = outcomes.standard_lengths
    targets = np.hstack([outcomes.rates, lengths])
    units = np.hstack([np.ones(outcomes.rates.shape[1]), deviations])
    weights, bias = np.empty(outlooks.shape[::2]), np.empty(len(units))
    for output, unit in enumerate(units):
        is_chance = output < outcomes.rates.shape[1]
        found = _weigh(outlooks[..., output].T / unit, targets[:, output], is_chance)
        weights[:, output], bias[output] = found[:-1], found[-1] * unit
    readout = Difficulty(
        readouts=tuple(member for single, _ in fitted for member in single.readouts),
        reads=tuple(reads for single, _ in fitted for reads in single.reads),
        weights=weights.astype(np.float32),
        bias=bias.astype(np.float32),
    )
    return readout, np.einsum("mqr,mr->qr", outlooks, weights) + bias


def _weigh(inputs: Floats, targets: Floats, is_chance: bool) -> Floats:
    """Weights of M inputs, (Q, M), and an offset after them, (M + 1,), least log or square loss."""
    count = inputs.shape[1]
    inputs, equal = np.column_stack([inputs, np.ones(len(inputs))]), np.full(count + 1, 1 / count)
    equal[count] = 0.0

    def loss(weights: Floats) -> tuple[float, Floats]:
        values, far = inputs @ weights, weights - equal
        if is_chance:
            losses = np.logaddexp(0, values) - targets * values
            error = chance(values) - targets
        else:
            error = values - targets
            losses = error**2 / 2
        penalised = losses.mean() + _STACK_PENALTY * far @ far
        return float(penalised), inputs.T @ error / len(error) + 2 * _STACK_PENALTY * far

    bounds = [(0.0, None)] * count + [(None, None)]
    return np.asarray(minimize(loss, equal, jac=True, method="L-BFGS-B", bounds=bounds).x)


def fit_readout(
    prompts: QuestionTable, outcomes: Outcomes, reads: Reads, fit: Fit
) -> Fitted | None:
    """The best read-out of one kind from given features; see `cross_fit` and `fit_difficulty`."""
    features = prompts.features(reads)
    if features is None or len(features) < FOLDS:
        return None
    readout, outlook = cross_fit(features, outcomes, fit)
    return Difficulty.alone(readout, reads), outlook


def _loss(outlook: Floats, outcomes: Outcomes) -> float:
    """Log loss of the chances of being right."""
    rates = outcomes.rates
    log_odds = outlook[:, : rates.shape[1]]
    return float(np.mean(np.logaddexp(0, log_odds) - rates * log_odds))


def _features(table: TraceTable) -> Features | None:
    """Prompt states, where they were recorded, else words."""
    states = table.features("prompt")
    return table.features("words") if states is None else states


def neighbours(known: TraceTable, new: TraceTable, *, k: int = 30) -> tuple[Floats, Floats] | None:
    """Log-odds of both tables' questions by the success of their nearest known ones.

    `known` are Q questions, none a neighbour of itself, and `new` are Q' others.

    Returns:
        (Q, R) and (Q', R), or None if there are no prompts that could be near each other.
    """
    ours, theirs = _features(known), _features(new)
    if ours is None or theirs is None or ours.shape[1] != theirs.shape[1]:
        return None
    mean, scale = _moments(ours)
    points, others = (ours - mean) / scale, (theirs - mean) / scale
    rates, tree, k = known.success_rates, cKDTree(points), min(k, len(known) - 1)
    inside = tree.query(points, k + 1)[1][:, 1:]
    outside = tree.query(others, k)[1]
    inside_rates, outside_rates = (
        (rates[places].sum(1) + 0.5) / (k + 1) for places in (inside, outside)
    )
    return logit(inside_rates), logit(outside_rates)


def with_prompt_lengths(traces: TraceSet, models: Sequence[ModelSpec]) -> tuple[ModelSpec, ...]:
    """The models with `prompt_length`, as far as wordings and counts of the train split tell."""
    if "question" not in traces.questions.column_names:
        return tuple(models)
    rows = traces.questions.select(["question_id", "question", "split"]).to_pylist()
    long = {
        row["question_id"]: len(row["question"])
        for row in rows
        if row["question"] and row["split"] == "train"
    }
    counted: dict[str, dict[str, int]] = {model.name: {} for model in models}
    for batch in traces.scan(["question_id", "model", "action", "prompt_tokens"]):
        for question_id, model, action, tokens in zip(
            *(column.to_pylist() for column in batch.columns), strict=True
        ):
            if action != ActionKind.REVISE and tokens and question_id in long and model in counted:
                counted[model][question_id] = tokens
    lines = {
        name: fit_prompt_length([(long[question], tokens) for question, tokens in found.items()])
        for name, found in counted.items()
    }
    return tuple(replace(model, prompt_length=lines[model.name]) for model in models)
