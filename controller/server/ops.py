"""What operators see of questions: fields of the log, and metrics."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from controller.answers.kinds import Whole
from controller.answers.structured import has_schemas
from controller.backends.identity import text_digest
from controller.core import Decision
from controller.server.engine import Served

LOG_VERSION = 1
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_DECISION_SECONDS = (25e-6, 50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 5e-3)

_SERVED = ("episode_id", "caller", "cost", "degraded", "limited", "guarded")
_TERMS = ("price", "round_price", "budget", "metadata")
_CONVERSATION = ("history", "since", "fields")
_ATTEMPT = (
    *("attempt_id", "parent_id", "model", "rung", "action", "answer", "prompt_tokens"),
    *("completion_tokens", "finish_reason", "mean_logprob", "min_logprob", "verifier_score"),
    "error",
)


def episode_fields(served: Served, *, texts: bool) -> dict[str, Any]:
    """What the log says about a question."""
    question, variant = served.question, served.variant
    # An answer may be all that a model wrote, and not a few words of it.
    whole = variant.checkpoint.answers == Whole.name or has_schemas(question.fields)
    hidden = whole and not texts
    models = enumerate(variant.checkpoint.models)
    return {
        "version": LOG_VERSION,
        **_picked(served, _SERVED),
        **_picked(served.terms, _TERMS),
        "answer": _shown(served.answer, hidden),
        "answers_hidden": hidden,
        "question_id": question.question_id or text_digest(question.text),
        "question": question.text if texts else None,
        "conversation": _picked(question, _CONVERSATION) if texts else None,
        "arm": variant.name,
        "policy": variant.digest,
        "models": [{"name": m.name, "rung": r, "parameters": m.parameters} for r, m in models],
        "wall_s": round(served.wall_s, 6),
        "decisions": [_decision(decision) for decision in served.decisions],
        "attempts": [
            _picked(attempt, _ATTEMPT)
            | {"text": attempt.text if texts else None, "answer": _shown(attempt.answer, hidden)}
            for attempt in served.attempts
        ],
    }


def _picked(source: object, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(source, name) for name in names}


def _shown(answer: str | None, hidden: bool) -> str | None:
    """An answer, or enough of a digest to tell equal ones."""
    return None if answer is None else text_digest(answer) if hidden else answer


_DECISION = ("propensity", "decided_by", "floor", "cost")


def _decision(decision: Decision) -> dict[str, Any]:
    probabilities = {name: round(p, 6) for name, p in decision.probabilities.items()}
    return {
        **_picked(decision, _DECISION),
        "action": str(decision.action),
        "policy_action": max(probabilities, key=lambda name: probabilities[name]),
        "probabilities": probabilities,
        "value": round(decision.value, 6),
        "observation": [round(x, 6) for x in decision.observation.values()],
        "attempts": [attempt.attempt_id for attempt in decision.attempts],
    }


class Metrics:
    """All metrics of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry, multiprocess_mode="mostrecent")
        duration = partial(Histogram, registry=self.registry, buckets=_SECONDS)
        self.requests = counter("allot_requests", "HTTP requests.", ["path", "status"])
        self.seconds = duration("allot_request_seconds", "Until the answer.", ["path"])
        self.in_flight = gauge("allot_in_flight", "Being answered.", multiprocess_mode="livesum")
        self.turned_away = counter("allot_turned_away", "Requests not taken in.", ["reason"])
        self.decisions = counter("allot_decisions", "Decisions.", ["arm", "action", "decided_by"])
        self.decision_seconds = duration(
            "allot_decision_seconds", "Mean per decision of a question.", buckets=_DECISION_SECONDS
        )
        self.tokens = counter("allot_tokens", "Tokens.", ["model", "kind"])
        self.idle_tokens = counter("allot_idle_tokens", "Tokens nobody waits for.", ["model"])
        self.cost = counter("allot_cost", "Cost in small-model tokens.", ["arm"])
        self.strays = counter("allot_strays", "Unlike those of training.", ["arm", "feature"])
        self.guard_share = gauge("allot_guard_share", "Of the last, by the guard.", ["arm"])
        self.degraded = counter("allot_degraded", "Answers made without a model.", ["model"])
        self.limited = counter("allot_limited", "Cut short by a budget or deadline.", ["reason"])
        self.tries = counter("allot_upstream_tries", "Requests to models.", ["model", "outcome"])
        self.upstream_seconds = duration("allot_upstream_seconds", "Per try.", ["model"])
        self.available = gauge("allot_model_available", "1 while worth asking.", ["model"])
        self.log_lost = counter("allot_log_lost", "Lines of the log that cannot be written.")
        self.reloads = counter("allot_reloads", "Checkpoints read anew.", ["outcome"])
        self.policy = gauge("allot_policy", "1 for every arm's policy.", ["arm", "policy"])
        self._deciding: set[tuple[str, str]] = set()
        self._watched: dict[str, Callable[[], bool]] = {}

    def tried(self, model: str, outcome: str, seconds: float) -> None:
        """A try at a model is over."""
        self.tries.labels(model, outcome).inc()
        self.upstream_seconds.labels(model).observe(seconds)

    def served(self, served: Served) -> None:
        """A question has come to an end."""
        name = served.variant.name
        for decision in served.decisions:
            self.decisions.labels(name, str(decision.action), decision.decided_by).inc()
        if served.decisions:
            self.decision_seconds.observe(served.decision_s / len(served.decisions))
        for model, usage in served.usage.items():
            for kind, count in vars(usage).items():
                if kind.endswith("_tokens") and count:
                    self.tokens.labels(model, kind.removesuffix("_tokens")).inc(count)
        self.cost.labels(name).inc(served.cost)
        self.guard_share.labels(name).set(served.variant.watch.share)
        for model in served.degraded:
            self.degraded.labels(model).inc()
        for reason in served.limited:
            self.limited.labels(reason).inc()

    def watch(self, model: str, available: Callable[[], bool]) -> None:
        """Ask whether a model is available whenever Prometheus asks."""
        self._watched[model] = available

    def deciding(self, policies: Iterable[tuple[str, str]]) -> None:
        """These arms' policies decide from now on, and no others."""
        now = set(policies)
        for arm, policy in now | self._deciding:
            self.policy.labels(arm, policy).set((arm, policy) in now)
        self._deciding = now

    def text(self) -> bytes:
        """In Prometheus's format; of all workers where there are several."""
        for model, available in self._watched.items():
            self.available.labels(model).set(available())
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self.registry)
        everywhere = CollectorRegistry()
        MultiProcessCollector(everywhere)  # type: ignore[no-untyped-call]
        return generate_latest(everywhere)
