"""PostgreSQL is restarted or dies under open streams: the sockets stay open, and nothing is lost or told twice."""

import asyncio
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import make_settings, until
from tests.streams.servers import begin, primary, run, takes_connections
from tests.streams.stage import is_started, open_stage
from todoke.dev.aws import Emulator
from todoke.dev.postgres import Postgres

# Fast and immediate shutdown, and what a crash or the kernel's memory killer does.
ENDS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT, "killed": signal.SIGKILL}
LOADS = [(10, 9, 1), pytest.param((60, 81, 12), marks=[pytest.mark.full, pytest.mark.timeout(900)])]


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[Postgres]:
    with primary(tmp_path) as server:
        yield server


@pytest.mark.parametrize("end", [*ENDS, "backend"])
@pytest.mark.parametrize("load", LOADS)
async def test_a_restart_in_mid_stream(
    own_postgres: Postgres, emulator: Emulator, queue_url: str, seed: int, end: str, load: tuple[int, int, int]
) -> None:
    rng, (jobs_count, length, restarts) = random.Random(seed), load
    async with open_stage(make_settings(own_postgres.url, queue_url, emulator)) as stage:
        jobs = await stage.writer.accept(jobs_count)
        await stage.watch(jobs * 2)
        await stage.watch(jobs, cursor=None)
        await stage.all(is_started)
        lives = asyncio.create_task(stage.live(jobs, length, rng, 0.3))
        for _ in range(restarts):
            await asyncio.sleep(rng.uniform(0.2, 1))
            if end == "backend":
                await crash_backend(own_postgres)
            else:
                own_postgres.child.send(ENDS[end])
                await until(own_postgres.child.exited)
                await asyncio.sleep(rng.uniform(0, 2))
                await begin(own_postgres)
        await lives
        await stage.ended()
        await stage.verdict()
        assert all(source.connects == 2 for source in stage.sources), (
            "the sockets stayed open: one stream, then the 204"
        )


async def crash_backend(server: Postgres) -> None:
    """One backend is killed, whereupon the server ends all others and recovers."""
    before = await run(server.url, "SELECT pg_postmaster_start_time()::text")
    pid = await run(server.url, "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%' OR query LIKE '%notify%'")
    assert isinstance(pid, int)
    os.kill(pid, signal.SIGKILL)
    await takes_connections(server)
    assert await run(server.url, "SELECT pg_postmaster_start_time()::text") == before
