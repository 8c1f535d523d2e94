"""OpenAI's Responses, stateless: a request is read as a chat, its answer told in their form."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from controller.backends.base import HINTS
from controller.process.types import CUT, Question
from controller.server.engine import Served
from controller.server.replies import (
    Json,
    calls_of,
    extension,
    logprobs_of,
    refusal,
    refuses,
    rest,
    sse,
    text_of,
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
        return self._response("completed", self._items(served)) | {
            "status": "completed" if _lacking(served) is None else "incomplete",
            "incomplete_details": _lacking(served),
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
        begun = b"" if self._told else self._begun_message()
        self._told += piece
        return begun + self._said(piece)

    def answer(self, served: Served) -> bytes:
        """What has not been told of the answer, item by item, and the end."""
        whole = self.whole(served)
        items = b"".join(self._item(n, item) for n, item in enumerate(whole["output"]))
        return items + self._event(whole["status"], response=whole)

    def error(self, error: Exception) -> bytes:
        """That there is no answer."""
        told = refusal(error)[1]["error"]
        shown = {name: told[name] for name in ("code", "message", "param")}
        # The client raises what has a field `error`, and hands on what has not.
        return self._event("", **shown, error=told)

    def _item(self, place: int, item: Json) -> bytes:
        return self._call(place, item) if item["type"] == "function_call" else self._message(item)

    def _call(self, place: int, item: Json) -> bytes:
        at, arguments = {"item_id": item["id"], "output_index": place}, item["arguments"]
        begun, kind = {**item, "status": "in_progress", "arguments": ""}, "function_call_arguments"
        return (
            self._event("output_item.added", output_index=place, item=begun)
            + self._event(f"{kind}.delta", **at, delta=arguments)
            + self._event(f"{kind}.done", **at, arguments=arguments, name=item["name"])
            + self._event("output_item.done", output_index=place, item=item)
        )

    def _begun_message(self, *, refused: bool = False) -> bytes:
        begun = {**self._new_message(""), "status": "in_progress", "content": []}
        part = self._new_message("", refused=refused)["content"][0]
        return self._event("output_item.added", output_index=0, item=begun) + self._event(
            "content_part.added", **self._at, part=part
        )

    def _said(self, piece: str, logprobs: Sequence[Any] = ()) -> bytes:
        told = {**self._at, "delta": piece, "logprobs": list(logprobs)}
        return self._event("output_text.delta", **told)

    def _message(self, item: Json) -> bytes:
        (part,) = item["content"]
        refusal = part.get("refusal")
        said = b"" if self._told else self._begun_message(refused=refusal is not None)
        if refusal is not None:
            said += self._event("refusal.delta", **self._at, delta=refusal)
            said += self._event("refusal.done", **self._at, refusal=refusal)
        else:
            told = {"text": part["text"], "logprobs": part["logprobs"]}
            said += self._said(rest(part["text"], self._told), part["logprobs"])
            said += self._event("output_text.done", **self._at, **told)
        return (
            said
            + self._event("content_part.done", **self._at, part=part)
            + self._event("output_item.done", output_index=0, item=item)
        )

    @property
    def _at(self) -> Json:
        """Where the text of the message is."""
        return {"item_id": f"msg_{self._id}", "output_index": 0, "content_index": 0}

    def _new_message(
        self, text: str, logprobs: Sequence[Any] = (), *, refused: bool = False
    ) -> Json:
        said: Json = {"type": "output_text", "text": text, "annotations": []}
        said["logprobs"] = list(logprobs)
        said = {"type": "refusal", "refusal": text} if refused else said
        return {
            "id": f"msg_{self._id}",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [said],
        }

    def _items(self, served: Served) -> list[Json]:
        """The output: a message, calls of tools, or both."""
        text, calls = text_of(served), calls_of(served)
        called = [
            {
                "id": f"fc_{self._id}_{number}",
                "type": "function_call",
                "call_id": call["id"],
                "status": "completed",
                **call["function"],
            }
            for number, call in enumerate(calls)
        ]
        told = (logprobs_of(served) or {}).get("content", ())
        message = self._new_message(text, told, refused=refuses(served))
        return [*([message] if text or not calls else []), *called]

    def _event(self, of_response: str, **fields: Any) -> bytes:
        kind = f"response.{of_response}" if of_response else "error"
        told = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return f"event: {kind}\n".encode() + sse(told)


def _lacking(served: Served) -> Json | None:
    """Why an answer is not complete; None if it is."""
    reason = served.attempt.finish_reason if served.attempt else None
    known = {CUT: "max_output_tokens", "content_filter": "content_filter"}
    return {"reason": known[reason]} if reason in known else None


def _usage(served: Served) -> Json:
    found = usage_json(served)
    return {
        "input_tokens": found["prompt_tokens"],
        "input_tokens_details": found["prompt_tokens_details"],
        "output_tokens": found["completion_tokens"],
        "output_tokens_details": found["completion_tokens_details"],
        "total_tokens": found["total_tokens"],
    }
