"""Requests as clients send them, checked."""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from controller.backends.base import HINTS
from controller.backends.openai.replies import LONGEST_ID
from controller.errors import ConfigError
from controller.process.actions import ActionKind
from controller.process.terms import PRICES
from controller.process.types import Question
from controller.server.engine import RequestTerms

MAX_MESSAGES, MAX_TOOLS = 2048, 128
MAX_TEXT = 2**20
MODEL = "allot"
LONGEST_ATTEMPT = 4096
"""Tokens that a client may ask for."""
_LONGEST_NAME = 128

Key = Annotated[str, Field(max_length=512)]
Name = Annotated[str, Field(min_length=1, max_length=128)]
CallId = Annotated[str, Field(min_length=1, max_length=LONGEST_ID)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Stop = Annotated[str, Field(max_length=256)]
Tokens = Annotated[int, Field(ge=0, le=10**7)]
Logprob = Annotated[float, Field(ge=-1e6, le=0, allow_inf_nan=False)]


class Strict(BaseModel):
    """Our own fields: unknown ones are mistakes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        """Nulls ask for nothing, under any name."""
        told = isinstance(given, dict)
        return {k: v for k, v in given.items() if v is not None} if told else given


class Passed(BaseModel):
    """Fields that models get as they are; what is looked at is named."""

    model_config = ConfigDict(extra="allow", strict=True)

    @property
    def extra(self) -> set[str]:
        """Names of fields that nothing here reads."""
        return {name for name, value in (self.model_extra or {}).items() if value}

    def passed(self) -> dict[str, Any]:
        """As it was set."""
        return self.model_dump(exclude_unset=True, by_alias=True)


_PASSED = (
    *("stop", "response_format", "tools", "tool_choice", "parallel_tool_calls", "temperature"),
    *("top_p", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs"),
    *("reasoning_effort", "verbosity", *sorted(HINTS)),
)
"""Fields that models get as they are."""

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Verbosity = Literal["low", "medium", "high"]
TopLogprobs = Annotated[int, Field(ge=0, le=20)]
_Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
_Bias = Annotated[float, Field(ge=-100, le=100)]
_MOST_IGNORED, _MOST_BIASES = 32, 1024

TERMS = TypeAdapter(RequestTerms)
TermsIn = dict[str, Any] | None
"""Read together with headers, by `read_terms`."""


class TextPart(Passed):
    """A part of a message; only text can be answered."""

    type: Literal["text"]
    text: Text


class RefusalPart(Passed):
    """A part of a model's turn."""

    type: Literal["refusal"]
    refusal: Text

    @property
    def text(self) -> str:
        """What it says."""
        return self.refusal


Parts = Annotated[list[TextPart | RefusalPart], Field(max_length=MAX_MESSAGES)]


class FunctionIn(Passed):
    """A function that may or must be called."""

    name: Name
    parameters: dict[str, Any] | None = None


class ToolIn(Passed):
    """A tool that may or must be called."""

    type: Literal["function"]
    function: FunctionIn


class CalledIn(Passed):
    """What was called; `arguments` are JSON."""

    name: Name
    arguments: Text


class CallIn(Passed):
    """A call of a tool in an earlier turn."""

    id: CallId
    type: Literal["function"]
    function: CalledIn
    index: int | None = Field(None, exclude=True, description="Its place in a stream.")


class SchemaIn(Passed):
    """A schema and its name."""

    name: Name
    wanted: dict[str, Any] | None = Field(None, alias="schema")


class FormIn(Passed):
    """What form an answer has."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaIn | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> Self:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("response_format.json_schema: expected a schema")
        return self


class MessageIn(Passed):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Parts | None = None
    refusal: Text | None = None
    reasoning_content: Text | None = Field(None, description="Thoughts before a call of a tool.")
    tool_calls: Annotated[list[CallIn], Field(max_length=MAX_TOOLS)] | None = None
    tool_call_id: CallId | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        said = self.content not in (None, []) or self.refusal is not None
        if not said and not (self.role == "assistant" and self.tool_calls):
            raise ValueError("messages.content: expected text")
        if (self.role == "tool") != (self.tool_call_id is not None):
            raise ValueError("messages.tool_call_id: expected one in turns of tools alone")
        return self

    @property
    def extra(self) -> set[str]:
        """Names of fields that nothing here reads, with those of parts of the content."""
        parts = self.content if isinstance(self.content, list) else []
        told = {f"content.{name}" for part in parts for name in part.extra}
        told |= {"reasoning_content"} if self.reasoning_content and not self.tool_calls else set()
        return told | super().extra

    def plain(self) -> dict[str, Any]:
        """With its content as one text."""
        content = self.refusal if self.content is None else self.content
        if isinstance(content, list):
            content = "".join(part.text for part in content)
        turn: dict[str, Any] = {
            "role": "system" if self.role == "developer" else self.role,
            "content": content,
        }
        if self.tool_calls:
            turn["tool_calls"] = [call.passed() for call in self.tool_calls]
            # Kimi's and DeepSeek's models go on with what they thought before they called.
            thoughts = self.reasoning_content
            turn |= {"reasoning_content": thoughts} if thoughts else {}
        return turn if self.tool_call_id is None else {**turn, "tool_call_id": self.tool_call_id}


class StreamOptions(Strict):
    """Options of a stream."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class Asked(BaseModel):
    """What all questions have in common.

    Attributes:
        harmless: values of fields that are not served, or not by all requests, which ask for
            nothing.
    """

    model_config = ConfigDict(extra="allow", strict=True)
    harmless: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    model: Annotated[str, Field(max_length=256)]
    stream: bool | None = None
    user: Annotated[str, Field(max_length=256)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    prompt_cache_key: Key | None = None
    prompt_cache_options: dict[str, Key] | None = None
    prompt_cache_retention: Key | None = None
    safety_identifier: Key | None = None
    metadata: Annotated[dict[str, Key], Field(max_length=16)] | None = None
    allot: TermsIn = Field(None, description="What the answer may cost.")

    @model_validator(mode="after")
    def _asks_for_what_is_served(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if value is not None and value not in self.harmless.get(name, ()):
                shown = name[:_LONGEST_NAME]
                raise ValueError(f"{shown}: expected it left out, as it is not served here")
        return self

    @property
    def extra(self) -> set[str]:
        """Names of fields of parts that nothing here reads."""
        return set()

    @property
    def ignored(self) -> tuple[str, ...]:
        """Names of fields that were set and change nothing, such as `messages.name`."""
        return tuple(sorted(name[:_LONGEST_NAME] for name in self.extra)[:_MOST_IGNORED])

    @abstractmethod
    def question(self) -> Question:
        """What is asked. Raises ConfigError: what belongs together does not."""


class Completing(Asked):
    """What both kinds of completions have in common."""

    harmless: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "n": (1,),
        "store": (False,),
        "service_tier": ("auto", "default"),
        "response_format": ({"type": "text"},),
        "tools": ([],),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "tool_choice": ("none", "auto"),
        "parallel_tool_calls": (True, False),
        "modalities": (["text"],),
        "best_of": (1,),
        "echo": (False,),
        "suffix": ("",),
    }

    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, le=10**7)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    logit_bias: Annotated[dict[str, _Bias], Field(max_length=_MOST_BIASES)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """Fields that models get as they are, as they were set."""
        chosen = self.model_dump(include=set(_PASSED), exclude_unset=True, by_alias=True)
        return {name: value for name, value in chosen.items() if value not in (None, [], "", {})}

    @model_validator(mode="after")
    def _streams_with_options(self) -> Self:
        if self.stream_options and not self.stream:
            raise ValueError("stream_options: expected stream to be true with it")
        return self


class ChatRequest(Completing):
    """POST /v1/chat/completions."""

    messages: Annotated[list[MessageIn], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=10**7)] | None = None
    response_format: FormIn | None = None
    tools: Annotated[list[ToolIn], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolIn | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    reasoning_effort: Effort | None = None
    verbosity: Verbosity | None = None

    @property
    def extra(self) -> set[str]:
        """Those of messages."""
        return {f"messages.{name}" for message in self.messages for name in message.extra}

    @property
    def fields(self) -> dict[str, Any]:
        """Without what asks for nothing: text as a form, or a choice among no tools.

        Raises:
            ConfigError: a choice that no tool has, or alternatives to tokens that are not told.
        """
        chosen = super().fields
        if not chosen.get("logprobs", True):
            del chosen["logprobs"]
        if chosen.get("top_logprobs") and "logprobs" not in chosen:
            raise ConfigError("top_logprobs: expected logprobs to be true with it")
        if chosen.get("response_format", {}).get("type") == "text":
            del chosen["response_format"]
        if "tools" not in chosen:
            chosen.pop("parallel_tool_calls", None)
            if chosen.pop("tool_choice", "auto") not in ("none", "auto"):
                raise ConfigError("tool_choice: expected tools with it, found none")
        choice = chosen.get("tool_choice")
        offered = [tool["function"]["name"] for tool in chosen.get("tools", ())]
        if isinstance(choice, dict) and choice["function"]["name"] not in offered:
            raise ConfigError("tool_choice: expected the name of one of the tools")
        return chosen

    def question(self) -> Question:
        """The last turn of the user, with those before and after it; without any, the system's.

        Raises:
            ConfigError: the last turn is an assistant's, or nobody asks.
        """
        turns = [message.plain() for message in self.messages]
        places = {turn["role"]: i for i, turn in enumerate(turns)}
        last = places.get("user", places.get("system"))
        if turns[-1]["role"] == "assistant" or last is None:
            raise ConfigError(
                "messages: expected the last one from the user, or a tool or the system after it"
            )
        said = (self.max_completion_tokens, self.max_tokens, LONGEST_ATTEMPT)
        return Question(
            question_id="",
            text=turns[last]["content"],
            history=tuple(turns[:last]),
            since=tuple(turns[last + 1 :]),
            fields=self.fields,
            max_new_tokens=min(filter(None, said)),
        )


class CompletionRequest(Completing):
    """POST /v1/completions: the prompt is the question, asked as one user message."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=1)]

    def question(self) -> Question:
        """The prompt."""
        text = self.prompt if isinstance(self.prompt, str) else self.prompt[0]
        longest = min(self.max_tokens or LONGEST_ATTEMPT, LONGEST_ATTEMPT)
        return Question(question_id="", text=text, fields=self.fields, max_new_tokens=longest)


class AttemptIn(Strict):
    """An attempt that was made elsewhere."""

    action: ActionKind
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
    reasoning_tokens: Tokens = Field(0, description="Those of them that were thinking.")
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
    allot: TermsIn = None


_NUMBERS = ("price", "worth", "round-price", "budget", "accuracy", "mean-cost", "deadline-s")
HEADERS: Mapping[str, type] = {
    **dict.fromkeys(_NUMBERS, float),
    "max-escalations": int,
    "question-id": str,
    "prepared": str,
}
"""Terms that may come as `x-allot-NAME`; fields of the body come first."""
HEADER_PREFIX = "x-allot-"


def read_terms(
    given: Mapping[str, Any] | None,
    headers: Mapping[str, str],
    *,
    seed: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> RequestTerms:
    """Terms from headers, body and OpenAI's fields, where a seed has any 64 bits.

    Raises:
        ValidationError: a field or header that does not fit.
        ConfigError: a header that is not a number, none of `HEADERS`, or there twice.
    """
    for header in headers:
        if header.startswith(HEADER_PREFIX) and header.removeprefix(HEADER_PREFIX) not in HEADERS:
            raise ConfigError(
                f"{header[:_LONGEST_NAME]}: expected one of {', '.join(HEADERS)} after "
                f"{HEADER_PREFIX}; all else is a field of allot in the body"
            )
        if header.startswith(HEADER_PREFIX) and list(headers).count(header) > 1:
            raise ConfigError(f"{header}: expected it once, found it twice")
    terms: dict[str, Any] = {"seed": None if seed is None else seed % 2**31, "metadata": metadata}
    body = {name: value for name, value in (given or {}).items() if value is not None}
    for header, kind in HEADERS.items():
        name, value = header.replace("-", "_"), headers.get(HEADER_PREFIX + header)
        if value is None or (name in PRICES and {*PRICES} & body.keys()):
            continue
        try:
            terms[name] = kind(value)
        except ValueError:
            raise ConfigError(f"{HEADER_PREFIX}{header}: expected a number") from None
    # As JSON, since its strict reading takes objects for dataclasses.
    return TERMS.validate_json(json.dumps({**terms, **body}))


def complaint(error: ValidationError) -> tuple[str, str]:
    """What is wrong, and with which field, without repeating texts that were sent."""
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    # Of the forms that a field can have, the one whose fault lies deepest was meant.
    same = [e for e in errors if e["loc"][:1] == errors[0]["loc"][:1]]
    first = max(same, key=lambda e: (len(e["loc"]), not e["type"].endswith("_type")))
    if first["type"] == "value_error":  # one of ours, which names the field
        message = first["msg"].removeprefix("Value error, ")
        return message, message.partition(":")[0]
    # Names of pydantic's own branches, such as `list[...]` and `ToolIn`, are no fields.
    top, *below = first["loc"] or ("",)
    named = [part for part in below if isinstance(part, int) or re.fullmatch("[a-z_]+", part)]
    where = ".".join(map(str, [top, *named]))[:_LONGEST_NAME]
    return f"{where or 'body'}: {first['msg']}", where
