"""Fits the safe floor of a controller: its policy against rules, price by price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from controller.granularity import Process
from controller.policy.floor import Floor
from controller.policy.network import Policy
from controller.policy.rules import Rule, RulePolicy
from controller.process.episodes import Episodes
from controller.process.lockstep import Bools, Floats, Ints
from envs.granularity import AnyTable
from training.compare.simulate import Played, play_rules
from training.granularity import learning_of

FLOOR_PRICES = 12
RULE_QUESTIONS = 1000
"""Enough to tell rules apart; more only takes longer."""

_BEHIND, _ERRORS = 0.005, 2
"""How far behind, beyond so many standard errors, a policy is where a rule decides: it starts as
one."""

_EPISODES = 3000
"""Of each rule at least, in up to eight orders of the attempts."""

_SCREENING_QUESTIONS, _FINALISTS = 300, 8
"""Questions on which all rules are played, and how many of these go on, per price."""


@dataclass(frozen=True, kw_only=True)
class Rulebook:
    """The rules that may be the best at some of P prices, ascending."""

    process: Process
    prices: Floats
    rules: Sequence[Rule]

    @classmethod
    def varied(cls, process: Process, prices: Floats, table: AnyTable) -> Rulebook:
        """Of each family the rule that does best at each price on a sample of questions."""
        families = learning_of(process).families(process).values()
        books = (cls(process=process, prices=prices, rules=rules) for rules in families)
        rules = [rule for book in books for rule in book.shortlist(table, None, 1).rules]
        return cls(process=process, prices=prices, rules=rules)

    @classmethod
    def screened(
        cls, process: Process, prices: Floats, table: AnyTable, known: Floats | None
    ) -> Rulebook:
        """Of all rules those that do best on a sample of questions."""
        learning = learning_of(process)
        rules = learning.rules(process)
        rules += learning.routers(process) if known is not None else ()
        return cls(process=process, prices=prices, rules=rules).shortlist(table, known)

    def shortlist(
        self, table: AnyTable, known: Floats | None, finalists: int = _FINALISTS
    ) -> Rulebook:
        """The rules, so many at each price, that do best on a sample of Q questions."""
        every = slice(None, None, max(1, len(table) // _SCREENING_QUESTIONS))
        sample = table.take(np.arange(len(table))[every])
        played = self.play(sample, None if known is None else known[every], 2)
        totals = self._utilities(played).sum(2)
        best = np.argsort(-totals, axis=1)[:, :finalists]
        return replace(self, rules=[self.rules[i] for i in np.unique(best)])

    def utilities(self, table: AnyTable, known: Floats | None) -> Floats:
        """Of every rule on every question at every price, (P, rules, Q)."""
        return self._utilities(self.play(table, known))

    def play(
        self, table: AnyTable, known: Floats | None = None, repeats: int | None = None
    ) -> list[Played]:
        """How every rule does on Q questions, in as many orders of their attempts as suit them."""
        repeats = repeats or int(np.clip(_EPISODES // max(len(table), 1), 1, 8))
        return play_rules(self.rules, table, self.process, difficulty=known, repeats=repeats)

    def _utilities(self, played: Sequence[Played]) -> Floats:
        return np.array([[p.utility(price) for p in played] for price in self.prices])

    def best(self, utilities: Floats) -> Floor:
        """The best rule at each price, by (P, rules, Q) utilities."""
        best = utilities.sum(2).argmax(1)
        return Floor(
            prices=tuple(self.prices.tolist()),
            rules=tuple(self.rules[rule] for rule in best),
            leads=(0.0,) * len(best),
        )

    def floor(self, tuned: Floats, held: Floats, policy: Floats) -> Floor:
        """Who decides at which price.

        The rule that `tuned` chooses is held against the policy by what neither was chosen by,
        leads smoothed over neighbouring prices. Where a rule decides, both chose it.

        Args:
            tuned: (P, rules, Q) utilities on questions that the policy has learnt from.
            held: (P, rules, Q') utilities on others.
            policy: (P, Q') the policy's on these.
        """
        totals = tuned.sum(2), held.sum(2)
        chosen, best = totals[0].argmax(1), sum(totals).argmax(1)
        leads = policy - held[np.arange(len(chosen)), chosen]  # (P, Q')
        padded = np.pad(leads, ((1, 1), (0, 0)), "edge")
        smooth = (padded[:-2] + 2 * leads + padded[2:]) / 4
        error = smooth.std(1) / leads.shape[1] ** 0.5
        behind = smooth.mean(1) + _ERRORS * error < -_BEHIND
        return Floor(
            prices=tuple(self.prices.tolist()),
            rules=tuple(self.rules[rule] if behind[p] else None for p, rule in enumerate(best)),
            leads=tuple(leads.mean(1).tolist()),
        )


class PlanFollower:
    """Follows on each question the plan of the highest worth; see `Policy`.

    It stops where none is worth anything. Where the wording tells nothing another policy decides.
    """

    def __init__(self, plans: Sequence[Rule], otherwise: Policy) -> None:
        self.policies = [*map(RulePolicy, plans), otherwise]

    def act(self, episodes: Episodes, mask: Bools) -> Ints:
        """One allowed action per episode, (N,)."""
        worths, stop = episodes.plan_worths, -1
        followed = np.where(np.isnan(worths).any(1), worths.shape[1], worths.argmax(1))
        followed[worths.max(1) <= 0] = stop
        actions = mask.argmax(1)  # STOP, where it is allowed
        for place in np.setdiff1d(followed, [stop]):
            own = np.flatnonzero(followed == place)
            actions[own] = self.policies[place].act(episodes.part(own), mask[own])
        return actions
