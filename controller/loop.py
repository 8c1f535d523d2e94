"""The one decision loop: live, served, and inside the environment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from controller.actions import Action, ActionKind
from controller.backends.base import Backend, PromptState, Request
from controller.cost import Usage
from controller.difficulty import Difficulty
from controller.episodes import LEAST_LOGPROB, NO_ANSWER, AttemptColumns, EpisodeConfig, Episodes
from controller.errors import ConfigError, IllegalActionError
from controller.observation import OBSERVATION_NAMES, observe
from controller.policy import PolicyNetwork
from controller.targets import Pace
from controller.types import Attempt, Question

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_ROW = np.zeros(1, np.int64)
_UNLIMITED = 2**31


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One decision and the numbers behind it.

    Attributes:
        action: what was chosen.
        probabilities: of every action of the set, by name; forbidden ones are 0.
        value: expected return from here on, before acting.
        observation: by feature name.
        leader: leading answer before acting.
        cost: spent before acting, in small-model tokens.
        attempts: what the action brought.
    """

    action: Action
    probabilities: dict[str, float]
    value: float
    observation: dict[str, float]
    leader: str | None
    cost: float
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a controller returns for a question.

    Attributes:
        answer: best answer seen; None when it gave up or none could be read.
        attempt: an attempt with that answer; None likewise.
        decisions: in order, the last one STOP unless nothing else was left to do.
        price: accuracy per unit cost that it was answered at.
        cost: in small-model tokens, every prompt processed once per episode.
        usage: what was really processed, by model name; less than `cost` says where a
            prompt was still cached from an earlier episode.
    """

    answer: str | None
    attempt: Attempt | None
    decisions: tuple[Decision, ...]
    price: float
    cost: float
    usage: dict[str, Usage]


class Episode:
    """One question with whatever backend makes the attempts.

    Args:
        question: to answer; its reference is never looked at.
        backend: makes the attempts.
        config: the decision process.
        price: accuracy per unit cost.
        round_price: accuracy per serial round.
        budget: hard cap on cost; None for no cap.
        difficulty: read-out of the prompt state; None when the policy does not read it.
        pick: chooses the next of a limited stock of attempts, from (used, available) to
            a position in used..available-1; recorded order when None.
    """

    def __init__(
        self,
        question: Question,
        backend: Backend,
        config: EpisodeConfig,
        *,
        price: float,
        round_price: float = 0.0,
        budget: float | None = None,
        difficulty: Difficulty | None = None,
        pick: Pick | None = None,
    ) -> None:
        if not 0 < price < float("inf"):
            raise ConfigError(f"price: expected a positive number, found {price}")
        if not 0 <= round_price < float("inf"):
            raise ConfigError(f"round_price: expected 0 or more, found {round_price}")
        if len(backend.models) != config.num_rungs:
            raise ConfigError(
                f"backend: expected {config.num_rungs} models, one per rung, found "
                f"{[model.name for model in backend.models]}"
            )
        self.question, self.backend, self.config = question, backend, config
        self.state = Episodes(config, 1, config.max_attempts)
        self.attempts: list[Attempt] = []
        self._answer_ids: dict[str, int] = {}
        self._parents: dict[int, Attempt] = {}
        self._unverified: list[Attempt] = []
        self._pick = pick
        budget = float("inf") if budget is None else budget
        reads = config.reads_prompt
        if reads and budget < float("inf"):
            (prompt,) = backend.prompt_states([question])
            reads = bool(self.state.reading_cost(np.array(prompt.prompt_tokens[0])) <= budget)
        (prompt,) = backend.prompt_states([question], hidden=reads)
        available = prompt.available or (_UNLIMITED,) * config.num_rungs
        self._order = [list(range(n)) if n < _UNLIMITED else [] for n in available]
        self.usage = {model.name: Usage() for model in backend.models}
        self._count(0, prompt.usage)
        self.state.reset(
            _ROW,
            price=np.array([price]),
            round_price=np.array([round_price]),
            budget=np.array([budget]),
            prompt_tokens=np.array([prompt.prompt_tokens]),
            limits=np.array([available]),
            difficulty=self._log_odds(prompt, difficulty),
        )

    def _log_odds(self, prompt: PromptState, difficulty: Difficulty | None) -> NDArray[np.float64]:
        if difficulty is None or prompt.hidden is None:
            return np.full((1, self.config.num_rungs), np.nan)
        return difficulty.log_odds(prompt.hidden[None])

    def _count(self, rung: int, usage: Usage) -> None:
        name = self.backend.models[rung].name
        self.usage[name] = self.usage[name] + usage

    @property
    def answer(self) -> str | None:
        """Leading answer; None before the first one."""
        leader = int(self.state.leader[0])
        return None if leader == NO_ANSWER else list(self._answer_ids)[leader]

    @property
    def cost(self) -> float:
        """Cost so far, in small-model tokens."""
        return float(self.state.spent[0])

    def observation(self) -> NDArray[np.float32]:
        """What the policy sees, (1, D)."""
        return observe(self.state)

    def mask(self) -> NDArray[np.bool_]:
        """Allowed actions, (1, A)."""
        return self.state.mask()

    def take(self, action: Action) -> tuple[Attempt, ...]:
        """Carry out an action other than STOP and return what it brought.

        Raises:
            IllegalActionError: the mask forbids it.
        """
        position = self.config.actions.index(action)
        if action.kind is ActionKind.STOP or not self.mask()[0, position]:
            allowed = [
                str(a) for a, ok in zip(self.config.actions, self.mask()[0], strict=True) if ok
            ]
            raise IllegalActionError(
                f"{self.question.question_id}: expected one of {allowed} other than STOP, found "
                f"{action}"
            )
        if action.kind is ActionKind.VERIFY:
            self._verify()
            return ()
        attempts = tuple(self.backend.attempts(self._requests(action)))
        for attempt in attempts:
            self._record(attempt)
        self.state.finish_round(_ROW)
        return attempts

    def _verify(self) -> None:
        verdict = self.backend.verify([(self.question, a) for a in self._unverified])
        self._count(0, verdict.usage)
        for attempt, score in zip(self._unverified, verdict.scores, strict=True):
            answer = NO_ANSWER if attempt.answer is None else self._answer_ids[attempt.answer]
            self.state.score(_ROW, np.array([answer]), np.array([attempt.rung]), np.array([score]))
        self.state.finish_verification(_ROW)
        self._unverified = []

    def _requests(self, action: Action) -> list[Request]:
        if action.kind is ActionKind.REVISE:
            parent = self._parents[int(self.state.leader[0])]
            index = int(self.state.take_child(_ROW)[0])
            return [Request(question=self.question, action=action.kind, index=index, parent=parent)]
        rung = int(self.state.next_rung[0]) if action.kind is ActionKind.ESCALATE else 0
        used = int(self.state.counts[0, rung])
        return [
            Request(
                question=self.question,
                action=action.kind,
                rung=rung,
                index=self._next_index(rung, used + i),
            )
            for i in range(action.width)
        ]

    def _next_index(self, rung: int, used: int) -> int:
        order = self._order[rung]
        if not order:
            return used
        picked = used if self._pick is None else self._pick(used, len(order))
        index = order[picked]
        order[picked] = order[used]
        return index

    def _record(self, attempt: Attempt) -> None:
        self.attempts.append(attempt)
        scoreable = self.config.verifies and self.backend.can_verify(attempt)
        if scoreable:
            self._unverified.append(attempt)
        self._count(attempt.rung, attempt.usage)
        answer = NO_ANSWER
        if attempt.answer is not None:
            answer = self._answer_ids.setdefault(attempt.answer, len(self._answer_ids))
        revisions = _UNLIMITED if attempt.num_revisions is None else attempt.num_revisions
        if revisions and attempt.rung == 0 and answer != NO_ANSWER:
            self._parents[answer] = attempt
        self.state.record(
            _ROW,
            np.array([attempt.action is ActionKind.REVISE]),
            AttemptColumns(
                rung=np.array([attempt.rung]),
                answer=np.array([answer]),
                prompt_tokens=np.array([attempt.prompt_tokens]),
                completion_tokens=np.array([attempt.completion_tokens]),
                mean_logprob=np.maximum(_column(attempt.mean_logprob), LEAST_LOGPROB),
                min_logprob=np.maximum(_column(attempt.min_logprob), LEAST_LOGPROB),
                scoreable=np.array([scoreable]),
                first_child=_ROW,
                num_children=np.array([revisions]),
            ),
        )

    def best_attempt(self) -> Attempt | None:
        """The first attempt that gave the leading answer."""
        return next(
            (a for a in self.attempts if a.answer is not None and a.answer == self.answer), None
        )


class Pick(Protocol):
    """Chooses among a limited stock of attempts."""

    def __call__(self, used: int, available: int) -> int:
        """A position in used..available-1."""
        ...


def _column(value: float | None) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value], np.float64)


class Controller:
    """Policy + backend + loop.

    Args:
        policy: the trained network.
        config: the decision process that it was trained for.
        backend: makes the attempts.
        difficulty: read-out of the prompt state, if the policy reads it.
        price: accuracy per unit cost, where `answer` is not given one.
        pace: sets the price from question to question instead, where `answer` is not given
            one.
    """

    def __init__(
        self,
        policy: PolicyNetwork,
        config: EpisodeConfig,
        backend: Backend,
        difficulty: Difficulty | None = None,
        price: float | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.policy, self.config = policy, config
        self.backend, self.difficulty = backend, difficulty
        self.price, self.pace = price, pace

    @classmethod
    def load(
        cls,
        path: str | Path,
        backend: Backend | None = None,
        *,
        mean_cost: float | None = None,
        accuracy: float | None = None,
        confidence: float = 0.9,
    ) -> Controller:
        """A controller from a checkpoint directory.

        Its price is the one that brings `mean_cost` or `accuracy`, or else the middle of
        the range that it was trained for.

        Args:
            path: directory with controller.json and controller.safetensors.
            backend: makes the attempts; None loads the models that the checkpoint names
                and checks their digests.
            mean_cost: small-model tokens that a question may cost on average; the price
                follows what the questions so far have cost, see `controller.targets.Pace`.
            accuracy: share of questions to be answered right.
            confidence: probability with which `accuracy` is kept; see
                `Calibration.price_for_accuracy`.

        Raises:
            CheckpointError: missing, damaged or hostile checkpoint, or models other than
                those it was trained for.
            ConfigError: both targets at once, or one that is out of reach.
        """
        from controller.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(path)
        price = checkpoint.price_for(mean_cost, accuracy, confidence)
        return cls(
            checkpoint.policy,
            checkpoint.config,
            backend or checkpoint.load_backend(),
            checkpoint.difficulty,
            price,
            None if mean_cost is None else checkpoint.pace(mean_cost),
        )

    def decisions(self, episode: Episode) -> Iterator[Decision]:
        """Decide until the episode ends, yielding each decision once carried out."""
        while True:
            observation, mask = episode.observation(), episode.mask()
            log_probs, value = self._judge(observation, mask)
            position = int(log_probs.argmax())
            action = self.config.actions[position]
            leader, cost = episode.answer, episode.cost
            stops = action.kind is ActionKind.STOP
            attempts = () if stops else episode.take(action)
            yield Decision(
                action=action,
                probabilities={
                    str(a): float(p) if allowed else 0.0
                    for a, p, allowed in zip(
                        self.config.actions, np.exp(log_probs), mask[0], strict=True
                    )
                },
                value=value,
                observation=dict(zip(OBSERVATION_NAMES, observation[0].tolist(), strict=True)),
                leader=leader,
                cost=cost,
                attempts=attempts,
            )
            if stops or episode.mask().sum() == 1:
                return

    @torch.no_grad()
    def _judge(
        self, observation: NDArray[np.float32], mask: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], float]:
        seen = torch.from_numpy(observation)
        log_probs = self.policy.log_probs(seen, torch.from_numpy(mask))
        return log_probs[0].numpy(), float(self.policy.value(seen)[0])

    def episode(
        self,
        question: str | Question,
        *,
        price: float | None = None,
        round_price: float = 0.0,
        budget: float | None = None,
    ) -> Episode:
        """A fresh episode for a question, to be driven by `decisions`."""
        if price is None:
            price = self.price if self.pace is None else self.pace.price()
        if price is None:
            raise ConfigError("price: expected one, found none here and none in the controller")
        if isinstance(question, str):
            question = Question(question_id=question, text=question)
        return Episode(
            question,
            self.backend,
            self.config,
            price=price,
            round_price=round_price,
            budget=budget,
            difficulty=self.difficulty,
        )

    def answer(
        self,
        question: str | Question,
        *,
        price: float | None = None,
        round_price: float = 0.0,
        budget: float | None = None,
    ) -> Outcome:
        """Answer a question.

        Args:
            question: text, or a Question.
            price: accuracy per unit cost, the unit being one small-model token; the
                controller's own when None, or what its pace asks for.
            round_price: accuracy per serial round of generation; 0 if waiting is free.
            budget: hard cap on cost; None for no cap.

        Raises:
            ConfigError: price or budget out of range.
            BackendError: the models cannot be reached at all.
        """
        episode = self.episode(question, price=price, round_price=round_price, budget=budget)
        decisions = tuple(self.decisions(episode))
        if self.pace is not None and price is None:
            self.pace.count(episode.cost)
        return Outcome(
            answer=episode.answer,
            attempt=episode.best_attempt(),
            decisions=decisions,
            price=float(episode.state.price[0]),
            cost=episode.cost,
            usage=episode.usage,
        )
