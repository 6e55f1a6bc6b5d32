"""A client that follows the rules of EventSource (WHATWG HTML §9.2), over plain TCP: what a browser does, it does.

It has a parser of its own: the one the product ships is part of what is judged with it.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Literal, Self
from urllib.parse import quote, urlsplit

from todoke.wire.sse import Frame

RETRY_MILLISECONDS = 3_000
READ_BYTES = 2**16


class Parser:
    """§9.2.6. `last_event_id` is the source's own: only a dispatch, so a frame's blank line, moves it."""

    def __init__(self, last_event_id: str = "", *, is_literal: bool = False) -> None:
        self.last_event_id = last_event_id
        self.retry_milliseconds: int | None = None
        # The standard starts every stream with an empty buffer; browsers go on with what they had.
        self._id = "" if is_literal else last_event_id
        self._rest, self._is_first, self._had_cr = b"", True, False
        self._event, self._data = "", ""

    def feed(self, chunk: bytes) -> list[Frame]:
        """The events that `chunk` completes. What the stream's end leaves incomplete is forgotten."""
        frames = []
        for line in self._lines(chunk):
            if line:
                self._take(line)
            elif frame := self._dispatch():
                frames.append(frame)
        return frames

    def _lines(self, chunk: bytes) -> list[str]:
        lines = []
        for byte in (chunk[i : i + 1] for i in range(len(chunk))) if b"\r" in chunk or self._had_cr else [chunk]:
            if self._had_cr and byte == b"\n":
                self._had_cr = False
                continue  # the second half of a CRLF whose line has ended already
            self._had_cr = byte == b"\r"
            *ended, self._rest = (self._rest + byte.replace(b"\r", b"\n")).split(b"\n")
            lines += [line.decode(errors="replace") for line in ended]
        if lines and self._is_first:
            lines[0], self._is_first = lines[0].removeprefix("\ufeff"), False
        return lines

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._event = value
        elif name == "data":
            self._data += value + "\n"
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry_milliseconds = int(value)

    def _dispatch(self) -> Frame | None:
        self.last_event_id = self._id
        event, data = self._event or "message", self._data
        self._event = self._data = ""
        return Frame(event, data.removesuffix("\n"), self.last_event_id) if data else None


class Answer:
    """An HTTP/1.1 response as it comes: `status`, `headers` with lower-case names, and the body piece by piece."""

    def __init__(self, reader: asyncio.StreamReader, status: int, headers: dict[str, str]) -> None:
        self.status, self.headers, self._reader = status, headers, reader

    @classmethod
    async def read(cls, reader: asyncio.StreamReader) -> Self:
        """Take the head. Raises OSError or asyncio.IncompleteReadError when it is cut."""
        first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in rest if line)
        return cls(reader, int(first.split()[1]), {name.lower(): value.strip() for name, _, value in fields})

    async def body(self) -> AsyncIterator[bytes]:
        """Bytes without their transfer coding, as soon as they are there. Raises ConnectionError when it is cut."""
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16):
                async for piece in self._exactly(size):
                    yield piece
                await self._reader.readexactly(2)
            await self._reader.readuntil(b"\r\n")
        elif "content-length" in self.headers:
            async for piece in self._exactly(int(self.headers["content-length"])):
                yield piece
        else:
            while piece := await self._reader.read(READ_BYTES):
                yield piece

    async def _exactly(self, size: int) -> AsyncIterator[bytes]:
        while size:
            piece = await self._reader.read(min(size, READ_BYTES))
            if not piece:
                raise ConnectionResetError("cut in the middle of a body")
            size -= len(piece)
            yield piece


