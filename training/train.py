"""From a trace set to a controller checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from controller.checkpoint import Checkpoint, save_checkpoint
from controller.difficulty import Difficulty
from controller.episodes import EpisodeConfig
from controller.errors import TraceFormatError
from controller.targets import Calibration
from controller.types import ModelSpec
from envs.derive import derive_config
from envs.reward import ROUND_PRICES, LogUniform, budget_range, price_range
from envs.table import TraceTable
from envs.traces import TraceSet
from envs.vector import ComputeVectorEnv
from training.curve import CURVE, Curve
from training.difficulty import fit_difficulty
from training.play import log_odds, play, play_checkpoint
from training.ppo import PPO, PPOConfig
from training.state import has_state
from training.tracking import Tracker

Progress = Callable[[int, dict[str, float]], None]

_CALIBRATION_PRICES = 31

CHECKS = 20
"""How often, in all, training looks at the validation split."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What to train a controller on.

    Attributes:
        ladder: models, the small one first; empty for the trace set's default.
        token_costs: cost per token by model name, where sizes are unknown.
        sample_widths: widths of the SAMPLE actions.
        max_samples: SAMPLE attempts per episode.
        hide_signals: probability that an episode goes without logprobs, without
            difficulty, and without a verifier.
        prices: least and greatest price to train for; None for three decades around a
            typical attempt's worth.
        ppo: settings of PPO.
    """

    ladder: tuple[str, ...] = ()
    token_costs: Mapping[str, float] = field(default_factory=dict)
    sample_widths: tuple[int, ...] = (1, 4)
    max_samples: int = 16
    hide_signals: float = 0.1
    prices: tuple[float, float] | None = None
    ppo: PPOConfig = field(default_factory=PPOConfig)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What training needs, made from a trace set.

    The validation split is halved: one half chooses among checkpoints, the other tells what
    the chosen one is good for.
    """

    models: tuple[ModelSpec, ...]
    train: TraceTable
    validation: TraceTable
    calibration: TraceTable
    process: EpisodeConfig
    prices: LogUniform
    difficulty: Difficulty | None
    train_log_odds: NDArray[np.float64] | None


def prepare(traces: TraceSet, config: TrainConfig) -> Prepared:
    """Tables, decision process and difficulty read-out of a trace set."""
    models = traces.models(config.ladder)
    ladder = [model.name for model in models]
    train = TraceTable.build(traces, ["train"], ladder)
    validation = TraceTable.build(traces, ["validation"], ladder)
    process = derive_config(
        train,
        models,
        token_costs=config.token_costs,
        sample_widths=config.sample_widths,
        max_samples=config.max_samples,
    )
    fitted = fit_difficulty(train, validation)
    order = np.random.default_rng(0).permutation(len(validation))
    half = len(validation) // 2
    if not half:
        raise TraceFormatError(
            f"{traces.path}: expected at least 2 validation questions that each of {ladder} has "
            f"tried, found {len(validation)}"
        )
    return Prepared(
        models=models,
        train=train,
        validation=validation.take(order[:half]),
        calibration=validation.take(order[half:]),
        process=replace(process, reads_prompt=fitted is not None),
        prices=LogUniform(low=config.prices[0], high=config.prices[1])
        if config.prices
        else price_range(process.cost_unit),
        difficulty=fitted[0] if fitted else None,
        train_log_odds=fitted[1] if fitted else None,
    )


