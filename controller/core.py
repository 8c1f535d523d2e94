"""The decision core: one episode, and the loop that plays it.

Both await the backend. One that never suspends needs no event loop: the environment and
`controller.loop` get on with `run_now`. The service awaits one that does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from typing_extensions import TypeVar

from controller.backends.base import UNLIMITED, Backend, PromptState, Request, Warm
from controller.errors import ConfigError
from controller.granularity import Granularity, granularity_of
from controller.policy.difficulty import Difficulty
from controller.process.actions import Action, ActionKind
from controller.process.cost import Usage
from controller.process.episodes import (
    LEAST_LOGPROB,
    NO_ANSWER,
    AttemptColumns,
    EpisodeConfig,
    Episodes,
)
from controller.process.lockstep import Bools, Floats, Singles
from controller.process.terms import Terms
from controller.process.types import Attempt, Question
from controller.segments.types import Segment

_ROW = np.zeros(1, np.int64)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen and the numbers behind it.

    Attributes:
        action: what was chosen.
        probabilities: of every action of the set, by name; forbidden ones are 0.
        value: expected return from here on, before acting.
        observation: by feature name.
        leader: leading answer before acting.
        cost: spent before acting, in small-model tokens.
        propensity: probability with which it would be chosen here again.
        decided_by: `policy`, or the rule that decided instead of the checkpoint's policy.
        floor: rule of the checkpoint's safe floor that stood in for the network; None for none.
        votes: weight of each answer before acting; empty inside attempts, where none compete.
    """

    action: Action
    probabilities: dict[str, float]
    value: float
    observation: dict[str, float]
    leader: str | None
    cost: float
    propensity: float = 1.0
    decided_by: str = "policy"
    floor: str | None = None
    votes: dict[str, float] = field(default_factory=dict)

    @property
    def stops(self) -> bool:
        """Whether it ends the episode."""
        return self.action.kind is ActionKind.STOP


@dataclass(frozen=True, kw_only=True)
class Decision(Choice):
    """A choice carried out.

    Attributes:
        brought: attempts, or a segment of one, that the action brought.
        final: whether the episode is over.
    """

    brought: tuple[Attempt | Segment, ...] = ()
    final: bool = False

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The attempts that the action brought."""
        return tuple(made for made in self.brought if isinstance(made, Attempt))

    @property
    def segment(self) -> Segment | None:
        """The segment that the action brought; None if there is none."""
        return next((made for made in self.brought if isinstance(made, Segment)), None)


class Underway(ABC):
    """An episode that has begun, of either granularity."""

    config: Any
    state: Any
    price: float

    @cached_property
    def granularity(self) -> Granularity:
        """What a policy sees of it."""
        return granularity_of(self.config)

    @property
    @abstractmethod
    def usage(self) -> dict[str, Usage]:
        """Tokens processed so far, by model name."""

    @property
    @abstractmethod
    def answer(self) -> str | None:
        """Answer if it ended now; None if there is none yet."""

    @property
    def votes(self) -> dict[str, float]:
        """Weight of each answer so far."""
        return {}

    @property
    def cost(self) -> float:
        """Cost so far, in small-model tokens."""
        return float(self.state.spent[0])

    @property
    def over(self) -> bool:
        """Whether nothing but STOP is left to do."""
        return bool(self.mask().sum() == 1)

    def observation(self) -> Singles:
        """What the policy sees, (1, D)."""
        return self.granularity.table.observe(self.state)

    def mask(self) -> Bools:
        """Allowed actions, (1, A)."""
        return np.asarray(self.state.mask())

    @abstractmethod
    async def take(self, action: Action) -> Sequence[Attempt | Segment]:
        """Carry out an action other than STOP; returns what it brought.

        Raises:
            IllegalActionError: the mask forbids it.
        """

    def close(self) -> None:
        """End the episode, by forcing an answer if one is still owed."""
        return

    @abstractmethod
    def best_attempt(self) -> Attempt | None:
        """An attempt that gives the answer."""


E = TypeVar("E", bound=Underway, contravariant=True, default="Episode")


class Decider(Protocol[E]):
    """Anything that chooses an episode's next action: the policy, a rule, a guard."""

    def choose(self, episode: E, mask: Bools) -> Choice:
        """One action that `mask`, (1, A), allows."""


Pick = Callable[[int, int], int]
"""Chooses from a limited stock of attempts: from (used, available), one of used..available-1."""


