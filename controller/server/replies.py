"""Answers and errors in OpenAI's form; a field `allot` tells how answers came about."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from controller.answers.structured import unfenced
from controller.answers.thoughts import parted
from controller.backends.base import TOO_LONG
from controller.backends.openai.resilience import FILTERED, LIMITED, PERMANENT, REJECTED
from controller.core import Choice, Decision
from controller.errors import CheckpointError, ConfigError
from controller.process.actions import ActionKind
from controller.process.cost import Usage
from controller.process.types import CUT
from controller.server.engine import NoAnswerError, Served
from controller.server.logs import tell
from controller.server.schema import MODEL, ChatRequest, Completing, complaint

Json = dict[str, Any]


def usage_json(served: Served) -> Json:
    """Tokens of all internal calls, those that failed or were cancelled included."""
    total = sum(served.usage.values(), start=Usage())
    prompt = total.prefill_tokens + total.cached_tokens + total.verifier_tokens
    completion = total.decoded_tokens + total.cancelled_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": total.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": total.reasoning_tokens},
    }


def usage_by_action(served: Served) -> dict[str, Json]:
    """The same, split by what it was for; `read` is looking at the prompt before anything."""
    by_action: dict[str, Usage] = {}
    rest = sum(served.usage.values(), start=Usage())
    for attempt in served.attempts:
        kind = attempt.action.value
        by_action[kind] = by_action.get(kind, Usage()) + attempt.usage
        rest -= attempt.usage
    verified = Usage(verifier_tokens=rest.verifier_tokens)
    read = Usage(prefill_tokens=rest.prefill_tokens, cached_tokens=rest.cached_tokens)
    by_action[ActionKind.VERIFY.value], by_action["read"] = verified, read
    return {
        kind: _counts(usage) for kind, usage in by_action.items() if any(_counts(usage).values())
    }


def _counts(usage: Usage) -> Json:
    return {name: value for name, value in vars(usage).items() if name != "wall_s"}


_ATTEMPT = (
    *("attempt_id", "action", "model", "answer", "error", "prompt_tokens", "completion_tokens"),
    *("finish_reason", "mean_logprob"),
)
_SERVED = (
    *("episode_id", "answer", "gave_up", "limited", "guarded", "warnings", "cost", "decision_s"),
)
_CHOICE = ("probabilities", "value", "propensity", "decided_by", "floor", "leader", "cost")


def choice_json(choice: Choice, *, explain: bool = False) -> Json:
    """A choice, or a decision; `explain` tells what the policy saw, votes and texts, too."""
    event = "decision" if isinstance(choice, Decision) else "choice"
    shown: Json = {"event": event, "action": str(choice.action)}
    shown |= {name: getattr(choice, name) for name in _CHOICE}
    if explain:
        shown |= {"observation": choice.observation, "votes": choice.votes}
    if isinstance(choice, Decision):
        names = (*_ATTEMPT, "text") if explain else _ATTEMPT
        shown["attempts"] = [{name: getattr(a, name) for name in names} for a in choice.attempts]
    return shown


def extension(served: Served, ignored: Sequence[str], *, explain: bool) -> Json:
    """The field `allot` of an answer; `ignored` are fields of the request that changed nothing."""
    if served.question.fields.get("logprobs") and not (served.attempt and served.attempt.told):
        ignored = [*ignored, "logprobs"]
    ignored = [*ignored, *served.ignored]
    return {
        **{name: getattr(served, name) for name in _SERVED},
        "model": served.attempt.model if served.attempt else None,
        "degraded": bool(served.degraded),
        "unavailable": served.degraded,
        "ignored": ignored,
        "price": served.terms.price,
        "round_price": served.terms.round_price,
        "arm": served.variant.name,
        "policy": served.variant.digest,
        "usage": {
            "by_model": {name: _counts(usage) for name, usage in served.usage.items()},
            "by_action": usage_by_action(served),
        },
        "decisions": [choice_json(decision, explain=explain) for decision in served.decisions],
    }


class Told(NamedTuple):
    """What is returned of an answer; nothing without one.

    Attributes:
        text: without thoughts, and without a fence where JSON is wanted.
        thoughts: before it, as far as the model's server tells them or tags show.
        refused: whether the text is a refusal.
        calls: of tools, as OpenAI has them.
        logprobs: of the tokens, likewise; None unless wanted and known.
        finish: why it ended, in OpenAI's words.
    """

    text: str = ""
    thoughts: str = ""
    refused: bool = False
    calls: Sequence[Json] = ()
    logprobs: Json | None = None
    finish: str = "stop"


def told_of(served: Served) -> Told:
    """What is returned of what became of a question."""
    attempt = served.attempt
    if attempt is None:
        return Told()
    thoughts, said = parted(attempt.text or "")
    said = unfenced(said) if "response_format" in served.question.fields else said
    finish = "tool_calls" if attempt.calls else "stop"
    if attempt.finish_reason in (CUT, FILTERED):  # calls that were cut are none to carry out
        finish = attempt.finish_reason
    return Told(
        text=said or (not attempt.calls and attempt.answer) or "",
        thoughts=attempt.thoughts + thoughts,
        refused=attempt.refused,
        calls=[dict(call) for call in attempt.calls],
        logprobs={"content": list(attempt.told), "refusal": None} if attempt.told else None,
        finish=finish,
    )


def rest(whole: str, told: str) -> str:
    """What has not been told of a text whose beginning has."""
    return whole[len(told) :] if whole.startswith(told) else ""


class CompletionForm:
    """An answer in the form of a completion, whole or as the events of one stream.

    Every chunk has a choice, if only an empty one, since clients look at the first.
    """

    def __init__(self, asked: Completing, *, explain: bool) -> None:
        chat = isinstance(asked, ChatRequest)
        self._ignored, self._chat, self._explain = asked.ignored, chat, explain
        self._options, self._told, self._thought = asked.stream_options, "", ""
        self._head = {
            "id": f"allot-stream-{time.time_ns():x}",
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": int(time.time()),
            "model": MODEL,
        }

    def whole(self, served: Served) -> Json:
        """The completion."""
        told = told_of(served)
        said: Json = {"text": told.text}
        if self._chat:
            message: Json = {"role": "assistant", "content": told.text, "refusal": None}
            if told.refused or (told.calls and not told.text):
                message |= {"content": None, "refusal": told.text if told.refused else None}
            message |= {"reasoning_content": told.thoughts} if told.thoughts else {}
            message |= {"tool_calls": told.calls} if told.calls else {}
            said = {"message": message}
        said |= {"finish_reason": told.finish, "logprobs": told.logprobs}
        return {
            "id": served.episode_id,
            "object": "chat.completion" if self._chat else "text_completion",
            "created": int(time.time()),
            "model": MODEL,
            "choices": [{"index": 0, **said}],
            "usage": usage_json(served),
            "allot": extension(served, self._ignored, explain=self._explain),
        }

    def first(self) -> bytes:
        """That an answer is being made."""
        return self._event({"role": "assistant", "content": ""} if self._chat else {})

    def choice(self, choice: Choice) -> bytes:
        """A choice or decision, when it happens."""
        return self._event({}, allot=choice_json(choice, explain=self._explain))

    def written(self, place: int, piece: str) -> bytes:
        """A piece of an attempt's text, by its place among those that an action brings."""
        return self._event({}, allot={"event": "text", "attempt": place, "text": piece})

    def text(self, piece: str) -> bytes:
        """A piece of the answer's text, when it is written."""
        self._told += piece
        return self._event({"content": piece})

    def thought(self, piece: str) -> bytes:
        """A piece of the thoughts before it."""
        self._thought += piece
        return self._event({"reasoning_content": piece})

    def answer(self, served: Served) -> bytes:
        """What has not been told of the answer, its end, and usage if wanted."""
        told, allot = told_of(served), extension(served, self._ignored, explain=self._explain)
        end = self._event({}, told.finish, allot=allot)
        calls = [{"index": i, **call} for i, call in enumerate(told.calls)]
        delta: Json = {"refusal" if told.refused else "content": rest(told.text, self._told)}
        delta |= {"tool_calls": calls} if calls else {}
        thoughts = rest(told.thoughts, self._thought)
        events = [self.thought(thoughts)] if thoughts and self._chat else []
        events += [self._event(delta, logprobs=told.logprobs), end]
        if self._options and self._options.include_usage:
            events.append(sse({**self._head, "choices": [], "usage": usage_json(served)}))
        return b"".join([*events, DONE])

    def error(self, error: Exception) -> bytes:
        """That there is no answer."""
        return sse(refusal(error)[1])

    def _event(
        self, delta: Json, finish: str | None = None, logprobs: Any = None, **more: Any
    ) -> bytes:
        choice: Json = {"index": 0, "finish_reason": finish, "logprobs": logprobs}
        said = delta.get("content") or delta.get("refusal") or ""
        choice |= {"delta": delta} if self._chat else {"text": said}
        if self._options and self._options.include_usage:
            more["usage"] = None  # but in the last one
        return sse({**self._head, "choices": [choice], **more})


