"""A controller inside one attempt: policy + backend + loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from controller.cost import Usage
from controller.deciders import PolicyDecider
from controller.difficulty import Difficulty
from controller.errors import ConfigError
from controller.policy import PolicyNetwork
from controller.segments.episodes import SegmentConfig
from controller.segments.observation import SEGMENT_OBSERVATION_NAMES
from controller.segments.run import SegmentEpisode
from controller.segments.types import Segment, SegmentAction, SegmentBackend
from controller.types import Question


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
        difficulty: read-out of the prompt, if the policy reads it.
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
                episode.finish()
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
        prefix, (forced,) = episode.prefix, episode.forced
        return SegmentOutcome(
            answer=episode.answer,
            text=prefix.text + ("" if prefix.done or forced is None else forced.text),
            decisions=decisions,
            price=price,
            cost=episode.cost,
            usage={
                model.name: used
                for model, used in zip(self.backend.models, episode.usage[0], strict=True)
            },
        )
