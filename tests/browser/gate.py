"""A gateway that a test can break: it counts what it is asked, refuses, cuts, and falls silent."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

HEAD_BYTES_MAX = 65536
# What a page needs that watches: itself and the service. Anything else would be an error on the console.
POLICY = "default-src 'none'; script-src {0} 'unsafe-eval'; connect-src {0}; img-src data:"
PAGE = '<!doctype html><link rel="icon" href="data:,"><title>page</title>'


@dataclass(frozen=True)
class Asked:
    """The head of a request."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]

    @property
    def is_events(self) -> bool:
        """Whether it is for the events of a job, as a stream or as a long poll."""
        return self.path.endswith("/events")

    @property
    def is_stream(self) -> bool:
        """Whether an EventSource asks."""
        return self.is_events and "wait" not in self.query


def refusal(status: int, *headers: str) -> bytes:
    """A whole answer with an error status."""
    lines = [f"HTTP/1.1 {status} Refused", "Content-Length: 0", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode()


def page(body: str = PAGE, policy: str | None = None) -> bytes:
    """A whole answer that is a page."""
    policy = POLICY.format("'self'") if policy is None else policy
    lines = ["HTTP/1.1 200 OK", "Content-Type: text/html", f"Content-Length: {len(body.encode())}", "Connection: close"]
    return "\r\n".join([*lines, f"Content-Security-Policy: {policy}", "", body]).encode()


class Gate:
    """HTTP/1.1 in front of `target` (a URL), one request for each connection.

    pages: what it answers by itself; one under /else may watch the jobs of another origin.
    judge: the answer to give instead of passing a request on, or None. holds_streams: streams are buffered for ever.
    extra: header lines put into every answer with events.
    """

    def __init__(self, target: str = "") -> None:
        self.target = target
        self.judge: Callable[[Asked], bytes | None] = lambda _asked: None
        self.pages = {"/page": page(), "/else/page": page(policy=POLICY.format("http:"))}
        self.asked: list[Asked] = []
        self.refused = 0
        self.holds_streams = False
        self.extra = b""
        self.streams_open = 0
        self._flows: set[asyncio.Event] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> "Gate":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=HEAD_BYTES_MAX)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()

    @property
    def streams(self) -> list[Asked]:
        """What EventSources have asked."""
        return [asked for asked in self.asked if asked.is_stream]

    @property
    def polls(self) -> list[Asked]:
        """What long polls have asked."""
        return [asked for asked in self.asked if asked.is_events and not asked.is_stream]

    def refuse(self, status: int, *headers: str, streams_only: bool = False) -> None:
        """Answer every question for events so, from now on."""
        self.judge = lambda asked: (
            refusal(status, *headers) if asked.is_stream or (asked.is_events and not streams_only) else None
        )

    def admit(self) -> None:
        """Pass everything on again."""
        self.judge = lambda _asked: None

    def cut(self) -> None:
        """Reset all connections."""
        for writer in self._writers:
            writer.transport.abort()

    def fall_silent(self) -> None:
        """Keep what is open open and pass on nothing of it: what a reader sees whose network has moved on."""
        for flow in self._flows:
            flow.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._answer((await reader.readuntil(b"\r\n\r\n")).decode("latin-1"), reader, writer)
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = _parse(head)
        self.asked.append(asked)
        if answer := self.pages.get(asked.path) or self.judge(asked):
            self.refused += asked.path not in self.pages
            writer.write(answer)
            await writer.drain()
            return
        place = urlsplit(self.target)
        there, back = await asyncio.open_connection(place.hostname, place.port)
        flow = asyncio.Event()
        if not (self.holds_streams and asked.is_stream):
            flow.set()
        self._flows.add(flow)
        self._writers.add(back)
        self.streams_open += asked.is_stream
        try:
            lines = [line for line in head.split("\r\n") if not line.lower().startswith("connection:")]
            back.write("\r\n".join([lines[0], "Connection: close", *lines[1:]]).encode("latin-1"))
            async with asyncio.TaskGroup() as group:
                down = group.create_task(_pump(there, writer, flow, self.extra if asked.is_events else b""))
                up = group.create_task(_pump(reader, back))
                await asyncio.wait([down, up], return_when=asyncio.FIRST_COMPLETED)
                down.cancel()
                up.cancel()
        finally:
            self.streams_open -= asked.is_stream
            self._flows.discard(flow)
            self._writers.discard(back)
            back.close()


def _parse(head: str) -> Asked:
    first, *rest = head.split("\r\n")
    method, target, _ = first.split(" ")
    url = urlsplit(target)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest if line)}
    return Asked(method, url.path, parse_qs(url.query), headers)


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flow: asyncio.Event | None = None, extra: bytes = b""
) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(65536):
            if flow is not None:
                await flow.wait()
            writer.write(chunk.replace(b"\r\n", b"\r\n" + extra, 1) if extra else chunk)
            extra = b""
            await writer.drain()
