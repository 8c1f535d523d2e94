"""A server's own ways: what its refusals tell of requests, and how these are made to suit it."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from controller.backends.base import HINTS, TOO_LONG
from controller.backends.openai.resilience import (
    REJECTED,
    UNCLEAR,
    UNREADABLE,
    WORDS,
    UpstreamError,
)

_log = logging.getLogger("allot.upstream")

Body = Mapping[str, Any]
"""A request, its turns under `messages`, or a turn or a call in it."""

Own = dict[str, Any]
"""A copy of one, which may be changed."""

_NEEDED = frozenset({"model", "messages"})
OPTIONAL = frozenset(
    {
        *("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "logprobs"),
        *("parallel_tool_calls", *HINTS),
    }
)
"""Fields of clients that servers take or refuse whatever their values, and answer without."""
_LENGTHS = {"max_tokens", "max_completion_tokens"}
_SUCCESSORS = {"max_tokens": "max_completion_tokens"}
"""Names under which some servers take a field that they refuse."""
_RANGED = {"temperature", "top_p", "presence_penalty", "frequency_penalty"}
"""Fields of clients that servers refuse for their value where they tell of a range."""
_BESIDE = {"top_logprobs": "logprobs", "stream_options": "stream"}
"""Fields that make no sense without another one."""
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}

_NAMING = (*UNCLEAR, 404)
"""Statuses whose words may be about a field: OpenAI's 403, OpenRouter's 404."""
_OTHER_WORDS = {
    "stream": r"support.{0,9}streaming|streaming.{0,9}(not |un)support",
    "tools": r"\btool[_ -](use|choice)|\b(tool|function)[_ -]calling\b",
    "response_format": r"\bjson[_ ](mode|schema|object)\b|structured.outputs?\b",
    "reasoning_effort": r"support.{0,9}(thinking|reasoning)\b",
    **{f"{kind}_penalty": rf"\b({kind}_?)?penalty\b" for kind in ("presence", "frequency")},
}
"""By which servers name a field beside its name; Gemini's mean both penalties by one word."""
_NOT_TAKEN = re.compile(r"(not |un)supported|param\w* requires", re.IGNORECASE)
"""Of llama.cpp's, which answers 500 where it does not take a field."""
_TOGETHER = re.compile(r"both|\btogether\b|same time|only one|mutually", re.IGNORECASE)
_LOCATION = re.compile(r"""['"]loc['"]:\s*[\[(](?:['"]body['"],?\s*)?(?:['"](\w+)['"])?""")
_TOO_MANY = re.compile(r"at most|less than|<=|range|max(imum)?\b|too large|exceed", re.IGNORECASE)
_TOO_FEW = re.compile(
    r"at least|greater than|>=|range|minimum|too small|between|positive", re.IGNORECASE
)
_RANGE = re.compile(rf"{_TOO_MANY.pattern}|{_TOO_FEW.pattern}", re.IGNORECASE)
_WINDOW = re.compile(
    r"context (?:length|window|limit)\D{1,12}(\d{1,9}) tokens|[<>]=? (\d{1,9})[.,]"
)
_PROMPT = re.compile(
    r"(\d{1,9}) (?:input tokens|in the (?:messages|prompt)|tokens from the input|`inputs` tokens"
    r"|of text input|\+ \d+ >)"
)
"""Tokens that there is room for, and those of a prompt, where servers tell both."""


def _named(failure: UpstreamError, fields: Iterable[str]) -> list[str]:
    """Those fields of a request that a server's refusal names; its own words may quote prompts."""
    said, wanted = failure.said, {*fields}
    refuses = failure.status in _NAMING or (failure.status == 500 and _NOT_TAKEN.search(said))
    if not refuses or WORDS[TOO_LONG].search(said):
        return []
    # Who says where the fault lies may repeat the whole request beside.
    if told := _LOCATION.findall(said):
        return sorted(wanted & {*told})
    param = re.match(r"\w*", failure.param)
    if param and param[0] in wanted | _NEEDED:
        return sorted(wanted & {param[0]})
    return sorted(_mentioned(wanted, said))


def _mentioned(fields: Iterable[str], said: str) -> set[str]:
    """Fields that words name; xAI's say presencePenalty, and some are said in other ways."""
    patterns = {f: rf"\b{re.escape(f).replace('_', '[_ ]?')}\b" for f in fields}
    patterns |= {f: f"{patterns[f]}|{_OTHER_WORDS[f]}" for f in _OTHER_WORDS.keys() & patterns}
    return {f for f, pattern in patterns.items() if re.search(pattern, said, re.IGNORECASE)}


