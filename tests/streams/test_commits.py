"""Writers that die before they commit, and writers that commit in any order: no event without its commit, no hole."""

import asyncio
import contextlib
import itertools
import os
import random
import sys
from collections.abc import AsyncIterator
from typing import cast
from uuid import UUID

import asyncpg
import pytest

from tests.streams.half_writer import HELD
from tests.streams.stage import is_started, open_stage, reached
from tests.streams.writing import Writer
from todoke.runtime.settings import Settings
from todoke.store.database import Connection, Database

LENGTH = 7
ROUNDS = [2, pytest.param(40, marks=[pytest.mark.full, pytest.mark.timeout(900)])]
# Writers a job, jobs, events of each.
CROWDS = [(10, 4, 9), pytest.param((50, 10, 201), marks=[pytest.mark.full, pytest.mark.timeout(1800)])]
LOGS = """
    SELECT job.id, job.sequence, array_agg(event.sequence ORDER BY event.sequence) AS log
    FROM job JOIN event ON event.job_id = job.id
    GROUP BY job.id
"""


@pytest.mark.parametrize("end", ["killed", "rolled back"])
@pytest.mark.parametrize("rounds", ROUNDS)
async def test_what_was_not_committed_is_not_told(settings: Settings, seed: int, end: str, rounds: int) -> None:
    rng = random.Random(seed)
    async with open_stage(settings) as stage:
        for _ in range(rounds):
            [job] = await stage.writer.accept()
            await stage.watch([job])
            await stage.watch([job], cursor=None)
            for _ in range(rng.randint(0, LENGTH - 3)):
                await stage.writer.step(job, LENGTH)
            committed = await stage.writer.sequence(job)
            await stage.all(is_started)
            async with half_written(settings, job) as process:
                # It holds its row and has written its event: neither poll nor stream may know of it.
                assert await stage.writer.sequence(job) == committed
                if end == "killed":
                    process.kill()
                else:
                    process.stdin.write(b"\n")  # type: ignore[union-attr]
                assert await process.wait() == (-9 if end == "killed" else 0)
            assert all(reached(source.dispatched) <= committed for source in stage.sources[-2:])
            await stage.writer.live(job, LENGTH, rng, 0.01)
        await stage.ended()
        await stage.verdict()


@pytest.mark.parametrize("crowd", CROWDS)
async def test_commits_in_any_order_leave_a_contiguous_prefix_at_every_moment(
    settings: Settings, database_url: str, seed: int, crowd: tuple[int, int, int]
) -> None:
    rng, (writers_count, jobs_count, length) = random.Random(seed), crowd
    async with open_stage(settings) as stage, Database(database_url, connections_max=100) as database:
        jobs = await stage.writer.accept(jobs_count)
        await stage.watch(jobs)
        await stage.watch(jobs, cursor=None)
        await stage.all(is_started)
        scattered = Writer(cast(Database, Scattered(database, rng)), settings.notify_channel, stage.writer.committed)
        looking = asyncio.create_task(look(database_url))
        try:
            async with asyncio.TaskGroup() as group:
                for job in jobs * writers_count:
                    group.create_task(scattered.live(job, length, rng, 0.01))
        finally:
            looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking
        await stage.ended()
        logs = await stage.verdict()
        assert {len(log) for log in logs.values()} == {length}
        assert await has_inversions(database_url), "transactions that began first committed last"


class Scattered:
    """A Database whose transactions have their number long before they write, and commit long after."""

    def __init__(self, database: Database, rng: random.Random) -> None:
        self._database, self._rng = database, rng

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        async with self._database.transaction() as connection:
            await connection.fetchval("SELECT pg_current_xact_id()")
            await asyncio.sleep(self._rng.random() ** 4 * 0.5)
            yield connection
            await asyncio.sleep(self._rng.random() * 0.03)

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        return await self._database.fetch(query, *arguments)


async def look(url: str) -> None:
    """Read every log again and again, each time in one snapshot: 1..n, as its row says, and never less than before."""
    connection, before = await asyncpg.connect(url), dict[UUID, int]()
    try:
        for _ in itertools.count():
            for row in await connection.fetch(LOGS):
                assert row["log"] == list(range(1, row["sequence"] + 1)), row
                assert row["sequence"] >= before.get(row["id"], 0)
                before[row["id"]] = row["sequence"]
    finally:
        await connection.close()


async def has_inversions(url: str) -> bool:
    """Whether, in any job's log, a transaction with a lower number wrote the later event."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT job_id, xmin::text::bigint AS xid FROM event ORDER BY job_id, sequence")
    finally:
        await connection.close()
    return any(a["job_id"] == b["job_id"] and a["xid"] > b["xid"] for a, b in itertools.pairwise(rows))


@contextlib.asynccontextmanager
async def half_written(settings: Settings, job: UUID) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that has done the job's next step but for its commit."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.streams.half_writer",
        settings.notify_channel,
        str(job),
        env=os.environ | {"DATABASE_URL": settings.database_url.get_secret_value()},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            assert (await process.stdout.readline()).decode().strip() == HELD
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
