"""`allot/Compute-v0`: how much compute does a question deserve?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete

from controller.actions import ActionKind
from controller.backends.base import Backend
from controller.difficulty import Difficulty
from controller.episodes import EpisodeConfig
from controller.errors import IllegalActionError
from controller.loop import Episode
from controller.observation import NUM_FEATURES
from controller.types import Question
from envs.grader import Grader
from envs.lockstep import draw_episode, observation_space
from envs.reward import LogUniform, price_range, reward
from envs.scalar import Observation, ScalarEnv

_ROW = np.zeros(1, np.int64)


class ComputeEnv(ScalarEnv):
    """One question per episode; one decision per step.

    ## Action Space
    `Discrete(A)`: STOP, SAMPLE (one entry per width), REVISE, ESCALATE and, with a
    verifier, VERIFY.
    `info["action_mask"]`, (A,) int8, and `action_masks()`, (A,) bool, tell which are
    legal; STOP always is: before the first attempt it means giving up.

    ## Observation Space
    `Box(D,)` float32; entry i is `controller.observation.OBSERVATION_NAMES[i]`.

    ## Rewards
    At each step -price x cost of the action - round price x serial rounds; at the end +1
    if the leading answer is right.

    ## Starting State
    A question drawn uniformly, a price drawn log-uniformly, no attempts.

    ## Episode Termination
    STOP, or nothing but STOP left to do. Only a TimeLimit truncates.

    Args:
        questions: with references.
        backend: makes the attempts, live or replayed.
        config: the decision process.
        grader: compares answers with references.
        prices: range that each episode's price is drawn from.
        difficulty: read-out of the prompt.
        round_prices: range that the price of a serial round is drawn from; None for none.
        budgets: range that the hard cap of an episode's cost is drawn from; None for no caps.
        permute: whether a limited stock of attempts comes in random order.
        render_mode: None, "ansi" (a string), "human" (printed) or "rgb_array" (a picture).
    """

    def __init__(
        self,
        questions: Sequence[Question],
        backend: Backend,
        config: EpisodeConfig,
        grader: Grader,
        *,
        prices: LogUniform | None = None,
        round_prices: LogUniform | None = None,
        difficulty: Difficulty | None = None,
        budgets: LogUniform | None = None,
        permute: bool = True,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(questions, render_mode)
        self.backend, self.config, self.grader = backend, config, grader
        self.prices = prices or price_range(config.cost_unit)
        self.round_prices, self.budgets = round_prices, budgets
        self.difficulty, self.permute = difficulty, permute
        self.observation_space = observation_space(NUM_FEATURES)
        self.action_space = Discrete(len(config.actions))
        self.episode: Episode | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: starts a new random stream.
            options: `question` (position), `price`, `round_price` and `budget` to choose
                instead of drawing.

        Raises:
            ConfigError: an unknown option.
        """
        names = ("question", "price", "round_price", "budget")
        streams, options = self._drawing(seed, options, names)
        position, price, round_price, budget, _ = draw_episode(
            streams,
            _ROW,
            len(self.questions),
            self.prices,
            self.round_prices,
            self.budgets,
            hide_signals=0,
        )
        self.question = self.questions[int(options.get("question", position[0]))]
        self.price = float(options.get("price", price[0]))
        self.episode = Episode(
            self.question,
            self.backend,
            self.config,
            price=self.price,
            round_price=float(options.get("round_price", round_price[0])),
            budget=float(options.get("budget", budget[0])),
            difficulty=self.difficulty,
            pick=self._pick if self.permute else None,
        )
        self._charged, self._rounds = 0.0, 0
        self._begin_picture()
        return self.episode.observation()[0], self._info()

    def _pick(self, used: int, available: int) -> int:
        assert self._streams is not None
        return used + int(self._streams.uniform(_ROW)[0] * (available - used))

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Carry out one action.

        Raises:
            IllegalActionError: the mask forbids it, or the episode is over.
        """
        if self.episode is None:
            raise IllegalActionError("step: expected a reset first, found an episode that is over")
        episode, chosen = self.episode, self.config.actions[int(action)]
        stops = chosen.kind is ActionKind.STOP
        attempts = () if stops else episode.take(chosen)
        terminated = stops or bool(episode.mask().sum() == 1)
        right = terminated and self.grader.is_right(self.question, episode.answer)
        state = episode.state
        compute = state.price * (state.spent - self._charged)
        rounds = state.round_price * (state.rounds - self._rounds)
        gain = float(reward(np.array([right]), compute, rounds)[0])
        self._charged, self._rounds = float(state.spent[0]), int(state.rounds[0])
        info = self._info()
        self._describe(str(chosen), [a.answer for a in attempts], gain)
        if terminated:
            info |= {"answer": episode.answer, "right": right, "cost": episode.cost}
            self._describe(f"answer {episode.answer}, {'right' if right else 'wrong'}", [], None)
            self.episode = None
        return episode.observation()[0], gain, terminated, False, info

    def _describe(self, action: str, answers: list[str | None], gain: float | None) -> None:
        line = f"  {action:<9}"
        if answers:
            line += f" -> {', '.join(str(a) for a in answers)}"
        if gain is not None:
            line += f"  reward {gain:+.4f}"
        self._show(line)
