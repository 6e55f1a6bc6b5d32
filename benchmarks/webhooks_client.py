"""Clients that post what the notifier posts, from no ledger and into none: what sending alone costs.

    python -m benchmarks.webhooks_client KIND COUNT SINK_PID URL [URL …]

KIND: transport (the notifier's own), httpx, aiohttp, raw (a bare asyncio protocol, whose answer is not even parsed).
64 in flight. Prints one line of JSON: posts, seconds, processor seconds of client and sink.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import cycle, islice
from urllib.parse import urlsplit

import aiohttp
import httpx
import uvloop

from benchmarks import cpu
from notifier.transport import Request, VettedTransport
from todoke.dev.ports import LOOPBACK
from todoke.runtime.collector import calm_collector
from todoke.wire.destination import Rules

IN_FLIGHT = 64
WARM_UP = 200
BODY = json.dumps({"type": "job.accepted", "data": {"metadata": {"note": "x" * 960}}}).encode()
HEADERS = {
    "content-type": "application/json",
    "user-agent": "Todoke/benchmark",
    "accept": "*/*",
    "accept-encoding": "identity",
    "todoke-attempt": "1",
    "webhook-id": "evt_0123456789abcdef0123456789abcdef_1",
    "webhook-timestamp": "1764000000",
    "webhook-signature": f"v1,{'A' * 44}",
}

Post = Callable[[str], Awaitable[int]]


@asynccontextmanager
async def by_transport(urls: Sequence[str]) -> AsyncIterator[Post]:
    """The notifier's own transport."""
    async with VettedTransport(Rules(hosts=tuple({urlsplit(url).netloc for url in urls}))) as transport:

        async def post(url: str) -> int:
            reply = await transport.send(Request(url, HEADERS, BODY))
            await reply.read(asyncio.get_running_loop().time() + 1)
            return reply.status

        yield post


@asynccontextmanager
async def by_httpx(_urls: Sequence[str]) -> AsyncIterator[Post]:
    """httpx as its documentation shows it, with room for every connection."""
    limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
    async with httpx.AsyncClient(limits=limits, timeout=15, trust_env=False) as client:

        async def post(url: str) -> int:
            return (await client.post(url, content=BODY, headers=HEADERS)).status_code

        yield post


@asynccontextmanager
async def by_aiohttp(_urls: Sequence[str]) -> AsyncIterator[Post]:
    """aiohttp as its documentation shows it."""
    connector = aiohttp.TCPConnector(limit=IN_FLIGHT)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(15)) as session:

        async def post(url: str) -> int:
            async with session.post(url, data=BODY, headers=HEADERS) as answer:
                await answer.read()
                return answer.status

        yield post


class Raw(asyncio.Protocol):
    """Writes bytes, takes whatever comes back for the answer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.answer.set_result(int(data[9:12]))

    async def post(self, request: bytes) -> int:
        """The status that came back."""
        self.answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.transport.write(request)  # type: ignore[attr-defined]
        return await self.answer


@asynccontextmanager
async def by_raw(_urls: Sequence[str]) -> AsyncIterator[Post]:
    """The least that asyncio can do."""
    idle: dict[int, list[Raw]] = {}
    lines = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())

    async def post(url: str) -> int:
        parts = urlsplit(url)
        port = parts.port or 80
        kept = idle.setdefault(port, [])
        loop = asyncio.get_running_loop()
        raw = kept.pop() if kept else (await loop.create_connection(Raw, LOOPBACK, port))[1]
        head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\n{lines}content-length: {len(BODY)}\r\n\r\n"
        status = await raw.post(head.encode() + BODY)
        kept.append(raw)
        return status

    yield post
    for raw in (raw for kept in idle.values() for raw in kept):
        raw.transport.close()


KINDS = {"transport": by_transport, "httpx": by_httpx, "aiohttp": by_aiohttp, "raw": by_raw}


async def measure(kind: str, count: int, sink_pid: int, urls: Sequence[str]) -> dict[str, object]:
    """Post `count` times, once the connections are warm. Raises RuntimeError for an answer other than 200."""
    async with KINDS[kind](urls) as post:
        await _post_all(post, islice(cycle(urls), min(count, WARM_UP)))
        calm_collector()
        meter = cpu.Meter({"sender": lambda: cpu.own(os.getpid()), "sink": lambda: cpu.own(sink_pid)})
        began = time.monotonic()
        await _post_all(post, islice(cycle(urls), count))
        return {"jobs": count, "seconds": time.monotonic() - began, "cpu": meter.spent()}


async def _post_all(post: Post, urls: Iterator[str]) -> None:
    async def one_after_the_other() -> None:
        for url in urls:
            status = await post(url)
            if status != 200:
                raise RuntimeError(f"answered {status}")

    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(one_after_the_other())


def main(arguments: Sequence[str]) -> int:
    """Measure and say so."""
    kind, count, sink_pid, *urls = arguments
    print(json.dumps(uvloop.run(measure(kind, int(count), int(sink_pid), urls))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
