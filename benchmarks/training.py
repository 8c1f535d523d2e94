"""Trainings: against sb3-contrib's MaskablePPO, and with W&B against without."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import Figures
from controller.process.episodes import Episodes
from controller.process.observation import observe
from envs.compute import ComputeEnv
from envs.reward import price_range
from envs.traces.derive import derive_config
from envs.traces.format import TraceSet
from envs.traces.recorded import read_recorded
from envs.traces.table import build_table
from envs.vector import ComputeVectorEnv
from training.compare.simulate import utilities
from training.learn.config import PPOConfig, TrainConfig
from training.learn.settings import WandbMode
from training.learn.train import ControllerTraining, Prepared, prepare
from training.ppo import PPO
from training.report.tracking import Tracker


def ppo(traces: Path, seed: int, *, steps: int, sb3_steps: int) -> Figures:
    """Train both on the same environment, then compare speed and utility on the validation split.

    sb3-contrib trains with its defaults on 8 scalar environments over the same traces;
    the time that it gets is reported, and our training is measured after the same number
    of seconds and after its own full length.
    """
    trace_set = TraceSet.read(traces)
    models = trace_set.models()
    ladder = [model.name for model in models]
    recorded = read_recorded(trace_set, ["train"], ladder)
    validation = build_table(trace_set, ["validation"], ladder)
    config = derive_config(recorded.table, models)
    settings = PPOConfig(total_steps=steps, seed=seed)

    def ours(settings: PPOConfig) -> tuple[PPO, float]:
        ppo = PPO(ComputeVectorEnv(recorded.table, config, settings.num_envs), settings)
        started = time.perf_counter()
        ppo.train()
        return ppo, time.perf_counter() - started

    def utility(policy: Any) -> float:
        prices = price_range(config.cost_unit).grid(12)
        return float(utilities(policy, validation, config, prices, None).mean())

    theirs, their_seconds = _train_sb3(
        lambda: ComputeEnv(recorded.questions, recorded.backend, config, recorded.grader),
        sb3_steps,
        settings,
    )
    whole, seconds = ours(settings)
    part, _ = ours(replace(settings, total_steps=max(1, int(steps * their_seconds / seconds))))
    return {
        "steps_per_s": steps / seconds,
        "sb3_steps_per_s": sb3_steps / their_seconds,
        "ratio": steps / seconds / (sb3_steps / their_seconds),
        "utility": utility(whole.policy),
        "utility_in_sb3_time": utility(part.policy),
        "sb3_utility": utility(theirs),
        "seconds": seconds,
        "sb3_seconds": their_seconds,
    }


class _Sb3Policy:
    def __init__(self, model: Any) -> None:
        self._model = model

    def act(self, episodes: Episodes, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        actions, _ = self._model.predict(observe(episodes), action_masks=mask, deterministic=True)
        return np.asarray(actions)


def _train_sb3(make_env: Any, steps: int, config: PPOConfig) -> tuple[_Sb3Policy, float]:
    from sb3_contrib import MaskablePPO
    from stable_baselines3.common.vec_env import DummyVecEnv

    model = MaskablePPO(
        "MlpPolicy",
        DummyVecEnv([make_env] * 8),
        gamma=1.0,
        n_steps=256,
        seed=config.seed,
        policy_kwargs={"net_arch": list(config.hidden_sizes)},
    )
    started = time.perf_counter()
    model.learn(steps)
    return _Sb3Policy(model), time.perf_counter() - started


def tracking(traces: Path, steps: int) -> Figures:
    """The same training without W&B and with W&B offline.

    Returns:
        `steps_per_s` and `offline_steps_per_s` from the first update to the saved checkpoint,
        `ratio` of the two, and `start_and_finish_s`, what W&B adds before and after.
    """
    trace_set, config = TraceSet.read(traces), TrainConfig(ppo=PPOConfig(total_steps=steps))
    prepared = prepare(trace_set, config)
    assert prepared.best_rule  # worked out beforehand, once for all
    made = config.ppo.num_updates * config.ppo.steps_per_update
    without, _ = _tracked(trace_set, config, prepared, "disabled")
    offline, whole = _tracked(trace_set, config, prepared, "offline")
    return {
        "steps_per_s": made / without,
        "offline_steps_per_s": made / offline,
        "ratio": without / offline,
        "start_and_finish_s": whole - offline,
    }


def _tracked(
    traces: TraceSet, config: TrainConfig, prepared: Prepared, mode: WandbMode
) -> tuple[float, float]:
    """Seconds of the training alone, and with the start and finish of W&B."""
    with TemporaryDirectory() as directory:
        training = ControllerTraining(traces, config, Path(directory), prepared)
        started = time.perf_counter()
        with Tracker(training.out, "train", training.settings(), mode=mode) as tracker:
            before = time.perf_counter()
            training.run(tracker)
            spent = time.perf_counter() - before
        return spent, time.perf_counter() - started
