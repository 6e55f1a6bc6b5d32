"""The readers of a streams benchmark: thousands of sockets in one thread that looks at what arrives and keeps nothing.

Cheap on purpose (a `recv` and one call a piece of news), so that what is measured is the server. What it costs itself
is the processor time of this process.
"""

import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LOOPBACK = "127.0.0.1"
PIECE_BYTES = 16_384
# Fewer than any server's backlog, so that no connection waits to be accepted.
OPENING_MAX = 100
TICK_SECONDS = 0.01

# What a browser's EventSource sends: headers are part of what a server keeps for each stream.
HEAD = (
    'GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: keep-alive\r\nsec-ch-ua-platform: "Linux"\r\n'
    "Cache-Control: no-cache\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)"
    ' Chrome/142.0.0.0 Safari/537.36\r\nsec-ch-ua: "Chromium";v="142", "Not_A Brand";v="99"\r\n'
    "sec-ch-ua-mobile: ?0\r\nAccept: text/event-stream\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\n"
    "Sec-Fetch-Dest: empty\r\nReferer: http://127.0.0.1:{port}/\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
    "Accept-Language: en-US,en;q=0.9\r\n{more}\r\n"
)

News = Callable[[int, bytes, float], None]


@dataclass(slots=True)
class _Stream:
    number: int
    socket: socket.socket
    asked_at: float
    head: bytes = b""
    is_open: bool = False


class Crowd:
    """Streams of one server, numbered from 0. `news(number, bytes, monotonic seconds)` hears what they get.

    A stream that the server refuses or ends raises RuntimeError: no benchmark here expects it.
    """

    def __init__(self, port: int, news: News | None = None) -> None:
        self._port, self.news = port, news
        self._poll = select.epoll()
        self._streams: dict[int, _Stream] = {}
        self._files: list[int] = []
        self._opening = 0
        # Seconds from the request to the first byte of the stream itself, in the order of arrival.
        self.first_bytes: list[float] = []

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def all_open(self) -> bool:
        """Whether every stream has got its first byte."""
        return self._opening == 0

    def open(self, paths: Sequence[str], seconds: float = 180) -> None:
        """Open one more stream for each path and wait until all have their first byte. Raises TimeoutError."""
        waiting = iter(paths)
        deadline = time.monotonic() + seconds
        is_more = True
        while is_more or self._opening:
            while is_more and self._opening < OPENING_MAX:
                path = next(waiting, None)
                is_more = path is not None
                if path is not None:
                    self._files.append(self._ask(len(self._files), path))
            self._look(TICK_SECONDS)
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._opening} of {len(self)} streams have no first byte after {seconds:g} s")

    def reopen(self, number: int, path: str, more: str = "") -> None:
        """Drop a stream as a closed browser tab does, and ask for it again; `more` are further header lines."""
        old = self._streams.pop(self._files[number])
        self._opening -= not old.is_open
        old.socket.close()
        self._files[number] = self._ask(number, path, more)

    def read(self, until: Callable[[], bool], seconds: float, what: str) -> None:
        """Take in what arrives until it is so. Raises TimeoutError that says what did not come true."""
        deadline = time.monotonic() + seconds
        while not until():
            self._look(TICK_SECONDS)
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not within {seconds:g} s")

    def read_for(self, seconds: float) -> None:
        """Take in what arrives for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._look(TICK_SECONDS)

    def close(self) -> None:
        """Drop every stream."""
        for stream in self._streams.values():
            stream.socket.close()
        self._streams.clear()
        self._poll.close()

    def _ask(self, number: int, path: str, more: str = "") -> int:
        asked_at = time.monotonic()
        connection = socket.create_connection((LOOPBACK, self._port), timeout=10)
        connection.sendall(HEAD.format(path=path, port=self._port, more=more).encode())
        connection.setblocking(False)
        file = connection.fileno()
        self._poll.register(file, select.EPOLLIN)
        self._streams[file] = _Stream(number, connection, asked_at)
        self._opening += 1
        return file

    def _look(self, seconds: float) -> None:
        for file, _ in self._poll.poll(seconds):
            stream = self._streams[file]
            data = stream.socket.recv(PIECE_BYTES)
            now = time.monotonic()
            if not data:
                raise RuntimeError(f"the server ended stream {stream.number}: {stream.head[:300]!r}")
            if not stream.is_open:
                data = self._opened(stream, data, now)
            if data and self.news is not None:
                self.news(stream.number, data, now)

    def _opened(self, stream: _Stream, data: bytes, now: float) -> bytes:
        """What of the body is there."""
        head, _, body = (stream.head + data).partition(b"\r\n\r\n")
        if not body:
            stream.head += data
            return b""
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"stream {stream.number} was refused: {head[:300]!r} {body[:300]!r}")
        stream.head, stream.is_open = b"", True
        self._opening -= 1
        self.first_bytes.append(now - stream.asked_at)
        return body
