"""What an asker wants, and what becomes of a question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from controller.core import Decision
from controller.errors import BackendError
from controller.process.cost import Usage
from controller.process.terms import Terms
from controller.process.types import Attempt, Question
from controller.server.arms import Arm
from controller.server.restrict import DEADLINE


@dataclass(frozen=True, kw_only=True)
class RequestTerms(Terms):
    """What a client of the service wants of an answer.

    Attributes:
        max_escalations: calls to larger models.
        give_up: whether no attempt at all is acceptable where the price makes it best.
        explain: whether the answer should come with what the policy saw.
        question_id: the asker's own, for the log.
        seed: the same seed and question make the same attempts, on local models.
    """

    max_escalations: int | None = None
    give_up: bool = False
    explain: bool = False
    question_id: str | None = None
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Served:
    """What became of a question.

    Attributes:
        episode_id: of this answer, in response and log.
        question: as asked.
        caller: who asked.
        arm: which version decided.
        answer: leading answer; None if there is none.
        attempt: that is returned; None if no attempt succeeded.
        decisions: in order.
        attempts: all that were made, failed ones too.
        terms: what it was answered for, at a known price.
        cost: in small-model tokens.
        usage: what was really processed, by model.
        degraded: models whose absence changed the answer's course.
        limited: budgets, or the deadline, that did.
        guarded: feature that was outside its range of training, so that a rule decided; None
            where the policy did.
        warnings: about the service, for people.
        decision_s: spent deciding.
        wall_s: from question to answer.
    """

    episode_id: str
    question: Question
    caller: str
    arm: Arm
    answer: str | None
    attempt: Attempt | None
    decisions: tuple[Decision, ...]
    attempts: tuple[Attempt, ...]
    terms: Terms
    cost: float
    usage: dict[str, Usage]
    degraded: tuple[str, ...]
    limited: tuple[str, ...]
    guarded: str | None
    warnings: tuple[str, ...]
    decision_s: float
    wall_s: float

    @property
    def gave_up(self) -> bool:
        """Whether no attempt was made on purpose."""
        return not (self.attempts or self.degraded or self.limited)


class NoAnswerError(BackendError):
    """No model made a single attempt that succeeded.

    Attributes:
        served: what became of the question all the same.
    """

    def __init__(self, served: Served) -> None:
        kinds = sorted({a.error or "" for a in served.attempts})
        super().__init__(f"no model answered: {', '.join(kinds) or 'none is available'}")
        self.served = served
        self.late = DEADLINE in served.limited or set(kinds) == {DEADLINE}


def best_unread(attempts: Sequence[Attempt]) -> Attempt | None:
    """The attempt to return where no answer could be read from any of them.

    The largest model's, then the one that the verifier likes best, then the most confident,
    then the first.
    """
    made = [attempt for attempt in attempts if attempt.error is None]

    def worth(attempt: Attempt) -> tuple[float, ...]:
        unknown = -float("inf")
        return tuple(
            unknown if signal is None else float(signal)
            for signal in (attempt.rung, attempt.verifier_score, attempt.mean_logprob)
        )

    return max(made, key=worth, default=None)
