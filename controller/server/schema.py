"""Requests as clients send them, checked; everything else is for the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from controller.process.types import Question
from controller.server.terms import RequestTerms

MAX_MESSAGES = 256
MAX_TEXT = 2**20
MODEL = "allot"
_LONGEST_NAME = 128

Text = Annotated[str, Field(max_length=MAX_TEXT)]
Positive = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Tokens = Annotated[int, Field(ge=0, le=10**7)]
Logprob = Annotated[float, Field(ge=-1e6, le=0, allow_inf_nan=False)]


class Strict(BaseModel):
    """Our own fields: unknown ones are mistakes."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Compatible(BaseModel):
    """OpenAI's fields: those that mean nothing here are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)


class TermsIn(Strict):
    """What an answer may cost; also as headers `x-allot-price` and so on."""

    price: Positive | None = Field(None, description="Accuracy per small-model token.")
    round_price: NotNegative | None = Field(None, description="Accuracy per serial round.")
    budget: NotNegative | None = Field(None, description="Hard cap, small-model tokens.")
    accuracy: Share | None = Field(None, description="Instead of a price.")
    mean_cost: Positive | None = Field(None, description="Instead of a price: tokens on average.")
    deadline_s: Positive | None = Field(None, description="Seconds until there is an answer.")
    max_escalations: Annotated[int, Field(ge=0, le=1000)] | None = None
    give_up: bool | None = Field(None, description="May end without any attempt.")
    explain: bool | None = Field(None, description="Return what the policy saw, too.")
    question_id: Annotated[str, Field(max_length=256)] | None = Field(
        None, description="For the log, to be joined with references later."
    )
    seed: Annotated[int, Field(ge=0, le=2**31)] | None = None


class TextPart(Compatible):
    """A part of a message; only text can be answered."""

    type: Literal["text"]
    text: Text


class MessageIn(Compatible):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(max_length=MAX_MESSAGES)]

    def plain(self) -> dict[str, str]:
        """With its content as one text."""
        content = self.content
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(Compatible):
    """Options of a stream."""

    include_usage: bool | None = None


class Asked(Compatible):
    """What both kinds of completions have in common."""

    model: Annotated[str, Field(max_length=256)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=1, description="One answer is chosen.")] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=10**7)] | None = None
    user: Annotated[str, Field(max_length=256)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    allot: TermsIn | None = Field(None, description="What the answer may cost.")

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk about usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(Asked):
    """POST /v1/chat/completions."""

    messages: Annotated[list[MessageIn], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=10**7)] | None = None
    tools: Annotated[list[Any], Field(max_length=0, description="Not supported.")] | None = None

    def question(self, longest: int) -> Question:
        """The last turn, with those before it as history.

        Raises:
            ValueError: the last turn is not the user's.
        """
        turns = [message.plain() for message in self.messages]
        if turns[-1]["role"] != "user":
            raise ValueError("messages: expected the last one from the user")
        wanted = self.max_completion_tokens or self.max_tokens or longest
        return Question(
            question_id="",
            text=turns[-1]["content"],
            history=tuple(turns[:-1]),
            max_new_tokens=min(wanted, longest),
        )


class CompletionRequest(Asked):
    """POST /v1/completions: the prompt is the question, asked as one user message."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=1)]

    def question(self, longest: int) -> Question:
        """The prompt."""
        text = self.prompt if isinstance(self.prompt, str) else self.prompt[0]
        return Question(
            question_id="", text=text, max_new_tokens=min(self.max_tokens or longest, longest)
        )


class AttemptIn(Strict):
    """An attempt that was made elsewhere."""

    action: Literal["sample", "revise", "escalate"]
    answer: Text | None = Field(None, description="Or `text`, to read the answer from.")
    text: Text | None = None
    rung: Annotated[int, Field(ge=0, le=64)] | None = Field(
        None, description="Of the model; 0, or 1 for escalate."
    )
    round: Annotated[int, Field(ge=0, le=10**6)] | None = Field(
        None, description="Attempts next to one another with one number were one round."
    )
    prompt_tokens: Tokens
    completion_tokens: Tokens
    finish_reason: Annotated[str, Field(max_length=32)] | None = Field(
        None, description="As servers say; `length`: cut at its longest."
    )
    mean_logprob: Logprob | None = None
    min_logprob: Logprob | None = None
    verifier_score: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None


class DecideRequest(Strict):
    """POST /v1/decide."""

    prompt_tokens: Annotated[list[Tokens], Field(min_length=1, max_length=64)] = Field(
        description="Length of the question per rung, or one for all."
    )
    question: Text | None = Field(None, description="Its wording, if difficulty is to be read.")
    attempts: Annotated[list[AttemptIn], Field(max_length=1024)] = Field(default=[])
    allot: TermsIn | None = None


HEADERS: Mapping[str, type] = {
    "price": float,
    "round-price": float,
    "budget": float,
    "accuracy": float,
    "mean-cost": float,
    "deadline-s": float,
    "max-escalations": int,
    "question-id": str,
}
"""Terms that may come as `x-allot-NAME`; fields of the body come first."""

HEADER_PREFIX = "x-allot-"


def read_terms(given: TermsIn | None, headers: Mapping[str, str], seed: int | None) -> RequestTerms:
    """Terms from headers and body.

    Raises:
        ValidationError: a header that does not fit.
        ValueError: a header that is not a number.
    """
    fields: dict[str, Any] = {}
    for name, kind in HEADERS.items():
        value = headers.get(HEADER_PREFIX + name)
        if value is not None:
            try:
                fields[name.replace("-", "_")] = kind(value)
            except ValueError:
                raise ValueError(f"{HEADER_PREFIX}{name}: expected a number") from None
    by_header = TermsIn(**fields).model_dump(exclude_none=True)
    by_body = given.model_dump(exclude_none=True) if given else {}
    if {"price", "accuracy", "mean_cost"} & by_body.keys():
        by_header = {
            k: v for k, v in by_header.items() if k not in ("price", "accuracy", "mean_cost")
        }
    chosen = {} if seed is None else {"seed": seed}
    return RequestTerms(**{**chosen, **by_header, **by_body})


def complaint(error: ValidationError) -> tuple[str, str]:
    """What is wrong, and with which field, without repeating what was sent."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in _named(first["loc"]))[:_LONGEST_NAME]
    return f"{where or 'body'}: {first['msg']}", where


def _named(location: Sequence[int | str]) -> list[int | str]:
    """Without the names of pydantic's own branches, such as `list[...]`."""
    return [part for part in location if isinstance(part, int) or part.isidentifier()]
