"""A model server that takes a fixed time and next to no CPU."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop
from aiohttp import web


def completion(model: str) -> dict[str, Any]:
    """What it always answers."""
    logprobs = [{"token": "x", "logprob": -0.1, "bytes": None, "top_logprobs": []}] * 4
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Answer: 7"},
                "finish_reason": "stop",
                "logprobs": {"content": logprobs},
            }
        ],
        # As many as the bundled models' template makes of what the benchmarks ask.
        "usage": {"prompt_tokens": 13, "completion_tokens": 4, "total_tokens": 17},
    }


def slow_model(delay_s: float, status: int = 200) -> web.Application:
    """Answers whatever it is asked after so many seconds."""
    # Every model name is a part of this one, so that all who check it are content.
    answer = completion("small-large")

    async def reply(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(delay_s)
        return web.json_response(answer, status=status)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", reply)
    return application


if __name__ == "__main__":
    web.run_app(
        slow_model(float(sys.argv[2])),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        print=None,
        access_log=None,
        loop=uvloop.new_event_loop(),
    )
