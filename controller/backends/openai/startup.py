"""What a server says about itself when a service starts, against what a policy was trained with."""

from __future__ import annotations

from collections.abc import Sequence

from controller.backends.base import Request
from controller.backends.openai.completions import Answered, same_model
from controller.backends.openai.endpoint import Endpoint
from controller.backends.openai.prompt_lengths import FAR
from controller.process.actions import ActionKind
from controller.process.types import Question

SHORT = "What is 23 + 48?"
LONG = "Anna has 3 red apples, 12 green ones and a basket of pears that her aunt gave her. " * 8

_FAR_TOKENS = 16


def probe(text: str) -> Request:
    """Asks for one token."""
    question = Question(question_id="probe", text=text, max_new_tokens=1)
    return Request(question=question, action=ActionKind.SAMPLE)


def differences(
    endpoint: Endpoint, listed: Sequence[str], short: Answered | None
) -> tuple[str, ...]:
    """What differs from training, in words.

    Args:
        endpoint: says what training had.
        listed: models of the server.
        short: its answer to `SHORT`; None if there is none.
    """
    name, trained, found = endpoint.shown_name, endpoint.trained_for, []
    if listed and not any(same_model(endpoint.model, model) for model in listed):
        found.append(f"{name}: the server lists {', '.join(listed[:5])}")
    if trained is not None:
        if not any(same_model(trained.name, known) for known in (name, endpoint.model)):
            found.append(f"{name}: the controller was trained for {trained.name}")
        if trained.prompt != endpoint.prompt:
            found.append(f"{name}: training had another prompt")
    if short is None:
        return tuple(found)
    if endpoint.wants_logprobs and not short.written[0].logprobs:
        found.append(f"{name}: the server tells no log-probabilities, which training had")
    line, tokens = endpoint.prompt_length, short.prompt_tokens
    if line is not None and tokens is not None:
        more = tokens - (line[0] + line[1] * len(SHORT))
        if abs(more) > max(_FAR_TOKENS, FAR * tokens):
            found.append(
                f"{name}: prompts have about {more:+.0f} tokens compared with training; another "
                "chat template or system prompt?"
            )
    return tuple(found)
