"""PostgreSQL really goes down and comes back under open streams: no error status, no gap, no help from outside."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import httpx
import pytest

from tests.conftest import make_settings, serve
from tests.make import accept, start, succeed
from tests.service.test_stream import Reading, watch
from todoke.dev.aws import Emulator
from todoke.dev.postgres import Postgres
from todoke.store.database import Database
from todoke.store.ledger import Ledger
from todoke.store.migrate import migrate


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[Postgres]:
    """A server of this test's own, to be stopped and killed."""
    with Postgres(tmp_path / "data", "secret", durable=True) as server:
        migrate(server.url)
        yield server


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_streams_live_through_a_restart(
    own_postgres: Postgres, emulator: Emulator, queue_url: str, end: str
) -> None:
    settings = make_settings(own_postgres.url, queue_url, emulator)
    async with (
        Database(own_postgres.url) as database,
        serve(settings) as url,
        httpx.AsyncClient(base_url=url, timeout=20) as api,
    ):
        ledger = Ledger(database, settings.notify_channel)
        job_id = await accept(ledger)
        async with watch(api, job_id, "earliest") as reading:
            cursor = (await reading.next()).last_event_id
            await asyncio.to_thread(own_postgres.stop if end == "stop" else own_postgres.kill)
            for header in (None, cursor, "nonsense"):
                async with watch(api, job_id, header=header) as turned_away:
                    assert turned_away.answer.status_code == 200
                    assert turned_away.answer.headers["content-type"].startswith("text/event-stream")
                    assert [frame.data for frame in await turned_away.rest()] == ['{"reason":"unavailable"}']
                    assert turned_away.decoder.retry_milliseconds in range(1000, 30_001)
            assert (await api.get(f"/jobs/{job_id}")).status_code == 503, "a poll may be told so"
            assert (await api.post(f"/jobs/{job_id}/cancel")).status_code == 503
            await asyncio.to_thread(own_postgres.start)
            await _ready(api)
            await succeed(ledger, await start(ledger, job_id))
            seen = [frame.event for frame in await reading.rest()]
        assert seen == ["job.started", "job.succeeded"]
        async with watch(api, job_id, header=cursor) as resumed:
            assert [frame.event for frame in await resumed.rest()] == ["job.started", "job.succeeded"]


async def test_a_feed_lives_through_a_restart(own_postgres: Postgres, emulator: Emulator, queue_url: str) -> None:
    settings = make_settings(own_postgres.url, queue_url, emulator)
    async with (
        Database(own_postgres.url) as database,
        serve(settings) as url,
        httpx.AsyncClient(base_url=url, timeout=20) as api,
    ):
        ledger = Ledger(database, settings.notify_channel)
        async with api.stream("GET", "/events") as answer:
            reading = Reading(answer)
            assert (await reading.next()).event == "snapshot"
            await asyncio.to_thread(own_postgres.kill)
            async with api.stream("GET", "/events", params={"lastEventId": "earliest"}) as turned_away:
                assert turned_away.status_code == 200
                assert [frame.data for frame in await Reading(turned_away).rest()] == ['{"reason":"unavailable"}']
            listed = await api.get("/events", headers={"Accept": "application/json"})
            assert (listed.status_code, listed.json()["code"]) == (503, "UNAVAILABLE")
            await asyncio.to_thread(own_postgres.start)
            await _ready(api)
            job_id = await accept(ledger)
            await succeed(ledger, await start(ledger, job_id))
            seen = [(await reading.next()).event for _ in range(3)]
        assert seen == ["job.accepted", "job.started", "job.succeeded"]


async def test_a_feed_misses_nothing_when_transaction_ids_are_given_twice(
    own_postgres: Postgres, emulator: Emulator, queue_url: str
) -> None:
    """A transaction that only says something leaves its id nowhere on the disk; after a crash another one gets it."""
    settings = make_settings(own_postgres.url, queue_url, emulator)
    as_list = {"Accept": "application/json"}
    async with serve(settings) as url, httpx.AsyncClient(base_url=url, timeout=20) as api:
        for _ in range(10):
            before = await _current_xid(own_postgres.url, idle_transactions=50)
            await _ready(api)
            cursor = (await api.get("/events", headers=as_list)).json()["cursor"]
            await asyncio.to_thread(own_postgres.kill)
            await asyncio.to_thread(own_postgres.start)
            if await _current_xid(own_postgres.url) < before:
                break
        else:
            pytest.fail("no id was given twice")
        async with Database(own_postgres.url) as database:
            ledger = Ledger(database, settings.notify_channel)
            await succeed(ledger, await start(ledger, await accept(ledger)))
        answer = await api.get("/events", params={"after": cursor}, headers=as_list)
        assert [event["type"] for event in answer.json()["events"]] == ["job.accepted", "job.started", "job.succeeded"]


async def _current_xid(url: str, idle_transactions: int = 0) -> int:
    connection = await asyncpg.connect(url)
    try:
        for _ in range(idle_transactions):
            await connection.execute("NOTIFY nobody")
        return int(await connection.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"))
    finally:
        await connection.close()


async def _ready(api: httpx.AsyncClient) -> None:
    async with asyncio.timeout(20):
        while (await api.get("/readyz")).status_code != 200:
            await asyncio.sleep(0.05)
