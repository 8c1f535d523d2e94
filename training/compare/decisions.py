"""Decision by decision, what a controller did on recorded questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from controller.checkpoint import AnyCheckpoint
from controller.loop import Decision
from controller.policy.network import PolicyNetwork
from controller.process.episodes import NO_ANSWER
from controller.process.types import Attempt, Question
from controller.segments.episodes import ESCALATE, STOP
from controller.segments.types import Segment
from envs.segments.table import SegmentTable
from envs.traces.recorded import Recorded
from training.compare.simulate import Ints, play_checkpoint


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


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a policy made of a state; `probabilities` (A,), `observation` (D,), cost till then."""

    action: int
    probabilities: NDArray[np.float32]
    value: float
    observation: NDArray[np.float32]
    cost: float
    price: float
    note: Any


class Watch:
    """Takes down by row, in `seen`, every state that a policy decides in while it is played.

    Args:
        policy: that is played.
        note: what else to take down of an episode, given its replay and row.
        every: one row in so many is watched, the first among them.
    """

    replay: Any

    def __init__(
        self, policy: PolicyNetwork, note: Callable[[Any, int], Any], every: int = 1
    ) -> None:
        self._policy, self._note, self._every = policy, note, every
        self.seen: dict[int, list[Seen]] = {}

    @torch.no_grad()
    def __call__(self, replay: Any, rows: Ints, actions: Ints) -> None:
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
                    price=float(replay.episodes.price[row]),
                    note=self._note(replay, row),
                )
            )


BROUGHT = pa.struct(
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
        ("min_logprob", pa.float32()),
        ("verifier_score", pa.float32()),
        ("text", pa.string()),
    ]
)
"""What an action brings, as a file of decisions keeps it."""


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """How the decisions of one granularity are found in recorded traces.

    Attributes:
        note: taken down before each decision, from a replay and a row.
        leader: answer that STOP returns there, from recorded traces, row and note.
        brought: by an action, from recorded traces, the replay, row, action, the note before it
            and the one after it.
    """

    note: Callable[[Any, int], Any]
    leader: Callable[[Any, int, Any], str | None]
    brought: Callable[[Any, Any, int, int, Any, Any], Sequence[Any]]


def brought_row(made: Attempt | Segment, right: frozenset[str]) -> dict[str, Any]:
    """An attempt; a segment of one is kept like it, without an answer of its own."""
    if isinstance(made, Segment):
        kept = {**vars(made), "completion_tokens": made.num_tokens, "text": made.text or None}
        return {**kept, "answer": None}
    return {**vars(made), "action": str(made.action), "correct": made.answer in right}


def play_decisions(
    checkpoint: AnyCheckpoint, recorded: Recorded[Any, Any], prices: Sequence[float]
) -> Iterator[PlayedEpisode]:
    """Play each question once at each price and keep every decision.

    Of trees the first at each question is played. Episodes come by price, then in the order of the
    questions.
    """
    table, keeping = recorded.table, _keeping_of(recorded.table)
    for price in prices:
        watch = Watch(checkpoint.policy, keeping.note, table.num_attempts)
        play_checkpoint(checkpoint, table, price, repeats=1, watch=watch)
        rows = range(0, table.num_attempts * table.num_questions, table.num_attempts)
        for row, question in zip(rows, recorded.questions, strict=True):
            last = keeping.note(watch.replay, row)
            yield PlayedEpisode(
                question=question,
                price=price,
                decisions=tuple(_decisions(checkpoint, recorded, watch, row)),
                answer=keeping.leader(recorded, row, last),
                right_answers=recorded.grader.right[question.question_id],
                cost=float(watch.replay.episodes.spent[row]),
            )


def _decisions(
    checkpoint: AnyCheckpoint, recorded: Recorded[Any, Any], watch: Watch, row: int
) -> Iterator[Decision]:
    keeping, replay, seen = _keeping_of(recorded.table), watch.replay, watch.seen[row]
    actions, features = checkpoint.config.actions, checkpoint.granularity.features
    notes = [entry.note for entry in seen] + [keeping.note(replay, row)]
    rule = checkpoint.floor.rule_at(seen[0].price) if checkpoint.floor else None
    for entry, before, after in zip(seen, notes, notes[1:], strict=False):
        yield Decision(
            action=actions[entry.action],
            probabilities=dict(zip(actions.names, entry.probabilities.tolist(), strict=True)),
            value=entry.value,
            observation=dict(zip(features, entry.observation.tolist(), strict=True)),
            leader=keeping.leader(recorded, row, before),
            cost=entry.cost,
            floor=None if rule is None else str(rule),
            brought=tuple(keeping.brought(recorded, replay, row, entry.action, before, after)),
        )


def _leading(recorded: Recorded, row: int, note: tuple[int, int]) -> str | None:
    return None if note[0] == NO_ANSWER else recorded.table.answers[row][note[0]]


ATTEMPTS = Keeping(
    note=lambda replay, row: (
        int(replay.episodes.leader[row]),
        int(replay.episodes.num_attempts[row]),
    ),
    leader=_leading,
    brought=lambda recorded, replay, row, action, before, after: [
        recorded.attempts[a] for a in replay.attempts[row, before[1] : after[1]]
    ],
)


def _stopping(recorded: Recorded[Any, Any], tree: int, node: int) -> str | None:
    """The answer at a node: of the attempt once it is done, else forced; None at the prompt."""
    at_prompt = node == recorded.table.root[tree]
    return None if at_prompt else recorded.backend.answer(node)


SEGMENTS = Keeping(
    note=lambda replay, row: int(replay.node[row]),
    leader=_stopping,
    brought=lambda recorded, replay, row, action, before, after: (
        []
        if action == STOP
        else [
            recorded.backend.segment(
                after, replay.config.num_rungs - 1 if action >= ESCALATE else 0
            )
        ]
    ),
)


def _keeping_of(table: Any) -> Keeping:
    """How decisions over a table are kept."""
    return SEGMENTS if isinstance(table, SegmentTable) else ATTEMPTS
