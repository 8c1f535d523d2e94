"""What the service shows of itself: the playground at `/`, and the OpenAPI document.

The playground asks the service's own API, and shows each decision as it is streamed. The document
is openapi.yaml, and what follows from the checks of requests.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2.utils import htmlsafe_json_dumps
from pydantic.json_schema import models_json_schema
from starlette.responses import HTMLResponse

from controller.field_notes import field_notes
from controller.policy.deciders import NAMED_RULES
from controller.process.actions import ActionKind
from controller.process.terms import Terms
from controller.server.engine import Engine, RequestTerms
from controller.server.responses import ResponseRequest
from controller.server.routes import PrepareRequest
from controller.server.schema import (
    HEADER_PREFIX,
    HEADERS,
    MODEL,
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


def page(engine: Engine, *, keys: bool) -> HTMLResponse:
    """The page, with what it has to know of the first variant; `keys`: whether one is needed."""
    variant = engine.variants.all[0]
    process, calibration = variant.process, variant.checkpoint.calibration
    setup: dict[str, Any] = {
        "model": MODEL,
        "models": [
            {"name": model.name, "parameters": model.parameters, "weight": weight, "tier": arm.tier}
            for model, weight, arm in zip(
                engine.backend.models, process.cost.weights, process.menu, strict=True
            )
        ],
        "actions": process.actions.names,
        "kinds": {
            kind.value: kind.spec.meaning for kind in process.kinds if kind is not ActionKind.STOP
        },
        "rules": {name: str(rule) for name, rule in NAMED_RULES.items()},
        "price": variant.pricing.price_for(Terms()),
        "price_range": variant.checkpoint.price_range,
        "calibration": calibration and asdict(calibration),
        "keys": keys,
    }
    text, policy = _template()
    return HTMLResponse(
        text.replace("{{ setup }}", str(htmlsafe_json_dumps(setup, separators=(",", ":")))),
        headers={
            "content-security-policy": policy,
            "cache-control": "no-store",
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
        },
    )


@cache
def _template() -> tuple[str, str]:
    """The page without a setup, and the policy that lets browsers run only what is in it."""
    text = Path(__file__).with_name("playground.html").read_text(encoding="utf-8")
    own = {kind: _digest(text, kind) for kind in ("script", "style")}
    policy = (
        f"default-src 'none'; script-src {own['script']}; style-src {own['style']}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return text, policy


def _digest(text: str, kind: str) -> str:
    (content,) = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
