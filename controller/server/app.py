"""The HTTP side: what every request goes through, routes, streams."""

from __future__ import annotations

import asyncio
import contextlib
import time
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

from opentelemetry import propagate, trace
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller.backends.openai.backend import UNAVAILABLE
from controller.backends.places import LOOPBACK
from controller.server.engine import NOBODY, Engine, Listener, Served, new_id
from controller.server.keys import Keys
from controller.server.ops import Metrics
from controller.server.replies import (
    ALIVE,
    REFUSED,
    REQUEST_ID,
    CompletionForm,
    bug,
    error_json,
    refused,
)
from controller.server.responses import ResponseForm, ResponseRequest
from controller.server.routes import Idle, PrepareRequest, check_prepared, decide, document, page
from controller.server.schema import (
    MODEL,
    Asked,
    ChatRequest,
    CompletionRequest,
    DecideRequest,
    read_terms,
)
from controller.server.shared import ROOM_LASTS_S

_tracer = trace.get_tracer("allot")

ALIVE_EVERY_S = 15.0

FRESH_S, PATIENCE_S = 1.0, 0.25
"""How long what a check of all models said holds, and how long `/ready` waits for a new one."""

MAX_BODY_BYTES, MAX_HEADER_BYTES = 2**20, 32 * 2**10
BODY_TIMEOUT_S = 30.0

STOPPING = HTTPException(503, "the service is stopping; ask again")
"""What those are told whom it has no more time for."""

T = TypeVar("T")
Form = CompletionForm | ResponseForm


