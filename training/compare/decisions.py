"""Decision by decision, what a controller did on recorded questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from controller.checkpoint import AnyCheckpoint
from controller.loop import Decision
from controller.process.actions import ActionKind
from controller.process.episodes import NO_ANSWER
from controller.process.lockstep import Ints
from controller.process.types import Question
from envs.segments.table import SegmentTable
from envs.traces.recorded import Recorded
from training.compare.simulate import play_checkpoint


@dataclass(frozen=True, kw_only=True)
class PlayedEpisode:
    """One question at one price, from the first decision to the answer.

    Attributes:
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


class _Watch:
    """Takes down by row the decisions of a controller while it is played, one row in `every`.

    Attributes:
        seen: decisions, each with `_place` before it.
    """

    replay: Any

    def __init__(self, checkpoint: AnyCheckpoint, recorded: Recorded[Any, Any], every: int) -> None:
        self._checkpoint, self._recorded, self._every = checkpoint, recorded, every
        self.seen: dict[int, list[tuple[Decision, Any]]] = {}

    @torch.no_grad()
    def __call__(self, replay: Any, rows: Ints, actions: Ints) -> None:
        """Take down what is about to be done in `rows`, (n,): `actions`, (n,)."""
        self.replay, watched = replay, rows % self._every == 0
        rows, actions = rows[watched], actions[watched]
        observation = replay.observe(rows)  # (n, D)
        policy, mask = self._checkpoint.policy, torch.from_numpy(replay.episodes.mask(rows))
        probabilities = policy.log_probs(torch.from_numpy(observation), mask).exp().tolist()
        value = policy.value(torch.from_numpy(observation)).tolist()
        chosen, features = self._checkpoint.config.actions, self._checkpoint.granularity.features
        for i, row in enumerate(rows.tolist()):
            place, floor = _place(replay, row), self._checkpoint.floor
            rule = floor.rule_at(float(replay.episodes.price[row])) if floor else None
            decision = Decision(
                action=chosen[int(actions[i])],
                probabilities=dict(zip(chosen.names, probabilities[i], strict=True)),
                value=value[i],
                observation=dict(zip(features, observation[i].tolist(), strict=True)),
                leader=_leader(self._recorded, row, place),
                cost=float(replay.episodes.spent[row]),
                floor=None if rule is None else str(rule),
            )
            self.seen.setdefault(row, []).append((decision, place))


def play_decisions(
    checkpoint: AnyCheckpoint, recorded: Recorded[Any, Any], prices: Sequence[float]
) -> Iterator[PlayedEpisode]:
    """Play each question once at each price and keep every decision.

    Of trees the first at each question is played. Episodes come by price, then in the order of the
    questions.
    """
    each = recorded.table.num_attempts
    for price in prices:
        watch = _Watch(checkpoint, recorded, each)
        play_checkpoint(checkpoint, recorded.table, price, repeats=1, watch=watch)
        for number, question in enumerate(recorded.questions):
            row = number * each
            last = _place(watch.replay, row)
            decisions, places = zip(*watch.seen[row], strict=True)
            steps = zip(decisions, places, (*places[1:], last), strict=True)
            yield PlayedEpisode(
                question=question,
                price=price,
                decisions=tuple(
                    replace(made, brought=_brought(recorded, watch.replay, row, made, *ends))
                    for made, *ends in steps
                ),
                answer=_leader(recorded, row, last),
                right_answers=recorded.grader.right[question.question_id],
                cost=float(watch.replay.episodes.spent[row]),
            )


def _place(replay: Any, row: int) -> Any:
    """Where an episode stands: the node of its tree, or its leading answer and its attempts."""
    if isinstance(replay.table, SegmentTable):
        return int(replay.node[row])
    return int(replay.episodes.leader[row]), int(replay.episodes.num_attempts[row])


def _leader(recorded: Recorded[Any, Any], row: int, place: Any) -> str | None:
    """What STOP returns there: the leading answer, or of a tree the one at the node, if forced."""
    table = recorded.table
    if isinstance(table, SegmentTable):
        return None if place == table.root[row] else recorded.backend.answer(place)
    return None if place[0] == NO_ANSWER else table.answers[row][place[0]]


def _brought(
    recorded: Recorded[Any, Any], replay: Any, row: int, decision: Decision, before: Any, after: Any
) -> tuple[Any, ...]:
    """Attempts, or the segment, that an action brought between two places."""
    if not isinstance(recorded.table, SegmentTable):
        return tuple(recorded.attempts[a] for a in replay.attempts[row, before[1] : after[1]])
    by_large = decision.action.kind is ActionKind.ESCALATE
    rung = replay.config.num_rungs - 1 if by_large else 0
    return () if decision.stops else (recorded.backend.segment(after, rung),)
