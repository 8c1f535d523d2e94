"""The safe floor: rules that stand in for a policy at prices where it was not shown to be ahead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from controller.errors import CheckpointError
from controller.policy.network import Policy
from controller.policy.rules import RULES, AnyRule, RulePolicy, lacks_arms
from controller.process.episodes import Episodes
from controller.process.lockstep import Bools, Floats, Ints

_KIND, _INNER = "rule", "of"
"""Of a rule's JSON: its class, and the rule for two arms that `On` plays."""


@dataclass(frozen=True, kw_only=True)
class Floor:
    """Who decides at which price.

    Attributes:
        prices: (P,) accuracy per unit cost, ascending; a price belongs to the nearest of them
            on a log scale.
        rules: at each of them the rule that decides, None for the policy.
        leads: at each of them the policy's mean utility on held-out questions less the rule's.
    """

    prices: tuple[float, ...]
    rules: tuple[AnyRule | None, ...]
    leads: tuple[float, ...]

    def __post_init__(self) -> None:
        sizes = {len(self.prices), len(self.rules), len(self.leads)}
        rising = all(0 < a < b for a, b in zip(self.prices, self.prices[1:], strict=False))
        if sizes != {len(self.prices)} or not self.prices or not rising:
            raise CheckpointError(
                "floor: expected ascending prices with a rule and a lead each, found "
                f"{self.prices}, {len(self.rules)} rules and {len(self.leads)} leads"
            )

    def __str__(self) -> str:
        if not self.share:
            return "the policy decides at every price"
        dealt = zip(self.prices, self.rules, strict=True)
        ruled = ", ".join(f"{rule} at {price:.1e}" for price, rule in dealt if rule is not None)
        return f"held-out questions do not show the policy ahead at every price; instead: {ruled}"

    @property
    def share(self) -> float:
        """Share of the prices at which a rule decides."""
        return sum(rule is not None for rule in self.rules) / len(self.rules)

    def places(self, prices: Floats) -> Ints:
        """Which of its prices is nearest to each of some, same shape."""
        return np.asarray(np.searchsorted(self._borders, np.log(prices)))

    @cached_property
    def _borders(self) -> Floats:
        """Between neighbouring prices, (P - 1,), as logarithms."""
        logs = np.log(self.prices)
        return np.asarray((logs[1:] + logs[:-1]) / 2)

    def rule_at(self, price: float) -> AnyRule | None:
        """The rule that decides at a price; None for the policy."""
        return self.rules[int(self.places(np.array(price)))]

    def to_json(self) -> dict[str, Any]:
        """Plain lists; rules by class and settings."""
        rules = [rule and _plain(rule) for rule in self.rules]
        return {"prices": list(self.prices), "rules": rules, "leads": list(self.leads)}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any], arms: Sequence[str]) -> Floor:
        """From what `to_json` gave, for a menu of these arms.

        Raises:
            CheckpointError: it names unknown rules or arms, or has other lengths than prices.
        """
        return cls(
            prices=tuple(float(price) for price in entry["prices"]),
            rules=tuple(rule and _rule(rule, arms) for rule in entry["rules"]),
            leads=tuple(float(lead) for lead in entry["leads"]),
        )


def _plain(rule: AnyRule) -> dict[str, Any]:
    """Class and settings; those of a rule on two arms name that rule's likewise."""
    settings = {k: _plain(v) if k == _INNER else v for k, v in vars(rule).items()}
    return {_KIND: type(rule).__name__, **settings}


def _rule(entry: Mapping[str, Any], arms: Sequence[str]) -> AnyRule:
    settings = {name: value for name, value in entry.items() if name != _KIND}
    kind = RULES.get(entry[_KIND])
    if kind is None or set(settings) != set(kind.__dataclass_fields__):
        raise CheckpointError(f"floor: expected one of {sorted(RULES)}, found {dict(entry)}")
    return kind(**{name: _setting(name, value, arms) for name, value in settings.items()})


def _setting(name: str, value: Any, arms: Sequence[str]) -> Any:
    if name == _INNER:
        return _rule(value, arms)
    named = {"first": [value], "then": [value], "arms": value}.get(name)
    if named is None and isinstance(value, int | float):
        return value
    if not isinstance(named, list) or not {*map(str, named)} <= {*arms}:
        raise CheckpointError(
            f"floor: expected one of {sorted(RULES)} with numbers and arms among {list(arms)}, "
            f"found {name} {value!r}"
        )
    return tuple(value) if isinstance(value, list) else value


class FlooredPolicy:
    """A policy, and where their arms are to be had the rules of its floor; see `Policy`."""

    def __init__(self, policy: Policy, floor: Floor) -> None:
        self.policy, self.floor = policy, floor

    def act(self, episodes: Episodes, mask: Bools) -> Ints:
        """One allowed action per episode, (N,)."""
        places = self.floor.places(episodes.price)
        actions = np.zeros(len(mask), np.int64)
        for place in np.unique(places):
            rule, own = self.floor.rules[place], np.flatnonzero(places == place)
            if rule is None:
                decided = [(own, self.policy)]
            else:
                lacking = lacks_arms(rule, self._part(episodes, own), mask[own])
                decided = [(own[lacking], self.policy), (own[~lacking], RulePolicy(rule))]
            for rows, policy in decided:
                if len(rows):
                    actions[rows] = policy.act(self._part(episodes, rows), mask[rows])
        return actions

    @staticmethod
    def _part(episodes: Episodes, rows: Ints) -> Episodes:
        return episodes if len(rows) == episodes.num_episodes else episodes.part(rows)
