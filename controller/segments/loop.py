"""One attempt, segment by segment: inside the environment and deployed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.cost import Usage
from controller.deciders import PolicyDecider
from controller.difficulty import Difficulty
from controller.episodes import NO_ANSWER
from controller.errors import ConfigError, IllegalActionError
from controller.policy import PolicyNetwork
from controller.segments.episodes import SegmentColumns, SegmentConfig, SegmentEpisodes
from controller.segments.observation import SEGMENT_OBSERVATION_NAMES, observe_segments
from controller.segments.types import (
    ForcedAnswer,
    Segment,
    SegmentAction,
    SegmentBackend,
    SegmentRequest,
)
from controller.types import Question

_ROW = np.zeros(1, np.int64)


class SegmentEpisode:
    """One attempt at one question, with a backend that writes it.

    Args:
        question: to answer; its reference is never looked at.
        backend: writes segments.
        config: the decision process.
        price: accuracy per unit cost.
        budget: hard cap on cost; None for no cap.
        difficulty: read-out of the prompt's hidden state; None if there is none.
        attempt: number of the attempt.
    """

    def __init__(
        self,
        question: Question,
        backend: SegmentBackend,
        config: SegmentConfig,
        *,
        price: float,
        budget: float | None = None,
        difficulty: Difficulty | None = None,
        attempt: int = 0,
    ) -> None:
        if not 0 < price < float("inf"):
            raise ConfigError(f"price: expected a positive number, found {price}")
        self.question, self.backend, self.config = question, backend, config
        self.state = SegmentEpisodes(config, 1)
        self.usage = {model.name: Usage() for model in backend.models}
        (self.prefix,) = backend.open([(question, attempt)])
        self.forced: ForcedAnswer | None = None
        self._answers: list[str] = []
        self._drafts: list[str] = []
        self._count(self.prefix.usage)
        rungs, hidden = len(config.cost.weights), self.prefix.hidden
        log_odds = np.full((1, rungs), np.nan)
        if difficulty is not None and hidden is not None:
            log_odds = difficulty.log_odds(hidden[None])
        self.state.reset(
            _ROW,
            price=np.array([price]),
            budget=np.array([float("inf") if budget is None else budget]),
            prompt_tokens=np.array([self.prefix.prompt_tokens[:rungs]]),
            difficulty=log_odds,
            value=_column(self.prefix.value),
        )

    def _count(self, usage: tuple[Usage, ...]) -> None:
        for model, used in zip(self.backend.models, usage, strict=True):
            self.usage[model.name] = self.usage[model.name] + used

    @property
    def answer(self) -> str | None:
        """Answer of the attempt once it is done or one has been forced; None before."""
        known = int(self.state.answer[0])
        return None if known == NO_ANSWER else self._answers[known]

    @property
    def cost(self) -> float:
        """Cost so far, in small-model tokens."""
        return float(self.state.spent[0])

    def observation(self) -> NDArray[np.float32]:
        """What the policy sees, (1, D)."""
        return observe_segments(self.state)

    def mask(self) -> NDArray[np.bool_]:
        """Allowed actions, (1, 5)."""
        return self.state.mask()

    @property
    def over(self) -> bool:
        """Whether nothing but STOP is left to do."""
        return bool(self.mask().sum() == 1)

    def take(self, action: SegmentAction) -> Segment:
        """Carry out an action other than STOP and return the segment that it brought.

        Raises:
            IllegalActionError: the mask forbids it.
        """
        if action is SegmentAction.STOP or not self.mask()[0, action]:
            allowed = [str(a) for a in SegmentAction if self.mask()[0, a]]
            raise IllegalActionError(
                f"{self.question.question_id}: expected one of {allowed} other than STOP, found "
                f"{action}"
            )
        redo, large = action is SegmentAction.REVISE, action >= SegmentAction.ESCALATE
        before = self.prefix.before if redo else self.prefix
        assert before is not None
        actions = np.array([action])
        request = SegmentRequest(
            prefix=before,
            rung=len(self.config.cost.weights) - 1 if large else 0,
            index=int(self.state.next_draw(_ROW, actions)[0]),
            to_end=action is SegmentAction.ESCALATE_TO_END,
        )
        (self.prefix,) = self.backend.write([request])
        segment = self.prefix.segment
        assert segment is not None
        self._count(segment.usage)
        self._drafts = [*self._drafts, segment.text] if redo else [segment.text]
        self.state.record(_ROW, actions, self._columns(segment))
        return segment

    def _columns(self, segment: Segment) -> SegmentColumns:
        probe, probe_tokens = NO_ANSWER, 0
        if self.config.probes and not segment.done:
            forced = self._force()
            probe = self._known(forced.answer)
            probe_tokens = forced.phrase_tokens + forced.num_tokens
        answer = self.backend.answer(self.prefix) if segment.done else None
        return SegmentColumns(
            num_tokens=np.array([segment.num_tokens]),
            small_tokens=np.array([segment.small_tokens]),
            mean_logprob=_column(segment.mean_logprob),
            min_logprob=_column(segment.min_logprob),
            entropy=_column(segment.entropy),
            value=_column(self.prefix.value),
            done=np.array([segment.done]),
            answer=np.array([self._known(answer)]),
            repeats=np.array([self._drafts[:-1].count(segment.text)]),
            probe=np.array([probe]),
            probe_tokens=np.array([probe_tokens]),
        )

    def _known(self, answer: str | None) -> int:
        if answer is None:
            return NO_ANSWER
        if answer not in self._answers:
            self._answers.append(answer)
        return self._answers.index(answer)

    def _force(self) -> ForcedAnswer:
        (forced,) = self.backend.force([self.prefix])
        self._count(forced.usage)
        self.forced = forced
        return forced

    def stop(self) -> None:
        """End the attempt: force an answer, unless it has one or nothing has been written."""
        if not len(self.state.unanswered(_ROW)):
            return
        forced = self._force()
        tokens = forced.phrase_tokens + forced.num_tokens
        self.state.force(_ROW, np.array([self._known(forced.answer)]), np.array([tokens]))


def _column(value: float | None) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value], np.float64)


@dataclass(frozen=True, kw_only=True)
class SegmentDecision:
    """A choice inside an attempt, carried out.

    Attributes:
        action: what was chosen.
        probabilities: of every action, by name; forbidden ones are 0.
        value: expected return from here on, before acting.
        observation: by feature name.
        cost: spent before acting, in small-model tokens.
        segment: what the action brought; None when it stops.
    """

    action: SegmentAction
    probabilities: dict[str, float]
    value: float
    observation: dict[str, float]
    cost: float
    segment: Segment | None


@dataclass(frozen=True, kw_only=True)
class SegmentOutcome:
    """What a controller returns for one attempt.

    Attributes:
        answer: of the attempt, or forced; None when it gave up or none could be read.
        text: of the attempt, a forced answer included.
        decisions: in order.
        price: accuracy per unit cost that it was answered at.
        cost: in small-model tokens.
        usage: what was processed, by model name.
    """

    answer: str | None
    text: str
    decisions: tuple[SegmentDecision, ...]
    price: float
    cost: float
    usage: dict[str, Usage]


class SegmentController:
    """Policy + backend + loop, inside one attempt.

    Args:
        policy: the trained network.
        config: the decision process that it was trained for.
        backend: writes segments.
        difficulty: read-out of the prompt's hidden state, if the policy reads it.
        price: accuracy per unit cost, where `answer` is not given one.
    """

    def __init__(
        self,
        policy: PolicyNetwork,
        config: SegmentConfig,
        backend: SegmentBackend,
        difficulty: Difficulty | None = None,
        price: float | None = None,
    ) -> None:
        self.config, self.backend = config, backend
        self.difficulty, self.price = difficulty, price
        self._decider = PolicyDecider(policy)

    def decisions(self, episode: SegmentEpisode) -> Iterator[SegmentDecision]:
        """Decide until the attempt ends, yielding each decision once carried out."""
        while True:
            mask, observation = episode.mask(), episode.observation()
            probabilities, value = self._decider.judge(observation, mask)
            action, cost = SegmentAction(int(probabilities.argmax())), episode.cost
            stops = action is SegmentAction.STOP
            segment = None if stops else episode.take(action)
            final = stops or episode.over
            if final:
                episode.stop()
            yield SegmentDecision(
                action=action,
                probabilities=dict(
                    zip(map(str, SegmentAction), probabilities.tolist(), strict=True)
                ),
                value=value,
                observation=dict(
                    zip(SEGMENT_OBSERVATION_NAMES, observation[0].tolist(), strict=True)
                ),
                cost=cost,
                segment=segment,
            )
            if final:
                return

    def answer(
        self,
        question: str | Question,
        *,
        price: float | None = None,
        budget: float | None = None,
        attempt: int = 0,
    ) -> SegmentOutcome:
        """Answer a question with one attempt.

        Args:
            question: text, or a Question.
            price: accuracy per small-model token; the controller's own when None.
            budget: hard cap on cost; None for no cap.
            attempt: number of the attempt; others have other random streams.

        Raises:
            ConfigError: price out of range, or there is none.
            BackendError: the models fail.
        """
        price = self.price if price is None else price
        if price is None:
            raise ConfigError("price: expected one, found none here and none in the controller")
        if isinstance(question, str):
            question = Question(question_id=question, text=question)
        episode = SegmentEpisode(
            question,
            self.backend,
            self.config,
            price=price,
            budget=budget,
            difficulty=self.difficulty,
            attempt=attempt,
        )
        decisions = tuple(self.decisions(episode))
        ended = episode.prefix.done or episode.forced is None
        return SegmentOutcome(
            answer=episode.answer,
            text=episode.prefix.text + ("" if ended or not episode.forced else episode.forced.text),
            decisions=decisions,
            price=price,
            cost=episode.cost,
            usage=episode.usage,
        )
