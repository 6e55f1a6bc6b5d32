"""The bell proves that it hears, says loudly when it cannot, and mends itself."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from tests.conftest import until
from tests.faults.proxy import Proxy
from tests.make import accept
from tests.pooler import pooled
from todoke.model.errors import InvalidInput
from todoke.model.event import Hint
from todoke.store.bell import Bell
from todoke.store.ledger import Ledger


class Ear:
    """What a bell has told."""

    def __init__(self) -> None:
        self.hints: list[Hint] = []
        self.looks = 0

    def heard(self, hints: object) -> None:
        if hints is None:
            self.looks += 1
        else:
            self.hints += hints  # type: ignore[call-overload]


@contextlib.asynccontextmanager
async def listening(bell: Bell) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(bell.listen())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_a_transaction_pooler_is_refused_at_the_start(database_url: str, tmp_path: Path) -> None:
    with pooled(database_url, tmp_path) as url:
        bell = Bell(url, "todoke", Ear().heard, notify_url=database_url, must_hear=True)
        with pytest.raises(InvalidInput, match="TODOKE_LISTEN_DATABASE_URL"):
            async with asyncio.timeout(60):
                await bell.listen()
        assert not bell.is_listening


async def test_a_notify_through_a_pooler_is_heard_by_a_direct_listener(
    database_url: str, tmp_path: Path, ledger: Ledger
) -> None:
    ear = Ear()
    with pooled(database_url, tmp_path) as url:
        bell = Bell(database_url, "todoke", ear.heard, notify_url=url, must_hear=True)
        async with listening(bell):
            await until(lambda: bell.is_listening, 30)
            job_id = await accept(ledger)
            await until(lambda: [hint.job_id for hint in ear.hints] == [job_id])


async def test_postgresql_being_away_at_the_start_stops_nothing(database_url: str) -> None:
    async with Proxy(database_url) as proxy:
        await proxy.cut()
        bell = Bell(proxy.url, "todoke", Ear().heard, notify_url=database_url, must_hear=True)
        async with listening(bell) as task:
            await asyncio.wait({task}, timeout=1)
            assert not task.done()
            await proxy.mend()
            await until(lambda: bell.is_listening, 30)


async def test_a_silent_connection_is_noticed_and_made_anew(database_url: str) -> None:
    ear = Ear()
    async with Proxy(database_url) as proxy:
        bell = Bell(proxy.url, "todoke", ear.heard, notify_url=database_url, must_hear=True)
        async with listening(bell):
            await until(lambda: bell.is_listening, 30)
            proxy.swallow()
            await until(lambda: not bell.is_listening, 25)  # the design's bound
            await proxy.mend()
            await until(lambda: bell.is_listening, 30)
    assert ear.looks == 2, "what was missed is read after each connect"


async def test_a_listener_that_is_ended_again_and_again_comes_back(database_url: str) -> None:
    ear = Ear()
    bell = Bell(database_url, "todoke", ear.heard)
    other = await asyncpg.connect(database_url)
    async with listening(bell):
        for times in range(1, 4):
            await until(lambda times=times: bell.is_listening and ear.looks == times, 30)  # type: ignore[misc]
            await other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await until(lambda: not bell.is_listening, 30)
    await other.close()


async def test_the_clock_of_the_database_is_measured(database_url: str) -> None:
    bell = Bell(database_url, "todoke", Ear().heard)
    async with listening(bell):
        await until(lambda: bell.clock_offset != 0.0, 30)
        assert abs(bell.clock_offset) < 5
