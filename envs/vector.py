"""`allot/Compute-v0` over recorded traces, thousands of episodes at a time."""

from __future__ import annotations

from gymnasium.vector import AutoresetMode

from controller.episodes import EpisodeConfig
from controller.errors import ConfigError
from envs.lockstep import Array, LockstepEnv
from envs.replay import Replay
from envs.reward import LogUniform, price_range
from envs.table import TraceTable


class ComputeVectorEnv(LockstepEnv):
    """Vectorised `allot/Compute-v0` over traces; see `LockstepEnv`.

    Args:
        table: recorded attempts.
        config: the decision process.
        num_envs: N.
        prices: range that each episode's price is drawn from.
        difficulty: (Q, R) log-odds per question and rung; None when unknown.
        budgets: range that the hard cap of an episode's cost is drawn from; None for no caps.
        round_prices: range that the price of a serial round is drawn from; None for none.
        hide_signals: share of episodes without each signal.
        permute: whether independent attempts come in random order.
        autoreset_mode: when a finished episode makes room for the next one.
        max_episode_steps: steps after which an episode is truncated; None for never.
    """

    def __init__(
        self,
        table: TraceTable,
        config: EpisodeConfig,
        num_envs: int,
        *,
        prices: LogUniform | None = None,
        difficulty: Array | None = None,
        budgets: LogUniform | None = None,
        round_prices: LogUniform | None = None,
        hide_signals: float = 0.0,
        permute: bool = True,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        max_episode_steps: int | None = None,
    ) -> None:
        if num_envs < 1:
            raise ConfigError(f"num_envs: expected at least 1, found {num_envs}")
        self.config = config
        self.replay = Replay(table, config, num_envs, difficulty=difficulty, permute=permute)
        super().__init__(
            self.replay,
            config.actions.names,
            num_envs,
            prices=prices or price_range(config.cost_unit),
            budgets=budgets,
            round_prices=round_prices,
            hide_signals=hide_signals,
            autoreset_mode=autoreset_mode,
            max_episode_steps=max_episode_steps,
        )
