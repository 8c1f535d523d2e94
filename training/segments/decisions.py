"""Decision by decision, what a controller did inside recorded attempts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from controller.segments.checkpoint import SegmentCheckpoint
from controller.segments.loop import SegmentDecision
from controller.segments.observation import SEGMENT_OBSERVATION_NAMES
from controller.segments.types import SegmentAction
from envs.segments.recorded import RecordedTrees
from envs.segments.replay import SegmentReplay
from training.decisions import DecisionColumns, PlayedEpisode, Watch
from training.segments.play import play_segment_checkpoint

_ACTIONS = tuple(map(str, SegmentAction))


@dataclass(frozen=True, kw_only=True)
class RecordedDecision(SegmentDecision):
    """A decision, with what is recorded where it was taken.

    Attributes:
        answer: that STOP returns there: of the attempt once it is done, else forced. None
            before the first segment, and where none can be read. The policy does not see it,
            unless answers are forced after each segment.
    """

    answer: str | None


def segment_columns(keeps_text: bool) -> DecisionColumns[RecordedDecision]:
    """Decisions inside attempts: what STOP returns, and the segment that each brought.

    Args:
        keeps_text: whether the traces tell what segments say.
    """
    segment = [
        ("model", pa.string()),
        ("num_tokens", pa.int32()),
        ("mean_logprob", pa.float32()),
        ("min_logprob", pa.float32()),
        ("entropy", pa.float32()),
        ("done", pa.bool_()),
    ]
    segment += [("text", pa.string())] if keeps_text else []
    return DecisionColumns(
        actions=_ACTIONS,
        features=SEGMENT_OBSERVATION_NAMES,
        more=[("answer", pa.string()), ("correct", pa.bool_()), ("segment", pa.struct(segment))],
        row=_row,
    )


def _row(decision: RecordedDecision, right: frozenset[str]) -> Mapping[str, Any]:
    segment = decision.segment
    return {
        "correct": decision.answer in right,
        "segment": None if segment is None else vars(segment),
    }


def play_segment_decisions(
    checkpoint: SegmentCheckpoint, recorded: RecordedTrees, prices: Sequence[float]
) -> Iterator[PlayedEpisode[RecordedDecision]]:
    """Play the first attempt at each question once at each price and keep every decision.

    Args:
        checkpoint: the controller.
        recorded: questions and trees.
        prices: accuracy per unit cost.

    Yields:
        Episodes by price, then in the order of the questions.
    """
    table, every = recorded.table, recorded.table.num_attempts
    for price in prices:
        watch = Watch(checkpoint.policy, _node, every)
        play_segment_checkpoint(checkpoint, table, price, watch)
        for tree, question in zip(range(0, len(table), every), recorded.questions, strict=True):
            decisions = tuple(_decisions(recorded, watch, tree))
            yield PlayedEpisode(
                question=question,
                price=price,
                decisions=decisions,
                answer=decisions[-1].answer,
                right_answers=recorded.grader.right[question.question_id],
                cost=float(watch.replay.episodes.spent[tree]),
            )


def _node(replay: SegmentReplay, row: int) -> int:
    return int(replay.node[row])


def _decisions(
    recorded: RecordedTrees, watch: Watch[SegmentReplay, int], tree: int
) -> Iterator[RecordedDecision]:
    """Of the episode on a tree; the last one is STOP."""
    seen, backend, root = watch.seen[tree], recorded.backend, int(recorded.table.root[tree])
    for entry, after in zip(seen, [*seen[1:], None], strict=True):
        action, node = SegmentAction(entry.action), entry.note
        rung = len(backend.models) - 1 if action >= SegmentAction.ESCALATE else 0
        yield RecordedDecision(
            action=action,
            segment=None if after is None else backend.segment(after.note, rung),
            answer=None if node == root else backend.answer_at(tree, node),
            **entry.named(_ACTIONS, SEGMENT_OBSERVATION_NAMES),
        )
