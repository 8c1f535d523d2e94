"""A backend without a model, for tests and examples.

Answers are scripted, or drawn with given chances of success, and depend on seed and request
alone. Tokens are words. The ledger follows the rules of the real backends: the first attempt
on a question pays its prefill and later ones find it cached, until it is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from controller.answers import UNSTATED, answer_kind
from controller.backends.base import Backend, PromptState, Request, Verdict
from controller.backends.identity import blank_attempt, stream_name, uniforms
from controller.backends.prompts import messages, plain_text
from controller.errors import BackendError, ConfigError
from controller.process.actions import ActionKind
from controller.process.cost import Usage
from controller.process.types import Attempt, ModelSpec, Question

NUM_WRONG_ANSWERS = 3


@dataclass(frozen=True, kw_only=True)
class Script:
    """What becomes of the attempts at one question.

    Attributes:
        answers: per rung, the answers of attempts 0, 1, ..., over again when they run out;
            None is an attempt without an answer, an exception one that fails.
        revisions: the same for REVISE; without it, revisions fare like attempts of rung 0.
        success: per rung, the chance that an attempt gives the reference; for rungs that
            `answers` says nothing about.
    """

    answers: Sequence[Sequence[str | BackendError | None]] = ()
    revisions: Sequence[str | BackendError | None] = ()
    success: Sequence[float] = ()

    def __post_init__(self) -> None:
        if any(not 0 <= chance <= 1 for chance in self.success):
            raise ConfigError(f"success: expected chances in [0, 1], found {self.success}")


class FakeBackend(Backend):
    """Backend that makes attempts up: as scripted by question id, else by default."""

    def __init__(
        self,
        models: Sequence[ModelSpec],
        *,
        scripts: Mapping[str, Script] | None = None,
        default: Script | None = None,
        seed: int = 0,
        completion_tokens: int = 20,
        verifier: Callable[[Question, Attempt], float] | None = None,
    ) -> None:
        self.models, self._scripts = tuple(models), dict(scripts or {})
        self._default, self.seed = default or Script(success=[0.5] * len(models)), seed
        self.completion_tokens, self.verifier = completion_tokens, verifier
        self._prefilled: set[tuple[str, int]] = set()

    async def prompt_states(
        self, questions: Sequence[Question], *, hidden: bool = False
    ) -> list[PromptState]:
        """Prompt lengths; an episode begins, so nothing is cached for these questions yet."""
        states = []
        for question in questions:
            name, rungs = question.question_id, range(len(self.models))
            tokens = _count(Request(question=question, action=ActionKind.SAMPLE))
            self._prefilled -= {(name, rung) for rung in rungs}
            if hidden:
                self._prefilled.add((name, 0))
            states.append(
                PromptState(
                    prompt_tokens=(tokens,) * len(rungs),
                    usage=Usage(prefill_tokens=tokens if hidden else 0),
                )
            )
        return states

    async def attempts(self, requests: Sequence[Request]) -> list[Attempt]:
        """One attempt per request, in order; a failed one says why in `error`."""
        return [self._attempt(request) for request in requests]

    def can_verify(self, attempt: Attempt) -> bool:
        """Whether there is a verifier and the attempt did not fail."""
        return self.verifier is not None and attempt.error is None

    async def verify(self, pairs: Sequence[tuple[Question, Attempt]]) -> Verdict:
        """What the given verifier says."""
        if self.verifier is None:
            return await super().verify(pairs)
        scores = tuple(self.verifier(question, attempt) for question, attempt in pairs)
        tokens = sum(
            _count(Request(question=q, action=ActionKind.SAMPLE)) + a.completion_tokens
            for q, a in pairs
        )
        return Verdict(scores=scores, usage=Usage(verifier_tokens=tokens))

    def _attempt(self, request: Request) -> Attempt:
        model = self.models[request.rung]
        blank = replace(blank_attempt(model.name, request), usage=Usage(serial_rounds=1))
        luck, choice, doubt = uniforms(stream_name(self.seed, model.name, request), 3).tolist()
        try:
            prompt_tokens, answer = _count(request), self._answer(request, luck, choice)
        except BackendError as error:
            return replace(blank, error=str(error))
        cached = self._find(request)
        kind = answer_kind(request.question.answers or UNSTATED)
        return replace(
            blank,
            answer=None if answer is None else kind.canonical(answer),
            text="no idea" if answer is None else f"Answer: {answer}",
            prompt_tokens=prompt_tokens,
            completion_tokens=self.completion_tokens,
            mean_logprob=-doubt,
            min_logprob=-3 * doubt,
            usage=Usage(
                prefill_tokens=0 if cached else prompt_tokens,
                cached_tokens=prompt_tokens if cached else 0,
                decoded_tokens=self.completion_tokens,
                serial_rounds=1,
            ),
        )

    def _answer(self, request: Request, luck: float, choice: float) -> str | None:
        """Scripted answer, or the reference with the chance given, or a wrong one."""
        script = self._scripts.get(request.question.question_id, self._default)
        scripted = script.answers[request.rung] if request.rung < len(script.answers) else ()
        if request.action is ActionKind.REVISE and script.revisions:
            scripted = script.revisions
        if scripted:
            answer = scripted[request.index % len(scripted)]
            if isinstance(answer, BackendError):
                raise answer
            return answer
        if request.rung >= len(script.success) or request.question.reference is None:
            raise BackendError(
                f"{request.question.question_id}: expected answers, or a reference and a chance "
                f"of success, for rung {request.rung}"
            )
        if luck < script.success[request.rung]:
            return request.question.reference
        return f"wrong {int(choice * NUM_WRONG_ANSWERS)}"

    def _find(self, request: Request) -> bool:
        """Whether the prompt is cached; it is from now on, unless it is a revision's."""
        if request.action is ActionKind.REVISE:
            return False
        key = (request.question.question_id, request.rung)
        found = key in self._prefilled
        self._prefilled.add(key)
        return found


def _count(request: Request) -> int:
    """Prompt tokens of a request, one per word."""
    return len(plain_text(messages(request)).split())
