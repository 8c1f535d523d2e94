"""From segment traces to a controller inside attempts."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from controller.checkpoint import load_readout, read_tensors
from controller.difficulty import Difficulty
from controller.segments.checkpoint import (
    SETTINGS_FILE,
    SegmentCheckpoint,
    save_segment_checkpoint,
)
from controller.segments.episodes import SegmentConfig
from controller.segments.rules import ObservingPolicy
from envs.reward import LogUniform, budget_range, price_range
from envs.segments.derive import derive_segment_config
from envs.segments.replay import SegmentVectorEnv
from envs.segments.table import SegmentTable
from envs.segments.traces import VALUE_FILE, SegmentTraces
from training.config import PPOConfig
from training.curve import CURVE, Curve
from training.difficulty import fit_difficulty
from training.play import log_odds
from training.ppo import PPO, Report
from training.segments.play import play_segments
from training.segments.values import monte_carlo_values
from training.state import has_state

Floats = NDArray[np.float64]

PPO_SETTINGS: dict[str, Any] = {"hidden_sizes": (64, 64), "gae_lambda": 0.95}
"""Smaller than for whole attempts: larger networks soon learn two thousand trees by heart."""
HIDE_SIGNALS = 0.1
"""Share of episodes without each signal."""
CHECKS = 20
"""How often, at least, training looks at the validation split."""
CHECK_PRICES = 8
"""Prices at which it does."""


@dataclass(frozen=True, kw_only=True)
class PreparedTrees:
    """What training needs, made from segment traces."""

    traces: SegmentTraces
    train: SegmentTable
    validation: SegmentTable
    process: SegmentConfig
    prices: LogUniform
    difficulty: Difficulty | None
    train_log_odds: Floats | None


def success_rates(table: SegmentTable) -> Floats:
    """Share of right answers by model, when either writes whole attempts, (Q, R)."""
    attempts = len(table.question_ids), table.num_attempts
    rates = [monte_carlo_values(table)[table.root].reshape(attempts).mean(1)]
    ended = table.ended[table.root]
    if (ended >= 0).all():
        rates.append(table.right(np.arange(len(table)), ended).reshape(attempts).mean(1))
    return np.stack(rates, 1)


def prepare_trees(
    traces: SegmentTraces, *, probes: bool = False, escalates: bool = True
) -> PreparedTrees:
    """Tables, decision process and difficulty read-out of segment traces.

    Args:
        traces: the set.
        probes: see `SegmentConfig`.
        escalates: likewise.
    """
    train, validation = (SegmentTable.build(traces, [s]) for s in ("train", "validation"))
    process = derive_segment_config(train, traces, probes=probes, escalates=escalates)
    fitted = fit_difficulty(train, success_rates(train))
    return PreparedTrees(
        traces=traces,
        train=train,
        validation=validation,
        process=process,
        prices=price_range(process.cost_unit),
        difficulty=fitted[0] if fitted else None,
        train_log_odds=fitted[1] if fitted else None,
    )


class SegmentTraining:
    """One training by PPO; the last weights are kept.

    One outcome per validation question is too noisy to choose among weights by: it takes those
    of an early update as easily as those of the last.

    Args:
        prepared: from `prepare_trees`.
        config: settings of PPO.
        out: run directory: the checkpoint, and under `training/` what resuming needs.
    """

    def __init__(self, prepared: PreparedTrees, config: PPOConfig, out: Path) -> None:
        self.prepared, self.config, self.out = prepared, config, out
        env = SegmentVectorEnv(
            prepared.train,
            prepared.process,
            config.num_envs,
            prices=prepared.prices,
            difficulty=prepared.train_log_odds,
            budgets=budget_range(prepared.process.cost_unit),
            hide_signals=HIDE_SIGNALS,
        )
        self.ppo = PPO(env, config)
        self.utility = float("nan")
        """On the validation split, when it was last looked at."""
        if has_state(self._state):
            notes, _ = self.ppo.resume(self._state)
            self.utility = notes["utility"]

    @property
    def _state(self) -> Path:
        return self.out / "training"

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        done = self.ppo.update >= self.config.num_updates
        return done and (self.out / SETTINGS_FILE).exists()

    def run(
        self, report: Report | None = None, stop: Callable[[], bool] | None = None
    ) -> SegmentCheckpoint:
        """Train to the end and save the checkpoint.

        Args:
            report: called after each update with the steps so far and its metrics.
            stop: asked after each update whether to save and stop.

        Raises:
            KeyboardInterrupt: it was stopped; the next run goes on from there to the bit.
        """
        every = max(1, self.config.num_updates // CHECKS)
        curve = Curve(self._state / CURVE, self.ppo.steps)

        def checked(steps: int, metrics: dict[str, float]) -> None:
            if self.ppo.update % every == 0 or self.ppo.update == self.config.num_updates:
                metrics["validation/utility"] = self.utility = self._check()
                self._save_state()
            curve.add(steps, metrics)
            if report is not None:
                report(steps, metrics)

        self.ppo.train(checked, stop)
        if self.ppo.update < self.config.num_updates:
            self._save_state()
            raise KeyboardInterrupt
        checkpoint = self._checkpoint()
        save_segment_checkpoint(checkpoint, self.out)
        return checkpoint

    def _check(self) -> float:
        """Utility on the validation split, over several prices."""
        prepared = self.prepared
        policy = ObservingPolicy(self.ppo.policy.choose)
        known = log_odds(prepared.difficulty, prepared.validation)
        utilities = [
            play_segments(
                policy, prepared.validation, prepared.process, price=price, difficulty=known
            )
            .utility(price)
            .mean()
            for price in prepared.prices.grid(CHECK_PRICES)
        ]
        return float(np.mean(utilities))

    def _save_state(self) -> None:
        self.ppo.save(self._state, {"utility": self.utility})

    def _checkpoint(self) -> SegmentCheckpoint:
        prepared, traces = self.prepared, self.prepared.traces
        return SegmentCheckpoint(
            policy=self.ppo.policy,
            config=prepared.process,
            segmentation=traces.segmentation,
            models=traces.models,
            price_range=(prepared.prices.low, prepared.prices.high),
            difficulty=prepared.difficulty,
            value=value_readout(traces),
            model_paths=_model_paths(traces, self.out),
            training={
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "traces": traces.manifest.get("digest") or traces.path.name,
                "questions": len(prepared.train.question_ids),
                "validation_utility": self.utility,
                "ppo": _plain(asdict(self.config)),
                "versions": {"torch": torch.__version__, "numpy": np.__version__},
            },
        )


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}


def value_readout(traces: SegmentTraces) -> Difficulty | None:
    """The read-out that made the column `value`, or None."""
    path = traces.path / VALUE_FILE
    if not path.exists():
        return None
    tensors = {f"value/{name}": tensor for name, tensor in read_tensors(path).items()}
    return load_readout(tensors, "value", 1, traces.path)


def _model_paths(traces: SegmentTraces, out: Path) -> tuple[str, ...]:
    """Where the models lie, seen from `out`; empty if the traces do not tell."""
    paths = [entry.get("path") for entry in traces.manifest["models"].values()]
    if any(path is None for path in paths):
        return ()
    return tuple(os.path.relpath((traces.path / p).resolve(), out.resolve()) for p in paths)
