"""An asynchronous replica is promoted and lacks the last commits, which readers have seen: the stream tells them.

The new server gives the same numbers to other events. A reader that went on from its cursor would be wrong for ever.
"""

import asyncio
import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import pytest

from tests.conftest import make_settings
from tests.faults.proxy import Proxy
from tests.streams import oracle
from tests.streams.event_source import EventSource
from tests.streams.servers import begin, caught_up, cut_off, primary, run, standby_of
from tests.streams.stage import Stage, gaps, has_told, is_started, open_stage
from tests.streams.writing import Writer
from todoke.dev.aws import Emulator
from todoke.dev.postgres import Postgres
from todoke.model.event import Event
from todoke.store.database import Database
from todoke.wire.sse import Frame

KEPT, LOST, LENGTH = 4, 6, 9

# What each way leaves alive of the old primary, and of connections to it, once the replica is promoted.
WAYS = ["dies", "listener_lingers", "readers_linger", "both_answer", "promoted_late"]
RESETS_MAX = 6


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[Postgres, Postgres]]:
    with primary(tmp_path) as first, standby_of(first, tmp_path) as second:
        yield first, second


class Roads:
    """The ways from the API to its database: one for reading, one for listening. Each can be led elsewhere."""

    def __init__(self, reading: Proxy, listening: Proxy) -> None:
        self.reading, self.listening = reading, listening

    def lead_to(self, server: Postgres) -> None:
        """New connections go there."""
        for road in (self.reading, self.listening):
            road._target = urlsplit(server.url)


@pytest.mark.parametrize("way", WAYS)
async def test_a_promotion_that_loses_commits(
    servers: tuple[Postgres, Postgres], emulator: Emulator, queue_url: str, seed: int, way: str
) -> None:
    old, new = servers
    await begin(new)
    async with Proxy(old.url) as reading, Proxy(old.url) as listening:
        roads = Roads(reading, listening)
        settings = make_settings(reading.url, queue_url, emulator, listen_database_url=listening.url)
        holes = gaps()
        async with open_stage(settings, writer_url=old.url) as stage:
            jobs = await stage.writer.accept(5)
            await stage.watch(jobs)
            await stage.watch(jobs, cursor=None)
            await write_to(stage.writer, jobs, KEPT)
            await caught_up(old, new)
            await cut_off(new)
            await write_to(stage.writer, jobs, LOST)
            await stage.all(partial(has_told, LOST))
            before = await oracle.committed(stage.writer.database)
            cursors = [source.last_event_id for source in stage.sources[: len(jobs)]]
            [unknown] = await stage.writer.accept()
            async with EventSource(f"{stage.api}/jobs/{unknown}/events") as orphan:
                await orphan.until(is_started)
                await fail_over(way, roads, old, new, stage, dict(zip(jobs, cursors, strict=True)))
                await orphan.closed(40)
            assert orphan.statuses[-1] == 404, "only the old server knew its job: it is not left waiting"
            async with Database(new.url) as database:
                writer = Writer(database, settings.notify_channel)
                # The same numbers again, and other events: the retry is charged now.
                await write_to(writer, jobs, LOST + 1, is_charged=True)
                await stage.all(partial(has_told_in_new_epoch, LOST + 1), 40)
                # Who comes back only now, with a cursor of before.
                for job, cursor in zip(jobs, cursors, strict=True):
                    await stage.watch([job], cursor)
                await write_to(writer, jobs, LENGTH, is_charged=True)
                await stage.ended()
                after = await oracle.committed(database)
            for job, began, source in stage.readers:
                assert set(source.statuses[:-1]) == {200}, source
                assert source.statuses[-1] == 204
                judge(before[job], after[job], source.dispatched, began)
            assert gaps() == holes


async def fail_over(
    way: str, roads: Roads, old: Postgres, new: Postgres, stage: Stage, cursors: Mapping[UUID, str]
) -> None:
    """Promote the replica. An operator's fence may be late: old connections outlive their server's dismissal."""
    if way in ("dies", "promoted_late"):
        await asyncio.to_thread(old.kill)
    roads.lead_to(new)
    if way == "promoted_late":
        # Connections find a server that is still in recovery.
        roads.reading.drop()
        roads.listening.drop()
        for job, cursor in cursors.items():
            await stage.watch([job], cursor)
        await asyncio.sleep(2)
    assert await run(new.url, "SELECT pg_promote()")
    if way == "listener_lingers":
        roads.reading.drop()
    if way == "readers_linger":
        roads.listening.drop()
        await asyncio.sleep(2)  # what is read meanwhile is the old server's
        roads.reading.drop()
    if way == "both_answer":
        roads.listening.drop()
        for writer in list(roads.reading._writers)[::4]:
            writer.transport.abort()
        await poll_at_once(stage.api, list(cursors))
        roads.reading.drop()


async def poll_at_once(api: str, jobs: Sequence[UUID]) -> None:
    """Have the API open more connections beside those it has, and use all of them for a while."""

    async def poll(client: httpx.AsyncClient, job: UUID) -> None:
        for _ in range(15):
            assert (await client.get(f"/jobs/{job}")).status_code == 202

    async with httpx.AsyncClient(base_url=api, timeout=20) as client:
        await asyncio.gather(*(poll(client, job) for job in jobs for _ in range(3)))


async def write_to(writer: Writer, jobs: Sequence[UUID], sequence: int, *, is_charged: bool = False) -> None:
    """Commit events until every job is there."""
    for job in jobs:
        while await writer.sequence(job) < sequence:
            await writer.step(job, LENGTH, is_charged=is_charged)


def has_told_in_new_epoch(sequence: int, source: EventSource) -> bool:
    return len(parts(source.dispatched)) > 1 and has_told(sequence, source)


def parts(frames: Sequence[Frame]) -> list[list[Frame]]:
    """The frames, divided where the epoch changes."""
    grouped = itertools.groupby(frames, lambda frame: frame.last_event_id.partition(".")[0])
    return [list(part) for _, part in grouped]


def judge(before: Sequence[Event], after: Sequence[Event], frames: Sequence[Frame], began: int | None) -> None:
    """Each epoch begins with a reset and tells its own server's log; the last is the new server's, to its end."""
    told = parts(frames)
    assert 1 <= len(told) <= RESETS_MAX, [frame.last_event_id for frame in frames][:100]
    logs = {id_of(told[0]): before, id_of(told[-1]): after}
    for number, part in enumerate(told):
        is_reset = part[0].event == "reset"
        assert is_reset or number == 0, [(frame.event, frame.last_event_id) for frame in frames]
        oracle.check(logs[id_of(part)], part, after=None if is_reset else began, is_complete=number == len(told) - 1)
    assert told[-1][0].event == "reset"


def id_of(part: Sequence[Frame]) -> str:
    return part[0].last_event_id.partition(".")[0]