class Episode(Underway):
    """One question, whoever makes the attempts.

    Args:
        question: to answer; its reference is never looked at.
        terms: what it may cost, at a known price.
        difficulty: read-out of the prompt; None when the policy does not read it.
        pick: chooses the next of a limited stock of attempts; recorded order when None.
    """

    def __init__(
        self,
        question: Question,
        backend: Backend,
        config: EpisodeConfig,
        terms: Terms,
        *,
        difficulty: Difficulty | None = None,
        pick: Pick | None = None,
    ) -> None:
        if len(backend.models) != config.num_rungs:
            raise ConfigError(
                f"backend: expected {config.num_rungs} models, one per rung, found "
                f"{[model.name for model in backend.models]}"
            )
        self.question, self.config = question, config
        self.terms, self.price = terms, terms.known_price
        self.budget = float("inf") if terms.budget is None else terms.budget
        self.state = Episodes(config, 1, config.max_attempts)
        self.attempts: list[Attempt] = []
        self._usage = {model.name: Usage() for model in backend.models}
        self.backend, self._names = backend, [model.name for model in backend.models]
        self._difficulty, self._pick = difficulty, pick
        self._warm: tuple[Warm | None, ...] = ()
        self._answer_ids: dict[str, int] = {}
        self._parents: dict[int, Attempt] = {}
        self._unverified: list[Attempt] = []
        self.look()

    def look(self) -> None:
        """See the state anew: something has been made or verified."""
        self._looked: Episodes | None = None
        self._mask: Bools | None = None

    async def begin(self) -> None:
        """Look at the prompt, as far as policy and budget want that."""
        reads = self.config.reads_prompt
        if reads and self.budget < float("inf"):
            (prompt,) = await self.backend.prompt_states([self.question])
            cost = self.state.reading_cost(np.array(prompt.prompt_tokens[0]))
            reads = bool(cost <= self.budget)
        (prompt,) = await self.backend.prompt_states([self.question], hidden=reads)
        self.start(prompt)

    def start(self, prompt: PromptState) -> None:
        """Begin with a prompt's state already known."""
        available = prompt.available or (UNLIMITED,) * self.config.num_rungs
        self._order = [list(range(n)) if n < UNLIMITED else [] for n in available]
        self._count(0, prompt.usage)
        readout, known = self._difficulty, None
        if readout is not None:
            known = readout.of_question(self.question.text, prompt.hidden)
        self.state.reset(
            _ROW,
            price=np.array([self.price]),
            round_price=np.array([self.terms.round_price]),
            budget=np.array([self.budget]),
            prompt_tokens=np.array([prompt.prompt_tokens]),
            prompt_counted=prompt.counted,
            limits=np.array([available]),
            difficulty=np.full((1, self.config.num_rungs), np.nan) if known is None else known,
            readings=np.array([[read(self.question.text) for read in self.config.readings]]),
        )
        self._warm = prompt.warm
        for rung, warm in enumerate(prompt.warm):
            self._spare(rung, warm.tokens if warm else 0)

    def _spare(self, rung: int, cached: int) -> None:
        """So many tokens of a model's prompt are cached; they may cost less than others."""
        warm = self._warm[rung] if self._warm else None
        if warm is not None:
            self.state.spared[0, rung] = round((1 - warm.share) * cached)

    @cached_property
    def is_strange(self) -> bool:
        """Whether the wording is unlike all that difficulty was learnt from."""
        return self._difficulty is not None and self._difficulty.is_strange(self.question.text)

    def _count(self, rung: int, usage: Usage) -> None:
        name = self._names[rung]
        self._usage[name] = self._usage[name] + usage

    @property
    def usage(self) -> dict[str, Usage]:
        """Tokens processed so far, by model name."""
        return self._usage

    @property
    def answer(self) -> str | None:
        """Leading answer; None before the first one."""
        leader = int(self.state.leader[0])
        return None if leader == NO_ANSWER else list(self._answer_ids)[leader]

    @property
    def votes(self) -> dict[str, float]:
        """Weight of each answer so far, after verification."""
        weights = self.state.weight[0, : len(self._answer_ids)].tolist()
        return dict(zip(self._answer_ids, weights, strict=True))

    def mask(self) -> Bools:
        """Allowed actions, (1, A)."""
        if self._mask is None:
            self._mask = self._seen.mask()
        return self._mask

    def observation(self) -> Singles:
        """What the policy sees, (1, D)."""
        return self.granularity.table.observe(self._seen)

    @property
    def _seen(self) -> Episodes:
        """The state, taken apart once for mask and observation."""
        if self._looked is None:
            self._looked = self.state.looked_at(None)
        return self._looked

    async def take(self, action: Action) -> tuple[Attempt, ...]:
        """Carry out an action other than STOP; returns what it brought.

        Raises:
            IllegalActionError: the mask forbids it.
        """
        position = self.config.actions.index(action)
        if action.kind is ActionKind.STOP or not self.mask()[0, position]:
            raise self.config.actions.illegal(self.question.question_id, self.mask()[0], action)
        if action.kind.spec.scores:
            verdict = await self.backend.verify([(self.question, a) for a in self._unverified])
            self._count(self.config.verifier, verdict.usage)
            if None in verdict.scores:  # what failed is charged as far as it was read
                most = self.state.unverified_tokens[0]
                self.state.unverified_tokens[0] = min(most, verdict.usage.verifier_tokens)
            self.verified(verdict.scores)
            return ()
        attempts = tuple(await self.backend.attempts(self._requests(position)))
        self.made(attempts)
        return attempts

    def made(self, attempts: Sequence[Attempt]) -> None:
        """Take note of the attempts of one round."""
        for attempt in attempts:
            self._record(attempt)
        self.state.finish_round(_ROW)
        self.look()

    def verified(self, scores: Sequence[float | None]) -> None:
        """Take note of the scores of all attempts that had none; None of a failed judgement."""
        for attempt, score in zip(self._unverified, scores, strict=True):
            if score is None:
                continue
            answer = NO_ANSWER if attempt.answer is None else self._answer_ids[attempt.answer]
            self.state.score(_ROW, np.array([answer]), np.array([attempt.rung]), np.array([score]))
            place = next(i for i, made in enumerate(self.attempts) if made is attempt)
            self.attempts[place] = replace(attempt, verifier_score=score)
        self.state.finish_verification(_ROW)
        self._unverified = []
        self.look()

    def _requests(self, position: int) -> tuple[Request, ...]:
        spec, width = self.config.choices[position]
        kind, rung = spec.attempt or self.config.actions[position].kind, spec.rung
        parent = None
        if spec.revises:
            parent = self._parents[int(self.state.leader[0])]
            reviser = np.array([self.config.revisers.index(rung)])
            indices = [int(self.state.take_child(_ROW, reviser)[0])]
        else:
            used = int(self.state.counts[0, rung])
            indices = [self._next_index(rung, used + i) for i in range(width)]
        return tuple(
            Request(question=self.question, action=kind, rung=rung, index=i, parent=parent)
            for i in indices
        )

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
        scoreable = bool(self.state.has_verifier[0]) and self.backend.can_verify(attempt)
        if scoreable:
            self._unverified.append(attempt)
        self._count(attempt.rung, attempt.usage)
        answer = NO_ANSWER
        if attempt.answer is not None:
            answer = self._answer_ids.setdefault(attempt.answer, len(self._answer_ids))
        known = attempt.num_revisions
        if not isinstance(known, tuple):
            known = (UNLIMITED if known is None else known,) * self.config.num_rungs
        revisions = [known[rung] for rung in self.config.revisers]
        revisable = attempt.rung == 0 or self.config.names_revisers
        if any(revisions) and revisable and answer != NO_ANSWER:
            self._parents[answer] = attempt
        if not self.config.reads_logprobs:
            attempt = replace(attempt, mean_logprob=None, min_logprob=None)
        cut = attempt.cut and self.config.reads_cuts
        if not attempt.action.spec.revises:
            self._spare(attempt.rung, attempt.usage.cached_tokens)  # now that it is known
        seen = attempt_columns(attempt, answer, cut=cut, scoreable=scoreable, revisions=revisions)
        self.state.record(_ROW, np.array([attempt.action.spec.revises]), seen)

    def best_attempt(self) -> Attempt | None:
        """The first attempt that gave the leading answer."""
        return next(
            (a for a in self.attempts if a.answer is not None and a.answer == self.answer), None
        )


