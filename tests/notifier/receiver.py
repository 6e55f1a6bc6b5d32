"""A receiver of webhooks on a real socket, as polite or as hostile as a test wants it."""

import asyncio
import contextlib
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

Answer = Callable[["Received", asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@dataclass(frozen=True)
class Received:
    """One request as it came. `at`: Unix seconds. `peer`: the connection's number."""

    target: str
    headers: dict[str, str]
    body: bytes
    at: float
    peer: int

    @property
    def webhook_id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """Keeps what it got; `answers` are used up in order, then every request gets 200."""

    answers: list[Answer] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    scheme: str = "http"
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}/hook"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        peer = self.connections
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            try:
                while True:
                    received = await _read(reader, peer)
                    self.received.append(received)
                    answer = self.answers.pop(0) if self.answers else bytes_answer(OK)
                    await answer(received, writer)
                    await writer.drain()
            finally:
                writer.close()


def status(code: int, *headers: str) -> Answer:
    lines = "".join(line + "\r\n" for line in (*headers, "content-length: 0"))
    return bytes_answer(f"HTTP/1.1 {code} Word\r\n{lines}\r\n".encode())


def bytes_answer(raw: bytes) -> Answer:
    async def answer(_received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)

    return answer


async def silence(_received: Received, _writer: asyncio.StreamWriter) -> None:
    """Never answers; ends when the other side hangs up or the test does."""
    await asyncio.sleep(3600)


async def hang_up(_received: Received, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


def reset(start: bytes = b"") -> Answer:
    """`start`, then a RST instead of an end."""

    async def answer(_received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        await writer.drain()
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    return answer


def then_hang_up(raw: bytes) -> Answer:
    """`raw`, then an orderly end."""

    async def answer(_received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()
        writer.close()

    return answer


def flood(start: bytes, piece: bytes) -> Answer:
    """`start`, then `piece` as fast as it is taken, without an end."""

    async def answer(_received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()

    return answer


def drip(start: bytes, piece: bytes = b"x", pause: float = 0.05) -> Answer:
    """`start`, then a little more again and again, without an end."""

    async def answer(_received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return answer


@contextlib.asynccontextmanager
async def receiving(*answers: Answer, tls: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator[Receiver]:
    receiver = Receiver(list(answers), scheme="https" if tls else "http")
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(asyncio.CancelledError):
            await receiver.handle(reader, writer)

    server = await asyncio.start_server(handle, "127.0.0.1", port, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _read(reader: asyncio.StreamReader, peer: int) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = [line.partition(":") for line in head[1:] if line]
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    assert len(headers) == len(pairs), "a header came twice"
    body = await reader.readexactly(int(headers["content-length"]))
    return Received(head[0], headers, body, time.time(), peer)
