"""The event stream over a real socket: nothing lost, nothing twice, and an end that a browser understands."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from tests.conftest import serve, until
from tests.make import WORKER, accept, fail, start, succeed
from todoke.model.job import Progress
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.ledger import Ledger
from todoke.store.reading import Reader
from todoke.wire import sse


class Reading:
    """What one connection has shown so far."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.decoder = sse.Decoder()
        self._chunks = answer.aiter_bytes()
        self._frames: list[sse.Frame] = []

    async def next(self) -> sse.Frame:
        async with asyncio.timeout(10):
            while not self._frames:
                self._frames.extend(self.decoder.feed(await anext(self._chunks)))
        return self._frames.pop(0)

    async def rest(self) -> list[sse.Frame]:
        async with asyncio.timeout(10):
            async for chunk in self._chunks:
                self._frames.extend(self.decoder.feed(chunk))
        return self._frames


@asynccontextmanager
async def watch(
    api: httpx.AsyncClient, job_id: object, cursor: str | None = None, *, header: str | None = None
) -> AsyncIterator[Reading]:
    params = {"lastEventId": cursor} if cursor is not None else {}
    headers = {"Last-Event-ID": header} if header is not None else {}
    async with api.stream("GET", f"/jobs/{job_id}/events", params=params, headers=headers) as answer:
        yield Reading(answer)


