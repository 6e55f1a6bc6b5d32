"""Connections cut at any byte, of a head, a frame, a page, the last event: nothing is lost, nothing comes twice."""

import asyncio
import random
from uuid import UUID

import pytest

from tests.conftest import serve
from tests.make import accept, start, succeed
from tests.streams.cutting import at_random, relay
from tests.streams.event_source import EventSource
from tests.streams.logs import long_job
from tests.streams.oracle import check, committed
from todoke.model.event import TERMINAL, Event
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.ledger import Ledger

AT_ONCE = 8
HURRY = 0.001


async def watched(url: str, log: list[Event], cut: int, *, is_reset: bool) -> int:
    """Watch a finished job over a first connection that is cut after that many bytes; how many it carried."""
    async with relay(url, cuts=[cut], is_reset=is_reset) as through:
        job_id = log[0].job_id
        async with EventSource(f"{through.url}/jobs/{job_id}/events", "earliest", scale=HURRY) as source:
            await source.closed()
    check(log, source.dispatched, after=0)
    assert source.statuses[-1] == 204, source
    assert sum(frame.event in TERMINAL for frame in source.dispatched) == 1
    return through.carried[0]


@pytest.mark.parametrize("is_reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("step", [23, pytest.param(1, marks=[pytest.mark.full, pytest.mark.timeout(600)])])
async def test_cut_at_every_byte_of_a_short_stream(
    settings: Settings, database: Database, ledger: Ledger, seed: int, step: int, is_reset: bool
) -> None:
    job_id = await accept(ledger)
    await succeed(ledger, await start(ledger, job_id))
    log = (await committed(database))[job_id]
    async with serve(settings) as url:
        whole = await watched(url, log, 2**20, is_reset=is_reset)
        # The ends of frames and the bytes about them always, of the others every `step`-th.
        places = set(range(random.Random(seed).randrange(step), whole + 1, step))
        places |= set(range(whole - 12, whole + 1)) | set(range(3))
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(cut: int) -> None:
            async with slots:
                await watched(url, log, cut, is_reset=is_reset)

        async with asyncio.TaskGroup() as group:
            for cut in places:
                group.create_task(one(cut))


async def test_cut_about_the_blank_line_of_every_frame(settings: Settings, database: Database, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    await succeed(ledger, await start(ledger, job_id))
    log = (await committed(database))[job_id]
    async with serve(settings) as url:
        head = await watched(url, log, 2**20, is_reset=False)
        ends = await _frame_ends(url, job_id)
        assert len(ends) >= len(log)
        assert max(ends) < head
        for end in ends:
            for cut in range(end - 2, end + 3):
                await watched(url, log, cut, is_reset=False)


@pytest.mark.parametrize(
    ("events", "connections"), [(700, 25), pytest.param(5_000, 400, marks=[pytest.mark.full, pytest.mark.timeout(300)])]
)
async def test_cut_in_the_middle_of_pages(
    settings: Settings, database: Database, ledger: Ledger, seed: int, events: int, connections: int
) -> None:
    rng = random.Random(seed)
    attempt = await long_job(database, ledger, events)
    await succeed(ledger, attempt)
    log = (await committed(database))[attempt.id]
    reach = 2 * sum(len(item.body) for item in log) // connections
    async with serve(settings) as url, relay(url, cuts=at_random(lambda: rng.randrange(reach))) as through:
        async with EventSource(f"{through.url}/jobs/{attempt.id}/events", "earliest", scale=HURRY) as source:
            await source.closed(60)
    check(log, source.dispatched, after=0)
    assert source.connects > connections // 3


async def test_cut_while_events_are_being_written(
    settings: Settings, database: Database, ledger: Ledger, seed: int
) -> None:
    rng = random.Random(seed)
    ids = [await accept(ledger) for _ in range(20)]
    async with serve(settings) as url:
        async with relay(url, cuts=at_random(lambda: rng.randrange(2_500))) as through:
            sources = [
                EventSource(f"{through.url}/jobs/{job_id}/events", "earliest" if n % 2 else None, scale=HURRY)
                for n, job_id in enumerate(ids * 2)
            ]
            async with asyncio.TaskGroup() as group:
                for source in sources:
                    group.create_task(_to_the_end(source))
                for job_id in ids:
                    group.create_task(_live(ledger, job_id, rng))
    logs = await committed(database)
    for n, (job_id, source) in enumerate(zip(ids * 2, sources, strict=True)):
        check(logs[job_id], source.dispatched, after=0 if n % 2 else None)


async def _live(ledger: Ledger, job_id: UUID, rng: random.Random) -> None:
    await asyncio.sleep(rng.random() / 10)
    attempt = await start(ledger, job_id)
    await asyncio.sleep(rng.random() / 10)
    await succeed(ledger, attempt)


async def _to_the_end(source: EventSource) -> None:
    async with source:
        await source.closed(40)


async def _frame_ends(url: str, job_id: UUID) -> list[int]:
    """Behind how many bytes of an answer each blank line stands."""
    host, _, port = url.rpartition("/")[2].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /jobs/{job_id}/events?lastEventId=earliest HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    answer = b""
    async with asyncio.timeout(10):
        while not answer.endswith(b"0\r\n\r\n"):
            answer += await reader.read(2**16)
    writer.transport.abort()
    return [place + 2 for place in range(len(answer)) if answer[place : place + 2] == b"\n\n"]
