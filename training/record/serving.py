"""What servers tell of themselves, and how a recording asks them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

from controller.backends.openai.backend import OpenAIBackend
from controller.backends.openai.endpoint import Endpoint
from controller.backends.openai.resilience import CircuitBreaker

_TIMEOUT_S = 5.0


@dataclass(frozen=True, kw_only=True)
class AboutServer:
    """What a server tells.

    Attributes:
        parameters: by model, where it tells them; llama.cpp's does.
        slots: requests that it works on at the same time; None if it does not tell.
    """

    parameters: Mapping[str, float] = field(default_factory=dict)
    slots: int | None = None


def about_server(url: str, key: str) -> AboutServer:
    """Ask a server about itself; nothing is known of one that does not answer.

    Args:
        url: up to and including `/v1`.
        key: sent as bearer token.
    """
    listed = _get(f"{url}/models", key).get("data") or []
    parameters = {}
    for entry in listed if isinstance(listed, list) else []:
        count = (entry.get("meta") or {}).get("n_params")
        if isinstance(count, int | float) and count > 0:
            parameters[str(entry.get("id"))] = float(count)
    slots = _get(f"{url.removesuffix('/v1')}/props", key).get("total_slots")
    return AboutServer(
        parameters=parameters, slots=slots if isinstance(slots, int) and slots > 0 else None
    )


def _get(url: str, key: str) -> dict[str, Any]:
    request = Request(url, headers={"authorization": f"Bearer {key}"})
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=_TIMEOUT_S) as response:
            found = json.load(response)
    except (URLError, OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def patient_backend(endpoint: Endpoint) -> OpenAIBackend:
    """A backend that leaves it to its user when to give up on a server."""
    return OpenAIBackend(endpoint, breaker=CircuitBreaker(failures=2**31))
