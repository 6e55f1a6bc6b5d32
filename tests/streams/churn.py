"""Readers that come and go in every way there is, and what an API process holds afterwards.

    python -m tests.streams.churn --hours 24

is the long form: an API and a PostgreSQL of its own, rounds of connects for so many hours, one line a round, and a
failure as soon as a round leaves something behind.
"""

import argparse
import asyncio
import contextlib
import os
import random
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

from tests.conftest import make_settings
from tests.faults.processes import Process, answers, launch
from tests.streams.event_source import EventSource
from tests.streams.servers import primary
from tests.streams.writing import Writer
from todoke.dev.aws import KEY_ID, SECRET, Emulator
from todoke.runtime.settings import Settings
from todoke.store.database import Database

AT_ONCE = 40
QUEUE_URL = "http://127.0.0.1:1/000000000000/none"
# What a round may leave: pages the allocator keeps, not something for each connect.
RSS_KIB_MAX = 8 * 1024


@dataclass(frozen=True)
class Held:
    """What a process holds. rss: KiB."""

    descriptors: int
    threads: int
    rss: int


def held(pid: int) -> Held:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    return Held(descriptors, int(status["Threads"]), int(status["VmRSS"].split()[0]))


async def settled(pid: int, descriptors: int, seconds: float = 20) -> Held:
    """What it holds, as soon as its descriptors are back; or after so many seconds, whatever it holds."""
    deadline = time.monotonic() + seconds
    while (now := held(pid)).descriptors > descriptors and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    return now


async def connects(api: str, live: UUID, ended: UUID, count: int, rng: random.Random) -> None:
    """So many connects, in as many ways as readers have to come and to go."""
    left = iter(range(count))
    ways = [read_to_the_end, leave_in_mid_stream, leave_at_once, leave_in_the_head, close_one_side]

    async def one_after_another() -> None:
        for _ in left:
            async with asyncio.timeout(60):
                await rng.choice(ways)(api, live, ended)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(one_after_another())


async def read_to_the_end(api: str, _live: UUID, ended: UUID) -> None:
    async with EventSource(f"{api}/jobs/{ended}/events", "earliest") as source:
        await source.closed(50)
        assert source.statuses == [200, 204], source


async def leave_in_mid_stream(api: str, live: UUID, _ended: UUID) -> None:
    async with EventSource(f"{api}/jobs/{live}/events") as source:
        await source.until(lambda it: it.dispatched, 50)


async def leave_at_once(api: str, live: UUID, _ended: UUID) -> None:
    async with requested(api, f"GET /jobs/{live}/events HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        """Gone before the answer."""


async def leave_in_the_head(api: str, live: UUID, _ended: UUID) -> None:
    async with requested(api, f"GET /jobs/{live}/events HTTP/1.1\r\nHost: loc"):
        """Gone before the question."""


async def close_one_side(api: str, live: UUID, _ended: UUID) -> None:
    request = f"GET /jobs/{live}/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with requested(api, request) as (reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write_eof()
        await reader.read()


@contextlib.asynccontextmanager
async def requested(api: str, request: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection on which this has been sent. It is reset at the end."""
    parts = urlsplit(api)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(request.encode())
        await writer.drain()
        yield reader, writer
    finally:
        writer.transport.abort()


async def two_jobs(writer: Writer) -> tuple[UUID, UUID]:
    """One that goes on and one that has ended."""
    live, ended = await writer.accept(2)
    await writer.live(ended, 9, random.Random(0), 0)
    return live, ended


async def rounds(process: Process, jobs: tuple[UUID, UUID], sizes: Sequence[int], rng: random.Random) -> list[Held]:
    """What the process holds before the first round, and after each. The first warms it up."""
    found = [held(process.pid)]
    for size in sizes:
        await connects(process.url, *jobs, size, rng)
        found.append(await settled(process.pid, max(item.descriptors for item in found)))
    return found


async def soak(settings: Settings, folder: Path, hours: float, connects_a_round: int, rng: random.Random) -> None:
    """Round after round; raises AssertionError when one leaves something behind."""
    ends_at = time.monotonic() + hours * 3600
    async with Database(settings.database_url.get_secret_value()) as database:
        jobs = await two_jobs(Writer(database, settings.notify_channel))
        process = await launch("api", (), settings, folder)
        try:
            await answers(process)
            [_, base] = await rounds(process, jobs, [connects_a_round], rng)
            while time.monotonic() < ends_at:
                [_, now] = await rounds(process, jobs, [connects_a_round], rng)
                print(f"{time.strftime('%F %T')} {now}", flush=True)
                assert now.descriptors <= base.descriptors + 8, (base, now)
                assert now.rss < base.rss + 4 * RSS_KIB_MAX, (base, now)
        finally:
            process.process.kill()
            await process.ended()


def main() -> None:
    parser = argparse.ArgumentParser(description="Connect and leave for hours; fail when anything is left behind.")
    parser.add_argument("--hours", type=float, default=24)
    parser.add_argument("--connects", type=int, default=10_000, help="in one round")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    chosen = parser.parse_args()
    os.environ |= {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}
    print(f"seed {chosen.seed}", flush=True)
    with (
        tempfile.TemporaryDirectory() as name,
        primary(folder := Path(name)) as server,
        Emulator(folder / "aws") as aws,
    ):
        settings = make_settings(server.url, QUEUE_URL, aws)
        asyncio.run(soak(settings, folder, chosen.hours, chosen.connects, random.Random(chosen.seed)))


if __name__ == "__main__":
    main()