def _room(failure: UpstreamError, body: Body) -> int | None:
    """Tokens of an attempt that a prompt leaves room for, where a refusal says that it does."""
    asked, said = next((body[name] for name in _LENGTHS if name in body), None), failure.said
    window, prompt = _WINDOW.search(said), _PROMPT.search(said)
    if asked is None or window is None or prompt is None:
        return None
    # vLLM reads no more of a prompt than what leaves no room for so many tokens.
    most = asked // 2 if f"at least {prompt[1]}" in said else asked - 1
    room = min(int(next(filter(None, window.groups()))) - int(prompt[1]), most)
    return room if room > 0 else None


Mend = Callable[[Own], None]
"""Changes a request in place so that a server takes it, if there is anything to change."""


def _merge(body: Own) -> None:
    """Makes plain turns of one role in a row one."""
    turns: list[Own] = []
    for turn in body["messages"]:
        last = turns[-1] if turns else {}
        if turn.keys() == last.keys() == {"role", "content"} and turn["role"] == last["role"]:
            last["content"] += f"\n\n{turn['content']}"
        else:
            turns.append(turn)
    body["messages"] = turns


def _say_as_user(body: Own) -> None:
    """Lets the user say what the system would."""
    if turns := [turn for turn in body["messages"] if turn["role"] == "system"]:
        for turn in turns:
            turn["role"] = "user"
        _merge(body)


def _grant_thoughts(body: Own) -> None:
    """Adds what thoughts may take, as Anthropic's requests have it, to what may be written."""
    thinking = body.get("thinking")
    budget = thinking.get("budget_tokens") if isinstance(thinking, Mapping) else None
    for name in _LENGTHS & body.keys():
        body[name] += budget if isinstance(budget, int) else 0


def _answer_tools(body: Own) -> None:
    """Puts a word of the model between what tools returned and what the user says then."""
    for place in range(len(body["messages"]) - 1, 0, -1):
        if [turn["role"] for turn in body["messages"][place - 1 : place + 1]] == ["tool", "user"]:
            body["messages"].insert(place, {"role": "assistant", "content": "OK."})


def _empty_arguments(body: Own) -> None:
    """Leaves nothing of arguments that are no object, such as those of a call that was cut."""
    for call in chain.from_iterable(map(_calls, body["messages"])):
        with suppress(ValueError):
            if isinstance(json.loads(call["function"]["arguments"]), dict):
                continue
        call["function"]["arguments"] = "{}"


def _stop_thinking(body: Own) -> None:
    """Asks, in DeepSeek's way and in Qwen's, for no thinking before a call that has to be made."""
    if body.get("tool_choice") not in (None, "auto", "none") and "reasoning_effort" not in body:
        body.update(thinking={"type": "disabled"}, enable_thinking=False)


def _shorten_ids(body: Own) -> None:
    """Gives calls, and what they returned, ids as Mistral's servers take them."""
    for turn in body["messages"]:
        for part, name in (*((call, "id") for call in _calls(turn)), (turn, "tool_call_id")):
            if not _SHORT_ID.fullmatch(part.get(name, "x" * 9)):
                part[name] = hashlib.blake2b(part[name].encode()).hexdigest()[:9]


def _shorten_hints(body: Own) -> None:
    """Gives long values that tell callers apart, of which OpenAI takes 64 characters, digests."""
    for name in HINTS & body.keys():
        if isinstance(body[name], str) and len(body[name]) > 64:
            body[name] = hashlib.blake2b(body[name].encode(), digest_size=32).hexdigest()


def _each(parts: Callable[[Own], Sequence[Own]], name: str, default: Any = None) -> Mend:
    """Gives parts of turns that lack something a default; without one, takes it from all."""

    def mend(body: Own) -> None:
        for part in chain.from_iterable(map(parts, body["messages"])):
            if default is None:
                part.pop(name, None)
            elif not str(part.get(name) or "").strip():
                part[name] = default

    return mend


def _calls(turn: Own) -> Sequence[Own]:
    return turn.get("tool_calls", ())


def _written(turn: Own) -> Sequence[Own]:
    return [turn] if turn["role"] == "assistant" else []


