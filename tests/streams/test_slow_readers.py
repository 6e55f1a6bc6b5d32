"""Readers that are slow, stopped, or take nothing: the API's memory stays, their sockets go, and others notice nothing.

A real process, because the kernel has its part in this. Its write deadline is shorter, but in the long run as in life.
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest

from service.seat import WRITE_SECONDS
from tests.conftest import REPOSITORY
from tests.faults.processes import Process, until
from tests.make import accept, start, succeed
from tests.streams.apis import api_process, connections, memory_mib
from tests.streams.event_source import EventSource, Parser
from tests.streams.logs import long_job
from tests.streams.oracle import check, committed
from tests.streams.raw import connection, request, until_open
from todoke.model.event import Event
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.ledger import Ledger
from todoke.wire.sse import Frame

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is asserted is read from /proc")

DEADLINES = [2.0, pytest.param(WRITE_SECONDS, marks=[pytest.mark.full, pytest.mark.timeout(400)])]
# More than the kernel's buffers of both sides take.
EVENTS = 30_000
READERS = 4
MEMORY_MIB = 30


@contextlib.asynccontextmanager
async def api(settings: Settings, folder: Path, deadline: float) -> AsyncIterator[Process]:
    """An API with this write deadline, warm."""
    quick = settings.model_copy(update={"stream_heartbeat_seconds": 0.2})
    async with api_process(quick, folder, "tests.streams.hasty", str(deadline)) as process:
        yield process


@contextlib.asynccontextmanager
async def stuck(url: str, path: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A client process that has begun to read and is then stopped."""
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.streams.stuck", url, path, cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE
    )
    assert client.stdout is not None
    try:
        assert int(await client.stdout.readline()) > 0
        client.send_signal(signal.SIGSTOP)
        yield client
    finally:
        client.kill()
        await client.communicate()


async def lively(url: str, ledger: Ledger, database: Database, jobs: int = 6) -> None:
    """Others: their jobs begin and end meanwhile, and they see all of it."""
    for _ in range(jobs):
        job_id = await accept(ledger)
        async with EventSource(f"{url}/jobs/{job_id}/events", "earliest") as source:
            await source.until(lambda source: source.dispatched)
            await succeed(ledger, await start(ledger, job_id))
            await source.closed(10)
        check(await committed_of(database, job_id), source.dispatched, after=0)


async def committed_of(database: Database, job_id: UUID) -> list[Event]:
    return (await committed(database, job_id))[job_id]


@pytest.mark.parametrize("deadline", DEADLINES)
async def test_stopped_clients_are_let_go_and_cost_no_memory(
    settings: Settings, database: Database, ledger: Ledger, tmp_path: Path, deadline: float
) -> None:
    attempt = await long_job(database, ledger, EVENTS)
    async with api(settings, tmp_path, deadline) as process, contextlib.AsyncExitStack() as stack:
        await lively(process.url, ledger, database, 2)
        memory = memory_mib(process)
        path = f"/jobs/{attempt.id}/events?lastEventId=earliest"
        for _ in range(READERS):
            await stack.enter_async_context(stuck(process.url, path))
        await lively(process.url, ledger, database)
        assert memory_mib(process) - memory < MEMORY_MIB
        await until_open(process.url, 0, deadline * 4 + 10)
        # uvicorn waits for what is unsent to leave; only the kernel can end that.
        await until(lambda: connections(process) == 0, deadline * 4 + 10, lambda: connections(process))
        assert memory_mib(process) - memory < MEMORY_MIB
        assert len(process.logged("stream.stalled")) in (0, READERS)


@pytest.mark.parametrize("deadline", DEADLINES)
async def test_a_window_that_closes_among_heartbeats(
    settings: Settings, database: Database, ledger: Ledger, tmp_path: Path, deadline: float
) -> None:
    job_id = await accept(ledger)
    quick = settings.model_copy(update={"stream_heartbeat_seconds": 0.01})
    async with api_process(quick, tmp_path, "tests.streams.hasty", str(deadline)) as process:
        await lively(process.url, ledger, database, 2)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(READERS):
                reader, writer = await stack.enter_async_context(connection(process.url, receive_bytes=1))
                writer.write(request(process.url, f"/jobs/{job_id}/events"))
                assert await reader.read(1)
                writer.transport.pause_reading()  # type: ignore[attr-defined]
            await lively(process.url, ledger, database, 3)
            await until_open(process.url, 0, deadline * 4 + 20)
            await until(lambda: connections(process) == 0, deadline * 4 + 20, lambda: connections(process))


@pytest.mark.parametrize("deadline", DEADLINES)
async def test_a_reader_of_a_kilobyte_a_second_gets_on_and_others_are_not_held_up(
    settings: Settings, database: Database, ledger: Ledger, tmp_path: Path, deadline: float
) -> None:
    """It may be cut and has to come back, but each time it has got further, frame by frame, without a hole."""
    attempt = await long_job(database, ledger, EVENTS)
    log = await committed_of(database, attempt.id)
    async with api(settings, tmp_path, deadline) as process:
        await lively(process.url, ledger, database, 2)
        memory = memory_mib(process)
        others = asyncio.create_task(lively(process.url, ledger, database))
        parser, connects = Parser("earliest"), 0
        frames: list[Frame] = []
        while connects < 3 or not others.done():
            connects += 1
            before = len(frames)
            async with connection(process.url, receive_bytes=4_096) as (reader, writer):
                cursor = f"Last-Event-ID: {parser.last_event_id}"
                writer.write(request(process.url, f"/jobs/{attempt.id}/events", cursor, version="1.0"))
                await reader.readuntil(b"\r\n\r\n")
                parser = Parser(parser.last_event_id)
                async with asyncio.timeout(deadline * 4 + 20):
                    with contextlib.suppress(OSError):
                        while (piece := await reader.read(51)) and len(frames) < before + 5:
                            frames += parser.feed(piece)
                            await asyncio.sleep(0.05)
            assert len(frames) > before, "each connection gets on"
        await others
        assert memory_mib(process) - memory < MEMORY_MIB
    check(log, frames, after=0, is_complete=False)
