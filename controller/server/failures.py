"""What clients are told when something is wrong."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from controller.server.logs import service_log
from controller.server.replies import error_json
from controller.server.schema import complaint
from controller.server.terms import NoAnswerError


def bad_request(error: Exception) -> HTTPException:
    """A 400 that names the field, from a failed check."""
    if isinstance(error, ValidationError):
        message, param = complaint(error)
        return BadRequest(message, param)
    return BadRequest(str(error), str(error).partition(":")[0])


class BadRequest(HTTPException):
    """A request that cannot be answered as it is."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(400, message)
        self.param = param


def http_error(request: Request, error: Exception) -> Response:
    """Any HTTP error, in OpenAI's form."""
    assert isinstance(error, HTTPException)
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    kind = kinds.get(error.status_code, "invalid_request_error")
    body = error_json(error.detail, kind, getattr(error, "param", None))
    return JSONResponse(body, error.status_code, headers=error.headers)


def bug(request: Request, error: Exception) -> Response:
    """A 500 that tells the log where, and the client nothing."""
    service_log.error("bug", exc_info=error, extra={"fields": {"path": request.url.path}})
    return JSONResponse(error_json("internal error", "server_error"), 500)


def error_body(error: Exception) -> tuple[int, dict[str, Any]]:
    """Status and body for what the engine raises."""
    if isinstance(error, NoAnswerError):
        code = "deadline" if error.late else "models_unavailable"
        status = 504 if error.late else 503
        return status, error_json(str(error), "upstream_error", code=code)
    return 400, error_json(str(error), "invalid_request_error", str(error).partition(":")[0])


def engine_error(error: Exception) -> Response:
    """A response for what the engine raises."""
    status, body = error_body(error)
    headers = {"retry-after": "5"} if status == 503 else None
    return JSONResponse(body, status, headers=headers)
