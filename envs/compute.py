"""The environment: how much compute does a question deserve?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete

from controller.backends.base import Backend, run_now
from controller.core import Episode
from controller.errors import ConfigError, IllegalActionError
from controller.granularity import Process, granularity_of
from controller.loop import begin_episode
from controller.policy.difficulty import Difficulty
from controller.process.actions import ActionKind
from controller.process.lockstep import Bools, Singles
from controller.process.terms import Terms
from controller.process.types import Attempt, Question
from controller.segments.run import SegmentEpisode
from controller.segments.types import Segment, SegmentBackend
from envs.draws import (
    Illegal,
    PricedEpisodes,
    Streams,
    number_option,
    observation_space,
    refuse_unknown,
    stream_key,
    whole_option,
    whole_seed,
)
from envs.granularity import STOP, opened
from envs.pictures import Frame, picture
from envs.questions.grader import Grader
from envs.reward import LogUniform, Reward, Step, utility

_ROW = np.zeros(1, np.int64)
_CHOSEN = ("question", "attempt", "price", "round_price", "budget")


def make(traces: str, split: str = "train", **kwargs: Any) -> ComputeEnv:
    """The environment over a split of recorded traces; `kwargs` are of `ComputeEnv`.

    Settings follow from the train split; `own_actions` and `own_features` name registered ones.
    """
    read = opened(traces)
    recorded, config = read.recorded(split), read.process(kwargs)
    kwargs = {"attempts": recorded.table.num_attempts, **kwargs}
    return ComputeEnv(recorded.questions, recorded.backend, config, recorded.grader, **kwargs)


class ComputeEnv(PricedEpisodes, gymnasium.Env[Singles, np.int64]):
    """One question per episode; one decision after each attempt, or inside one, each segment.

    ## Action Space
    `Discrete(A)`, of whole attempts: STOP, SAMPLE (one entry per width), REVISE, ESCALATE and,
    with a verifier, VERIFY. Inside an attempt: STOP (answer now), SAMPLE (the small model
    writes the next segment), REVISE (drop the last segment and write another in its place),
    ESCALATE (the large model writes the next segment) and ESCALATE(end) (all that is left).
    `info["action_mask"]`, (A,) int8, and `action_masks()`, (A,) bool, tell which are
    legal; STOP always is: before the first attempt or segment it means giving up.

    ## Observation Space
    `Box(D,)` float32; entry i is `controller.granularity.granularity_of(config).features[i]`,
    whose meaning, unit and scale are on the page docs/reference/observation.md and in
    `controller.process.observation.FEATURES`.

    ## Rewards
    At each step -price x cost of the action - round price x serial rounds; at the end +1
    if the answer is right. `reward` puts another function in the place of that.

    ## Starting State
    A question, and inside attempts the number of one, drawn uniformly, a price drawn
    log-uniformly, no attempts.

    ## Episode Termination
    STOP, or nothing but STOP left to do. Only a TimeLimit truncates.

    Args:
        questions: with references.
        backend: makes the attempts or writes their segments, live or replayed.
        config: the decision process.
        grader: compares answers with references.
        attempts: per question, of those that are decided inside; each has random streams of
            its own.
        prices: range that each episode's price is drawn from.
        difficulty: read-out of the prompt.
        round_prices: range that the price of a serial round is drawn from; None for none.
        budgets: range that the hard cap of an episode's cost is drawn from; None for no caps.
        permute: whether a limited stock of attempts comes in random order.
        reward: from what a step came to, as arrays of one episode, to its reward.
        illegal: what an action that the mask forbids does: "raise" an IllegalActionError, count as
            "stop", or count as STOP and cost 1 more ("penalty"). Unless it raises,
            `info["illegal"]` tells of each step whether that happened.
        render_mode: None, "ansi" (a string), "human" (printed) or "rgb_array" (a picture).
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (as in Gymnasium)
        "render_modes": ["human", "ansi", "rgb_array"],
        "render_fps": 4,
    }

    def __init__(
        self,
        questions: Sequence[Question],
        backend: Backend | SegmentBackend,
        config: Process,
        grader: Grader,
        *,
        attempts: int = 1,
        prices: LogUniform | None = None,
        round_prices: LogUniform | None = None,
        difficulty: Difficulty | None = None,
        budgets: LogUniform | None = None,
        permute: bool = True,
        reward: Reward = utility,
        illegal: Illegal = "raise",
        render_mode: str | None = None,
    ) -> None:
        self._agree(config, prices, round_prices, budgets, reward, illegal)
        if not questions:
            raise ConfigError("questions: expected at least one, found none")
        if attempts < 1:
            raise ConfigError(f"attempts: expected at least 1, found {attempts}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ConfigError(
                f"render_mode: expected one of {self.metadata['render_modes']} or None, "
                f"found {render_mode!r}"
            )
        self.questions, self.attempts, self.render_mode = questions, attempts, render_mode
        self.backend, self.grader = backend, grader
        self.difficulty, self.permute = difficulty, permute
        self.observation_space = observation_space(len(granularity_of(config).features))
        self.action_space = Discrete(len(config.actions))
        self.episode: Episode | SegmentEpisode | None = None
        self._streams: Streams | None = None
        self._lines: list[str] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Singles, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: starts a new random stream.
            options: `question` (position), `attempt`, `price`, `round_price` and `budget` to
                choose instead of drawing.

        Raises:
            ConfigError: an unknown option, or one that is out of its range.
        """
        super().reset(seed=whole_seed(seed))
        if seed is not None or self._streams is None:
            self._streams = Streams(np.array([stream_key(seed)]))
        options = options or {}
        refuse_unknown(options, _CHOSEN)
        num_starts = len(self.questions) * self.attempts
        start, price, round_price, budget, _ = self._draw(self._streams, _ROW, num_starts)
        question, number = divmod(int(start[0]), self.attempts)
        question = whole_option(options, "question", question, len(self.questions))
        self.question = self.questions[question]
        self.price = number_option(options, "price", price[0])
        terms = Terms(
            price=self.price,
            round_price=number_option(options, "round_price", round_price[0]),
            budget=number_option(options, "budget", budget[0]),
        )
        beginning = begin_episode(
            self.question,
            self.backend,
            self.config,
            terms,
            difficulty=self.difficulty,
            pick=self._pick if self.permute else None,
            number=whole_option(options, "attempt", number, self.attempts),
        )
        self.episode = run_now(beginning)
        self._charged, self._rounds, self._lines = 0.0, 0, []
        text, lanes = self.question.text.strip(), tuple(map(str, self.config.actions[1:]))
        self._frame = Frame(question=text, price=self.price, lanes=lanes)
        self._show(f"{text}\n  price {self.price:.2g}")
        return self.episode.observation()[0], self._info()

    def _pick(self, used: int, available: int) -> int:
        assert self._streams is not None
        return used + int(self._streams.uniform(_ROW)[0] * (available - used))

    def action_masks(self) -> Bools:
        """Allowed actions now, (A,)."""
        if self.episode is None:
            raise IllegalActionError("action_masks: expected a reset first, found none")
        return self.episode.mask()[0]

    def step(self, action: np.int64) -> tuple[Singles, float, bool, bool, dict[str, Any]]:
        """Carry out one action.

        Raises:
            IllegalActionError: no action, a forbidden one (see `illegal`), or the episode is over.
        """
        if self.episode is None:
            raise IllegalActionError("step: expected a reset first, found an episode that is over")
        if isinstance(action, (bool, np.bool_)) or not self.action_space.contains(action):
            raise IllegalActionError(
                f"action: expected a whole number from 0 to {len(self.config.actions) - 1}, "
                f"found {action!r}"
            )
        forbidden = not self.action_masks()[action]
        if forbidden and self.illegal != "raise":
            action = np.int64(STOP)
        episode, chosen = self.episode, self.config.actions[int(action)]
        stops = chosen.kind is ActionKind.STOP
        brought: Sequence[Attempt | Segment] = () if stops else run_now(episode.take(chosen))
        terminated = stops or episode.over
        if terminated:
            episode.close()
        right = terminated and self.grader.is_right(self.question, episode.answer)
        state = episode.state
        compute = state.price * (state.spent - self._charged)
        rounds = state.round_price * (state.rounds - self._rounds)
        wrong = terminated and episode.answer is not None and not right
        ends = {"right": np.array([right]), "wrong": np.array([wrong])}
        step = Step(**ends, compute=compute, rounds=rounds)
        gain = float(self._rewards(step, forbidden)[0])
        self._charged, self._rounds = float(state.spent[0]), int(state.rounds[0])
        info = self._info()
        if self.illegal != "raise":
            info["illegal"] = forbidden
        told = f" -> {', '.join(made.brief for made in brought)}" if brought else ""
        self._show(f"  {chosen!s:<13}{told}  reward {gain:+.4f}")
        if self.render_mode == "rgb_array":
            self._frame = replace(
                self._frame,
                steps=(*self._frame.steps, (str(chosen), tuple(made.brief for made in brought))),
                votes=episode.votes,
                cost=episode.cost,
                answer=episode.answer,
                right=bool(right) if terminated else None,
            )
        if terminated:
            info |= {"answer": episode.answer, "right": right, "cost": episode.cost}
            self._show(f"  answer {episode.answer}, {'right' if right else 'wrong'}")
            self.episode = None
        return episode.observation()[0], gain, terminated, False, info

    def _info(self) -> dict[str, Any]:
        return {
            "action_mask": self.action_masks().astype(np.int8),
            "question_id": self.question.question_id,
            "price": self.price,
        }

    def _show(self, line: str) -> None:
        self._lines.append(line)
        if self.render_mode == "human":
            print(line)

    def render(self) -> Any:
        """The episode so far as text or as (H, W, 3) uint8; "human" has printed it already.

        Raises:
            IllegalActionError: no episode has begun.
        """
        if self._streams is None:
            raise IllegalActionError("render: expected a reset first, found none")
        if self.render_mode == "rgb_array":
            return picture(self._frame)
        return "\n".join(self._lines) if self.render_mode == "ansi" else None
