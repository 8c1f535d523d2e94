"""What a model is asked, as chat messages, for every backend that renders prompts."""

from __future__ import annotations

from collections.abc import Sequence

from controller.actions import ActionKind
from controller.backends.base import Request
from controller.errors import BackendError

REVISER, VERIFIER = "reviser", "verifier"
"""Adapters of the small model by what they are asked for."""

REVISE_PROMPT = "Check the attempt above and write a better one."


Message = dict[str, str]
"""One turn of a chat: `role` (system, user or assistant) and `content`."""


def messages(request: Request) -> list[Message]:
    """The chat that asks for an attempt.

    Args:
        request: a REVISE shows the model its question, the parent's text and `REVISE_PROMPT`;
            anything else shows it the question.

    Raises:
        BackendError: a REVISE without a parent, or whose parent has no text.
    """
    question, history = request.question.text, request.question.history
    if request.action is not ActionKind.REVISE:
        return [*history, {"role": "user", "content": question}]
    if request.parent is None or request.parent.text is None:
        found = "no parent" if request.parent is None else f"{request.parent.attempt_id} without it"
        raise BackendError(f"REVISE: expected a parent attempt with its text, found {found}")
    return [*history, *revision_messages(question, request.parent.text)]


def revision_messages(question: str, attempt: str) -> list[Message]:
    """The chat that asks for a better attempt."""
    return [*judged_messages(question, attempt), {"role": "user", "content": REVISE_PROMPT}]


def judged_messages(question: str, attempt: str) -> list[Message]:
    """The chat that a verifier judges."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": attempt}]


def plain_text(chat: Sequence[Message]) -> str:
    r"""The same chat for models without a chat template: its turns, separated by blank lines.

    >>> plain_text([{"role": "user", "content": "1+1?"}])
    '1+1?\n\n'
    """
    return "".join(f"{message['content']}\n\n" for message in chat)
