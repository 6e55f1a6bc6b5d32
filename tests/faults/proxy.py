"""A TCP proxy that does what networks do: cut, refuse, swallow, delay; until it is mended."""

import asyncio
import contextlib
from typing import Self
from urllib.parse import urlsplit, urlunsplit

CHUNK_BYTES = 2**16


class Link:
    """One connection through the proxy: the client's end and the server's."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client, self.server = client, server

    def abort(self) -> None:
        """Break both ends, with whatever was on its way."""
        self.client.transport.abort()
        self.server.transport.abort()


class Proxy:
    """Stands before the server of `url`; its own `url` leads through it."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._server: asyncio.Server | None = None
        self._port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.delay_seconds = 0.0

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
        """Break every connection and refuse new ones."""
        assert self._server is not None
        self._server.close()
        self.drop()

    def drop(self) -> None:
        """Break every connection; new ones are welcome."""
        for writer in list(self._writers):
            writer.transport.abort()

    def swallow(self) -> None:
        """Accept whatever comes and answer nothing, on old connections and new."""
        self._flowing.clear()

    async def mend(self) -> None:
        """Be a wire again. What was swallowed is gone: its connections break."""
        if not self._flowing.is_set():
            self.drop()
            self._flowing.set()
        if self._server is None or not self._server.is_serving():
            self._server = None
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self.delay_seconds = 0.0

    async def __aenter__(self) -> Self:
        await self.mend()
        assert self._server is not None
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._flowing.set()
        await self.cut()
        while self._tasks:
            await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is not None and not self._server.is_serving():
            # Accepted just before the cut, which did not know of it yet.
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError):
                await self._flowing.wait()
                if writer.is_closing():
                    return  # it was swallowed, and is not delivered late
                onward, back = await asyncio.open_connection(self._target.hostname, self._target.port)
                self._writers.add(back)
                try:
                    link = Link(writer, back)
                    await asyncio.gather(self.upstream(reader, link), self.downstream(onward, link))
                finally:
                    back.transport.abort()
                    self._writers.discard(back)
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def upstream(self, reader: asyncio.StreamReader, link: Link) -> None:
        """Carry what the client says."""
        await self.pump(reader, link.server)

    async def downstream(self, reader: asyncio.StreamReader, link: Link) -> None:
        """Carry what the server answers."""
        await self.pump(reader, link.client)

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await self.pause()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    async def pause(self) -> None:
        """What every chunk waits for."""
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        await self._flowing.wait()
