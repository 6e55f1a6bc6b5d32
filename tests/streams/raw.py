"""Requests as bytes, for what no well-behaved client sends."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def connection(url: str, *, receive_bytes: int | None = None) -> AsyncIterator[Pair]:
    """A TCP connection to the server of `url`. receive_bytes: the size of the kernel's buffer on our side."""
    parts = urlsplit(url)
    plain = socket.socket()
    plain.setblocking(False)
    if receive_bytes is not None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    await asyncio.get_running_loop().sock_connect(plain, (parts.hostname, parts.port))
    # The reader's own buffer must not take what the kernel's would have held back.
    reader, writer = await asyncio.open_connection(sock=plain, limit=receive_bytes or 2**16)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def request(url: str, path: str, *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
    """A whole request without a body; `lines` are further headers."""
    head = [f"{method} {path} HTTP/{version}", f"Host: {urlsplit(url).netloc}", *lines, "", ""]
    return "\r\n".join(head).encode("latin-1")


async def read_until(reader: asyncio.StreamReader, is_enough: Callable[[bytes], bool], seconds: float = 15) -> bytes:
    """What came until `is_enough`, or until the other side closed."""
    got = b""
    async with asyncio.timeout(seconds):
        while not is_enough(got) and (piece := await reader.read(2**16)):
            got += piece
    return got


async def open_streams(url: str) -> int:
    """How many streams the API says it holds."""
    async with connection(url) as (reader, writer):
        writer.write(request(url, "/metrics", "Connection: close"))
        text = (await read_until(reader, lambda _: False)).decode()
    return round(float(next(line.split()[1] for line in text.splitlines() if line.startswith("todoke_streams "))))


async def until_open(url: str, wanted: int, seconds: float = 15) -> None:
    """Wait until exactly so many streams are open, bounded."""
    async with asyncio.timeout(seconds):
        while await open_streams(url) != wanted:
            await asyncio.sleep(0.05)
