"""A model server that takes a fixed time and next to no CPU."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from typing import Any

import uvloop
from aiohttp import web

TOKENS = ("Answer", ":", " ", "7")
USAGE = {"prompt_tokens": 13, "completion_tokens": len(TOKENS), "total_tokens": 13 + len(TOKENS)}
"""Its prompt is as long as the bundled models' template makes what the benchmarks ask."""


def completion(model: str) -> dict[str, Any]:
    """What it always answers."""
    return {
        **_envelope("chat.completion", model),
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "".join(TOKENS)},
                "finish_reason": "stop",
                "logprobs": {"content": [_logprob(token) for token in TOKENS]},
            }
        ],
        "usage": USAGE,
    }


def chunks(model: str) -> list[dict[str, Any]]:
    """The same in pieces of one token, usage last."""
    choices = [
        {"delta": {"content": token}, "logprobs": {"content": [_logprob(token)]}}
        for token in TOKENS
    ]
    choices = [{"delta": {"role": "assistant", "content": ""}}, *choices, {"delta": {}}]
    found = [
        {
            **_envelope("chat.completion.chunk", model),
            "choices": [{"index": 0, "finish_reason": None, **choice}],
        }
        for choice in choices
    ]
    found[-1]["choices"][0]["finish_reason"] = "stop"
    return [*found, {**_envelope("chat.completion.chunk", model), "choices": [], "usage": USAGE}]


def _envelope(kind: str, model: str) -> dict[str, Any]:
    return {"id": "c", "object": kind, "created": 1, "model": model}


def _logprob(token: str) -> dict[str, Any]:
    return {"token": token, "logprob": -0.1, "bytes": None, "top_logprobs": []}


def slow_model(delay_s: float, faults: int = 0) -> web.Application:
    """Answers whatever it is asked after so many seconds, a token at a time if it is asked to.

    One in `faults` requests fails: with status 500, or, the next time, in the middle of an answer.
    """
    models = {"object": "list", "data": [{"id": name, "object": "model"} for name in _MODELS]}
    whole = {name: completion(name) for name in _MODELS}
    pieces = {
        name: [b"data: %s\n\n" % json.dumps(chunk).encode() for chunk in chunks(name)]
        for name in _MODELS
    }

    async def listed(request: web.Request) -> web.Response:
        return web.json_response(models)

    numbers = itertools.count(1)

    async def reply(request: web.Request) -> web.StreamResponse:
        asked, number = await request.json(), next(numbers)
        fails = faults > 0 and number % faults == 0
        breaks_off = fails and number // faults % 2 == 0
        # What asks the model directly calls it as the service is called.
        name = asked["model"] if asked["model"] in _MODELS else _MODELS[0]
        await asyncio.sleep(delay_s)
        if fails and not breaks_off:
            return web.json_response({"error": {"message": "out of order"}}, status=500)
        if not asked.get("stream"):
            if breaks_off and request.transport is not None:
                request.transport.close()
            return web.json_response(whole[name])
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces[name][: 3 if breaks_off else None]:
            await response.write(piece)
        if breaks_off and request.transport is not None:
            request.transport.close()
            return response
        await response.write(b"data: [DONE]\n\n")
        return response

    application = web.Application()
    application.router.add_get("/v1/models", listed)
    application.router.add_post("/v1/chat/completions", reply)
    return application


_MODELS = ("small", "large")

if __name__ == "__main__":
    web.run_app(
        slow_model(float(sys.argv[2]), int(sys.argv[3])),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        print=None,
        access_log=None,
        loop=uvloop.new_event_loop(),
    )