class Service:
    """Everything that the routes share; with `playground`, `/` is a page to try it on."""

    def __init__(
        self,
        engine: Engine,
        *,
        keys: Keys | None = None,
        metrics: Metrics | None = None,
        playground: bool = False,
    ) -> None:
        self.engine, self.keys, self.metrics = engine, keys or Keys(), metrics or Metrics()
        self.playground = playground
        self.room = engine.shared.room(engine.limits.max_in_flight)
        self.idle = Idle(engine, self.metrics)
        self.draining = False
        self._check: asyncio.Task[dict[str, str]] | None = None
        self._stale_at = 0.0
        self._wrong = {model.name: "not checked yet" for model in engine.backend.models}
        for rung, model in enumerate(engine.backend.models):
            self.metrics.watch(model.name, partial(engine.backend.available, rung))

    def app(self) -> Starlette:
        """The ASGI application."""
        gets = {
            "/v1/models": self.models,
            "/v1/models/{model}": self.models,
            "/health": self.live,
            "/live": self.live,
            "/ready": self.ready,
            "/metrics": self.metrics_text,
            "/openapi.json": self.openapi,
            **({"/": self.page} if self.playground else {}),
        }
        posts: dict[str, Callable[..., Any]] = {
            "/v1/chat/completions": partial(self.answer, ChatRequest, CompletionForm),
            "/v1/completions": partial(self.answer, CompletionRequest, CompletionForm),
            "/v1/responses": partial(self.answer, ResponseRequest, ResponseForm),
            "/v1/decide": self.decide,
            "/v1/prepare": self.prepare,
        }
        routes = [
            Route(path, _unless_stopped(route), methods=[method])
            for method, those in (("POST", posts), ("GET", gets))
            for path, route in those.items()
        ]
        paths = frozenset(route.path for route in routes)
        return Starlette(
            routes=routes,
            middleware=[
                Middleware(Gate, metrics=self.metrics, keys=self.keys, paths=paths),
                # Pages that the gate lets in may read what they get: no cookies let anybody in.
                Middleware(
                    CORSMiddleware,
                    allow_origins=["*"],
                    allow_methods=["*"],
                    allow_headers=["*"],
                    expose_headers=[REQUEST_ID, "retry-after", "x-should-retry"],
                ),
            ],
            exception_handlers={**dict.fromkeys(REFUSED, refused), Exception: bug},
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        telling = asyncio.create_task(self._tell_room())
        yield
        await _cancelled(telling, *filter(None, [self._check]))
        await self.engine.backend.close()

    def _caller(self, request: Request) -> str:
        # Azure's clients and Anthropic's have a header of their own for it.
        told, *keys = map(request.headers.get, ("authorization", "x-api-key", "api-key"))
        caller = self.keys.caller(told or f"Bearer {next(filter(None, keys), '')}")
        if caller is None:
            self.metrics.turned_away.labels("key").inc()
            raise HTTPException(401, "a valid API key is needed", {"www-authenticate": "Bearer"})
        return caller

    async def _tell_room(self) -> None:
        while True:
            await asyncio.sleep(ROOM_LASTS_S / 3)
            self.room.tell()

    @contextlib.contextmanager
    def _flying(self) -> Iterator[None]:
        """A question is in flight. Raises HTTPException: too many are."""
        if not self.room.enter():
            self.metrics.turned_away.labels("busy").inc()
            raise HTTPException(429, "too many questions at once", {"retry-after": "1"})
        self.metrics.in_flight.inc()
        try:
            yield
        finally:
            self.room.leave()
            self.metrics.in_flight.dec()

    async def answer(
        self, kind: type[Asked], form_of: Callable[..., Form], request: Request
    ) -> Response:
        """POST of a question."""
        caller, context = self._caller(request), propagate.extract(request.headers)
        asked = kind.model_validate_json(await body_of(request))
        if asked.model != MODEL:
            raise HTTPException(404, f"model: expected {MODEL!r}; see /v1/models")
        terms = read_terms(asked.allot, request.headers, seed=asked.seed, metadata=asked.metadata)
        question = asked.question()
        check_prepared(question, terms.prepared)

        form, episode_id = form_of(asked, explain=terms.explain), new_id()

        async def answer(listener: Listener = NOBODY) -> Served:
            with _tracer.start_as_current_span(
                request.url.path, context=context, kind=trace.SpanKind.SERVER
            ):
                write = listener.write if terms.explain else None
                listener = listener._replace(episode_id=episode_id, write=write)
                return await self.engine.answer(
                    question, terms, caller=caller, sticky=asked.user, listener=listener
                )

        with contextlib.ExitStack() as flying:
            flying.enter_context(self._flying())
            await self.engine.check(question, terms, sticky=asked.user)
            if asked.stream:
                events = self._events(request, form, answer)
                return _Stream(flying.pop_all(), events, {REQUEST_ID: episode_id})
            served = await _unless_gone(request, answer())
        if served is None:
            return Response(status_code=499)
        return JSONResponse(form.whole(served), headers={REQUEST_ID: episode_id})

    async def _events(
        self, request: Request, form: Form, answer: Callable[..., Coroutine[Any, Any, Served]]
    ) -> AsyncIterator[bytes]:
        events: asyncio.Queue[bytes | None] = asyncio.Queue()

        async def work() -> None:
            try:
                listener = Listener(
                    emit=lambda choice: events.put_nowait(form.choice(choice)),
                    say=lambda piece: events.put_nowait(form.text(piece)),
                    think=lambda piece: events.put_nowait(form.thought(piece)),
                    write=lambda place, piece: events.put_nowait(form.written(place, piece)),
                )
                served = await answer(listener)
                events.put_nowait(form.answer(served))
            except REFUSED as error:
                events.put_nowait(form.error(error))
            except Exception as error:
                bug(request, error)
                events.put_nowait(form.error(error))
            finally:
                events.put_nowait(None)

        yield form.first()
        task = asyncio.create_task(work())
        gone = asyncio.create_task(_disconnected(request))
        gone.add_done_callback(lambda _: task.cancel())
        try:
            while (event := await _next(events)) is not None:
                yield event
        except asyncio.CancelledError:  # whose client has left hears nothing of it
            yield form.error(STOPPING)
            raise
        finally:
            await _cancelled(task, gone)

    async def decide(self, request: Request) -> Response:
        """POST /v1/decide."""
        self._caller(request)
        asked = DecideRequest.model_validate_json(await body_of(request))
        terms = read_terms(asked.allot, request.headers)
        variant = self.engine.variants.assign(terms.question_id or "")
        return JSONResponse(decide(asked, terms, variant))

    async def prepare(self, request: Request) -> Response:
        """POST /v1/prepare."""
        caller = self._caller(request)
        asked = PrepareRequest.model_validate_json(await body_of(request))
        with self._flying():
            prepared = await _unless_gone(request, self.idle.prepare(asked, caller))
        return Response(status_code=499) if prepared is None else JSONResponse(prepared)

    async def models(self, request: Request) -> Response:
        """GET /v1/models, or /v1/models/{model}."""
        self._caller(request)
        named, engine = request.path_params.get("model"), self.engine
        if named not in (None, MODEL):
            raise HTTPException(404, f"model: expected {MODEL!r}")
        arms = [{"name": v.name, "policy": v.digest} for v in engine.variants.all]
        ladder = [model.name for model in engine.backend.models]
        shown = {"ladder": ladder, "arms": arms}
        model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "allot", "allot": shown}
        return JSONResponse(model if named else {"object": "list", "data": [model]})

    async def live(self, request: Request) -> Response:
        """GET /live, or /health: whether the process runs."""
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """GET /ready: whether questions can be answered, if only by one model."""
        backend = self.engine.backend
        names = [model.name for model in backend.models]
        shut = [name for rung, name in enumerate(names) if not backend.available(rung)]
        wrong = {**dict.fromkeys(shut, UNAVAILABLE), **await self._checked()}
        up = [name for name in names if name not in wrong]
        ready = bool(up) and not self.draining
        state = {
            "ready": ready,
            "draining": self.draining,
            "available": up,
            "wrong": wrong,
            "warnings": list(self.engine.warnings),
        }
        return JSONResponse(state, 200 if ready else 503)

    async def _checked(self) -> dict[str, str]:
        """What the last check of all models said; a new one goes on beside if that is old."""
        if self._check is None or (self._check.done() and time.monotonic() > self._stale_at):
            self._check = asyncio.create_task(self.engine.backend.check())
            self._stale_at = time.monotonic() + FRESH_S
        done, _ = await asyncio.wait({self._check}, timeout=PATIENCE_S)
        if done:
            self._wrong = self._check.result()
        return self._wrong

    async def metrics_text(self, request: Request) -> Response:
        """GET /metrics."""
        self._caller(request)
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def openapi(self, request: Request) -> Response:
        """GET /openapi.json."""
        return JSONResponse(document(keys=self.keys.required))

    async def page(self, request: Request) -> Response:
        """GET /: the playground."""
        return page(self.engine, keys=self.keys.required)


