"""What a server turns out not to take, or to do otherwise, while it is asked."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import openai

_log = logging.getLogger("allot.upstream")

_NEEDED = frozenset({"model", "messages", "stream"})
_SUCCESSORS = {"max_tokens": "max_completion_tokens"}
"""Names under which some servers take a field that they refuse."""

_BAD_REQUEST = (400, 422)
_TOO_LONG = re.compile(r"context.?length|context.?window|too long", re.IGNORECASE)


@dataclass
class Quirks:
    """A server's own ways, each told once and then respected.

    Attributes:
        name: of the model, as people know it.
        names: under which the model may answer.
        refused: fields of requests that it does not take.
        answered_as: other names under which it has answered.
    """

    name: str
    names: frozenset[str]
    refused: set[str] = field(default_factory=set)
    answered_as: set[str] = field(default_factory=set)

    def suited(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A request without refused fields, under their successors' names where there are any."""
        renamed = {
            _SUCCESSORS.get(name, name) if name in self.refused else name: value
            for name, value in body.items()
        }
        return {name: value for name, value in renamed.items() if name not in self.refused}

    def learn(self, error: Exception, body: Mapping[str, Any]) -> bool:
        """Whether an error is about fields of a request that can be left off from now on."""
        if not isinstance(error, openai.APIStatusError) or error.status_code not in _BAD_REQUEST:
            return False
        said = f"{error.message} {error.body}"
        if _TOO_LONG.search(said):
            return False
        # The server's own words are read, never shown: they may quote prompts.
        found = {f for f in body if f not in _NEEDED and re.search(rf"\b{re.escape(f)}\b", said)}
        self.refused |= found
        for name in sorted(found):
            self._tell("field_refused", field=name)
        return bool(found)

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
        refused = [f"{self.name}: the server refuses {name}" for name in sorted(self.refused)]
        others = ", ".join(sorted(self.answered_as))
        return (*refused, *([f"{self.name}: the server answers as {others}"] if others else ()))
