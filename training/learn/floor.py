"""Fits the safe floor of a controller: cross-fitted policies against rules, price by price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.granularity import Process
from controller.policy.floor import Floor
from controller.policy.network import Policy
from controller.policy.rules import Rule, RulePolicy
from envs.granularity import AnyTable
from training.compare.simulate import Played, play, play_each
from training.granularity import learning_of

Floats = NDArray[np.float64]

FOLDS = 3
MANY_QUESTIONS = 1500
"""From so many train questions on, those that are held out say enough without folds."""

FLOOR_PRICES = 12
RULE_QUESTIONS = 1000
"""Enough to tell rules apart; more only takes longer."""

_EPISODES = 3000
"""Of each rule at least, in up to eight orders of the attempts."""

_SCREENING_QUESTIONS, _FINALISTS = 300, 8
"""Questions on which all rules are played, and how many of these go on, per price."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Questions that rules are chosen by, and how a policy did that has not learnt from them.

    Attributes:
        table: Q questions.
        known: (Q, R) log-odds of their difficulty; None when unknown.
        played: by price; empty without such a policy.
    """

    table: AnyTable
    known: Floats | None
    played: Sequence[Played] = ()

    def every(self, step: int) -> HeldOut:
        """One question in so many."""
        rows = np.arange(0, len(self.table), step)
        return HeldOut(
            table=self.table.take(rows), known=None if self.known is None else self.known[rows]
        )


def folds_for(num_questions: int) -> int:
    """Folds that suit a number of train questions."""
    return 0 if num_questions >= MANY_QUESTIONS else FOLDS


def play_at(
    policy: Policy, table: AnyTable, process: Process, known: Floats | None, prices: Floats
) -> list[Played]:
    """How a policy does at each of some prices."""
    return [play(policy, table, process, price=p, difficulty=known, repeats=4) for p in prices]


def _screened(held: Sequence[HeldOut], process: Process, prices: Floats) -> list[Rule]:
    """Of all rules those that may be the best at some price, judged by a sample of questions."""
    learning, reads = learning_of(process), all(part.known is not None for part in held)
    rules = [rule for family in learning.families(process).values() for rule in family]
    rules += learning.routers if reads else ()
    every = max(1, sum(len(part.table) for part in held) // _SCREENING_QUESTIONS)
    sample = [part.every(every) for part in held]
    totals = sum(_rule_utilities(rules, part, process, prices, 2).sum(2) for part in sample)
    best = np.argsort(-np.asarray(totals), axis=1)[:, :_FINALISTS]
    return [rules[i] for i in np.unique(best)]


def fit_floor(held: Sequence[HeldOut], process: Process, prices: Floats) -> Floor:
    """Who decides at which price.

    The policy's lead is over the rule that the other parts chose, so that both are judged by
    questions that they were not chosen by; it is smoothed over neighbouring prices.

    Args:
        held: at least two parts of the questions, one of them with a policy.
        process: the decision process.
        prices: (P,), those of `HeldOut.played`.
    """
    rules = _screened(held, process, prices)
    repeats = int(np.clip(_EPISODES // sum(len(part.table) for part in held), 1, 8))
    utilities = [_rule_utilities(rules, part, process, prices, repeats) for part in held]
    totals = np.array([utility.sum(2) for utility in utilities])  # (parts, P, rules)
    best, chosen = totals.sum(0).argmax(1), (totals.sum(0) - totals).argmax(2)
    places = np.arange(len(prices))
    lead = np.concatenate(
        [
            np.array([p.utility(price) for p, price in zip(part.played, prices, strict=True)])
            - utility[places, rule]
            for part, utility, rule in zip(held, utilities, chosen, strict=True)
            if part.played
        ],
        1,
    )  # (P, questions)
    leads = lead.mean(1)
    ahead = np.convolve(np.pad(leads, 1, "edge"), (0.25, 0.5, 0.25), "valid") >= 0
    return Floor(
        prices=tuple(prices.tolist()),
        rules=tuple(None if ahead[p] else rules[best[p]] for p in range(len(prices))),
        leads=tuple(float(lead) for lead in leads),
    )


def _rule_utilities(
    rules: Sequence[Rule], part: HeldOut, process: Process, prices: Floats, repeats: int
) -> Floats:
    """Of every rule on every question, (P, rules, Q)."""
    policies = [RulePolicy(rule) for rule in rules]
    played = play_each(policies, part.table, process, difficulty=part.known, repeats=repeats)
    return np.array([[p.utility(price) for p in played] for price in prices])
