"""One open stream: a source written to a socket, one task while it is quiet and a second one only while it writes.

The task uvicorn gave us waits for the reader to leave; nothing of FastAPI is on its stack any more (see front.py).
"""

import asyncio
import math
import random
import time
from collections.abc import Callable
from typing import Protocol

import structlog
from starlette.types import Receive, Send

from service.identity import Right
from todoke.model.errors import Unavailable
from todoke.wire import sse

log = structlog.get_logger()

# A reader that takes nothing for this long is gone; it comes back where it stopped.
WRITE_SECONDS = 20.0


class Source(Protocol):
    """What a stream shows."""

    def attach(self, wake: Callable[[], None]) -> None:
        """From now on `wake` is called when there may be more to pull. It may be called at any time."""

    def detach(self) -> None:
        """Undo `attach`."""

    async def pull(self) -> bytes | None:
        """The next bytes, about 32 KiB at most; b"" when there is nothing new, None at the end. Raises Unavailable."""

    def checkpoint(self) -> bytes:
        """Sent with each heartbeat: moves the reader's cursor where nothing was worth a frame."""


class Owner(Protocol):
    """Keeps the list of open streams."""

    def take(self, seat: "Seat") -> None:
        """It has begun."""

    def leave(self, seat: "Seat") -> None:
        """It has ended."""


class Seat:
    """Times are of `time.monotonic`.

    beat_seconds: silence before a heartbeat, about. parts_at: when the stream ends, for the reason `parting`; a reader
    that is to come back is told so, one whose time was agreed (`parting` empty) is not.
    """

    __slots__ = (
        "_is_called",
        "_is_new",
        "_is_over",
        "_main",
        "_owner",
        "_send",
        "_source",
        "_writer",
        "beat_at",
        "beat_seconds",
        "end",
        "parting",
        "parts_at",
        "refusal",
        "retry",
        "right",
        "writing_since",
    )

    def __init__(
        self, owner: Owner, source: Source, right: Right, beat_seconds: float, parts_at: float, parting: str
    ) -> None:
        self._owner, self._source, self.right, self.beat_seconds = owner, source, right, beat_seconds
        self.parts_at, self.parting = parts_at, parting
        self.retry = sse.RETRY_MILLISECONDS
        self.end = "gone"
        self.refusal: str | None = None
        self.writing_since: float | None = None
        self.beat_at = math.inf
        self._is_new, self._is_called, self._is_over = True, False, False
        self._writer: asyncio.Task[None] | None = None

    async def run(self, receive: Receive, send: Send) -> None:
        """Send the source's frames until it ends, the reader leaves, or `cut`. The head of the answer has been sent."""
        self._send = send
        self._main = asyncio.current_task()
        self._source.attach(self.wake)
        self._owner.take(self)
        try:
            self.wake()
            # Ending the answer wakes this too.
            while (await receive())["type"] != "http.disconnect":
                pass
        except asyncio.CancelledError:
            if not self._is_over:
                raise
        finally:
            self._source.detach()
            if self._writer is not None:
                self._writer.cancel()
            self._owner.leave(self)

    def wake(self) -> None:
        """There may be something to write: frames, a heartbeat, a farewell."""
        self._is_called = True
        if not self._is_over and self._writer is None:
            self._writer = asyncio.create_task(self._write())

    def part(self, reason: str, retry: tuple[int, int], at: float = 0.0) -> None:
        """Have the reader come back, after a pause out of `retry` (ms): now, or `at` a time."""
        self.parting, self.retry, self.parts_at = reason, retry, at
        if at <= time.monotonic():
            self.wake()

    def cut(self, end: str) -> None:
        """End without a word: the reader takes nothing, or there is nothing right to say."""
        self.end, self._is_over = end, True
        if self._main is not None:
            self._main.cancel()

    async def _write(self) -> None:
        try:
            if self._is_new:
                self._is_new = False
                await self._put(sse.opening())
            while self._is_called and not self._is_over:
                self._is_called = False
                await self._write_once()
        except Unavailable as error:
            # An error status would stop a browser for good, and so would silence: it comes back and is told.
            log.warning("stream.unavailable", reason=str(error))
            await self._finish("unavailable", sse.retry())
        except Exception:
            log.exception("stream.fault")
            self.cut("fault")
        finally:
            self._writer = None

    async def _write_once(self) -> None:
        while chunk := await self._source.pull():
            await self._put(chunk)
            if time.monotonic() >= self.parts_at:
                break  # a long replay parts as well, having got on
        if chunk is None:
            await self._finish("complete", b"")
        elif time.monotonic() >= self.parts_at:
            await self._finish(self.parting or "complete", self._farewell())
        elif time.monotonic() >= self.beat_at:
            await self._put(sse.comment("heartbeat") + self._source.checkpoint())

    def _farewell(self) -> bytes:
        return farewell(self.parting, self.retry) if self.parting else b""

    async def _put(self, chunk: bytes) -> None:
        self.writing_since = time.monotonic()
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        self.writing_since = None
        # Streams opened together do not beat together.
        self.beat_at = time.monotonic() + self.beat_seconds * random.uniform(0.8, 1.2)  # noqa: S311 - no secret

    async def _finish(self, end: str, chunk: bytes) -> None:
        self.end, self._is_over = end, True
        self.writing_since = time.monotonic()
        await self._send({"type": "http.response.body", "body": chunk, "more_body": False})
        self.writing_since = None


def farewell(reason: str, retry: tuple[int, int]) -> bytes:
    """Asks the reader to come back after a pause out of `retry`, in milliseconds."""
    return sse.retry(retry) + sse.frame("reconnect", f'{{"reason":"{reason}"}}')
