"""When a server is left alone."""

import errno
from unittest.mock import Mock

import aiohttp
import pytest

from controller.backends.openai.resilience import (
    CircuitBreaker,
    _status_error,
    told_error,
    upstream_error,
)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_breaker_lets_one_probe_through():
    clock = Clock()
    breaker = CircuitBreaker(failures=2, cooldown_s=5, clock=clock)
    breaker.failed()
    assert breaker.allows
    breaker.failed()
    assert not breaker.allows
    clock.now = 5
    assert breaker.allows
    breaker.admit()
    assert not breaker.allows, "one probe at a time"
    breaker.failed()
    assert not breaker.allows
    clock.now = 10
    breaker.admit()
    breaker.succeeded()
    assert breaker.allows
    breaker.admit()
    assert breaker.allows, "closed again"


def test_a_breaker_tells_when_it_opens_and_when_it_closes():
    told = []
    breaker = CircuitBreaker(failures=2, on_change=told.append)
    for why in ("refused", "server_error", "refused"):
        breaker.failed(why)
    assert told == ["server_error"]
    breaker.succeeded()
    breaker.succeeded()
    assert told == ["server_error", None]


def test_too_many_open_files_are_nobody_elses_fault():
    error = aiohttp.ClientConnectorError(Mock(), OSError(errno.EMFILE, "Too many open files"))
    failure = upstream_error(error)
    assert (failure.kind, failure.blames_server) == ("too_many_open_files", False)


@pytest.mark.parametrize(
    ("status", "said", "kind", "blamed"),
    [
        (429, "insufficient_quota", "no_credit", True),
        (400, "API key not valid. Please pass a valid API key.", "unauthorized", True),
        (403, "Your credit balance: see billing", "no_credit", True),
        (404, "", "no_such_model", True),
        (422, "input: 'what is API throttling?'", "rate_limited", False),
        (400, "input: 'tell me of billing'", "no_credit", False),
        (403, "flagged by moderation", "content_filter", False),
        (413, "", "context_length_exceeded", False),
    ],
)
def test_a_server_is_left_alone_for_what_everybody_would_meet(status, said, kind, blamed):
    error = _status_error(status, said, None, None)
    assert (error.kind, error.blames_server) == (kind, blamed)
    assert error.retry_after_s is None


def test_errors_in_a_stream_mean_what_their_codes_say():
    limited = {"code": "rate_limit_exceeded", "message": "Rate limit; see /account/billing"}
    assert told_error(limited).kind == "rate_limited"
    broke = told_error({"code": "insufficient_quota"})
    assert (broke.kind, broke.blames_server) == ("no_credit", True)
