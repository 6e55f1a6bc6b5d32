"""Too many streams, streams that have lasted, and streams asked for a while: all of it told inside a 200."""

import asyncio
import json
import time

import httpx
import pytest

from tests.conftest import serve
from tests.make import WORKER, accept, start, succeed
from tests.streams.event_source import EventSource
from tests.streams.logs import grow, long_job
from tests.streams.oracle import check, committed
from todoke.model.job import Progress
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.ledger import Ledger

QUICK = {"stream_heartbeat_seconds": 0.2}


def reasons(source: EventSource) -> list[str]:
    return [json.loads(frame.data)["reason"] for frame in source.dispatched if frame.event == "reconnect"]


@pytest.mark.parametrize("limit", ["streams_max", "tenant_streams_max"])
async def test_too_many_are_asked_to_come_back_much_later(
    settings: Settings, database: Database, ledger: Ledger, limit: str
) -> None:
    ids = [await accept(ledger) for _ in range(6)]
    async with serve(settings.model_copy(update=QUICK | {limit: 3})) as url:
        sources = [EventSource(f"{url}/jobs/{job_id}/events", "earliest", scale=0.005) for job_id in ids]
        async with asyncio.TaskGroup() as group:
            for source in sources[:3]:
                await source.__aenter__()
                await source.until(lambda source: source.dispatched)
            for source in sources[3:]:
                await source.__aenter__()
                await source.until(lambda source: len(reasons(source)) >= 2)
            for source in sources[3:]:
                assert set(source.statuses) == {200}
                assert set(reasons(source)) == {"overloaded"}
                asked = [retry for retry in source.retries if retry > 5_000]
                assert len(asked) >= 2
                assert all(10_000 <= retry <= 30_000 for retry in asked)
            for job_id in ids:
                group.create_task(_finish(ledger, job_id))
            for source in sources:
                group.create_task(source.closed(30))
        for source in sources:
            await source.close()
    logs = await committed(database)
    for job_id, source in zip(ids, sources, strict=True):
        check(logs[job_id], source.dispatched, after=0)
        assert reasons(source) == [] or source in sources[3:]


async def test_rotation_is_a_farewell_and_loses_nothing(settings: Settings, database: Database, ledger: Ledger) -> None:
    brief = settings.model_copy(update=QUICK | {"stream_rotation_seconds": 0.15})
    attempt = await long_job(database, ledger, 500)
    async with serve(brief) as url:
        async with EventSource(f"{url}/jobs/{attempt.id}/events", "earliest", scale=0.01) as source:
            for turn in range(1, 5):
                await source.until(lambda source, turn=turn: len(reasons(source)) >= turn)  # type: ignore[misc]
                await grow(database, attempt.id, 3)
                await ledger.report([Progress(attempt.id, attempt.lease, turn, "")], WORKER)
            await succeed(ledger, attempt)
            await source.closed()
    check((await committed(database))[attempt.id], source.dispatched, after=0)
    assert set(reasons(source)) == {"rotation"}
    assert len(set(source.retries)) > 3, "readers that rotate together come apart"


async def test_rotation_that_is_shorter_than_a_replay_still_gets_on(
    settings: Settings, database: Database, ledger: Ledger
) -> None:
    attempt = await long_job(database, ledger, 3_000)
    await succeed(ledger, attempt)
    async with serve(settings.model_copy(update={"stream_rotation_seconds": 0.001})) as url:
        async with EventSource(f"{url}/jobs/{attempt.id}/events", "earliest", scale=0.001) as source:
            await source.closed(60)
    check((await committed(database))[attempt.id], source.dispatched, after=0)
    assert source.connects > 5


async def test_wait_ends_after_its_time_with_a_whole_answer(settings: Settings, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    async with serve(settings.model_copy(update=QUICK)) as url, httpx.AsyncClient(base_url=url, timeout=20) as api:
        seen = await api.get(f"/jobs/{job_id}/events?wait=5")
        assert seen.status_code == 200
        assert "event: snapshot" in seen.text, "news at once: it does not wait"
        cursor = seen.text.partition("id: ")[2].partition("\n")[0]
        began = time.monotonic()
        quiet = await api.get(f"/jobs/{job_id}/events?wait=1", headers={"Last-Event-ID": cursor})
        assert time.monotonic() - began > 0.7
        assert quiet.status_code == 200
        assert "event: " not in quiet.text
        waiting = asyncio.create_task(api.get(f"/jobs/{job_id}/events?wait=15", headers={"Last-Event-ID": cursor}))
        await start(ledger, job_id)
        async with asyncio.timeout(10):
            assert (await waiting).text.count("event: job.started") == 1


async def test_wait_is_as_good_as_a_stream_to_a_client_that_comes_back(
    settings: Settings, database: Database, ledger: Ledger
) -> None:
    ids = [await accept(ledger) for _ in range(5)]
    async with serve(settings.model_copy(update=QUICK)) as url:
        sources = [EventSource(f"{url}/jobs/{job_id}/events?wait=2", "earliest", scale=0.001) for job_id in ids]
        async with asyncio.TaskGroup() as group:
            for job_id, source in zip(ids, sources, strict=True):
                await source.__aenter__()
                group.create_task(source.closed(30))
                group.create_task(_finish(ledger, job_id))
        for source in sources:
            await source.close()
    logs = await committed(database)
    for job_id, source in zip(ids, sources, strict=True):
        check(logs[job_id], source.dispatched, after=0)
        assert reasons(source) == []


@pytest.mark.parametrize("wait", ["0", "31", "-1", "x", "1.5", "999999999999999999999"])
async def test_a_wait_that_makes_no_sense_is_refused_or_bounded(settings: Settings, ledger: Ledger, wait: str) -> None:
    job_id = await accept(ledger)
    await succeed(ledger, await start(ledger, job_id))
    async with serve(settings) as url, httpx.AsyncClient(base_url=url, timeout=10) as api:
        answer = await api.get(f"/jobs/{job_id}/events", params={"wait": wait})
        assert answer.status_code in (200, 400, 422)


async def _finish(ledger: Ledger, job_id: object) -> None:
    attempt = await start(ledger, job_id)  # type: ignore[arg-type]
    await asyncio.sleep(0.05)
    await succeed(ledger, attempt)
