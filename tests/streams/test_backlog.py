"""A log far beyond every cap: read in pages, further at every connection, in little memory."""

import contextlib
import itertools
import random
import sys
from pathlib import Path

import pytest

from tests.conftest import serve
from tests.make import succeed
from tests.streams.apis import api_process, memory_mib
from tests.streams.cutting import at_random, relay
from tests.streams.event_source import EventSource
from tests.streams.logs import grow, long_job
from tests.streams.oracle import check, committed
from tests.streams.raw import connection, read_until, request
from todoke.model.event import TERMINAL
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.ledger import Ledger

MEMORY_MIB = 40
PAGE_BYTES = 32 * 1024


@pytest.mark.parametrize("events", [10_000, pytest.param(100_000, marks=[pytest.mark.full, pytest.mark.timeout(600)])])
async def test_a_backlog_cut_after_every_few_pages(
    settings: Settings, database: Database, ledger: Ledger, tmp_path: Path, seed: int, events: int
) -> None:
    rng = random.Random(seed)
    attempt = await long_job(database, ledger, events)
    await succeed(ledger, attempt)
    log = (await committed(database, attempt.id))[attempt.id]
    assert len(log) == events + 1
    async with api_process(settings, tmp_path) as process:
        await _warm(process.url, attempt.id)
        memory = memory_mib(process)
        cuts = at_random(lambda: rng.randrange(2 * PAGE_BYTES, events * 60))
        async with relay(process.url, cuts=cuts) as through:
            url = f"{through.url}/jobs/{attempt.id}/events"
            async with EventSource(url, "earliest", scale=0.001) as source:
                await source.closed(400)
        if sys.platform == "linux":
            assert memory_mib(process) - memory < MEMORY_MIB
    check(log, source.dispatched, after=0)
    assert source.connects > 5
    assert all(later > earlier for earlier, later in itertools.pairwise(source.known_at)), "no livelock"


async def test_a_backlog_that_grows_while_it_is_read(settings: Settings, database: Database, ledger: Ledger) -> None:
    """The ring is overrun under a reader's feet: it goes back to the log, and over to the ring again."""
    attempt = await long_job(database, ledger, 2_000)
    async with serve(settings) as url:
        async with EventSource(f"{url}/jobs/{attempt.id}/events", "earliest") as source:
            for step in (1, 63, 64, 65, 500, 1, 300):
                seen = len(source.dispatched)
                await source.until(lambda source, seen=seen: len(source.dispatched) >= max(seen, 1))
                await grow(database, attempt.id, step)
            await succeed(ledger, attempt)
            await source.closed(40)
    check((await committed(database, attempt.id))[attempt.id], source.dispatched, after=0)


async def test_who_comes_without_a_cursor_is_not_shown_the_backlog(
    settings: Settings, database: Database, ledger: Ledger
) -> None:
    attempt = await long_job(database, ledger, 10_000)
    async with serve(settings) as url:
        async with EventSource(f"{url}/jobs/{attempt.id}/events") as source:
            await source.until(lambda source: source.dispatched)
            await succeed(ledger, attempt)
            await source.closed()
    assert [frame.event for frame in source.dispatched] == ["snapshot", "job.succeeded"]
    assert sum(frame.event in TERMINAL for frame in source.dispatched) == 1


async def test_many_who_replay_at_once_leave_connections_for_others(
    settings: Settings, database: Database, ledger: Ledger
) -> None:
    attempt = await long_job(database, ledger, 3_000)
    await succeed(ledger, attempt)
    log = (await committed(database, attempt.id))[attempt.id]
    async with serve(settings) as url, contextlib.AsyncExitStack() as stack:
        sources = [EventSource(f"{url}/jobs/{attempt.id}/events", "earliest") for _ in range(10)]
        for source in sources:
            await stack.enter_async_context(source)
        async with connection(url) as (reader, writer):
            writer.write(request(url, f"/jobs/{attempt.id}", "Connection: close"))
            assert (await read_until(reader, lambda _: False)).startswith(b"HTTP/1.1 200 ")
        for source in sources:
            await source.closed(60)
    for source in sources:
        check(log, source.dispatched, after=0)


async def _warm(url: str, job_id: object) -> None:
    """Have everything loaded that a first replay loads."""
    async with connection(url) as (reader, writer):
        writer.write(request(url, f"/jobs/{job_id}/events?lastEventId=earliest"))
        await read_until(reader, lambda got: len(got) > 2 * PAGE_BYTES)
