"""Both granularities at once: attempts that are themselves written under a policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from controller.backends.base import Backend, Request, Wrapped
from controller.backends.local.backend import LocalBackend
from controller.backends.local.jobs import UNWANTED
from controller.backends.local.segments import segment_writer
from controller.checkpoint import Checkpoint
from controller.errors import ConfigError
from controller.policy.difficulty import Difficulty
from controller.policy.network import Policy
from controller.process.actions import ActionKind
from controller.process.terms import Terms
from controller.process.types import Attempt
from controller.segments.episodes import SegmentConfig
from controller.segments.run import SegmentRun
from controller.segments.types import SegmentBackend

_WHOLE = {"stop", "logprobs"}
"""Fields of clients that whole attempts alone keep."""


class SegmentedBackend(Wrapped):
    """A backend whose SAMPLE attempts are written segment by segment, under a policy.

    Whether an attempt is made at all is for whoever asks for it, so the policy cannot give up.
    What the policy throws away is part of an attempt's `completion_tokens`, and so is the
    answer that it forces: whoever asks for the attempt pays for both. Everything but SAMPLE is
    left to the backend around, as is a SAMPLE that a client wants stopped or told token by token.

    Args:
        whole: makes all other attempts, reads prompts and verifies.
        config: of the policy; the large model may not take over there, as that is what ESCALATE
            is for.
        price: accuracy per unit cost inside attempts.

    Raises:
        ConfigError: `config` lets the large model take over, or the small models differ.
    """

    def __init__(
        self,
        whole: Backend,
        writer: SegmentBackend,
        policy: Policy,
        config: SegmentConfig,
        *,
        price: float,
        difficulty: Difficulty | None = None,
    ) -> None:
        if config.escalates:
            raise ConfigError("escalates: expected False inside the attempts of another controller")
        if whole.models[0].digest != writer.models[0].digest:
            raise ConfigError(
                f"writer: expected the small model {whole.models[0].digest}, found "
                f"{writer.models[0].digest}"
            )
        super().__init__(whole)
        self.writer, self.policy, self.config = writer, policy, config
        self.price, self.difficulty = price, difficulty

    async def attempts(self, requests: Sequence[Request]) -> list[Attempt]:
        """One attempt per request, in order."""
        sampled = [
            request.action is ActionKind.SAMPLE and not _WHOLE & request.question.fields.keys()
            for request in requests
        ]
        inside = iter(self._written([r for r, s in zip(requests, sampled, strict=True) if s]))
        others = [r for r, s in zip(requests, sampled, strict=True) if not s]
        outside = iter(await self.backend.attempts(others) if others else [])
        return [next(inside) if sample else next(outside) for sample in sampled]

    def _written(self, requests: Sequence[Request]) -> list[Attempt]:
        if not requests:
            return []
        run = SegmentRun(
            [(request.question, request.index) for request in requests],
            self.writer,
            self.config,
            Terms(price=self.price),
            difficulty=self.difficulty,
        )
        wanted = run.play(self.policy, [request.unwanted for request in requests])
        written = [run.attempt(row) for row in range(len(requests))]
        return [
            attempt if kept else _given_up(attempt)
            for attempt, kept in zip(written, wanted, strict=True)
        ]


def _given_up(attempt: Attempt) -> Attempt:
    """An attempt that nobody waited for to the end."""
    usage = attempt.usage
    spent = replace(usage, decoded_tokens=0, cancelled_tokens=usage.decoded_tokens)
    return replace(attempt, answer=None, error=UNWANTED, completion_tokens=0, usage=spent)


def written_under(
    checkpoint: Checkpoint[SegmentConfig], whole: LocalBackend, price: float
) -> SegmentedBackend:
    """A backend whose SAMPLE attempts are written under a segment controller, at a price.

    Raises:
        CheckpointError: the segment controller was trained for another model.
    """
    small, trained = whole.local, checkpoint.models[0]
    if trained.digest and trained.digest != small.digest:
        checkpoint.refuse_weights(trained, small.name, small.digest)
    return SegmentedBackend(
        whole,
        segment_writer(checkpoint, [small], whole.seed, whole.answers),
        checkpoint.policy,
        replace(checkpoint.config, escalates=False),
        price=price,
        difficulty=checkpoint.difficulty,
    )
