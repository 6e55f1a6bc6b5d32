"""A server that says exactly what a test gives it, one script a connection, and keeps what it was asked."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


class Scripted:
    """`requests` are the heads as they came; `url` leads here. After the last script it hangs up on everyone."""

    def __init__(self, scripts: Sequence[bytes]) -> None:
        self._scripts = list(scripts)
        self.requests: list[str] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
            if self._scripts:
                writer.write(self._scripts.pop(0))
                await writer.drain()
        writer.close()

    def cursors(self) -> list[str | None]:
        """The Last-Event-ID of each request."""
        lines = [request.split("\r\n") for request in self.requests]
        return [next((li[15:] for li in request if li.startswith("Last-Event-ID: ")), None) for request in lines]


@contextlib.asynccontextmanager
async def scripted(*scripts: bytes) -> AsyncIterator[Scripted]:
    """Bodies of answers come behind HEAD; the connection closes behind each."""
    server = Scripted(scripts)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/jobs/1/events"
    try:
        yield server
    finally:
        listener.close()
