"""The OpenAPI document, which follows from the checks of requests."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from controller.field_notes import field_notes
from controller.server.engine import RequestTerms
from controller.server.responses import ResponseRequest
from controller.server.schema import (
    HEADER_PREFIX,
    HEADERS,
    TERMS,
    ChatRequest,
    Completing,
    CompletionRequest,
    DecideRequest,
)

ANSWERED: dict[str, type[Completing] | type[ResponseRequest]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": ResponseRequest,
}
"""Paths that take questions, and the form of these."""

_POSTS: dict[str, type[BaseModel]] = {**ANSWERED, "/v1/decide": DecideRequest}
_GETS = {
    "/v1/models": ("The one model there is.", (200, 401)),
    "/live": ("Whether the process runs.", (200,)),
    "/health": ("The same.", (200,)),
    "/ready": ("Whether questions can be answered.", (200, 503)),
    "/metrics": ("For Prometheus.", (200, 401)),
    "/openapi.json": ("This document.", (200,)),
}
_ERRORS = {
    400: "The request cannot be answered as it is.",
    401: "No valid API key.",
    403: "A page of another machine asks where no key is needed.",
    404: "No such model.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    429: "Too many questions at once.",
    431: "The headers are too large.",
    502: "All models refuse the request.",
    503: "No model answered.",
    504: "The deadline came before any answer.",
}
_OF_ANSWERS = {404, 429, 502, 503, 504}
_TYPES = {float: "number", int: "integer", str: "string"}


def document(*, keys: bool) -> dict[str, Any]:
    """The document; `keys` tells whether one is needed."""
    _, found = models_json_schema(
        [(kind, "validation") for kind in _POSTS.values()],
        ref_template="#/components/schemas/{model}",
    )
    schemas, terms = found["$defs"], TERMS.json_schema()
    notes = field_notes(RequestTerms)
    for name, field in terms["properties"].items():
        field["description"] = notes[name]
    for kind in _POSTS.values():
        schemas[kind.__name__]["properties"]["allot"] = _ref("RequestTerms")
    schemas |= {
        "RequestTerms": terms,
        "Error": _object(error={"type": "object", "required": ["message", "type"]}),
        "Answer": _object(
            id={"type": "string"},
            object={"enum": ["chat.completion", "text_completion", "response"]},
            usage={"type": "object"},
            allot={"type": "object", "required": ["decisions", "price", "cost"]},
        ),
        "Decision": _object(
            action={"type": "string"},
            probabilities={"type": "object"},
            value={"type": "number"},
            allowed={"type": "array", "items": {"type": "string"}},
        ),
    }
    paths = {path: {"post": _post(path, kind)} for path, kind in _POSTS.items()}
    for path, (summary, statuses) in _GETS.items():
        replies = {str(status): {"description": summary} for status in statuses}
        paths[path] = {"get": {"summary": summary, "responses": replies}}
    needed = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "allot", "version": "1"},
        "paths": paths,
        "components": {"schemas": schemas, **({"securitySchemes": needed} if keys else {})},
        **({"security": [{"key": []}]} if keys else {}),
    }


def _post(path: str, kind: type[BaseModel]) -> dict[str, Any]:
    answers = path in ANSWERED
    reply = _reply("As asked for.", "Answer" if answers else "Decision")
    if answers:
        reply["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    statuses = sorted(_ERRORS if answers else _ERRORS.keys() - _OF_ANSWERS)
    return {
        "summary": "Answer a question." if answers else "Choose the next action.",
        "parameters": [
            {"name": HEADER_PREFIX + name, "in": "header", "schema": {"type": _TYPES[read]}}
            for name, read in HEADERS.items()
        ],
        "requestBody": {"required": True, "content": _json(kind.__name__)},
        "responses": {"200": reply, **{str(s): _reply(_ERRORS[s], "Error") for s in statuses}},
    }


def _ref(schema: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{schema}"}


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": _ref(schema)}}


def _reply(description: str, schema: str) -> dict[str, Any]:
    return {"description": description, "content": _json(schema)}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}