_EXTRA, _THOUGHTS, _SHORT_ID = "extra_content", "reasoning_content", re.compile("[a-zA-Z0-9]{9}")
_SIGNED = {"google": {"thought_signature": "skip_thought_signature_validator"}}
_TOOLS, _LENGTH = r"\b(tool|function[_ -]calling)", r"max_(completion_)?tokens\b"
_MENDED: Mapping[str, tuple[str, Mend]] = {
    "system": (
        r"(system|developer)\W{0,3}(role|instruction|message|prompt).{0,40}not "
        r"(support|enabl|allow)|not support\W{0,3}(system|developer)\b",
        _say_as_user,
    ),
    "turns of one role in a row": (
        r"\b(must|should) (be )?alternat|roles? in a row|successive|consecutive"
        r"|system message must be (at the beginning|first)",
        _merge,
    ),
    "whole replies": (
        r"only supports? stream|must.{0,9}stream ?= ?true|for non-streaming calls",
        lambda body: body.update(STREAMED),
    ),
    "thinking beside tools": (
        f"{_TOOLS}.*reasoning_effort|reasoning_effort.*{_TOOLS}",
        lambda body: body.update({"reasoning_effort": "none"} if "tools" in body else {}),
    ),
    "thoughts within max_tokens": (
        f"{_LENGTH}.*budget_tokens|budget_tokens.*{_LENGTH}",
        _grant_thoughts,
    ),
    "calls without a thought_signature": (
        "thought_signature",
        _each(lambda turn: _calls(turn)[:1], _EXTRA, _SIGNED),
    ),
    _EXTRA: (_EXTRA, _each(_calls, _EXTRA)),
    # Kimi's servers take no empty one.
    "turns without reasoning_content": (_THOUGHTS, _each(_written, _THOUGHTS, " ")),
    "turns with reasoning_content": (_THOUGHTS, _each(_written, _THOUGHTS)),
    "ids of other models' calls": (
        r"tool(.?calls?|_?use)\W*\d*\W*_?(tooluse)?id\b.{0,200}(length|too long|pattern)",
        _shorten_ids,
    ),
    "long hints": (
        rf"\b({'|'.join(sorted(HINTS))})\b.*(too long|max(imum)? length|at most)",
        _shorten_hints,
    ),
    "users' turns after tools'": ("role 'user' after role 'tool'", _answer_tools),
    "turns without content": (
        "non-(empty|whitespace)|type: <nil>|a string, got null|null, expected a|be a valid string",
        _each(lambda turn: [turn], "content", "..."),
    ),
    "arguments that are no object": (
        "unterminated string|expecting (value|',')|from a mapping|'items'|valid dictionary",
        _empty_arguments,
    ),
    "thinking beside tool_choice": ("thinking mode", _stop_thinking),
}
"""What servers have against requests, some of it against turns that another model wrote or that
lost something on the way: words that tell of it, and what mends it. The first counts whose words
are said, and which would change the request."""


def _mended(body: Body, ways: Iterable[str]) -> Body:
    """A request without what servers have against it in some ways, in the order of the table."""
    if not (found := [way for way in _MENDED if way in ways]):
        return body
    mended = copy.deepcopy({**body})
    for way in found:
        _MENDED[way][1](mended)
    return mended


