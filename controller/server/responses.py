"""OpenAI's Responses, stateless: a request is read as a chat, its answer told in their form."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from controller.backends.base import HINTS
from controller.backends.openai.resilience import FILTERED
from controller.process.types import CUT, Question
from controller.server.engine import Served
from controller.server.replies import (
    Json,
    Told,
    extension,
    refusal,
    rest,
    sse,
    told_of,
    usage_json,
)
from controller.server.schema import (
    MAX_MESSAGES,
    MAX_TOOLS,
    MODEL,
    Asked,
    CallId,
    ChatRequest,
    Effort,
    FunctionIn,
    Name,
    Passed,
    RefusalPart,
    Strict,
    Text,
    TopLogprobs,
    Verbosity,
)


class Compatible(Passed):
    """Parts of messages as clients get them back from us."""

    @property
    def extra(self) -> set[str]:
        """Without what we send."""
        return super().extra - {"id", "status", "annotations", "logprobs"}


class PartIn(Compatible):
    """A part of a message; only text can be answered."""

    type: Literal["input_text", "output_text", "text"]
    text: Text


class RefusalIn(RefusalPart, Compatible):
    """A part of a model's turn."""


Parts = Annotated[list[PartIn | RefusalIn], Field(min_length=1, max_length=MAX_MESSAGES)]


class TurnIn(Compatible):
    """A turn of a conversation."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Parts


class CallItemIn(Compatible):
    """A call of a tool in an earlier turn."""

    type: Literal["function_call"]
    call_id: CallId
    name: Name
    arguments: Text


class ResultItemIn(Compatible):
    """What a tool returned."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: Text | Parts


class ThoughtsItemIn(Compatible):
    """What a model thought; no other one reads it."""

    type: Literal["reasoning"]


Item = TurnIn | CallItemIn | ResultItemIn | ThoughtsItemIn


class FunctionToolIn(FunctionIn):
    """A function that may or must be called."""

    type: Literal["function"]


class FormatIn(Passed):
    """What form an answer has."""

    type: Literal["text", "json_object", "json_schema"]


class TextIn(Strict):
    """How a text is written."""

    format: FormatIn | None = None
    verbosity: Verbosity | None = None


_LOGPROBS = "message.output_text.logprobs"