class EventSource:
    """`new EventSource(url)`; used with `async with`. It does not follow redirects: none is promised.

    cursor: goes into the URL, as a page has to do it, and stays there on every reconnect.
    headers: sent with each request; only a client outside a browser has them.
    scale: what waits for a reconnect are multiplied by, so that tests are quick.
    is_literal: forget the id at each connect until a frame brings one, as the standard's words have it.

    dispatched: every event a page would get, in order. closings: why each connection ended, one word or more.
    known_at: how many events it had at each connect.
    connects: requests sent; statuses: what was answered to them; retries: reconnection times asked for, ms.
    """

    def __init__(
        self,
        url: str,
        cursor: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        scale: float = 0.02,
        is_literal: bool = False,
    ) -> None:
        self._parts = urlsplit(url)
        query = [self._parts.query] if self._parts.query else []
        query += [f"lastEventId={quote(cursor)}"] if cursor is not None else []
        self._path = (self._parts.path or "/") + ("?" + "&".join(query) if query else "")
        self._headers, self._scale, self._is_literal = dict(headers or {}), scale, is_literal
        self.state: Literal["connecting", "open", "closed"] = "connecting"
        self.last_event_id = ""
        self.retry_milliseconds = RETRY_MILLISECONDS
        self.dispatched: list[Frame] = []
        self.opened_at: list[float] = []
        self.known_at: list[int] = []
        self.closings: list[str] = []
        self.statuses: list[int] = []
        self.retries: list[int] = []
        self.connects = 0
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """`source.close()`: no further event, no further attempt. Raises what went wrong in this client itself."""
        task, self._task = self._task, None
        self.state = "closed"
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def until(self, predicate: Callable[["EventSource"], object], seconds: float = 20) -> None:
        """Wait until `predicate(self)` holds. Raises AssertionError after `seconds`, or when it never can."""
        deadline = time.monotonic() + seconds
        while not predicate(self):
            assert self._task is not None, f"closed: {self}"
            assert not self._task.done(), f"closed: {self}"
            changed = self._changed
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(deadline - time.monotonic()):
                    await changed.wait()
            assert predicate(self) or time.monotonic() < deadline, f"in vain: {self}"

    async def closed(self, seconds: float = 20) -> None:
        """Wait until it has given up for good."""
        await self.until(lambda source: source.state == "closed", seconds)

    def __str__(self) -> str:
        last = [(frame.event, frame.last_event_id) for frame in self.dispatched[-5:]]
        return (
            f"{self._path} {self.state}, {self.connects} connects, statuses {self.statuses[-5:]}, "
            f"closings {self.closings[-5:]}, {len(self.dispatched)} events, the last {last}"
        )

    async def _run(self) -> None:
        while self.state != "closed":
            try:
                await self._connect()
            except (OSError, asyncio.IncompleteReadError) as error:
                self.closings.append(f"cut {type(error).__name__}")
            if self.state != "closed":
                self._is_now("connecting")
                await asyncio.sleep(self.retry_milliseconds / 1000 * self._scale)

    async def _connect(self) -> None:
        self.connects += 1
        self.known_at.append(len(self.dispatched))
        reader, writer = await asyncio.open_connection(self._parts.hostname, self._parts.port or 80)
        try:
            writer.write(self._request())
            answer = await Answer.read(reader)
            self.statuses.append(answer.status)
            kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
            if answer.status != 200 or kind != "text/event-stream":
                self.closings.append(f"failed {answer.status} {kind}")
                self._is_now("closed")
                return
            self.opened_at.append(time.monotonic())
            self._is_now("open")
            await self._follow(answer)
            self.closings.append("end")
        finally:
            writer.transport.abort()

    async def _follow(self, answer: Answer) -> None:
        parser = Parser(self.last_event_id, is_literal=self._is_literal)
        async for piece in answer.body():
            self.dispatched += parser.feed(piece)
            self.last_event_id = parser.last_event_id
            if parser.retry_milliseconds is not None:
                self.retry_milliseconds, parser.retry_milliseconds = parser.retry_milliseconds, None
                self.retries.append(self.retry_milliseconds)
            self._is_now("open")

    def _request(self) -> bytes:
        headers = {"Host": self._parts.netloc, "Accept": "text/event-stream", "Cache-Control": "no-cache"}
        headers |= {"Last-Event-ID": self.last_event_id} if self.last_event_id else {}
        lines = [f"{name}: {value}\r\n" for name, value in (headers | self._headers).items()]
        return f"GET {self._path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode()

    def _is_now(self, state: Literal["connecting", "open", "closed"]) -> None:
        self.state = state
        self._changed.set()
        self._changed = asyncio.Event()