class Gate:
    """Counts requests, and turns away those that no route should see.

    Without keys these include requests of other sites' pages: any page can have its visitors'
    browsers send requests to loopback. Their `Origin` tells, or their `Host` if the site's name
    has been made to mean this machine.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, keys: Keys, paths: frozenset[str]) -> None:
        self._app, self._metrics, self._keys, self._paths = app, metrics, keys, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"
        started, status = time.perf_counter(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await (self._refusal(scope) or self._app)(scope, receive, watched)
        except Exception:
            status = status or 500
            raise
        finally:
            self._metrics.requests.labels(path, str(status or "gone")).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - started)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
            return _refuse(431, "headers: too large")
        foreign = None if self._keys.required else _foreign(scope)
        if foreign is None:
            return None
        return _refuse(403, f"{foreign}: expected this machine's, as no --keys are needed here")


def _foreign(scope: Scope) -> str | None:
    """The header that names another machine; None if there is none."""
    for name, value in scope["headers"]:
        if name in (b"host", b"origin"):
            prefix = "//" if name == b"host" else ""
            try:
                host = urlsplit(prefix + value.decode("latin-1")).hostname
            except ValueError:
                host = None
            if host not in LOOPBACK:
                return str(name.decode())
    return None


def _refuse(status: int, message: str) -> JSONResponse:
    return JSONResponse(error_json(message, "invalid_request_error"), status)


async def body_of(request: Request) -> bytes:
    """The whole body. Raises HTTPException: it is too large or packed, or does not arrive."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise HTTPException(415, "content-encoding: expected a body that is not packed")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise HTTPException(413, f"body: expected at most {MAX_BODY_BYTES} bytes")
    except (TimeoutError, ClientDisconnect):
        raise HTTPException(408, "body: did not arrive in time") from None
    return bytes(body.removeprefix(BOM_UTF8))


class _Stream(StreamingResponse):
    """Server-sent events, which count as in flight from before the first to after the last."""

    def __init__(
        self,
        flying: contextlib.AbstractContextManager[Any, bool | None],
        events: AsyncIterator[bytes],
        headers: Mapping[str, str],
    ) -> None:
        # Or nginx would hold events back until they fill a buffer.
        headers = {**headers, "cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._flying = flying

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all events."""
        with self._flying:
            await super().__call__(scope, receive, send)


def _unless_stopped(
    route: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """A route that says so where the service stops before there is an answer."""

    async def told(request: Request) -> Response:
        try:
            return await route(request)
        except asyncio.CancelledError:
            raise STOPPING from None

    return told


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of some work; None, and the work cancelled, if the client goes away."""
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        await _cancelled(task, gone)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _next(events: asyncio.Queue[bytes | None]) -> bytes | None:
    """The next event, or a sign of life."""
    try:
        async with asyncio.timeout(ALIVE_EVERY_S):
            return await events.get()
    except TimeoutError:
        return ALIVE


async def _cancelled(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