def attempt_columns(
    attempt: Attempt,
    answer: int,
    *,
    cut: bool = False,
    scoreable: bool = False,
    revisions: Sequence[int] = (0,),
) -> AttemptColumns:
    """One attempt as columns of length 1, with the id of its answer.

    `revisions` of it can be had of each arm that revises.
    """

    def column(logprob: float | None) -> Floats:
        value = np.nan if logprob is None else max(logprob, LEAST_LOGPROB)
        return np.array([value], np.float64)

    return AttemptColumns(
        rung=np.array([attempt.rung]),
        answer=np.array([answer]),
        prompt_tokens=np.array([attempt.prompt_tokens]),
        completion_tokens=np.array([attempt.completion_tokens]),
        reasoning_tokens=np.array([attempt.usage.reasoning_tokens]),
        mean_logprob=column(attempt.mean_logprob),
        min_logprob=column(attempt.min_logprob),
        cut=np.array([cut]),
        scoreable=np.array([scoreable]),
        first_child=np.zeros((1, len(revisions)), np.int64),
        num_children=np.array([revisions]),
    )


async def play(episode: E, decider: Decider[E]) -> AsyncIterator[Choice]:
    """The decision loop, from an episode that has begun to its end.

    Yields:
        Each choice when it is made, and the `Decision` once it has been carried out.
    """
    final = False
    while not final:
        choice = decider.choose(episode, episode.mask())
        yield choice
        brought = () if choice.stops else await episode.take(choice.action)
        final = choice.stops or episode.over
        if final:
            episode.close()
        yield Decision(**vars(choice), brought=tuple(brought), final=final)
