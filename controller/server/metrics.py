"""What Prometheus sees."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from controller.server.terms import Served

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_DECISION_SECONDS = (25e-6, 50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 5e-3)


class Metrics:
    """All metrics of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.requests = Counter("allot_requests", "HTTP requests.", ["path", "status"], registry=r)
        self.seconds = Histogram(
            "allot_request_seconds", "Until the answer.", ["path"], buckets=_SECONDS, registry=r
        )
        self.in_flight = Gauge("allot_in_flight", "Questions being answered.", registry=r)
        self.turned_away = Counter(
            "allot_turned_away", "Requests not taken in.", ["reason"], registry=r
        )
        self.decisions = Counter(
            "allot_decisions", "Decisions.", ["arm", "action", "decided_by"], registry=r
        )
        self.decision_seconds = Histogram(
            "allot_decision_seconds",
            "Mean time per decision of a question.",
            buckets=_DECISION_SECONDS,
            registry=r,
        )
        self.tokens = Counter("allot_tokens", "Tokens.", ["model", "kind"], registry=r)
        self.cost = Counter("allot_cost", "Cost in small-model tokens.", ["arm"], registry=r)
        self.strays = Counter(
            "allot_strays", "Questions unlike those of training.", ["arm", "feature"], registry=r
        )
        self.guard_share = Gauge(
            "allot_guard_share",
            "Share of the last questions that the guard decided.",
            ["arm"],
            registry=r,
        )
        self.degraded = Counter(
            "allot_degraded", "Answers made without a model.", ["model"], registry=r
        )
        self.limited = Counter(
            "allot_limited", "Answers cut short by a budget or deadline.", ["reason"], registry=r
        )
        self.tries = Counter(
            "allot_upstream_tries", "Requests to models.", ["model", "outcome"], registry=r
        )
        self.upstream_seconds = Histogram(
            "allot_upstream_seconds", "Per try.", ["model"], buckets=_SECONDS, registry=r
        )
        self.available = Gauge(
            "allot_model_available", "1 while a model is worth asking.", ["model"], registry=r
        )
        self.reloads = Counter("allot_reloads", "Checkpoints read anew.", ["outcome"], registry=r)
        self.policy = Gauge(
            "allot_policy", "1 for every arm's policy.", ["arm", "policy"], registry=r
        )

    def tried(self, model: str, outcome: str, seconds: float) -> None:
        """A try at a model is over."""
        self.tries.labels(model, outcome).inc()
        self.upstream_seconds.labels(model).observe(seconds)

    def served(self, served: Served) -> None:
        """A question has come to an end."""
        for decision in served.decisions:
            self.decisions.labels(served.arm.name, str(decision.action), decision.decided_by).inc()
        if served.decisions:
            self.decision_seconds.observe(served.decision_s / len(served.decisions))
        for model, usage in served.usage.items():
            for kind, count in vars(usage).items():
                if kind.endswith("_tokens") and count:
                    self.tokens.labels(model, kind.removesuffix("_tokens")).inc(count)
        self.cost.labels(served.arm.name).inc(served.cost)
        self.guard_share.labels(served.arm.name).set(served.arm.watch.share)
        for model in served.degraded:
            self.degraded.labels(model).inc()
        for reason in served.limited:
            self.limited.labels(reason).inc()

    def watch(self, model: str, available: Callable[[], bool]) -> None:
        """Ask whether a model is available whenever Prometheus asks."""
        self.available.labels(model).set_function(lambda: float(available()))

    def text(self) -> bytes:
        """In Prometheus's format."""
        return generate_latest(self.registry)
