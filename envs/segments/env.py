"""`allot/Segment-v0`: when to go on, to redo, to hand over and to answer, inside one attempt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete

from controller.difficulty import Difficulty
from controller.errors import ConfigError, IllegalActionError
from controller.segments.episodes import SegmentConfig
from controller.segments.observation import NUM_SEGMENT_FEATURES
from controller.segments.run import SegmentEpisode
from controller.segments.types import SegmentAction, SegmentBackend
from controller.types import Question
from envs.grader import Grader
from envs.lockstep import draw_episode, observation_space
from envs.reward import LogUniform, price_range, reward
from envs.scalar import Observation, ScalarEnv

_ROW = np.zeros(1, np.int64)
_NO_ROUNDS = np.zeros(1)


class SegmentEnv(ScalarEnv):
    """One attempt per episode; one decision after each segment.

    ## Action Space
    `Discrete(5)`: STOP (answer now), SAMPLE (the small model writes the next segment), REVISE
    (drop the last segment and write another in its place), ESCALATE (the large model writes
    the next segment) and ESCALATE(end) (it writes all that is left).
    `info["action_mask"]`, (5,) int8, and `action_masks()`, (5,) bool, tell which are legal;
    STOP always is: before the first segment it means giving up.

    ## Observation Space
    `Box(D,)` float32; entry i is `controller.segments.observation.SEGMENT_OBSERVATION_NAMES[i]`.

    ## Rewards
    At each step -price x cost of the action, the first one's with the prompt's; at the end +1
    if the answer is right.

    ## Starting State
    A question and the number of an attempt drawn uniformly, a price drawn log-uniformly.

    ## Episode Termination
    STOP, or nothing but STOP left to do. Only a TimeLimit truncates.

    Args:
        questions: with references.
        backend: writes the segments, live or replayed.
        config: the decision process.
        grader: compares answers with references.
        attempts: per question; each has random streams of its own.
        prices: range that each episode's price is drawn from.
        difficulty: read-out of the prompt.
        budgets: range that the hard cap of an episode's cost is drawn from; None for no caps.
        render_mode: None, "ansi" (a string), "human" (printed) or "rgb_array" (a picture).
    """

    def __init__(
        self,
        questions: Sequence[Question],
        backend: SegmentBackend,
        config: SegmentConfig,
        grader: Grader,
        *,
        attempts: int = 1,
        prices: LogUniform | None = None,
        difficulty: Difficulty | None = None,
        budgets: LogUniform | None = None,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(questions, render_mode)
        if attempts < 1:
            raise ConfigError(f"attempts: expected at least 1, found {attempts}")
        self.backend, self.config, self.grader = backend, config, grader
        self.attempts, self.budgets = attempts, budgets
        self.prices = prices or price_range(config.cost_unit)
        self.difficulty = difficulty
        self.observation_space = observation_space(NUM_SEGMENT_FEATURES)
        self.action_space = Discrete(len(SegmentAction))
        self.episode: SegmentEpisode | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: starts a new random stream.
            options: `question` (position), `attempt`, `price` and `budget` to choose instead
                of drawing.

        Raises:
            ConfigError: an unknown option.
        """
        names = ("question", "attempt", "price", "budget")
        streams, options = self._drawing(seed, options, names)
        trees = len(self.questions) * self.attempts
        tree, price, _, budget, _ = draw_episode(
            streams, _ROW, trees, self.prices, None, self.budgets, hide_signals=0
        )
        question, attempt = divmod(int(tree[0]), self.attempts)
        self.question = self.questions[int(options.get("question", question))]
        self.price = float(options.get("price", price[0]))
        self.episode = SegmentEpisode(
            self.question,
            self.backend,
            self.config,
            price=self.price,
            budget=float(options.get("budget", budget[0])),
            difficulty=self.difficulty,
            attempt=int(options.get("attempt", attempt)),
        )
        self._charged = 0.0
        self._begin_picture()
        return self.episode.observation()[0], self._info()

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Carry out one action.

        Raises:
            IllegalActionError: the mask forbids it, or the episode is over.
        """
        if self.episode is None:
            raise IllegalActionError("step: expected a reset first, found an episode that is over")
        episode, chosen = self.episode, SegmentAction(int(action))
        stops = chosen is SegmentAction.STOP
        text = "" if stops else episode.take(chosen).text
        terminated = stops or episode.over
        if terminated:
            episode.finish()
        right = terminated and self.grader.is_right(self.question, episode.answer)
        state = episode.state
        compute = state.price * (state.spent - self._charged)
        gain = float(reward(np.array([right]), compute, _NO_ROUNDS)[0])
        self._charged = float(state.spent[0])
        info = self._info()
        self._show(f"  {chosen!s:<13} {text.strip()}  reward {gain:+.4f}")
        if terminated:
            info |= {"answer": episode.answer, "right": right, "cost": episode.cost}
            self._show(f"  answer {episode.answer}, {'right' if right else 'wrong'}")
            self.episode = None
        return episode.observation()[0], gain, terminated, False, info
