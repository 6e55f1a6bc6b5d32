"""One connection of a client: uvicorn's handling, and what it leaves open."""

import asyncio
import json
from typing import Any

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service import trail
from service.headers import SAFE
from service.problems import MEDIA_TYPE, TITLES, Problem
from todoke.model.codes import Code

log = structlog.get_logger()

HEAD_BYTES_MAX = 64 * 1024
HEAD_SECONDS = 30.0


class Connection(HttpToolsProtocol):
    """Bounds the head of a request in size and time, and what is left of a refused body in time.

    Tells the request that is being answered that its client has left, also when others were sent behind it: uvicorn
    tells the last one it has read. A stream with a request behind it would stay open, and count, for nobody.
    """

    # Beside uvicorn's 28 attributes three more in the instance's dict would take it past what Python shares between
    # instances: 1.3 KiB a connection.
    __slots__ = ("_answered", "_head_bytes", "_head_timer", "_is_whole")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # No WebSockets here, whatever library for them is installed.
        self.ws_protocol_class = None
        self._answered: RequestResponseCycle | None = None
        self._head_bytes: int | None = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._is_whole = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the loop."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        if self._head_bytes is not None:
            # What came before this piece was all head; this one may be body too.
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse(Problem(431, Code.HEAD_TOO_LARGE, f"a head may have about {HEAD_BYTES_MAX} bytes"))
                return
            self._head_bytes += len(data)
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words, on plain text
        """Called where the parser finds no HTTP: nothing of the application has seen the request."""
        self._refuse(Problem(400, Code.MALFORMED_REQUEST, "this is no HTTP request that can be read"))

    def on_message_begin(self) -> None:
        """Called by the parser."""
        self._await_head()
        self._is_whole = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        # It may find that there is no such address, and then this is still the head.
        super().on_headers_complete()
        self._head_bytes = None
        self._stop_timer()

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._is_whole = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Called by the cycle. The rest of a body that was refused is read and thrown away, for a while.

        Closed at once, a connection with unread bytes would be reset, and its client never read why.
        """
        if not self._is_whole:
            self._start_timer()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._stop_timer()
        super().connection_lost(exc)
        answered, self._answered = self._answered, None
        if answered is not None and not answered.response_complete:
            answered.disconnected = True
            answered.message_event.set()

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade is an offer, and is not taken up; nobody needs to be told in the log."""

    def _refuse(self, problem: Problem) -> None:
        """Answer in the place of the application, and close.

        Behind a request that is not answered yet there is only the closing: it would be taken for that one's answer.
        Nor is a request answered twice, whose body goes wrong when it was refused already.
        """
        self._stop_timer()
        last: RequestResponseCycle | None = self.cycle
        if self._head_bytes is None and not self._is_whole:
            is_free = last is self._answered and last is not None and not last.response_started
        else:
            is_free = last is None or last.response_complete
        request_id = trail.request_id(None)
        client = self.client[0] if self.client else None
        log.info("request.unread", requestId=request_id, client=client, status=problem.status, code=problem.code)
        if is_free and not self.transport.is_closing():
            self.transport.write(_raw(problem, request_id))
        self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._start_timer()

    def _start_timer(self) -> None:
        self._stop_timer()
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _raw(problem: Problem, request_id: str) -> bytes:
    """A whole answer, with the headers that all of ours have."""
    body = json.dumps(problem.body(request_id), separators=(",", ":")).encode()
    lines = [
        f"HTTP/1.1 {problem.status} {TITLES[problem.status]}",
        f"content-type: {MEDIA_TYPE}",
        f"content-length: {len(body)}",
        f"x-request-id: {request_id}",
        *(f"{name}: {value}" for name, value in SAFE.items()),
        "connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body
