"""Callers of the submits benchmark, lean enough not to be what is measured: connections that ask and ask again.

python -m benchmarks.submits_client PLAN      (JSON: see Plan; prints JSON: Told)
"""

import asyncio
import json
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import uvloop

from todoke.dev.ports import LOOPBACK

END = b"\r\n\r\n"
LENGTH = b"content-length: "
PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Plan:
    """What to ask: `head` and `body` as text, with {key} where something of its own goes into each request.

    paths: asked in turn, one after another by each connection. warm_seconds: before counting begins.
    """

    port: int
    connections: int
    seconds: float
    warm_seconds: float
    method: str
    paths: list[str]
    lines: list[str]
    body: str = ""


@dataclass
class Told:
    """What came of it. latencies: seconds, of answers that came while it counted. codes: of all answers."""

    latencies: list[float] = field(default_factory=list)
    codes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


class Caller(asyncio.Protocol):
    """One connection: a request at a time, the next when its answer is whole."""

    def __init__(self, next_request: Callable[[], bytes], told: Told, clock: "Clock") -> None:
        self._next, self._told, self._clock = next_request, told, clock
        self._got = b""
        self._asked_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the loop."""
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self._got += data
        head_end = self._got.find(END)
        if head_end < 0:
            return
        head = self._got[:head_end].lower() + b"\r\n"
        place = head.find(LENGTH)
        size = int(head[place + len(LENGTH) : head.index(b"\r", place)]) if place >= 0 else 0
        if len(self._got) < head_end + len(END) + size:
            return
        code = head[9:12].decode()
        self._told.codes[code] = self._told.codes.get(code, 0) + 1
        now = time.perf_counter()
        if self._clock.begins_at <= self._asked_at and now <= self._clock.ends_at:
            self._told.latencies.append(now - self._asked_at)
        self._got = b""
        if now < self._clock.ends_at:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Called by the loop."""
        self._clock.leave()

    def _ask(self) -> None:
        self._asked_at = time.perf_counter()
        self._transport.write(self._next())


@dataclass
class Clock:
    """When counting begins and ends, by the steady clock; open: connections that are there."""

    begins_at: float
    ends_at: float
    open: int
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def leave(self) -> None:
        """One connection has ended."""
        self.open -= 1
        if not self.open:
            self.over.set()


def requests(plan: Plan) -> Callable[[], bytes]:
    """Makes the next request."""
    lines = "\r\n".join([f"Host: {LOOPBACK}:{plan.port}", *plan.lines])
    body = plan.body.encode()
    length = f"\r\nContent-Length: {len(body)}" if body else ""
    heads = [f"{plan.method} {path} HTTP/1.1\r\n{lines}{length}\r\n\r\n".encode() for path in plan.paths]
    number = 0
    prefix = secrets.token_hex(6)

    def next_request() -> bytes:
        nonlocal number
        number += 1
        return heads[number % len(heads)].replace(b"{key}", f"{prefix}-{number}".encode()) + body

    return next_request


async def run(plan: Plan) -> Told:
    """Ask for as long as the plan says."""
    loop, told = asyncio.get_running_loop(), Told()
    began = time.perf_counter() + plan.warm_seconds
    clock = Clock(began, began + plan.seconds, plan.connections)
    next_request = requests(plan)
    for _ in range(plan.connections):
        await loop.create_connection(lambda: Caller(next_request, told, clock), LOOPBACK, plan.port)
    async with asyncio.timeout(plan.warm_seconds + plan.seconds + PATIENCE_SECONDS):
        await clock.over.wait()
    told.seconds = plan.seconds
    return told


if __name__ == "__main__":
    print(json.dumps(asdict(uvloop.run(run(Plan(**json.loads(sys.argv[1])))))))
