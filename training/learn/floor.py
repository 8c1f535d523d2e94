"""Fits the safe floor of a controller: cross-fitted policies against rules, price by price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from controller.granularity import Process
from controller.policy.floor import Floor
from controller.policy.rules import Rule
from controller.process.lockstep import Floats
from envs.granularity import AnyTable
from training.compare.simulate import play_rules
from training.granularity import learning_of

FOLDS = 3
MANY_QUESTIONS = 1500
"""From so many train questions on, those that are held out say enough without folds."""

FLOOR_PRICES = 12
RULE_QUESTIONS = 1000
"""Enough to tell rules apart; more only takes longer."""

_BEHIND = 0.005
"""How far behind a policy has to be for a rule to decide: a policy starts as the best rules."""

_EPISODES = 3000
"""Of each rule at least, in up to eight orders of the attempts."""

_SCREENING_QUESTIONS, _FINALISTS = 300, 8
"""Questions on which all rules are played, and how many of these go on, per price."""


def folds_for(num_questions: int) -> int:
    """Folds that suit a number of train questions."""
    return 0 if num_questions >= MANY_QUESTIONS else FOLDS


@dataclass(frozen=True, kw_only=True)
class Judged:
    """How rules did on Q questions, and how a policy did that has not learnt from these.

    Attributes:
        rules: (P, rules, Q) utility at each price.
        policy: (P, Q) the same of the policy; None without one.
    """

    rules: Floats
    policy: Floats | None = None


@dataclass(frozen=True, kw_only=True)
class Rulebook:
    """The rules that may be the best at some of P prices, ascending."""

    process: Process
    prices: Floats
    rules: Sequence[Rule]

    @classmethod
    def screened(
        cls, process: Process, prices: Floats, table: AnyTable, known: Floats | None
    ) -> Rulebook:
        """Of all rules those that do best on a sample of questions."""
        learning = learning_of(process)
        rules = learning.rules(process)
        rules += learning.routers(process) if known is not None else ()
        return cls(process=process, prices=prices, rules=rules).shortlist(table, known)

    def shortlist(self, table: AnyTable, known: Floats | None) -> Rulebook:
        """The rules that do best on a sample of Q questions at some price."""
        every = slice(None, None, max(1, len(table) // _SCREENING_QUESTIONS))
        sample = table.take(np.arange(len(table))[every])
        totals = self._utilities(sample, None if known is None else known[every], 2).sum(2)
        best = np.argsort(-totals, axis=1)[:, :_FINALISTS]
        return replace(self, rules=[self.rules[i] for i in np.unique(best)])

    def utilities(self, table: AnyTable, known: Floats | None) -> Floats:
        """Of every rule on every question at every price, (P, rules, Q)."""
        repeats = int(np.clip(_EPISODES // max(len(table), 1), 1, 8))
        return self._utilities(table, known, repeats)

    def _utilities(self, table: AnyTable, known: Floats | None, repeats: int) -> Floats:
        played = play_rules(self.rules, table, self.process, difficulty=known, repeats=repeats)
        return np.array([[p.utility(price) for p in played] for price in self.prices])

    def best(self, utilities: Floats) -> Floor:
        """The best rule at each price, by (P, rules, Q) utilities."""
        best = utilities.sum(2).argmax(1)
        return Floor(
            prices=tuple(self.prices.tolist()),
            rules=tuple(self.rules[rule] for rule in best),
            leads=(0.0,) * len(best),
        )

    def floor(self, held: Sequence[Judged]) -> Floor:
        """Who decides at which price.

        `held` are at least two parts of the questions, one of them with a policy.

        The policy's lead is over the rule that the other parts chose, so that both are judged by
        questions that they were not chosen by; it is smoothed over neighbouring prices.
        """
        totals = np.array([part.rules.sum(2) for part in held])  # (parts, P, rules)
        best, chosen = totals.sum(0).argmax(1), (totals.sum(0) - totals).argmax(2)
        places = np.arange(len(self.prices))
        leads = np.concatenate(
            [
                part.policy - part.rules[places, rule]
                for part, rule in zip(held, chosen, strict=True)
                if part.policy is not None
            ],
            1,
        ).mean(1)  # (P,)
        ahead = np.convolve(np.pad(leads, 1, "edge"), (0.25, 0.5, 0.25), "valid") >= -_BEHIND
        return Floor(
            prices=tuple(self.prices.tolist()),
            rules=tuple(None if ahead[p] else self.rules[rule] for p, rule in enumerate(best)),
            leads=tuple(leads.tolist()),
        )
