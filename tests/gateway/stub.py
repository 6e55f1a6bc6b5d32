"""In the place of the API: answers of a test's own making, for what the real one says seldom."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

ASK = "/internal/auth"


def reply(status: str, *lines: str, body: bytes = b"") -> bytes:
    """A whole answer; `lines` are its headers."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *lines, "", ""]
    return "\r\n".join(head).encode() + body


@contextlib.asynccontextmanager
async def stub(answers: Mapping[str, bytes]) -> AsyncIterator[str]:
    """A server that gives each path its answer, and 204 to every other; the block gets host:port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ")[1].decode().partition("?")[0]
            writer.write(answers.get(path, reply("204 No Content")))
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