DONE = b"data: [DONE]\n\n"
ALIVE = b": waiting\n\n"


def sse(data: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def error_json(message: str, kind: str, param: str | None = None, code: str | None = None) -> Json:
    """An error in OpenAI's form."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def refusal(error: Exception) -> tuple[int, Json]:
    """Status and body of what clients are told about an error; nothing of a bug."""
    message = error.detail if isinstance(error, HTTPException) else str(error)
    param = message.partition(":")[0]
    if isinstance(error, NoAnswerError):
        status, code = _no_answer(error)
        if status != 400:
            return status, error_json(message, "upstream_error", code=code)
        named = min(kind.partition(":")[2] for kind in error.kinds)
        told = f"{named}: refused by every model that was asked" if named else message
        return 400, error_json(told, "invalid_request_error", named or None, code)
    if isinstance(error, HTTPException):
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        status, about = error.status_code, "model" if param == "model" else None
        kind = kinds.get(status, "invalid_request_error" if status < 500 else "upstream_error")
        name = {401: "invalid_api_key"}.get(status, about and "model_not_found")
        return status, error_json(message, kind, about, name)
    if isinstance(error, ValidationError):
        message, param = complaint(error)
    elif not isinstance(error, REFUSED):
        return 500, error_json("internal error", "server_error")
    return 400, error_json(message, "invalid_request_error", param)


def _no_answer(error: NoAnswerError) -> tuple[int, str]:
    """Status and code of a question that no model has answered."""
    kinds = {kind.partition(":")[0] for kind in error.kinds}
    if kinds in ({TOO_LONG}, {FILTERED}):
        return 400, kinds.pop()
    if error.kinds and all(kind.startswith(f"{REJECTED}:") for kind in error.kinds):
        return 400, "request_refused"
    if kinds == {LIMITED}:
        return 429, LIMITED
    if kinds and kinds <= PERMANENT:
        return 502, "request_refused"
    return (504, "deadline") if error.late else (503, "models_unavailable")


_AGAIN = {
    429: {"retry-after": "5"},
    502: {"x-should-retry": "false"},
    503: {"retry-after": "5"},
}
"""Whether and when it makes sense to ask again."""
REQUEST_ID = "x-request-id"
"""Header that OpenAI's clients show; the id in the log."""
_LONGEST_PATH = 128


def refused(request: Request, error: Exception) -> Response:
    """The response that goes with it."""
    status, body = refusal(error)
    headers = {**_AGAIN.get(status, {}), **(getattr(error, "headers", None) or {})}
    if isinstance(error, NoAnswerError):
        headers[REQUEST_ID] = error.served.episode_id
        if "retry-after" in headers and error.retry_after_s is not None:
            headers["retry-after"] = str(math.ceil(error.retry_after_s))
    if status == 405:
        wanted = f"expected {headers['Allow']}, found {request.method}"
        body["error"]["message"] = f"{request.url.path[:_LONGEST_PATH]}: {wanted}"
    if status == 404 and request.scope.get("endpoint") is None:
        posts = (r.path for r in request.app.routes if "POST" in r.methods)
        said = f"{request.url.path[:_LONGEST_PATH]}: not served here; expected {', '.join(posts)}"
        body["error"]["message"] = said
    return JSONResponse(body, status, headers=headers)


def bug(request: Request, error: Exception) -> Response:
    """A 500 that tells the log where, and the client nothing."""
    tell("bug", logging.ERROR, error=error, path=request.url.path)
    status, body = refusal(error)
    return JSONResponse(body, status)


REFUSED = (HTTPException, ValidationError, NoAnswerError, ConfigError, CheckpointError)
"""Errors that clients are told about."""
