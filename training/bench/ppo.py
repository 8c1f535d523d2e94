"""PPO against sb3-contrib's MaskablePPO on the same environment."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.episodes import EpisodeConfig, Episodes
from controller.observation import observe
from envs.compute import ComputeEnv
from envs.derive import derive_config
from envs.recorded import read_recorded
from envs.reward import LogUniform, price_range
from envs.table import TraceTable
from envs.traces import TraceSet
from envs.vector import ComputeVectorEnv
from training.config import PPOConfig
from training.play import play
from training.ppo import PPO


def run(
    traces: Path, *, steps: int = 3_000_000, sb3_steps: int = 60_000, seed: int = 0
) -> dict[str, Any]:
    """Train both, then compare speed and mean utility on the validation split.

    sb3-contrib trains with its defaults on 8 scalar environments over the same traces;
    the time that it gets is reported, and our training is measured after the same number
    of seconds and after its own full length.

    Args:
        traces: trace set.
        steps: of our training.
        sb3_steps: of theirs.
        seed: of both.
    """
    trace_set = TraceSet.read(traces)
    models = trace_set.models()
    ladder = [model.name for model in models]
    recorded = read_recorded(trace_set, ["train"], ladder)
    validation = TraceTable.build(trace_set, ["validation"], ladder)
    config = derive_config(recorded.table, models)
    prices = price_range(config.cost_unit)

    ppo_config = PPOConfig(total_steps=steps, seed=seed)
    theirs, their_seconds = _train_sb3(
        lambda: ComputeEnv(recorded.questions, recorded.backend, config, recorded.grader),
        sb3_steps,
        ppo_config,
    )
    ppo = PPO(ComputeVectorEnv(recorded.table, config, ppo_config.num_envs), ppo_config)
    started = time.perf_counter()
    ppo.train()
    seconds = time.perf_counter() - started
    equal_time = replace(ppo_config, total_steps=max(1, int(steps * their_seconds / seconds)))
    same_time = PPO(ComputeVectorEnv(recorded.table, config, ppo_config.num_envs), equal_time)
    same_time.train()

    def utility(policy: Any) -> float:
        return _mean_utility(policy, validation, config, prices)

    return {
        "steps_per_s": steps / seconds,
        "sb3_steps_per_s": sb3_steps / their_seconds,
        "ratio": steps / seconds / (sb3_steps / their_seconds),
        "utility": utility(ppo.policy),
        "utility_in_sb3_time": utility(same_time.policy),
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


def _mean_utility(
    policy: Any, table: TraceTable, config: EpisodeConfig, prices: LogUniform
) -> float:
    return float(
        np.mean(
            [
                play(policy, table, config, price=p, repeats=4).utility(p).mean()
                for p in prices.grid(12)
            ]
        )
    )
