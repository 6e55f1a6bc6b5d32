"""A small client by EventSource's rules over a raw socket, until the real one is here."""

import asyncio
import contextlib
from collections.abc import Callable
from urllib.parse import urlsplit

from todoke.wire.sse import Decoder, Frame


class EventSource:
    """Connects, dispatches, reconnects with its cursor after `retry`; a 204 or another status ends it."""

    def __init__(self, url: str, cursor: str | None = None) -> None:
        self._url = urlsplit(url)
        self._cursor = cursor
        self.dispatched: list[Frame] = []
        self.connects = 0
        self.status = 0
        self.is_closed = False
        self._last, self._retry = "", 3.0
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def until(self, predicate: Callable[["EventSource"], bool], seconds: float = 30) -> None:
        async with asyncio.timeout(seconds):
            while not predicate(self):
                self._news.clear()
                await self._news.wait()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while not self.is_closed:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._connect()
            if not self.is_closed:
                await asyncio.sleep(self._retry)

    async def _connect(self) -> None:
        reader, writer = await asyncio.open_connection(self._url.hostname, self._url.port)
        try:
            query = f"?lastEventId={self._cursor}" if self._cursor else ""
            head = f"GET {self._url.path}{query} HTTP/1.1\r\nHost: {self._url.netloc}\r\nAccept: text/event-stream\r\n"
            writer.write(f"{head}{f'Last-Event-ID: {self._last}' + chr(13) + chr(10) if self._last else ''}\r\n".encode())
            answer = await reader.readuntil(b"\r\n\r\n")
            self.status = int(answer.split(b" ", 2)[1])
            if self.status != 200:
                self.is_closed = True
                self._news.set()
                return
            self.connects += 1
            self._news.set()
            decoder = Decoder()
            decoder.last_event_id = self._last
            while (size := int(await reader.readuntil(b"\r\n"), 16)) > 0:
                chunk = await reader.readexactly(size + 2)
                for frame in decoder.feed(chunk[:-2]):
                    self.dispatched.append(frame)
                    self._news.set()
                if decoder.retry_milliseconds is not None:
                    self._retry = decoder.retry_milliseconds / 1000
                self._last = decoder.last_event_id
        finally:
            writer.transport.abort()
