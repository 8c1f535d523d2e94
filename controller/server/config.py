"""How a service is set up."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from controller.answers import answer_kind
from controller.backends.ladder import Upstream
from controller.errors import ConfigError
from controller.process.terms import Terms
from controller.server.arms import named_rule
from controller.server.limits import Limits

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Another controller that answers a share of the questions.

    Attributes:
        name: in logs, metrics and responses.
        path: of its checkpoint.
        share: of all questions, below 1.
    """

    name: str
    path: Path
    share: float

    @classmethod
    def parse(cls, text: str) -> Variant:
        """From NAME=DIR:SHARE.

        Raises:
            ConfigError: another form, or a share that is not between 0 and 1.
        """
        found = re.fullmatch(r"(?P<name>[\w.-]+)=(?P<path>.+):(?P<share>[0-9.]+)", text)
        share = float(found["share"]) if found and found["share"].count(".") <= 1 else 0.0
        if found is None or not 0 < share < 1:
            raise ConfigError(
                f"variant: expected NAME=DIR:SHARE with a share between 0 and 1, found {text!r}"
            )
        return cls(name=found["name"], path=Path(found["path"]), share=share)


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Everything that an operator chooses.

    Attributes:
        controller: checkpoint.
        models: directory or URL#MODEL per rung, the small one first; empty for the models
            that the checkpoint names.
        host: to listen on; anything but loopback needs keys.
        port: to listen on.
        keys: file with API keys; None lets anyone ask.
        price: accuracy per small-model token where an asker says nothing.
        mean_cost: instead of a price: small-model tokens per question, kept over all questions
            whose askers say nothing.
        limits: what callers may spend.
        upstream: how servers are asked.
        prompts: what models are asked with, `[NAME=]FILE|TEXT` each; the checkpoint's where
            nothing is said.
        max_new_tokens: longest attempt; None for what the controller was trained with.
        answers: kind of answers; None for what the controller was trained with.
        equivalence: URL#MODEL of a server of embeddings, by which further answers are the same.
        fallback: rule that decides where the policy has not been in training; None for none.
        always: rule that decides always, the policy only being watched.
        variants: further controllers.
        exploration: share of decisions drawn at random from the policy.
        log: file for episodes; standard error when None.
        log_texts: whether questions and attempts may be written down.
        watch_s: how often the checkpoints are looked at for changes; 0 for never.
        drain_s: how long /ready says no before the service stops taking requests.
        shutdown_s: how long requests may take to finish after that.
        telemetry: send spans by OTLP, as the OTEL_* variables say.
    """

    controller: Path
    models: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8080
    keys: Path | None = None
    price: float | None = None
    mean_cost: float | None = None
    limits: Limits = field(default_factory=Limits)
    upstream: Upstream = field(default_factory=Upstream)
    prompts: tuple[str, ...] = ()
    max_new_tokens: int | None = None
    answers: str | None = None
    equivalence: str | None = None
    fallback: str | None = "adaptive-cascade"
    always: str | None = None
    variants: tuple[Variant, ...] = ()
    exploration: float = 0.0
    log: Path | None = None
    log_texts: bool = False
    watch_s: float = 5.0
    drain_s: float = 0.0
    shutdown_s: float = 30.0
    telemetry: bool = False

    @property
    def standing(self) -> Terms:
        """Terms of those who say none."""
        return Terms(price=self.price, mean_cost=self.mean_cost)

    def __post_init__(self) -> None:
        if self.host not in LOOPBACK and self.keys is None:
            raise ConfigError(
                f"host: expected a loopback address where no keys are needed, found {self.host}; "
                "make keys with `allot key NAME` and pass --keys FILE"
            )
        if self.answers is not None:
            answer_kind(self.answers)
        for rule in (self.fallback, self.always):
            if rule is not None:
                named_rule(rule)
        for name in ("watch_s", "drain_s", "shutdown_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name}: expected 0 or more, found {getattr(self, name)}")
        _ = self.standing
        if sum(variant.share for variant in self.variants) >= 1:
            raise ConfigError("variants: expected shares that leave something for the controller")
