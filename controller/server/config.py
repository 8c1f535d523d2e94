"""How a service is set up; free of numpy, so that the command line starts quickly."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from controller.backends.places import LOOPBACK, NamedModels, Upstream
from controller.errors import ConfigError, check_range
from controller.process.terms import Terms

MAX_DEADLINE_S = 600.0
"""Longest that a client may wait."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What callers may spend, whatever the policy would like to.

    Attributes:
        max_budget: cost of any question.
        max_escalations: of any question.
        escalations_per_minute: of all callers.
        caller_escalations_per_minute: of each.
        idle_tokens_per_minute: that models read for /v1/prepare, of all callers; of each worker,
            unless they share.
        caller_idle_tokens_per_minute: of each.
        deadline_s: seconds until there must be an answer, if the request does not set it.
        max_in_flight: questions at a time.
    """

    max_budget: float | None = None
    max_escalations: int | None = None
    escalations_per_minute: float | None = None
    caller_escalations_per_minute: float | None = None
    idle_tokens_per_minute: float | None = 1_000_000
    caller_idle_tokens_per_minute: float | None = None
    deadline_s: float = 120.0
    max_in_flight: int = 1024

    def __post_init__(self) -> None:
        check_range(self, vars(self), least=0)
        check_range(self, ("max_in_flight",), least=1)
        check_range(self, ("deadline_s",), above=0, most=MAX_DEADLINE_S)


class VariantPlace(NamedTuple):
    """Another controller, by its checkpoint, that answers a share of the questions below 1."""

    name: str
    path: Path
    share: float

    @classmethod
    def parse(cls, text: str) -> VariantPlace:
        """From NAME=DIR:SHARE; raises ConfigError if it is something else."""
        found = re.fullmatch(r"(?P<name>[\w.-]+)=(?P<path>.+):(?P<share>\d*\.?\d+)", text)
        if found is None or not 0 < float(found["share"]) < 1:
            raise ConfigError(
                f"variant: expected NAME=DIR:SHARE with a share between 0 and 1, found {text!r}"
            )
        return cls(name=found["name"], path=Path(found["path"]), share=float(found["share"]))


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Everything that an operator chooses; `allot serve` has a flag for each.

    Attributes:
        controller: checkpoint; default: the bundled one, or that of a bundled menu.
        models: in front of which it stands.
        host: other than loopback needs --keys.
        port: 0 for any that is free.
        workers: processes; each has local models of its own, and its share of --max-in-flight.
        keys: file of API keys, see `allot key`.
        playground: answer / with a page to try it on; default: unless there are keys.
        price: accuracy per small-model token, if the request does not set it; default:
            mid-range.
        worth: instead: what a right answer is worth, in dollars or seconds where the controller
            counts these, else in small-model tokens.
        mean_cost: instead of a price: small-model tokens per question, kept over time.
        limits: what callers may spend.
        shared: redis://HOST:PORT/DB, where services keep limits, breakers and pace together.
        shared_fails_open: escalate while that is away.
        max_new_tokens: longest attempt; default: as in training.
        prompt: [NAME=]FILE or TEXT: what models are asked with, {question} in it or after it;
            default: as recorded. Repeatable.
        upstream: how servers are asked.
        answers: their kind, see docs/answers.md; default: as trained.
        fallback: rule where the policy was never trained; none for no guard.
        always: rule that decides; the policy is only watched.
        variant: NAME=DIR:SHARE, another controller; repeatable.
        exploration: share of decisions drawn from the policy.
        log: file of episodes; default: stderr.
        log_texts: write questions and attempts down, too.
        watch_s: look for new checkpoints; 0: on SIGHUP.
        drain_s: not ready for so long before the end.
        shutdown_s: for requests to finish.
        telemetry: spans by OTLP, see OTEL_*.
    """

    controller: Path | None = None
    models: NamedModels = field(default_factory=NamedModels)
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    keys: Path | None = None
    playground: bool | None = None
    price: float | None = None
    worth: float | None = None
    mean_cost: float | None = None
    limits: Limits = field(default_factory=Limits)
    shared: str | None = None
    shared_fails_open: bool = False
    max_new_tokens: int | None = None
    prompt: tuple[str, ...] = ()
    upstream: Upstream = field(default_factory=Upstream)
    answers: str | None = None
    fallback: str = "adaptive-cascade"
    always: str | None = None
    variant: tuple[str, ...] = ()
    exploration: float = 0.0
    log: Path | None = None
    log_texts: bool = False
    watch_s: float = 5.0
    drain_s: float = 0.0
    shutdown_s: float = 30.0
    telemetry: bool = False

    @property
    def checkpoint(self) -> Path:
        """Where the controller lies."""
        return self.controller or self.models.controller

    @property
    def standing(self) -> Terms:
        """Terms of requests that set none."""
        return Terms(price=self.price, worth=self.worth, mean_cost=self.mean_cost)

    @property
    def has_playground(self) -> bool:
        """Whether `/` answers with a page."""
        return self.keys is None if self.playground is None else self.playground

    @property
    def guard(self) -> str | None:
        """Rule that decides where the policy has not been in training."""
        return None if self.fallback == "none" else self.fallback

    @property
    def variants(self) -> tuple[VariantPlace, ...]:
        """Further controllers."""
        return tuple(map(VariantPlace.parse, self.variant))

    def __post_init__(self) -> None:
        from controller.policy.deciders import named_rule

        if self.host not in LOOPBACK and self.keys is None:
            raise ConfigError(
                f"host: expected a loopback address where no keys are needed, found {self.host}; "
                "make keys with `allot key NAME` and pass --keys FILE"
            )
        if not 0 <= self.port < 2**16:
            raise ConfigError(f"port: expected 0 to {2**16 - 1}, found {self.port}")
        limited = self.limits.escalations_per_minute, self.limits.caller_escalations_per_minute
        if self.workers < 1 or (self.workers > 1 and not self.shared and any(limited)):
            raise ConfigError(
                "workers: expected 1, or more and --shared where escalations per minute are "
                f"limited, found {self.workers}"
            )
        for rule in (self.guard, self.always):
            if rule is not None:
                named_rule(rule)
        check_range(self, ("watch_s", "drain_s", "shutdown_s"), least=0)
        check_range(self, ("max_new_tokens",), least=1)
        _ = self.standing
        if sum(variant.share for variant in self.variants) >= 1:
            raise ConfigError("variant: expected shares that leave something for the controller")
