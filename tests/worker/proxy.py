"""A TCP proxy that can be cut: connections break, new ones are refused, until it is mended."""

import asyncio
import contextlib
from typing import Self
from urllib.parse import urlsplit, urlunsplit


class Proxy:
    """Stands before the server of `url`; its own `url` leads through it."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._server: asyncio.Server | None = None
        self._port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._last_word: bytes | None = None
        self._is_silent = False

    @property
    def url(self) -> str:
        return self.moved(urlunsplit(self._target))

    def moved(self, url: str) -> str:
        """The same URL through this proxy."""
        parts = urlsplit(url)
        user, _, _ = parts.netloc.rpartition("@")
        return urlunsplit(
            parts._replace(netloc=f"{user}@127.0.0.1:{self._port}" if user else f"127.0.0.1:{self._port}")
        )

    async def cut(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    def cut_commit_of(self, words: str) -> None:
        """Pass on the next COMMIT of a connection that has said these words, but break it before the answer comes.

        Once; the words of a statement are said when a connection first uses it.
        """
        self._last_word = words.encode()

    def silence(self) -> None:
        """From now on pass nothing on, and break nothing."""
        self._is_silent = True

    async def mend(self) -> None:
        self._server = None
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)

    async def __aenter__(self) -> Self:
        await self.mend()
        assert self._server is not None
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()
        while self._writers:
            await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is not None and not self._server.is_serving():
            # Accepted just before the cut, which did not know of it yet.
            writer.transport.abort()
            return
        self._writers.add(writer)
        try:
            onward, back = await asyncio.open_connection(self._target.hostname, self._target.port)
            self._writers.add(back)
            try:
                await asyncio.gather(self._ask(reader, back), self._pump(onward, writer))
            finally:
                back.close()
                self._writers.discard(back)
        finally:
            writer.close()
            self._writers.discard(writer)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass requests on, and cut where asked to."""
        is_marked = False
        with contextlib.suppress(OSError):
            while data := await reader.read(2**16):
                is_marked = is_marked or (self._last_word is not None and self._last_word in data)
                if is_marked and self._last_word is not None and b"COMMIT" in data:
                    self._last_word = None
                    self._is_silent = True
                    writer.write(data)
                    await asyncio.sleep(0.3)
                    self._is_silent = False
                    for each in list(self._writers):
                        each.transport.abort()
                    return
                if not self._is_silent:
                    writer.write(data)
                    await writer.drain()
        writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(2**16):
                if not self._is_silent:
                    writer.write(data)
                    await writer.drain()
        writer.transport.abort()
