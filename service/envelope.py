"""What every request passes first and every answer last: its id, its trace, its headers, its line in the log."""

import time
from collections.abc import Mapping

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import headers as fixed
from service import trail
from service.cors import Cors
from service.front import LEFT
from service.problems import problem_of
from service.request_log import RequestLog
from service.tracing import SPAN
from todoke.model.codes import Code
from todoke.runtime.tracing import Kind, Passing, Span, Tracer
from todoke.wire import traceparent

log = structlog.get_logger()

REQUEST_ID = b"x-request-id"
ALLOW_ORIGIN = b"access-control-allow-origin"
SERVER_ERRORS = 500
# What machines ask all day.
UNTRACED = frozenset({"/healthz", "/readyz", "/metrics", "/internal/auth"})


class Envelope:
    """ASGI, outermost but for the front door. Nothing of it stays while a stream is open.

    Only here is a fault logged, and answered if nobody has. One behind the beginning of an answer leaves it unfinished,
    and the server closes the connection: a reader must not take half for the whole.
    """

    def __init__(self, app: ASGIApp, cors: Cors, tracer: Tracer, public_url: str | None) -> None:
        self._app, self._cors, self._tracer = app, cors, tracer
        self._defaults = fixed.defaults(public_url)
        self._log = RequestLog()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id = trail.request_id(headers.get(REQUEST_ID))
        span = scope[SPAN] = self._span(scope, headers)
        traced = traceparent.told(span.traceparent)
        answer = _Answer(self, scope, send, headers.get(b"origin"), request_id.encode())
        tokens = trail.REQUEST_ID.set(request_id), trail.TRACE_ID.set(traced.get("traceId", request_id))
        try:
            await self._answer(scope, receive, answer, headers)
        finally:
            told: dict[str, object] = {**traced, "stream": True} if scope.get(LEFT) else {**traced}
            told_of = (answer.status, answer.size, answer.location)
            self._log.tell(scope, headers, told, told_of, time.perf_counter() - began)
            _end(span, scope, answer.status)
            trail.REQUEST_ID.reset(tokens[0])
            trail.TRACE_ID.reset(tokens[1])

    def dress(self, message: Message, scope: Scope, origin: bytes | None, request_id: bytes) -> None:
        """Add to the head of an answer what it lacks."""
        found: list[tuple[bytes, bytes]] = list(message.get("headers", ()))
        if not any(name == ALLOW_ORIGIN for name, _ in found):
            self._cors.add_to(found, scope, origin)
        names = {name for name, _ in found}
        found += [header for header in self._defaults if header[0] not in names]
        found.append((REQUEST_ID, request_id))
        message["headers"] = found

    async def _answer(self, scope: Scope, receive: Receive, answer: "_Answer", headers: Mapping[bytes, bytes]) -> None:
        try:
            allowed = self._cors.preflight(scope, headers)
            if allowed is not None:
                await answer.send({"type": "http.response.start", "status": 204, "headers": allowed})
                await answer.send({"type": "http.response.body", "body": b""})
            else:
                await self._app(scope, receive, answer.send)
        except Exception as error:
            problem = problem_of(error)
            if problem.code is Code.INTERNAL:
                log.exception("request.fault", method=scope["method"])
            if not answer.status:
                await problem.response()(scope, receive, answer.send)

    def _span(self, scope: Scope, headers: Mapping[bytes, bytes]) -> Span:
        given = headers.get(b"traceparent")
        parent = traceparent.parse(given.decode("latin-1")) if given else None
        if scope["path"] in UNTRACED:
            return Passing(parent)
        return self._tracer.begin(scope["method"], Kind.SERVER, parent)


class _Answer:
    """Watches an answer go by. status: 0 until it has begun. size: bytes of its body. location: of what was made."""

    __slots__ = ("_envelope", "_origin", "_request_id", "_scope", "_send", "location", "size", "status")

    def __init__(self, envelope: Envelope, scope: Scope, send: Send, origin: bytes | None, request_id: bytes) -> None:
        self._envelope, self._scope, self._send = envelope, scope, send
        self._origin, self._request_id = origin, request_id
        self.status = self.size = 0
        self.location: bytes | None = None

    async def send(self, message: Message) -> None:
        """ASGI."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.status in (201, 202):
                self.location = dict(message["headers"]).get(b"location")
            self._envelope.dress(message, self._scope, self._origin, self._request_id)
        else:
            self.size += len(message.get("body", b""))
        await self._send(message)


def _end(span: Span, scope: Scope, status: int) -> None:
    route = getattr(scope.get("route"), "path", None)
    attributes: dict[str, str | int] = {"http.request.method": scope["method"], "http.response.status_code": status}
    if route is not None:
        attributes["http.route"] = route
    name = f"{scope['method']} {route}" if route is not None else None
    span.end(name, attributes, "a fault of the service" if status >= SERVER_ERRORS else None)
