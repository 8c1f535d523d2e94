"""The OpenAPI document: openapi.yaml, and what follows from the checks of requests."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic.json_schema import models_json_schema

from controller.field_notes import field_notes
from controller.server.engine import RequestTerms
from controller.server.prepare import PrepareRequest
from controller.server.responses import ResponseRequest
from controller.server.schema import (
    HEADER_PREFIX,
    HEADERS,
    TERMS,
    ChatRequest,
    CompletionRequest,
    DecideRequest,
)

_QUESTIONS = (ChatRequest, CompletionRequest, ResponseRequest, DecideRequest)
_TYPES = {float: "number", int: "integer", str: "string"}


@cache
def document(*, keys: bool) -> dict[str, Any]:
    """The document; `keys` tells whether one is needed."""
    text = Path(__file__).with_name("openapi.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    _, models = models_json_schema(
        [(kind, "validation") for kind in (*_QUESTIONS, PrepareRequest)],
        ref_template="#/components/schemas/{model}",
    )
    terms, notes = TERMS.json_schema(), field_notes(RequestTerms)
    for name, field in terms["properties"].items():
        field["description"] = notes[name]
    found["components"]["schemas"] |= models["$defs"] | {"RequestTerms": terms}
    for kind in _QUESTIONS:
        fields = models["$defs"][kind.__name__]["properties"]
        fields["allot"] = {"$ref": "#/components/schemas/RequestTerms"}
    for name, path in found["paths"].items():
        if "post" in path and name != "/v1/prepare":
            path["post"]["parameters"] = [
                {"name": HEADER_PREFIX + name, "in": "header", "schema": {"type": _TYPES[read]}}
                for name, read in HEADERS.items()
            ]
    if keys:
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"key": []}]
    return found
