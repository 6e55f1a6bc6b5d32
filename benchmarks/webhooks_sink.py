"""The receivers of the webhooks benchmark: one process, a few ports, every path an endpoint.

    python -m benchmarks.webhooks_sink PORTS

Answers any POST with an empty 200 as cheaply as Python can and keeps the connection; a path that begins with /hang is
read and never answered. GET /count says how many were answered. Prints its ports when it listens.
"""

import asyncio
import signal
import sys
from collections.abc import Sequence

import uvloop

from todoke.dev.ports import LOOPBACK

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
LENGTH = b"content-length: "


class Receiver(asyncio.Protocol):
    """One connection. `answered` is counted over all of them."""

    answered = 0

    def __init__(self) -> None:
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].lower()
            at = head.find(LENGTH)
            whole = end + 4 + (int(head[at + len(LENGTH) :].split(b"\r\n", 1)[0]) if at >= 0 else 0)
            if len(self._data) < whole:
                return
            self._data = self._data[whole:]
            self._answer(head)

    def _answer(self, head: bytes) -> None:
        if head.startswith(b"get /count"):
            text = str(Receiver.answered).encode()
            self._write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(text), text))
        elif not head.startswith(b"post /hang"):
            Receiver.answered += 1
            self._write(ANSWER)

    def _write(self, data: bytes) -> None:
        self._transport.write(data)  # type: ignore[attr-defined]


async def serve(count: int) -> None:
    """Listen on so many ports until SIGTERM."""
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    servers = [await loop.create_server(Receiver, LOOPBACK, 0, backlog=4096) for _ in range(count)]
    print("ports", *(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await stopping.wait()


def main(arguments: Sequence[str]) -> int:
    """Receive until SIGTERM."""
    uvloop.run(serve(int(arguments[0])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
