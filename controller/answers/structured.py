"""Answers that a client's `response_format` or `tools` give a form: read, validated, spelled.

Schemas come from clients and texts from models, so that validating may take any time: it happens
in a process that is killed if it hangs, and no schema makes it open an address.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from controller.answers.expressions import in_time
from controller.answers.thoughts import parted

Fields = Mapping[str, Any]
"""Of a chat completion: `response_format`, `tools` and `tool_choice`, as OpenAI has them."""

Call = Mapping[str, Any]
"""An entry of `tool_calls`."""


_FENCED = re.compile(r"\s*```(?:json)?\s*\n(.*\S)\s*```\s*", re.DOTALL | re.IGNORECASE)

FORM = "form"
"""How an answer was read that has the form which a request wants."""


def has_form(fields: Fields) -> bool:
    """Whether a text alone is no answer, or only in JSON."""
    return "response_format" in fields or _must_call(fields)


def structured_answer(fields: Fields, text: str, calls: Sequence[Call]) -> str | None:
    """The answer of an attempt in the form that a request wants, in one spelling.

    Calls of tools are an answer by their names and arguments, a text by its JSON.

    Returns:
        Canonical JSON; None where the attempt is not as the request wants it.
    """
    called = [dict(call) for call in calls]
    return in_time(spelled, dict(fields), text, called, begin=_load, otherwise=None)


def unfenced(text: str) -> str:
    r"""JSON without the fence that some models put around it.

    >>> unfenced("```json\n[1]\n```"), unfenced("[1]")
    ('[1]', '[1]')
    """
    fenced = _FENCED.fullmatch(text)
    return fenced[1] if fenced else text


def has_schemas(fields: Fields) -> bool:
    """Whether there are schemas that may be none."""
    return "response_format" in fields or "tools" in fields


def schema_fault(fields: Fields) -> str | None:
    """The field whose schema is none, or takes too long to look at; None if all are well."""
    slow: str | None = "response_format or tools"
    return in_time(_schema_fault, dict(fields), begin=_load, otherwise=slow)


def _load() -> None:
    _validated({}, {})


def spelled(fields: Fields, text: str, calls: Sequence[Call]) -> str | None:
    """See `structured_answer`; in this process.

    >>> spelled({"response_format": {"type": "json_object"}}, '{"b": 2.0, "a": [1]}', ())
    '{"a":[1],"b":2}'
    >>> tools = [{"type": "function", "function": {"name": "f", "parameters": {"required": ["x"]}}}]
    >>> spelled({"tools": tools}, "", [{"function": {"name": "f", "arguments": '{"x": 1}'}}])
    '[{"arguments":{"x":1},"name":"f"}]'
    >>> spelled({"tools": tools}, "", [{"function": {"name": "f", "arguments": "{}"}}]) is None
    True
    """
    try:
        if calls:
            return _canonical([_checked_call(fields, call["function"]) for call in calls])
        if _must_call(fields) or "response_format" not in fields:
            return None
        form, value = fields["response_format"], _parsed(unfenced(parted(text)[1]))
        if form["type"] == "json_object" and not isinstance(value, dict):
            return None
        return _canonical(_validated(value, _schema(form)))
    except (ValueError, RecursionError):
        return None


def _must_call(fields: Fields) -> bool:
    return fields.get("tool_choice", "auto") not in ("auto", "none")


def _schema(form: Mapping[str, Any]) -> Any:
    # Together's servers, Fireworks's and llama.cpp's have it beside the type, too.
    return (form.get("json_schema") or form).get("schema", True)


def _checked_call(fields: Fields, function: Mapping[str, Any]) -> dict[str, Any]:
    name, choice = function["name"], fields.get("tool_choice")
    offered = {tool["function"]["name"]: tool["function"] for tool in fields.get("tools", ())}
    if name not in offered or (isinstance(choice, dict) and name != choice["function"]["name"]):
        raise ValueError("expected a tool that was offered")
    arguments = _parsed(function["arguments"] or "{}")
    schema = offered[name].get("parameters")
    return {"name": name, "arguments": _validated(arguments, True if schema is None else schema)}


def _parsed(text: str) -> Any:
    return json.loads(text, parse_float=_number, parse_constant=_number)


def _number(digits: str) -> float:
    value = float(digits)
    return int(value) if value.is_integer() else value


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _validated(value: Any, schema: Any) -> Any:
    from jsonschema.exceptions import ValidationError
    from jsonschema.validators import validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    validator = validator_for(schema)(schema, registry=Registry())
    try:
        validator.validate(value)
    except (ValidationError, Unresolvable) as error:
        raise ValueError("expected what the schema says") from error
    return value


def _schema_fault(fields: Fields) -> str | None:
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    schemas = {"response_format": _schema(fields.get("response_format", {"type": "text"}))}
    for number, tool in enumerate(fields.get("tools", ())):
        schemas[f"tools.{number}.function.parameters"] = tool["function"].get("parameters") or True
    for name, schema in schemas.items():
        try:
            validator_for(schema).check_schema(schema)
        except (SchemaError, RecursionError):
            return name
    return None
