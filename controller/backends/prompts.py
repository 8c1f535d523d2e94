"""What a model is asked, as chat messages, for every backend that renders prompts."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from controller.backends.base import Request
from controller.errors import BackendError, ConfigError
from controller.process.actions import ActionKind
from controller.process.types import Question

REVISER, VERIFIER = "reviser", "verifier"
"""Adapters of the small model by what they are asked for."""

REVISE_PROMPT = "Check the attempt above and write a better one."

VERIFY_PROMPT = "Is this answer right? Reply Yes or No."

PLACE = "{question}"
"""Where a prompt has the question."""

ROLES = ("system", "user", "assistant")

_LONGEST_PATH = 1024

Message = dict[str, Any]
"""One turn of a chat: `role` (system, user or assistant) and `content`; to servers also calls of
tools and what these returned."""


def messages(request: Request, prompt: Sequence[Message] = ()) -> list[Message]:
    """The chat that asks for an attempt.

    System messages come first, then examples, earlier turns of the conversation, the question
    where `prompt` has `{question}` or else after it, turns since, and for REVISE the parent's text
    and `REVISE_PROMPT`. For VERIFY they are without `prompt`, which tells how to answer, and the
    last has the parent's text as a quotation and `VERIFY_PROMPT`.

    Raises:
        BackendError: a REVISE or VERIFY without a parent, or whose parent has no text.
    """
    action, parent = request.action, request.parent
    if action not in (ActionKind.REVISE, ActionKind.VERIFY):
        return _rendered(request.question, prompt)
    if parent is None or parent.text is None:
        found = "no parent" if parent is None else f"{parent.attempt_id} without it"
        raise BackendError(
            f"{action.upper()}: expected a parent attempt with its text, found {found}"
        )
    if action is ActionKind.REVISE:
        return revision_messages(request.question, parent.text, prompt)
    return _verification(_rendered(request.question, ()), parent.text)


def _verification(chat: list[Message], attempt: str) -> list[Message]:
    """The same with a question about an attempt, which is quoted so that it asks for nothing."""
    quoted = "\n".join(f"> {line}" for line in attempt.strip().splitlines())
    asked = f"Proposed answer:\n{quoted}\n\n{VERIFY_PROMPT}"
    if chat[-1]["role"] != "user" or not isinstance(chat[-1]["content"], str):
        return [*chat, {"role": "user", "content": asked}]
    # Many chat templates refuse two turns of a user in a row.
    return [*chat[:-1], {**chat[-1], "content": f"{chat[-1]['content']}\n\n{asked}"}]


def _rendered(question: Question, prompt: Sequence[Message]) -> list[Message]:
    asks = [PLACE in message["content"] for message in prompt]
    first = asks.index(True) if any(asks) else len(prompt)
    filled = [{**m, "content": m["content"].replace(PLACE, question.text)} for m in prompt]
    asking = filled[first:] or [{"role": "user", "content": question.text}]
    turns = [*filled[:first], *question.history, *asking, *question.since]
    # Many chat templates take system messages nowhere else.
    return sorted(turns, key=lambda message: message["role"] != "system")


_PATH = re.compile(r"[^\s\[]\S*\.\w{1,5}|[~.]{0,2}/\S+/\S+")
"""Of a file; `/no_think` is a prompt."""


def read_prompt(given: str) -> tuple[Message, ...]:
    r"""The prompt that `--prompt` names.

    Args:
        given: a file, or the text itself: a JSON list of messages, or else plain text, which is
            the user's message if `{question}` is in it and the system's if not.

    Raises:
        ConfigError: nothing is there, or a message has another form.

    >>> read_prompt("{question}\nThink step by step.")
    ({'role': 'user', 'content': '{question}\nThink step by step.'},)
    """
    text, where = given, "prompt"
    if _is_file(given):
        text, where = Path(given).read_text(encoding="utf-8"), given
    elif _PATH.fullmatch(given) and PLACE not in given:
        raise ConfigError(f"prompt: expected a file that is there, or a text, found {given!r}")
    if not text.strip():
        raise ConfigError(f"{where}: expected a prompt, found nothing")
    if not text.lstrip().startswith("["):
        return ({"role": "user" if PLACE in text else "system", "content": text.strip()},)
    try:
        chat = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where}: expected a JSON list of messages: {error}") from None
    if not chat or not all(_is_message(entry) for entry in chat):
        raise ConfigError(
            f"{where}: expected messages such as {{'role': 'user', 'content': '{PLACE}'}} with "
            f"roles of {', '.join(ROLES)}, found {text.strip()[:80]!r}"
        )
    placed = [message["role"] for message in chat if PLACE in message["content"]]
    if placed and "user" not in placed:
        raise ConfigError(f"{where}: expected {PLACE} in a user's message, found it in {placed}")
    return tuple(chat)


def read_prompts(given: Sequence[str], names: Sequence[str]) -> dict[str, tuple[Message, ...]]:
    """Prompts by model, from `[NAME=]FILE|TEXT` each; one without a name is for all others.

    Raises:
        ConfigError: two for one model, a name that no model has, or see `read_prompt`.
    """
    found: dict[str, tuple[Message, ...]] = {}
    for text in given:
        name, equals, rest = text.partition("=")
        slipped = get_close_matches(name, names) if equals else ()
        if equals and name not in names and (slipped or _is_file(rest)):
            raise ConfigError(f"prompt: expected one of {list(names)} before '=', found {name!r}")
        key, text = (name, rest) if equals and name in names else ("", text)
        if key in found:
            raise ConfigError(f"prompt: expected one for {key or 'all models'}, found two")
        found[key] = read_prompt(text)
    return {name: found.get(name, found.get("", ())) for name in names if {name, ""} & found.keys()}


def _is_file(text: str) -> bool:
    return len(text) < _LONGEST_PATH and "\n" not in text and Path(text).is_file()


def _is_message(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and entry.keys() == {"role", "content"}
        and entry["role"] in ROLES
        and isinstance(entry["content"], str)
    )


def revision_messages(
    question: Question, attempt: str, prompt: Sequence[Message] = ()
) -> list[Message]:
    """The chat that asks for a better attempt, by a model that is asked with `prompt`."""
    asked = {"role": "user", "content": REVISE_PROMPT}
    return [*_rendered(question, prompt), {"role": "assistant", "content": attempt}, asked]


def judged_messages(question: str, attempt: str) -> list[Message]:
    """The chat that a verifier judges."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": attempt}]


def plain_text(chat: Sequence[Message]) -> str:
    r"""The same chat for models without a chat template: its turns, separated by blank lines.

    >>> plain_text([{"role": "user", "content": "1+1?"}])
    '1+1?\n\n'
    """
    return "".join(f"{message['content']}\n\n" for message in chat)
