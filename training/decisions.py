"""Decision by decision, what a controller did on recorded questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from controller.actions import ActionSet
from controller.checkpoint import Checkpoint
from controller.episodes import NO_ANSWER
from controller.loop import Decision
from controller.observation import OBSERVATION_NAMES
from controller.policy import PolicyNetwork
from controller.types import Attempt, Question
from envs.lockstep import Lockstep
from envs.recorded import Recorded
from envs.replay import Replay
from training.play import Ints, play_checkpoint


class AnyDecision(Protocol):
    """A choice carried out, of whole attempts or inside one."""

    @property
    def action(self) -> object:
        """What was chosen; its name is its text."""
        ...


D = TypeVar("D", bound=AnyDecision)
R = TypeVar("R", bound=Lockstep)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class PlayedEpisode(Generic[D]):
    """One question at one price, from the first decision to the answer.

    Attributes:
        question: with its reference.
        price: accuracy per unit cost.
        decisions: in order, the last one STOP unless nothing else was left to do.
        answer: what was returned; None when it gave up or none could be read.
        right_answers: those of the recorded answers that the grader accepts.
        cost: in small-model tokens.
    """

    question: Question
    price: float
    decisions: tuple[D, ...]
    answer: str | None
    right_answers: frozenset[str]
    cost: float

    @property
    def right(self) -> bool:
        """Whether the answer is right."""
        return self.answer in self.right_answers


@dataclass(frozen=True, kw_only=True)
class DecisionColumns(Generic[D]):
    """How the decisions of one granularity are kept in a file.

    Attributes:
        actions: names of the actions that there are.
        features: names of what is observed.
        more: columns beside action, probabilities, value, observation and cost.
        row: values of these columns, from a decision and the right answers to its question.
    """

    actions: Sequence[str]
    features: Sequence[str]
    more: Sequence[tuple[str, pa.DataType]]
    row: Callable[[D, frozenset[str]], Mapping[str, Any]]


_ATTEMPT = pa.struct(
    [
        ("attempt_id", pa.string()),
        ("parent_id", pa.string()),
        ("model", pa.string()),
        ("action", pa.string()),
        ("answer", pa.string()),
        ("correct", pa.bool_()),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("mean_logprob", pa.float32()),
        ("verifier_score", pa.float32()),
        ("text", pa.string()),
    ]
)


def attempt_columns(actions: ActionSet) -> DecisionColumns[Decision]:
    """Decisions of whole attempts: the leading answer, and the attempts that each brought."""
    return DecisionColumns(
        actions=actions.names,
        features=OBSERVATION_NAMES,
        more=[("leader", pa.string()), ("attempts", pa.list_(_ATTEMPT))],
        row=lambda decision, right: {
            "leader": decision.leader,
            "attempts": [_attempt_row(attempt, right) for attempt in decision.attempts],
        },
    )


def _attempt_row(attempt: Attempt, right: frozenset[str]) -> dict[str, Any]:
    return {**vars(attempt), "action": str(attempt.action), "correct": attempt.answer in right}


def play_decisions(
    checkpoint: Checkpoint, recorded: Recorded, prices: Sequence[float]
) -> Iterator[PlayedEpisode[Decision]]:
    """Play each question once at each price and keep every decision.

    Args:
        checkpoint: the controller.
        recorded: questions and attempts.
        prices: accuracy per unit cost.

    Yields:
        Episodes by price, then in the order of the questions.
    """
    for price in prices:
        watch = Watch(checkpoint.policy, _leader_and_attempts)
        play_checkpoint(checkpoint, recorded.table, price, repeats=1, watch=watch)
        for row, question in enumerate(recorded.questions):
            yield PlayedEpisode(
                question=question,
                price=price,
                decisions=tuple(_decisions(recorded, watch, row)),
                answer=_answer(recorded, row, int(watch.replay.episodes.leader[row])),
                right_answers=recorded.grader.right[question.question_id],
                cost=float(watch.replay.episodes.spent[row]),
            )


@dataclass(frozen=True, kw_only=True)
class Seen(Generic[T]):
    """What a policy made of one state.

    Attributes:
        action: that it took.
        probabilities: of every action, (A,).
        value: expected return.
        observation: what it saw, (D,).
        cost: spent before acting, in small-model tokens.
        note: what else was taken down.
    """

    action: int
    probabilities: NDArray[np.float32]
    value: float
    observation: NDArray[np.float32]
    cost: float
    note: T

    def named(self, actions: Sequence[str], features: Sequence[str]) -> dict[str, Any]:
        """Probabilities, value, observation and cost, by the names of a decision's fields."""
        return {
            "probabilities": dict(zip(actions, self.probabilities.tolist(), strict=True)),
            "value": self.value,
            "observation": dict(zip(features, self.observation.tolist(), strict=True)),
            "cost": self.cost,
        }


class Watch(Generic[R, T]):
    """Looks on while a policy is played.

    Args:
        policy: that is played.
        note: what else to take down of an episode, given its row.
        every: one row in so many is watched, the first among them.

    Attributes:
        replay: that is watched.
        seen: by row, every state that the policy decided in.
    """

    replay: R

    def __init__(self, policy: PolicyNetwork, note: Callable[[R, int], T], every: int = 1) -> None:
        self._policy, self._note, self._every = policy, note, every
        self.seen: dict[int, list[Seen[T]]] = {}

    @torch.no_grad()
    def __call__(self, replay: R, rows: Ints, actions: Ints) -> None:
        """Take down what is about to be done in `rows`, (n,): `actions`, (n,)."""
        self.replay, watched = replay, rows % self._every == 0
        rows, actions = rows[watched], actions[watched]
        observation = replay.observe(rows)  # (n, D)
        seen, mask = torch.from_numpy(observation), torch.from_numpy(replay.episodes.mask(rows))
        probabilities = self._policy.log_probs(seen, mask).exp().numpy()  # (n, A)
        value = self._policy.value(seen).numpy()  # (n,)
        for i, row in enumerate(rows.tolist()):
            self.seen.setdefault(row, []).append(
                Seen(
                    action=int(actions[i]),
                    probabilities=probabilities[i],
                    value=float(value[i]),
                    observation=observation[i],
                    cost=float(replay.episodes.spent[row]),
                    note=self._note(replay, row),
                )
            )


def _leader_and_attempts(replay: Replay, row: int) -> tuple[int, int]:
    return int(replay.episodes.leader[row]), int(replay.episodes.num_attempts[row])


def _decisions(
    recorded: Recorded, watch: Watch[Replay, tuple[int, int]], row: int
) -> Iterator[Decision]:
    replay, seen = watch.replay, watch.seen[row]
    made = [entry.note[1] for entry in seen] + [int(replay.episodes.num_attempts[row])]
    names = replay.config.actions.names
    for entry, first, end in zip(seen, made, made[1:], strict=False):
        yield Decision(
            action=replay.config.actions[entry.action],
            leader=_answer(recorded, row, entry.note[0]),
            attempts=tuple(recorded.attempts[a] for a in replay.attempts[row, first:end]),
            **entry.named(names, OBSERVATION_NAMES),
        )


def _answer(recorded: Recorded, row: int, leader: int) -> str | None:
    return None if leader == NO_ANSWER else recorded.table.answers[row][leader]
