"""Decision by decision, what a controller did on recorded questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from controller.checkpoint import Checkpoint
from controller.episodes import NO_ANSWER
from controller.loop import Decision
from controller.observation import OBSERVATION_NAMES, observe
from controller.policy import PolicyNetwork
from controller.types import Question
from envs.recorded import Recorded
from envs.replay import Replay
from training.play import Ints, play_checkpoint


@dataclass(frozen=True, kw_only=True)
class PlayedEpisode:
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
    decisions: tuple[Decision, ...]
    answer: str | None
    right_answers: frozenset[str]
    cost: float

    @property
    def right(self) -> bool:
        """Whether the answer is right."""
        return self.answer in self.right_answers


def play_decisions(
    checkpoint: Checkpoint, recorded: Recorded, prices: Sequence[float]
) -> Iterator[PlayedEpisode]:
    """Play each question once at each price and keep every decision.

    Args:
        checkpoint: the controller.
        recorded: questions and attempts.
        prices: accuracy per unit cost.

    Yields:
        Episodes by price, then in the order of the questions.
    """
    for price in prices:
        watch = _Watch(checkpoint.policy)
        play_checkpoint(checkpoint, recorded.table, price, repeats=1, watch=watch)
        yield from watch.episodes(recorded, price)


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What a policy made of one state; one entry of the rows that were going on."""

    action: int
    probabilities: NDArray[np.float32]  # (A,)
    value: float
    observation: NDArray[np.float32]  # (D,)
    leader: int
    cost: float
    num_attempts: int


class _Watch:
    """Looks on while `play` plays each question once."""

    def __init__(self, policy: PolicyNetwork) -> None:
        self._policy = policy
        self._replay: Replay | None = None
        self._seen: dict[int, list[_Seen]] = {}

    @torch.no_grad()
    def __call__(self, replay: Replay, rows: Ints, actions: Ints) -> None:
        self._replay, state = replay, replay.episodes
        observation = observe(state, rows)  # (n, D)
        seen, mask = torch.from_numpy(observation), torch.from_numpy(state.mask(rows))
        probabilities = self._policy.log_probs(seen, mask).exp().numpy()  # (n, A)
        value = self._policy.value(seen).numpy()  # (n,)
        for i, row in enumerate(rows.tolist()):
            self._seen.setdefault(row, []).append(
                _Seen(
                    action=int(actions[i]),
                    probabilities=probabilities[i],
                    value=float(value[i]),
                    observation=observation[i],
                    leader=int(state.leader[row]),
                    cost=float(state.spent[row]),
                    num_attempts=int(state.num_attempts[row]),
                )
            )

    def episodes(self, recorded: Recorded, price: float) -> Iterator[PlayedEpisode]:
        """The episodes that have been played, in the order of the questions."""
        replay = self._replay
        assert replay is not None
        for row, question in enumerate(recorded.questions):
            yield PlayedEpisode(
                question=question,
                price=price,
                decisions=tuple(self._decisions(recorded, replay, row)),
                answer=_answer(recorded, row, int(replay.episodes.leader[row])),
                right_answers=recorded.grader.right[question.question_id],
                cost=float(replay.episodes.spent[row]),
            )

    def _decisions(self, recorded: Recorded, replay: Replay, row: int) -> Iterator[Decision]:
        seen = self._seen[row]
        made = [s.num_attempts for s in seen] + [int(replay.episodes.num_attempts[row])]
        names = [str(action) for action in replay.config.actions]
        for entry, first, end in zip(seen, made, made[1:], strict=False):
            yield Decision(
                action=replay.config.actions[entry.action],
                probabilities=_named(names, entry.probabilities),
                value=entry.value,
                observation=_named(OBSERVATION_NAMES, entry.observation),
                leader=_answer(recorded, row, entry.leader),
                cost=entry.cost,
                attempts=tuple(recorded.attempts[a] for a in replay.attempts[row, first:end]),
            )


def _answer(recorded: Recorded, row: int, leader: int) -> str | None:
    return None if leader == NO_ANSWER else recorded.table.answers[row][leader]


def _named(names: Sequence[str], values: NDArray[Any]) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))