async def test_a_job_watched_from_the_beginning(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    async with watch(api, job_id, "earliest") as reading:
        assert reading.answer.headers["content-type"].startswith("text/event-stream")
        assert (await reading.next()).event == "job.accepted"
        assert reading.decoder.retry_milliseconds in range(1000, 5001)
        attempt = await start(ledger, job_id)
        assert (await reading.next()).event == "job.started"
        await ledger.report([Progress(job_id, attempt.lease, 50, "half")], WORKER)
        progress = await reading.next()
        assert progress.event == "job.progress"
        assert json.loads(progress.data)["data"]["progress"] == {"percent": 50, "message": "half"}
        assert progress.last_event_id.endswith(".2"), "progress is not numbered: it moves no cursor"
        await succeed(ledger, attempt)
        rest = await reading.rest()
    assert [frame.event for frame in rest] == ["job.succeeded"]
    assert json.loads(rest[0].data)["data"]["status"] == "success"
    assert rest[0].last_event_id.endswith(".3")


async def test_without_a_cursor_a_snapshot_comes_first(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    attempt = await start(ledger, job_id)
    async with watch(api, job_id) as reading:
        snapshot = await reading.next()
        assert snapshot.event == "snapshot"
        assert snapshot.last_event_id.endswith(".2")
        assert json.loads(snapshot.data)["data"]["phase"] == "processing"
        await succeed(ledger, attempt)
        assert [frame.event for frame in await reading.rest()] == ["job.succeeded"]


async def test_a_finished_job_shows_itself_and_its_end_and_then_204(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    await fail(ledger, await start(ledger, job_id))
    async with watch(api, job_id) as reading:
        frames = await reading.rest()
    assert [frame.event for frame in frames] == ["snapshot", "job.failed"]
    assert frames[0].last_event_id.endswith(".2"), "who is cut off here comes back for the end"
    assert frames[1].last_event_id.endswith(".3")
    final = frames[1].last_event_id
    assert (await api.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": final})).status_code == 204
    assert (await api.get(f"/jobs/{job_id}/events", params={"lastEventId": final})).status_code == 204


async def test_the_header_wins_over_the_parameter(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    await succeed(ledger, await start(ledger, job_id))
    async with watch(api, job_id, "earliest") as reading:
        first = (await reading.rest())[0]
    async with watch(api, job_id, "earliest", header=first.last_event_id) as reading:
        assert [frame.event for frame in await reading.rest()] == ["job.started", "job.succeeded"]


async def test_every_place_of_interruption_resumes_without_gap_or_repeat(
    api: httpx.AsyncClient, ledger: Ledger
) -> None:
    job_id = await accept(ledger)
    await succeed(ledger, await start(ledger, job_id))
    async with watch(api, job_id, "earliest") as reading:
        whole = await reading.rest()
    for seen in range(1, len(whole)):
        async with watch(api, job_id, header=whole[seen - 1].last_event_id) as reading:
            assert await reading.rest() == whole[seen:]


@pytest.mark.parametrize("cursor", ["nonsense", "0.1", "{epoch}.99", "-1", "ffffffff.2", "a" * 500])
async def test_a_cursor_that_cannot_continue_is_told_so(api: httpx.AsyncClient, ledger: Ledger, cursor: str) -> None:
    job_id = await accept(ledger)
    async with watch(api, job_id) as reading:
        epoch = (await reading.next()).last_event_id.partition(".")[0]
    attempt = await start(ledger, job_id)
    async with watch(api, job_id, cursor.format(epoch=epoch)) as reading:
        reset = await reading.next()
        assert reset.event == "reset"
        assert reset.last_event_id == f"{epoch}.2"
        assert json.loads(reset.data)["reason"] in ("malformed", "epoch", "ahead")
        assert json.loads(reset.data)["data"]["sequence"] == 2
        await succeed(ledger, attempt)
        assert [frame.event for frame in await reading.rest()] == ["job.succeeded"]


async def test_the_log_as_a_list_is_what_the_stream_shows(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await accept(ledger, metadata='{"line":"a\\nb","word":"届け"}')
    await succeed(ledger, await start(ledger, job_id))
    listed = (await api.get(f"/jobs/{job_id}/events", headers={"Accept": "application/json"})).json()
    async with watch(api, job_id, "earliest") as reading:
        assert [json.loads(frame.data) for frame in await reading.rest()] == listed
    assert listed[0]["data"]["metadata"] == {"line": "a\nb", "word": "届け"}


async def test_many_watchers_of_one_job_see_the_same(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await accept(ledger)

    async def look() -> list[str]:
        async with watch(api, job_id, "earliest") as reading:
            return [frame.data for frame in await reading.rest() if frame.event != "job.progress"]

    watchers = [asyncio.create_task(look()) for _ in range(20)]
    attempt = await start(ledger, job_id)
    for percent in range(0, 100, 20):
        await ledger.report([Progress(job_id, attempt.lease, percent, "")], WORKER)
    await succeed(ledger, attempt)
    seen = await asyncio.gather(*watchers)
    assert all(frames == seen[0] for frames in seen)
    assert len(seen[0]) == 3


async def test_a_lost_listen_connection_loses_no_event(
    api: httpx.AsyncClient, ledger: Ledger, database_url: str, reader: Reader
) -> None:
    job_id = await accept(ledger)
    async with watch(api, job_id, "earliest") as reading:
        assert (await reading.next()).event == "job.accepted"
        killed = await ledger._database.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND (query LIKE 'LISTEN%' OR query LIKE 'SELECT pg_notify($1, ''''%')"
        )
        assert killed
        await succeed(ledger, await start(ledger, job_id))
        assert [frame.event for frame in await reading.rest()] == ["job.started", "job.succeeded"]


async def test_a_lost_notify_costs_one_sweep_not_the_event(settings: Settings) -> None:
    async with Database(settings.database_url.get_secret_value()) as database:
        silent = Ledger(database, "another_channel")
        async with serve(settings) as url, httpx.AsyncClient(base_url=url) as api:
            job_id = await accept(silent)
            async with watch(api, job_id, "earliest") as reading:
                assert (await reading.next()).event == "job.accepted"
                await succeed(silent, await start(silent, job_id))
                assert [frame.event for frame in await reading.rest()] == ["job.started", "job.succeeded"]


async def test_silence_is_filled_with_comments(settings: Settings, ledger: Ledger) -> None:
    quick = settings.model_copy(update={"stream_heartbeat_seconds": 0.05})
    job_id = await accept(ledger)
    async with serve(quick) as url, httpx.AsyncClient(base_url=url) as api:
        async with api.stream("GET", f"/jobs/{job_id}/events") as answer:
            text = ""
            async with asyncio.timeout(10):
                async for chunk in answer.aiter_text():
                    text += chunk
                    if text.count(": heartbeat\n\n") == 2:
                        break


async def test_a_stopping_api_tells_its_readers_to_come_back(settings: Settings, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    async with httpx.AsyncClient() as client, contextlib.AsyncExitStack() as stack:
        async with serve(settings) as url:
            answer = await stack.enter_async_context(client.stream("GET", f"{url}/jobs/{job_id}/events"))
            reading = Reading(answer)
            assert (await reading.next()).event == "snapshot"
            rest = asyncio.create_task(reading.rest())
        assert [frame.event for frame in await rest] == ["reconnect"]


async def test_a_stream_holds_no_database_connection(api: httpx.AsyncClient, ledger: Ledger, reader: Reader) -> None:
    job_ids = [await accept(ledger) for _ in range(30)]
    readings = [watch(api, job_id) for job_id in job_ids]
    opened = [await reading.__aenter__() for reading in readings]
    for reading in opened:
        await reading.next()
    assert (await api.get(f"/jobs/{job_ids[0]}")).status_code == 202, "eight connections serve thirty streams"
    rows = await ledger._database.fetch(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle'"
        " AND pid <> pg_backend_pid()"
    )
    assert rows[0]["count"] == 0
    for reading in readings:
        await reading.__aexit__(None, None, None)


async def test_nothing_is_left_when_readers_leave(settings: Settings, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    async with serve(settings) as url, httpx.AsyncClient(base_url=url) as api:
        before = len(asyncio.all_tasks())
        for _ in range(5):
            async with watch(api, job_id) as reading:
                await reading.next()
        await until(lambda: len(asyncio.all_tasks()) <= before + 1)
