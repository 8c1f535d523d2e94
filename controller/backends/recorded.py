"""Attempts that were recorded earlier, served as if they were made now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from controller.backends.base import Backend, Pairs, PromptState, Request, Verdict
from controller.errors import BackendError
from controller.process.actions import ActionKind
from controller.process.cost import Usage
from controller.process.types import Attempt, ModelSpec, Question


class ReadAgain:
    """Leaves out of copies and pickles what can be read again.

    Attributes:
        origin: reads it again, as another object of the class; None to keep all of it.
        recorded: names of what is left out.
    """

    origin: Callable[[], Any] | None = None
    recorded: ClassVar[tuple[str, ...]]

    def __getstate__(self) -> dict[str, Any]:
        left_out = self.recorded if self.origin else ()
        return {name: value for name, value in vars(self).items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.origin:
            again = vars(self.origin())
            vars(self).update({name: again[name] for name in self.recorded})


class ReplayBackend(ReadAgain, Backend):
    """Replays recorded attempts of the models of a ladder.

    Independent attempts of a question and model come in the order of their index, revisions below
    their parent.

    Raises:
        BackendError: on a request for something that was not recorded.
    """

    recorded = ("_prompt_states", "_streams", "_revisions")

    def __init__(
        self,
        models: Sequence[ModelSpec],
        attempts: Iterable[Attempt],
        prompt_states: dict[str, PromptState],
    ) -> None:
        self.models = tuple(models)
        self._prompt_states = prompt_states
        self._streams: dict[tuple[str, int], list[Attempt]] = {}
        self._revisions: dict[tuple[str, str, int], list[Attempt]] = {}
        self._warm: set[tuple[str, int]] = set()
        for attempt in sorted(attempts, key=lambda a: a.index):
            if attempt.parent_id is not None:
                of = attempt.question_id, attempt.parent_id, attempt.rung
                self._revisions.setdefault(of, []).append(attempt)
            else:
                self._streams.setdefault((attempt.question_id, attempt.rung), []).append(attempt)

    async def prompt_states(
        self, questions: Sequence[Question], *, hidden: bool = False
    ) -> list[PromptState]:
        """See `Backend.prompt_states`; `available` tells how much was recorded."""
        states = []
        for question in questions:
            if question.question_id not in self._prompt_states:
                raise BackendError(
                    f"replay: expected a recorded question, found {question.question_id!r}"
                )
            state = self._prompt_states[question.question_id]
            self._warm -= {(question.question_id, rung) for rung in range(len(self.models))}
            if hidden:
                self._warm.add((question.question_id, 0))
            states.append(
                replace(
                    state,
                    hidden=state.hidden if hidden else None,
                    usage=Usage(prefill_tokens=state.prompt_tokens[0] if hidden else 0),
                    available=tuple(
                        len(self._streams.get((question.question_id, rung), ()))
                        for rung in range(len(self.models))
                    ),
                )
            )
        return states

    async def attempts(self, requests: Sequence[Request]) -> list[Attempt]:
        """See `Backend.attempts`."""
        return [self._attempt(request) for request in requests]

    def can_verify(self, attempt: Attempt) -> bool:
        """Whether a score was recorded."""
        return attempt.verifier_score is not None

    async def verify(self, pairs: Pairs, deadline: float | None = None) -> Verdict:
        """See `Backend.verify`."""
        scores, tokens = [], 0
        for question, attempt in pairs:
            if attempt.verifier_score is None:
                raise BackendError(
                    f"replay: expected a recorded score of attempt {attempt.attempt_id} at "
                    f"{question.question_id}, found none"
                )
            scores.append(attempt.verifier_score)
            prompt = self._prompt_states[question.question_id].prompt_tokens[0]
            tokens += attempt.verifier_tokens or prompt + attempt.completion_tokens
        return Verdict(scores=tuple(scores), usage=Usage(verifier_tokens=tokens))

    def _attempt(self, request: Request) -> Attempt:
        question = request.question.question_id
        if request.action is ActionKind.REVISE and request.parent is not None:
            of = question, request.parent.attempt_id, request.rung
            recorded = self._revisions.get(of, [])
        else:
            recorded = self._streams.get((question, request.rung), [])
        if request.index >= len(recorded):
            raise BackendError(
                f"replay: {question} holds {len(recorded)} attempts by {request.action} on rung "
                f"{request.rung}, asked for number {request.index}"
            )
        attempt = recorded[request.index]
        revised = attempt.action is ActionKind.REVISE
        warm = (question, attempt.rung) in self._warm and not revised
        if not revised:
            self._warm.add((question, attempt.rung))
        return replace(
            attempt,
            num_revisions=tuple(
                len(self._revisions.get((question, attempt.attempt_id, rung), ()))
                for rung in range(len(self.models))
            ),
            usage=Usage(
                prefill_tokens=0 if warm else attempt.prompt_tokens,
                cached_tokens=attempt.prompt_tokens if warm else 0,
                decoded_tokens=attempt.completion_tokens,
                reasoning_tokens=attempt.usage.reasoning_tokens,
                serial_rounds=1,
            ),
        )