@dataclass
class Quirks:
    """A server's own ways, each told once and then respected.

    Attributes:
        name: of the model, as people know it; `names` are those that it may answer under.
        refused: fields of requests that it does not take, and what else it has against them.
        beside: fields that it does not take together with another one, and the value of that where
            it matters; beside themselves, for their value.
        answered_as: other names under which it has answered.
        never_streams: whether it answers in one piece whatever it is asked.
        least, most: tokens of an attempt that may be asked for, where it says so.
    """

    name: str
    names: frozenset[str]
    refused: set[str] = field(default_factory=set)
    beside: set[tuple[str, str, Any]] = field(default_factory=set)
    answered_as: set[str] = field(default_factory=set)
    never_streams: bool = False
    least: int = 1
    most: int | None = None

    def suited(self, body: Body) -> dict[str, Any]:
        """A request without what is refused, under successors' names where there are any."""
        body = _mended(body, self.refused)
        for name in _LENGTHS & body.keys():
            asked = max(body[name], self.least)
            body = {**body, name: min(asked, self.most or asked)}
        gone = self.refused | ({"stream"} if self.never_streams else set())
        gone |= {
            name
            for name, other, value in self.beside
            if other in body and value in (None, body[other])
        }
        renamed = {
            _SUCCESSORS.get(name, name) if name in gone else name: value
            for name, value in body.items()
        }
        kept = {name: value for name, value in renamed.items() if name not in gone}
        return {name: kept[name] for name in kept if _BESIDE.get(name, name) in kept}

    def take(self, failure: UpstreamError, body: Body, asked: Body, *, begun: bool) -> None:
        """Note in a refusal of a request if the next one does better, or else what it is about.

        A client has `asked` for some of its fields; an answer may have `begun` to come.
        """
        named = _named(failure, asked)
        if failure.kind == TOO_LONG:
            failure.room = _room(failure, body)
        elif failure.kind == UNREADABLE or begun:
            return
        elif self._learn(failure, body, asked):
            failure.mended, failure.blames_server = True, False
        elif failure.kind == REJECTED or (named and failure.status >= 500):
            named = named or _named(failure, ["messages"])
            failure.kind = ":".join((REJECTED, *named[:1]))
            failure.retryable = failure.blames_server = False

    def _learn(self, failure: UpstreamError, body: Body, asked: Body) -> bool:
        """Whether an error is about what a request can do without, or with less of, from now on.

        What a client asked for is not left off where its value is what the server minds. Where it
        goes with something else that the client asked for, it is left off with that alone.
        """
        # llama.cpp answers 500 where a chat's template does not take its turns.
        said = failure.said
        if failure.status not in (*_NAMING, 500):
            return False
        if way := _mendable(said, body, asked):
            return self._refuse({way})
        optional = {name for name in body if name in OPTIONAL or name not in asked} - _NEEDED
        if _RANGE.search(said):
            optional -= _RANGED & asked.keys()
        found = set(_named(failure, optional))
        if found and found <= self.refused:
            return True  # learnt while this request was under way
        for name in found & _LENGTHS:
            if _RANGE.search(said):
                return self._learn_length(body[name], said)
        many = None if "top_logprobs" in asked else body.get("top_logprobs")  # of a VERIFY
        about = many and _named(failure, {"logprobs", "top_logprobs"})
        if about and _TOO_MANY.search(said):
            self.beside.add(("top_logprobs", "top_logprobs", many))
            return True
        if other := _other(found, said, body, asked):
            value = body[other] if other == "reasoning_effort" else None
            first = min(found - {other}, key=[*body].index)
            if (first, other, value) not in self.beside:
                self.beside.add((first, other, value))
                self._tell("field_refused", field=first, beside=other)
            return True
        return self._refuse(found)

    def _refuse(self, found: set[str]) -> bool:
        """Take note of what is refused, if anything is."""
        for name in sorted(found - self.refused):
            self._tell("field_refused", field=name)
        self.refused |= found
        return bool(found)

    def _learn_length(self, asked: int, words: str) -> bool:
        """Whether words tell of a longest or a shortest attempt that may be asked for."""
        numbers = [int(n) for n in re.findall(r"\d{1,9}", words)]
        fewer = [n for n in numbers if 1 < n < asked]
        more = [n for n in numbers if n > asked]
        if fewer and _TOO_MANY.search(words):
            self.most = max(fewer)
        elif more and _TOO_FEW.search(words):
            self.least = min(more)
        else:
            return False
        self._tell("length_refused", least=str(self.least), most=str(self.most))
        return True

    def answered(self, model: object) -> None:
        """Take note of the name that an answer came under."""
        known = self.names | self.answered_as
        if isinstance(model, str) and model and model not in known and len(self.answered_as) < 8:
            self.answered_as.add(model[:100])
            self._tell("answered_as", answered_as=model[:100])

    def _tell(self, event: str, **fields: str) -> None:
        _log.warning(event, extra={"fields": {"model": self.name, **fields}})

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know."""
        found = [f"refuses {name}" for name in sorted(self.refused)]
        for name, other, value in sorted(self.beside, key=str):
            near = f" beside {other}" if other != name else ""
            found.append(f"refuses {name}{near}{f' {value}' if value else ''}")
        found += [f"writes at most {self.most} tokens"] if self.most else []
        found += [f"is asked for at least {self.least} tokens"] if self.least > 1 else []
        found += [f"answers as {', '.join(sorted(self.answered_as))}"] if self.answered_as else []
        return tuple(f"{self.name}: the server {note}" for note in found)


def _mendable(said: str, body: Body, asked: Body) -> str | None:
    """What a server has against a request, if that can be mended without a client's fields."""
    for way, (words, _) in _MENDED.items():
        if re.search(words, said, re.IGNORECASE | re.DOTALL):
            mended = _mended(body, [way])
            changed = {name for name in mended if mended[name] != body.get(name)}
            if changed and not changed & asked.keys() - HINTS:
                return way
    return None


def _other(found: set[str], said: str, body: Body, asked: Body) -> str | None:
    """The field beside which those that were found are refused; None where they always are."""
    own = [name for name in asked if name in body and name not in OPTIONAL]
    if mentioned := found and sorted(_mentioned(own, said)):
        return mentioned[0]
    if len(found) > 1 and _TOGETHER.search(said):
        return max(found, key=[*body].index)
    # OpenAI's models that can think take a temperature only where they are not to.
    return "reasoning_effort" if found and "reasoning_effort" in own else None