class ReasoningIn(Strict):
    """How long models think."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class ResponseRequest(Asked):
    """POST /v1/responses."""

    harmless: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "background": (False,),
        "store": (False,),
        "service_tier": ("auto", "default"),
        "truncation": ("disabled",),
        "stream_options": ({}, {"include_obfuscation": False}),
    }

    input: Text | Annotated[list[Item], Field(min_length=1, max_length=MAX_MESSAGES)]
    instructions: Text | None = None
    text: TextIn | None = None
    reasoning: ReasoningIn | None = None
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = (
        None
    )
    top_logprobs: TopLogprobs | None = None
    tools: Annotated[list[FunctionToolIn], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionToolIn | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=10**7)] | None = None

    @property
    def extra(self) -> set[str]:
        """Those of items, and what is wanted of thoughts, which are not told here."""
        found = {"reasoning.summary"} if self.reasoning and self.reasoning.summary else set()
        for item in [] if isinstance(self.input, str) else self.input:
            if isinstance(item, ThoughtsItemIn):
                found.add("input.reasoning")
                continue
            held = item.output if isinstance(item, ResultItemIn) else getattr(item, "content", "")
            parts = [] if isinstance(held, str) else held
            told = item.extra
            found |= {f"input.{name}" for name in told.union(*(part.extra for part in parts))}
        return found | {f"include.{name}" for name in self.include or () if name != _LOGPROBS}

    def question(self) -> Question:
        """See `Asked.question`."""
        return ChatRequest.model_validate_json(json.dumps(self._chat())).question()

    def _chat(self) -> Json:
        turns: list[Json] = []
        if self.instructions:
            turns.append({"role": "system", "content": self.instructions})
        items = (
            [TurnIn(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        )
        for item in items:
            if isinstance(item, TurnIn):
                turns.append({"role": item.role, "content": _joined(item.content)})
            elif isinstance(item, ResultItemIn):
                turned = {"role": "tool", "tool_call_id": item.call_id}
                turns.append({**turned, "content": _joined(item.output)})
            elif isinstance(item, CallItemIn):
                _add_call(turns, item)
        chat: Json = {
            "model": self.model,
            "messages": turns,
            "max_tokens": self.max_output_tokens,
            "tools": [_nested(tool.passed()) for tool in self.tools or ()],
            "tool_choice": self.tool_choice,
            "parallel_tool_calls": self.parallel_tool_calls,
            "reasoning_effort": self.reasoning and self.reasoning.effort,
            "verbosity": self.text and self.text.verbosity,
            "logprobs": _LOGPROBS in (self.include or ()) or bool(self.top_logprobs),
            "top_logprobs": self.top_logprobs,
            **{name: getattr(self, name) for name in _AS_IN_CHATS},
        }
        if isinstance(self.tool_choice, FunctionToolIn):
            chat["tool_choice"] = _nested(self.tool_choice.passed())
        if self.text and self.text.format:
            wanted = self.text.format.passed()
            kind = wanted.pop("type")
            schema = {"json_schema": wanted} if kind == "json_schema" else {}
            chat["response_format"] = {"type": kind, **schema}
        return chat


_REPEATED = {
    *("instructions", "metadata", "max_output_tokens", "tools", "tool_choice", "text"),
    *("temperature", "top_p", "top_logprobs", "reasoning"),
}
_AS_IN_CHATS = ("temperature", "top_p", *sorted(HINTS))


def _joined(content: str | Sequence[PartIn | RefusalIn]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _nested(tool: Json) -> Json:
    """A tool as chats have it."""
    return {"type": tool.pop("type"), "function": tool}


def _add_call(turns: list[Json], item: CallItemIn) -> None:
    """Calls that follow one another are one turn, which may have begun with a text."""
    if not turns or turns[-1]["role"] != "assistant":
        turns.append({"role": "assistant", "content": None})
    called = {"name": item.name, "arguments": item.arguments}
    call = {"id": item.call_id, "type": "function", "function": called}
    turns[-1].setdefault("tool_calls", []).append(call)


class ResponseForm:
    """An answer in the form of a response, whole or as events."""

    def __init__(self, asked: ResponseRequest, *, explain: bool) -> None:
        self._asked, self._explain = asked, explain
        self._number, self._id = 0, f"resp_{uuid.uuid4().hex}"
        self._created, self._told = int(time.time()), ""

    def whole(self, served: Served) -> Json:
        """The response."""
        told = told_of(served)
        lacking = {CUT: "max_output_tokens", FILTERED: FILTERED}.get(told.finish)
        return self._response("incomplete" if lacking else "completed", self._items(told)) | {
            "incomplete_details": {"reason": lacking} if lacking else None,
            "usage": _usage(served),
            "allot": extension(served, self._asked.ignored, explain=self._explain),
        }

    def _response(self, status: str, output: list[Json]) -> Json:
        asked = self._asked
        set_by_asker = asked.model_dump(include=_REPEATED, exclude_none=True, by_alias=True)
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "model": MODEL,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "tools": [],
            "tool_choice": "auto",
            "text": {"format": {"type": "text"}},
            **set_by_asker,
            "status": status,
            "output": output,
        }

    def first(self) -> bytes:
        """That an answer is being made."""
        begun = self._response("in_progress", [])
        return b"".join(self._event(kind, response=begun) for kind in ("created", "in_progress"))

    def choice(self, *told: object) -> bytes:
        """Nothing: clients know all events that there may be, and thoughts are not told here."""
        return b""

    written = thought = choice

    def text(self, piece: str) -> bytes:
        """A piece of the answer's text, when it is written."""
        begun = b"" if self._told else self._begun(_part(""))
        self._told += piece
        return begun + self._event("output_text.delta", **self._at, delta=piece, logprobs=[])

    def answer(self, served: Served) -> bytes:
        """What has not been told of the answer, item by item, and the end."""
        whole = self.whole(served)
        items = [
            self._call(place, item) if item["type"] == "function_call" else self._said(item)
            for place, item in enumerate(whole["output"])
        ]
        return b"".join(items) + self._event(whole["status"], response=whole)

    def error(self, error: Exception) -> bytes:
        """That there is no answer."""
        told = refusal(error)[1]["error"]
        shown = {name: told[name] for name in ("code", "message", "param")}
        # The client raises what has a field `error`, and hands on what has not.
        return self._event("", **shown, error=told)

    def _call(self, place: int, item: Json) -> bytes:
        at, arguments = {"item_id": item["id"], "output_index": place}, item["arguments"]
        begun, kind = {**item, "status": "in_progress", "arguments": ""}, "function_call_arguments"
        return (
            self._event("output_item.added", output_index=place, item=begun)
            + self._event(f"{kind}.delta", **at, delta=arguments)
            + self._event(f"{kind}.done", **at, arguments=arguments, name=item["name"])
            + self._event("output_item.done", output_index=place, item=item)
        )

    def _begun(self, part: Json) -> bytes:
        item = self._message(status="in_progress")
        return self._event("output_item.added", output_index=0, item=item) + self._event(
            "content_part.added", **self._at, part=part
        )

    def _said(self, item: Json) -> bytes:
        """A message, of which the beginning may have been told."""
        (part,) = item["content"]
        kind, refused = part["type"], part["type"] == "refusal"
        field = "refusal" if refused else "text"
        logprobs = {} if refused else {"logprobs": part["logprobs"]}
        piece = part[field] if refused else rest(part[field], self._told)
        return (
            (b"" if self._told else self._begun(_part("", refused=refused)))
            + self._event(f"{kind}.delta", **self._at, delta=piece, **logprobs)
            + self._event(f"{kind}.done", **self._at, **{field: part[field]}, **logprobs)
            + self._event("content_part.done", **self._at, part=part)
            + self._event("output_item.done", output_index=0, item=item)
        )

    @property
    def _at(self) -> Json:
        """Where the text of the message is."""
        return {"item_id": f"msg_{self._id}", "output_index": 0, "content_index": 0}

    def _message(self, *content: Json, status: str = "completed") -> Json:
        return {
            "id": f"msg_{self._id}",
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": list(content),
        }

    def _items(self, told: Told) -> list[Json]:
        """The output: a message, calls of tools, or both."""
        called = [
            {
                "id": f"fc_{self._id}_{number}",
                "type": "function_call",
                "call_id": call["id"],
                "status": "completed",
                **call["function"],
            }
            for number, call in enumerate(told.calls)
        ]
        logprobs = (told.logprobs or {}).get("content", ())
        message = self._message(_part(told.text, logprobs, refused=told.refused))
        return [*([message] if told.text or not called else []), *called]

    def _event(self, of_response: str, **fields: Any) -> bytes:
        kind = f"response.{of_response}" if of_response else "error"
        told = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return f"event: {kind}\n".encode() + sse(told)


def _part(text: str, logprobs: Sequence[Any] = (), *, refused: bool = False) -> Json:
    """What a message holds."""
    if refused:
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def _usage(served: Served) -> Json:
    found = usage_json(served)
    return {
        "input_tokens": found["prompt_tokens"],
        "input_tokens_details": found["prompt_tokens_details"],
        "output_tokens": found["completion_tokens"],
        "output_tokens_details": found["completion_tokens_details"],
        "total_tokens": found["total_tokens"],
    }