class ControllerTraining:
    """One training: PPO, with the best weights on the validation split kept.

    Args:
        traces: recorded attempts.
        config: what to train.
        out: run directory: the checkpoint, and under `training/` what resuming needs and the
            metrics of every update.
    """

    def __init__(self, traces: TraceSet, config: TrainConfig, out: Path) -> None:
        self.traces, self.config, self.out = traces, config, out
        self.prepared = prepare(traces, config)
        env = ComputeVectorEnv(
            self.prepared.train,
            self.prepared.process,
            config.ppo.num_envs,
            prices=self.prepared.prices,
            difficulty=self.prepared.train_log_odds,
            round_prices=ROUND_PRICES,
            budgets=budget_range(self.prepared.process.cost_unit),
            hide_signals=config.hide_signals,
        )
        self.ppo = PPO(env, config.ppo)
        self.best_utility = -np.inf
        self._best: dict[str, torch.Tensor] = {}
        if has_state(self._state):
            notes, self._best = self.ppo.resume(self._state)
            self.best_utility = notes["best_utility"]

    def settings(self) -> dict[str, Any]:
        """Settings of the run, for people and W&B."""
        return {**asdict(self.config), "process": asdict(self.prepared.process)}

    @property
    def _state(self) -> Path:
        return self.out / "training"

    def run(self, tracker: Tracker, progress: Progress | None = None) -> Checkpoint:
        """Train to the end and save the checkpoint; an interrupt saves the state first."""
        every = max(1, self.config.ppo.num_updates // CHECKS)
        curve = Curve(self._state / CURVE, self.ppo.steps)

        def report(steps: int, metrics: dict[str, float]) -> None:
            if self.ppo.update % every == 0 or self.ppo.update == self.config.ppo.num_updates:
                metrics["validation/utility"] = self._check()
                self._save_state()
            curve.add(steps, metrics)
            tracker.log(steps, metrics)
            if progress is not None:
                progress(steps, metrics)

        try:
            self.ppo.train(report)
        except KeyboardInterrupt:
            self._save_state()
            raise
        self.ppo.policy.load_state_dict(self._best)
        checkpoint = self._calibrated(self._checkpoint())
        save_checkpoint(checkpoint, self.out, _card(checkpoint))
        tracker.summary({"validation/best_utility": self.best_utility})
        tracker.artifact("controller", "model", self.out)
        return checkpoint

    def _check(self) -> float:
        """Mean utility on the validation split; keeps the weights if it is the best."""
        prepared = self.prepared
        utility = float(
            np.mean(
                [
                    play(
                        self.ppo.policy,
                        prepared.validation,
                        prepared.process,
                        price=price,
                        difficulty=log_odds(prepared.difficulty, prepared.validation),
                        repeats=4,
                    )
                    .utility(price)
                    .mean()
                    for price in prepared.prices.grid(8)
                ]
            )
        )
        if utility > self.best_utility:
            self.best_utility = utility
            self._best = {k: v.clone() for k, v in self.ppo.policy.state_dict().items()}
        return utility

    def _save_state(self) -> None:
        notes = {"best_utility": self.best_utility}
        self.ppo.save(self._state, notes, self._best)

    def _calibrated(self, checkpoint: Checkpoint) -> Checkpoint:
        """With mean cost on all questions but the test split's, and counts on fresh ones.

        A specialist for one price has nothing to choose from.
        """
        prepared = self.prepared
        if prepared.prices.low == prepared.prices.high:
            return checkpoint
        prices = prepared.prices.grid(_CALIBRATION_PRICES)
        tables = (prepared.train, prepared.validation, prepared.calibration)
        cost, right = [], []
        for price in prices:
            played = [play_checkpoint(checkpoint, table, price, repeats=1) for table in tables]
            cost.append(float(np.concatenate([p.cost for p in played]).mean()))
            right.append(int(played[-1].right.sum()))
        calibration = Calibration(
            prices=tuple(prices.tolist()),
            cost=tuple(cost),
            right=tuple(right),
            questions=len(prepared.calibration),
        )
        return replace(checkpoint, calibration=calibration)

    def _checkpoint(self) -> Checkpoint:
        prepared = self.prepared
        return Checkpoint(
            policy=self.ppo.policy,
            config=prepared.process,
            models=prepared.models,
            price_range=(prepared.prices.low, prepared.prices.high),
            difficulty=prepared.difficulty,
            model_paths=_model_paths(self.traces, prepared.models, self.out),
            adapter_paths=_adapter_paths(self.traces, prepared.models[0], self.out),
            training={
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "traces": self.traces.manifest.get("digest") or self.traces.path.name,
                "questions": len(prepared.train),
                "validation_utility": self.best_utility,
                "ppo": asdict(self.config.ppo),
                "versions": {"torch": torch.__version__, "numpy": np.__version__},
            },
        )


def _model_paths(traces: TraceSet, models: Sequence[ModelSpec], out: Path) -> tuple[str, ...]:
    """Where the ladder's models lie, seen from `out`; empty if the traces do not tell."""
    entries: Mapping[str, Any] = traces.manifest.get("models", {})
    paths = [entries.get(model.name, {}).get("path") for model in models]
    if any(path is None for path in paths):
        return ()
    return tuple(os.path.relpath((traces.path / path).resolve(), out.resolve()) for path in paths)


def _adapter_paths(traces: TraceSet, small: ModelSpec, out: Path) -> dict[str, str]:
    entries = traces.manifest.get("models", {}).get(small.name, {}).get("adapters", {})
    return {
        name: os.path.relpath((traces.path / entry["path"]).resolve(), out.resolve())
        for name, entry in entries.items()
        if entry.get("path")
    }


def _card(checkpoint: Checkpoint) -> str:
    training = checkpoint.training
    ladder = " -> ".join(model.name for model in checkpoint.models)
    low, high = checkpoint.price_range
    return f"""# allot controller

Decides for the models {ladder} how much compute a question deserves: STOP, SAMPLE,
REVISE or ESCALATE.

- trained by PPO on {training["questions"]} questions of trace set `{training["traces"]}`,
  finished {training["finished"]}
- prices {low:.2g} to {high:.2g} accuracy per small-model token; other prices are outside
  what it has seen
- mean utility on the validation split {training["validation_utility"]:.4f}
- reads the small model's prompt state: {"yes" if checkpoint.difficulty else "no"}

`Controller.load("DIRECTORY").answer("QUESTION", price={(low * high) ** 0.5:.2g})`"""
