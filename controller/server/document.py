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
    CompletionRequest,
    DecideRequest,
)

_REF = "#/components/schemas/{model}"
_POSTS: dict[str, tuple[type[BaseModel], str, str]] = {
    "/v1/chat/completions": (
        ChatRequest,
        "Answer a question; JSON or server-sent events.",
        "Completion",
    ),
    "/v1/completions": (CompletionRequest, "The same with a prompt.", "Completion"),
    "/v1/responses": (ResponseRequest, "The same in OpenAI's newer form, stateless.", "Completion"),
    "/v1/decide": (DecideRequest, "Choose the next action after given attempts.", "Decision"),
}
_GETS: dict[str, tuple[str, tuple[int, ...]]] = {
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


def document(*, keys: bool) -> dict[str, Any]:
    """The document.

    Args:
        keys: whether an API key is needed.
    """
    _, definitions = models_json_schema(
        [(kind, "validation") for kind, _, _ in _POSTS.values()], ref_template=_REF
    )
    terms = {"$ref": _REF.format(model="RequestTerms")}
    for kind, _, _ in _POSTS.values():
        definitions["$defs"][kind.__name__]["properties"]["allot"] = terms
    schemas = definitions["$defs"] | {
        "RequestTerms": _terms_schema(),
        "Error": _object({"error": {"type": "object", "required": ["message", "type"]}}),
        "Completion": _object(
            {
                "id": {"type": "string"},
                "object": {"enum": ["chat.completion", "text_completion", "response"]},
                "usage": {"type": "object"},
                "allot": {"type": "object", "required": ["decisions", "price", "cost"]},
            }
        ),
        "Decision": _object(
            {
                "action": {"type": "string"},
                "probabilities": {"type": "object"},
                "value": {"type": "number"},
                "allowed": {"type": "array", "items": {"type": "string"}},
            }
        ),
    }
    paths = {path: {"post": _post(*entry)} for path, entry in _POSTS.items()}
    paths |= {path: {"get": _get(*entry)} for path, entry in _GETS.items()}
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "allot", "version": "1"},
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if keys:
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"key": []}]
    return found


def _post(kind: type[BaseModel], summary: str, reply: str) -> dict[str, Any]:
    body = {"schema": {"$ref": _REF.format(model=kind.__name__)}}
    replies = {"200": _reply("As asked for.", reply)}
    if reply == "Completion":
        replies["200"]["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    statuses = _ERRORS if reply == "Completion" else set(_ERRORS) - {404, 429, 502, 503, 504}
    return {
        "summary": summary,
        "parameters": [_header(name) for name in HEADERS],
        "requestBody": {"required": True, "content": {"application/json": body}},
        "responses": replies | {str(s): _reply(_ERRORS[s], "Error") for s in sorted(statuses)},
    }


def _get(summary: str, statuses: tuple[int, ...]) -> dict[str, Any]:
    return {"summary": summary, "responses": {str(s): {"description": summary} for s in statuses}}


def _reply(description: str, schema: str) -> dict[str, Any]:
    content = {"schema": {"$ref": _REF.format(model=schema)}}
    return {"description": description, "content": {"application/json": content}}


def _terms_schema() -> dict[str, Any]:
    schema, notes = TERMS.json_schema(), field_notes(RequestTerms)
    for name, field in schema["properties"].items():
        field["description"] = notes[name]
    return schema


def _header(name: str) -> dict[str, Any]:
    schema = {"type": {float: "number", int: "integer", str: "string"}[HEADERS[name]]}
    return {"name": HEADER_PREFIX + name, "in": "header", "schema": schema}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}
