"""`GET /events` over a real socket: the whole of a tenant, once, in order, from wherever a reader stopped."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import pytest

from service.feed_cursors import FeedCursors
from tests.conftest import serve, until
from tests.make import WORKER, accept, fail, start, succeed
from tests.service.test_stream import Reading
from todoke.model.feed import BEGINNING, Horizon, Place
from todoke.model.job import Progress
from todoke.runtime import metrics
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.feed import FeedReader
from todoke.store.ledger import Ledger
from todoke.wire import sse

SECRET = "a secret key of tests that is long enough"
LIST = {"Accept": "application/json"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return Settings.model_validate(settings.model_dump() | {"secret_keys": SECRET})


@pytest.fixture
def cursors() -> FeedCursors:
    return FeedCursors([SECRET])


@asynccontextmanager
async def feed(
    api: httpx.AsyncClient, cursor: str | None = None, *, header: str | None = None, **params: Any
) -> AsyncIterator[Reading]:
    if cursor is not None:
        params["lastEventId"] = cursor
    headers = {"Last-Event-ID": header} if header is not None else {}
    async with api.stream("GET", "/events", params=params, headers=headers) as answer:
        assert answer.status_code == 200
        yield Reading(answer)


async def take(reading: Reading, count: int) -> list[sse.Frame]:
    return [await reading.next() for _ in range(count)]


def told(frames: list[sse.Frame]) -> list[tuple[str, int]]:
    stories = [json.loads(frame.data)["data"] for frame in frames]
    return [(story["jobId"], story["sequence"]) for story in stories]


async def run_job(ledger: Ledger, **changes: Any) -> str:
    """A job that has succeeded: three events."""
    job_id = await accept(ledger, **changes)
    await succeed(ledger, await start(ledger, job_id))
    return str(job_id)


async def test_a_reader_without_a_cursor_sees_the_jobs_and_then_what_becomes_of_them(
    api: httpx.AsyncClient, ledger: Ledger
) -> None:
    old = await run_job(ledger)
    running = await accept(ledger)
    async with feed(api) as reading:
        assert reading.answer.headers["content-type"].startswith("text/event-stream")
        snapshot = await reading.next()
        assert snapshot.event == "snapshot"
        jobs = json.loads(snapshot.data)["data"]["jobs"]
        assert [(job["jobId"], job["sequence"]) for job in jobs] == [(str(running), 1), (old, 3)]
        await succeed(ledger, await start(ledger, running))
        new = await run_job(ledger)
        frames = await take(reading, 5)
    assert told(frames) == [(str(running), 2), (str(running), 3), (new, 1), (new, 2), (new, 3)]
    assert [frame.event for frame in frames[:2]] == ["job.started", "job.succeeded"]
    async with feed(api, header=snapshot.last_event_id) as reading:
        assert told(await take(reading, 5)) == told(frames), "the snapshot's cursor is that of its own moment"


async def test_a_frame_is_the_event_byte_for_byte(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await run_job(ledger)
    log = (await api.get(f"/jobs/{job_id}/events", headers=LIST)).text
    async with feed(api, "earliest") as reading:
        frames = await take(reading, 3)
    assert "[" + ",".join(frame.data for frame in frames) + "]" == log


async def test_every_place_of_interruption_resumes_without_gap_or_repeat(
    api: httpx.AsyncClient, ledger: Ledger
) -> None:
    for _ in range(3):
        await run_job(ledger)
    async with feed(api, "earliest") as reading:
        whole = await take(reading, 9)
    for seen in range(1, 9):
        async with feed(api, "earliest", header=whole[seen - 1].last_event_id) as reading:
            rest = await take(reading, 9 - seen)
            assert [(frame.event, frame.data) for frame in rest] == [(one.event, one.data) for one in whole[seen:]]


async def test_a_long_replay_comes_in_pages_and_goes_over_into_what_is_new(
    api: httpx.AsyncClient, ledger: Ledger
) -> None:
    jobs = [await accept(ledger, metadata=json.dumps("x" * 2_000)) for _ in range(450)]
    async with feed(api, "earliest") as reading:
        first = await take(reading, 100)
        late = await run_job(ledger)
        rest = await take(reading, 353)
    assert told(first + rest) == [(str(job_id), 1) for job_id in jobs] + [(late, 1), (late, 2), (late, 3)]
    assert len({frame.last_event_id for frame in first + rest}) == 453


async def test_many_readers_share_one_look_at_the_log(api: httpx.AsyncClient, ledger: Ledger) -> None:
    async with asyncio.TaskGroup() as group, feed(api) as other:
        await other.next()

        async def read() -> list[sse.Frame]:
            async with feed(api, "earliest") as reading:
                return await take(reading, 12)

        readers = [group.create_task(read()) for _ in range(8)]
        for _ in range(4):
            await run_job(ledger)
        frames = await take(other, 12)
    for reader in readers:
        assert [frame.data for frame in reader.result()] == [frame.data for frame in frames]


async def test_filters_are_applied_by_the_server(api: httpx.AsyncClient, ledger: Ledger) -> None:
    done, failed = await run_job(ledger), await accept(ledger)
    await fail(ledger, await start(ledger, failed))
    other = await accept(ledger, type="other")
    async with feed(api, "earliest", type=["job.succeeded", "job.failed"]) as reading:
        assert told(await take(reading, 2)) == [(done, 3), (str(failed), 3)]
        assert told([await follow_up(ledger, reading)])[0][1] == 3
    async with feed(api, "earliest", jobType="other") as reading:
        assert told(await take(reading, 1)) == [(str(other), 1)]
    async with feed(api, jobType="other") as reading:
        jobs = json.loads((await reading.next()).data)["data"]["jobs"]
        assert [job["jobId"] for job in jobs] == [str(other)]
    listed = (await api.get("/events", params={"type": "job.failed"}, headers=LIST)).json()
    assert [item["data"]["jobId"] for item in listed["events"]] == [str(failed)]
    refused = await api.get("/events", params={"type": "job.finished"})
    assert (refused.status_code, refused.json()["code"]) == (422, "INVALID_INPUT")


async def follow_up(ledger: Ledger, reading: Reading) -> sse.Frame:
    await run_job(ledger)
    return await reading.next()


async def test_a_filtered_readers_cursor_moves_with_the_heartbeat(settings: Settings, ledger: Ledger) -> None:
    often = settings.model_copy(update={"stream_heartbeat_seconds": 0.1})
    async with serve(often) as url, httpx.AsyncClient(base_url=url) as api:
        async with feed(api, type="job.failed") as reading:
            first = (await reading.next()).last_event_id
            await run_job(ledger)

            def has_passed() -> bool:
                cursor = cursors_of(reading.decoder.last_event_id)
                return cursor is not None and cursor > cursors_of(first)

            pump = asyncio.create_task(reading.next())
            await until(has_passed)
            failed = await accept(ledger)
            await fail(ledger, await start(ledger, failed))
            assert told([await pump]) == [(str(failed), 3)]


def cursors_of(text: str) -> Place:
    cursor = FeedCursors([SECRET]).parse(text, "default")
    assert cursor is not None
    return cursor.place


async def test_progress_is_shown_unnumbered_and_only_the_latest(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    attempt = await start(ledger, job_id)
    async with feed(api) as reading, feed(api, type="job.succeeded") as other:
        cursor = (await reading.next()).last_event_id
        await other.next()
        await ledger.report([Progress(job_id, attempt.lease, 50, "half")], WORKER)
        progress = await reading.next()
        assert (progress.event, progress.last_event_id) == ("job.progress", cursor)
        assert json.loads(progress.data)["data"]["progress"] == {"percent": 50, "message": "half"}
        await succeed(ledger, attempt)
        assert (await reading.next()).event == "job.succeeded"
        assert (await other.next()).event == "job.succeeded"


@pytest.mark.parametrize("kind", ["nonsense", "changed", "foreign", "epoch", "ahead", "expired", "job's"])
async def test_a_cursor_that_cannot_be_continued_is_told_so(
    api: httpx.AsyncClient, ledger: Ledger, database: Database, cursors: FeedCursors, kind: str
) -> None:
    job_id = await run_job(ledger)
    here = (await FeedReader(database).page("default", BEGINNING)).horizon
    month = 31 * 86_400
    old = Horizon(here.epoch, here.xid, here.next_xid, here.read_at - month, here.reached)
    cursor, reason = {
        "nonsense": ("nonsense", "malformed"),
        "changed": (cursors.spell("default", here, here.place, here.read_at)[:-1] + "A", "malformed"),
        "foreign": (cursors.spell("another", here, here.place, here.read_at), "malformed"),
        "epoch": (cursors.spell("default", Horizon("00000000", *rest(here)), here.place, here.read_at), "epoch"),
        "ahead": (cursors.spell("default", here, Place(here.xid + 10**6, 0), here.read_at), "ahead"),
        "expired": (cursors.spell("default", old, Place(1, 0), old.read_at), "expired"),
        "job's": ("0123456789abcdef.2", "malformed"),
    }[kind]
    async with feed(api, header=cursor) as reading:
        reset = await reading.next()
        body = json.loads(reset.data)
        assert (reset.event, body["type"], body["reason"]) == ("reset", "reset", reason)
        assert [job["jobId"] for job in body["data"]["jobs"]] == [job_id]
        assert reset.last_event_id != cursor
        new = await run_job(ledger)
        assert told(await take(reading, 3)) == [(new, 1), (new, 2), (new, 3)]
    refused = await api.get("/events", params={"after": cursor}, headers=LIST)
    if reason == "malformed":
        assert (refused.status_code, refused.json()["code"]) == (422, "INVALID_INPUT")
    else:
        assert (refused.status_code, refused.json()["code"], refused.json()["reason"]) == (409, "CURSOR_LOST", reason)


def rest(horizon: Horizon) -> tuple[int, int, float, int]:
    return horizon.xid, horizon.next_xid, horizon.read_at, horizon.reached


async def test_who_reads_what_is_old_is_told_only_when_something_went_missing(
    api: httpx.AsyncClient, ledger: Ledger, database_url: str, cursors: FeedCursors, database: Database
) -> None:
    await run_job(ledger)
    here = (await FeedReader(database).page("default", BEGINNING)).horizon
    cursor = cursors.spell("default", here, Place(1, 0), here.read_at - 31 * 86_400)
    assert len((await api.get("/events", params={"after": cursor}, headers=LIST)).json()["events"]) == 3
    connection = await asyncpg.connect(database_url)
    await connection.execute(
        "INSERT INTO tombstone (job_id, tenant_id, type, state, finished_at, erased_at, reason) VALUES"
        " (gen_random_uuid(), 'default', 't', 'FAILED', now() - interval '30 days', now(), 'age')"
    )
    await connection.close()
    lost = await api.get("/events", params={"after": cursor}, headers=LIST)
    assert (lost.status_code, lost.json()["reason"]) == (409, "expired")


async def test_a_reader_is_told_when_the_epoch_changes_under_it(
    api: httpx.AsyncClient, ledger: Ledger, database_url: str
) -> None:
    await run_job(ledger)
    connection = await asyncpg.connect(database_url)
    async with feed(api) as reading:
        await reading.next()
        await connection.execute("UPDATE epoch SET value = 'ffffffff'")
        reset = await reading.next()
        assert (reset.event, json.loads(reset.data)["reason"]) == ("reset", "epoch")
        new = await run_job(ledger)
        assert told(await take(reading, 3)) == [(new, 1), (new, 2), (new, 3)]
    await connection.close()


async def test_the_list_is_read_part_by_part_without_overlap_or_hole(api: httpx.AsyncClient, ledger: Ledger) -> None:
    for _ in range(4):
        await run_job(ledger)
    for params in ({}, {"type": ["job.accepted", "job.succeeded"]}, {"jobType": "other"}):
        whole = (await api.get("/events", params=params, headers=LIST)).json()
        assert not whole["hasMore"]
        cursor, seen, has_more = None, [], True
        while has_more:
            part = (
                await api.get(
                    "/events", params={**params, "limit": 5} | ({"after": cursor} if cursor else {}), headers=LIST
                )
            ).json()
            assert len(part["events"]) <= 5
            cursor, has_more = part["cursor"], part["hasMore"]
            seen += part["events"]
        assert seen == whole["events"]
        new = await run_job(ledger)
        later = (await api.get("/events", params={"after": cursor}, headers=LIST)).json()
        assert [item["data"]["jobId"] for item in later["events"]] == [new] * 3
    assert (await api.get("/events", params={"limit": 0}, headers=LIST)).status_code == 422
    assert (await api.get("/events", params={"limit": 1001}, headers=LIST)).status_code == 422


async def test_an_event_held_back_comes_when_the_transaction_ends_without_a_word(
    settings: Settings, ledger: Ledger, database_url: str
) -> None:
    """Nobody notifies of a rollback; a sweep every hour would not help."""
    seldom = settings.model_copy(update={"sweep_seconds": 3_600})
    connection = await asyncpg.connect(database_url)
    async with serve(seldom) as url, httpx.AsyncClient(base_url=url) as api, feed(api) as reading:
        await reading.next()
        await connection.execute("BEGIN; SELECT pg_current_xact_id()")
        new = await run_job(ledger)
        await until(lambda: metrics.FEED_HORIZON_AGE._value.get() > 0)
        await connection.execute("ROLLBACK")
        assert told(await take(reading, 3)) == [(new, 1), (new, 2), (new, 3)]
        await until(lambda: metrics.FEED_HORIZON_AGE._value.get() == 0)
    await connection.close()
