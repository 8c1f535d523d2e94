"""The Bayes-optimal policy of a `SyntheticFamily`, and any policy's exact utility there.

Source: backward induction on the belief state, as in Smallwood and Sondik 1973, "The
Optimal Control of Partially Observable Markov Processes over a Finite Horizon". Values are
kept multiplied by the probability of being in the state (`BeliefTree.reach`), which makes
the expectation over what happens next a plain sum over the children.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.errors import ConfigError, IllegalActionError
from controller.policy.network import Policy
from controller.process.actions import ActionKind
from controller.process.episodes import Episodes
from tests.learning.belief import BeliefTree, Floats, Ints
from tests.learning.synthetic import SyntheticFamily

CHOICES = (ActionKind.STOP, ActionKind.SAMPLE, ActionKind.ESCALATE)
"""What can be done; choice 1 + r makes an attempt on rung r."""


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """The best policy that sees what a trained one sees, at P prices; a `Policy` itself.

    Attributes:
        tree: states of the problem.
        prices: (P,) accuracy per unit cost.
        value: (P,) its expected utility, accuracy - price x cost.
        choices: (B, H, P) position in `CHOICES` of what it does; the cheapest on a tie.
    """

    tree: BeliefTree
    prices: Floats
    value: Floats
    choices: Ints

    def act(self, episodes: Episodes, mask: NDArray[np.bool_]) -> Ints:
        """The best action per episode; see `Policy.act`.

        Raises:
            ConfigError: an episode has a price that was not solved for.
        """
        price = np.abs(episodes.price[:, None] / self.prices - 1).argmin(1)  # (N,)
        wrong = ~np.isclose(self.prices[price], episodes.price, rtol=1e-9, atol=0)
        if wrong.any():
            raise ConfigError(
                f"price: expected one of {self.prices.tolist()}, found "
                f"{float(episodes.price[wrong][0])}"
            )
        hint = np.zeros_like(price)  # (N,)
        if self.tree.family.num_hints > 1:
            signs = self.tree.family.hint_difficulty  # (H, 2)
            hint = np.abs(episodes.difficulty[:, None] - signs).sum(-1).argmin(1)
        chosen = self.choices[self.tree.locate(episodes), hint, price]
        return np.asarray(_action_of_choice(episodes)[chosen])


def solve(family: SyntheticFamily, prices: Floats) -> Optimum:
    """The optimum for all prices at once.

    Args:
        family: the problem.
        prices: (P,) positive, accuracy per unit cost.

    Raises:
        ConfigError: no prices, or one that is not positive.
    """
    prices = np.asarray(prices, np.float64)
    if prices.ndim != 1 or not len(prices) or not (prices > 0).all():
        raise ConfigError(f"prices: expected positive numbers, found {prices.tolist()}")
    tree = BeliefTree.build(family)
    values = np.zeros((len(tree), family.num_hints, len(prices)))  # (B, H, P)
    choices = np.zeros(values.shape, np.int64)
    for layer in reversed(tree.layers):
        worth = _worth(tree, layer, prices, values, values)  # (b, 3, H, P)
        choices[layer] = worth.argmax(1)
        values[layer] = worth.max(1)
    value = values[0].sum(0) - prices * _cost_of_reading(family)
    return Optimum(tree=tree, prices=prices, value=value, choices=choices)


def evaluate(tree: BeliefTree, policy: Policy, prices: Floats) -> Floats:
    """Exact expected utility of a policy, without sampling, (P,).

    The policy may look at everything that `Episodes` keeps about an episode, as long as it
    follows from the price, the hint, the state and whether the last attempt agreed with
    the leader; all of `OBSERVATION_NAMES` does in these problems.

    Args:
        tree: states of the problem.
        policy: called on every state, hint and price.
        prices: (P,) accuracy per unit cost.

    Raises:
        IllegalActionError: the policy chose an action that its mask forbids.
    """
    choices = _choices_of(tree, policy, prices)  # (B, 2, H, P)
    values = np.zeros(choices.shape)
    for layer in reversed(tree.layers):
        worth = _worth(tree, layer, prices, values[:, 0], values[:, 1])  # (b, 3, H, P)
        values[layer] = np.take_along_axis(worth, choices[layer], axis=1)
    return np.asarray(values[0, 0].sum(0) - prices * _cost_of_reading(tree.family))


def _worth(
    tree: BeliefTree, layer: slice, prices: Floats, after: Floats, after_agreement: Floats
) -> Floats:
    """Value of each choice in a layer's states, given those of the next, (b, 3, H, P).

    Args:
        tree: states of the problem.
        layer: b states.
        prices: (P,).
        after: (B, H, P) values after an attempt that disagrees with the leader.
        after_agreement: (B, H, P) values after one that agrees.
    """
    children = tree.children[layer]  # (b, 2, K)
    no_leader = layer.start == 0
    worth = after[children[..., 1:]].sum(2)  # (b, 2, H, P)
    worth += (after if no_leader else after_agreement)[children[..., 0]]
    paid = tree.cost[layer, :, None, None] * tree.reach[layer, None, :, None] * prices
    worth = np.where((children[..., 0] >= 0)[..., None, None], worth - paid, -np.inf)
    stop = np.broadcast_to(tree.right[layer, None, :, None], worth[:, :1].shape)
    return np.concatenate([stop, worth], axis=1)


def _choices_of(tree: BeliefTree, policy: Policy, prices: Floats) -> Ints:
    """What a policy does, (B, 2, H, P), by whether the last attempt agreed."""
    family, episodes = tree.family, tree.episodes()
    state, agreed = np.array(list(tree.histories), np.int64).T  # (n,)
    choices = np.zeros((len(tree), 2, family.num_hints, len(prices)), np.int64)
    choice_of_action = np.full(len(episodes.config.actions), -1)
    choice_of_action[_action_of_choice(episodes)] = np.arange(len(CHOICES))
    mask = episodes.mask()
    for h, difficulty in enumerate(family.hint_difficulty):
        # Unless prompts are read, their difficulty stays unknown.
        episodes.difficulty[:] = difficulty if episodes.config.reads_prompt else np.nan
        for p, price in enumerate(prices):
            episodes.price[:] = price
            actions = policy.act(episodes, mask)  # (n,)
            if not mask[np.arange(len(mask)), actions].all():
                raise IllegalActionError(
                    f"{type(policy).__name__}: expected actions that the mask allows, found others"
                )
            choices[state, agreed, h, p] = choice_of_action[actions]
    return choices


def _action_of_choice(episodes: Episodes) -> Ints:
    actions = episodes.config.actions
    return np.array([actions.position(kind) for kind in CHOICES])


def _cost_of_reading(family: SyntheticFamily) -> float:
    """Cost that an episode has before its first attempt."""
    config = family.config()
    return config.cost.weights[0] * family.prompt_tokens if config.reads_prompt else 0.0
