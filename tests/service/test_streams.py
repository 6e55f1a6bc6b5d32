"""How many streams there may be, how long they last, and how they end: told to the reader inside the stream."""

import asyncio
import json
from contextlib import AsyncExitStack

import httpx
import pytest

from tests.conftest import serve
from tests.make import WORKER, accept, start, succeed
from tests.service.test_stream import watch
from todoke.model.job import Progress
from todoke.runtime.settings import Settings
from todoke.store.ledger import Ledger
from todoke.wire import sse


@pytest.mark.parametrize("limit", ["streams_max", "tenant_streams_max"])
async def test_one_stream_too_many_is_asked_to_come_back_later(settings: Settings, ledger: Ledger, limit: str) -> None:
    job_id = await accept(ledger)
    small = settings.model_copy(update={limit: 2})
    async with serve(small) as url, httpx.AsyncClient(base_url=url) as api, AsyncExitStack() as stack:
        readings = [await stack.enter_async_context(watch(api, job_id)) for _ in range(2)]
        assert [(await reading.next()).event for reading in readings] == ["snapshot", "snapshot"]
        async with watch(api, job_id) as refused:
            assert refused.answer.status_code == 200
            [frame] = await refused.rest()
        assert (frame.event, json.loads(frame.data)) == ("reconnect", {"reason": "overloaded"})
        assert refused.decoder.retry_milliseconds in range(10_000, 30_001)
        await stack.aclose()
        async with asyncio.timeout(10):
            while True:
                async with watch(api, job_id) as admitted:
                    if (await admitted.next()).event == "snapshot":
                        break


async def test_a_stream_is_rotated(settings: Settings, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    quick = settings.model_copy(update={"stream_rotation_seconds": 0.2, "stream_heartbeat_seconds": 0.4})
    async with serve(quick) as url, httpx.AsyncClient(base_url=url) as api, watch(api, job_id) as reading:
        frames = await reading.rest()
    assert [frame.event for frame in frames] == ["snapshot", "reconnect"]
    assert json.loads(frames[1].data) == {"reason": "rotation"}
    assert reading.decoder.retry_milliseconds in range(200, 2_001)


async def test_a_brief_stream_ends_with_the_first_news(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    attempt = await start(ledger, job_id)
    path = f"/jobs/{job_id}/events"
    snapshot = _frames(await api.get(path, params={"wait": 20}))
    assert [frame.event for frame in snapshot] == ["snapshot"], "without a cursor the picture itself is news"
    cursor = {"Last-Event-ID": snapshot[0].last_event_id}
    waiting = asyncio.create_task(api.get(path, params={"wait": 20}, headers=cursor))
    async with asyncio.timeout(15):
        while not waiting.done():
            await ledger.report([Progress(job_id, attempt.lease, 50, "half")], WORKER)
            await asyncio.sleep(0.05)
    assert {frame.event for frame in _frames(await waiting)} == {"job.progress"}
    await succeed(ledger, attempt)
    assert [frame.event for frame in _frames(await api.get(path, params={"wait": 20}, headers=cursor))] == [
        "job.succeeded"
    ]


async def test_a_brief_stream_without_news_ends_in_time_and_silently(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    path = f"/jobs/{job_id}/events"
    [snapshot] = _frames(await api.get(path, params={"wait": 1}))
    answer = await api.get(path, params={"wait": 1}, headers={"Last-Event-ID": snapshot.last_event_id})
    assert (answer.status_code, _frames(answer)) == (200, [])
    assert (await api.get(path, params={"wait": 0})).status_code == 422


async def test_a_new_epoch_is_told_in_the_middle_of_a_stream(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    async with watch(api, job_id, "earliest") as reading:
        before = await reading.next()
        await ledger._database.fetch("UPDATE epoch SET value = 'other'")
        attempt = await start(ledger, job_id)
        reset = await reading.next()
        assert (reset.event, json.loads(reset.data)["reason"]) == ("reset", "epoch")
        assert reset.last_event_id.partition(".")[0] != before.last_event_id.partition(".")[0]
        assert json.loads(reset.data)["data"]["sequence"] == 2
        await succeed(ledger, attempt)
        assert [frame.event for frame in await reading.rest()] == ["job.succeeded"]


async def test_another_jobs_cursor_is_recognised(api: httpx.AsyncClient, ledger: Ledger) -> None:
    ours, theirs = await accept(ledger), await accept(ledger)
    async with watch(api, theirs) as reading:
        cursor = (await reading.next()).last_event_id
    async with watch(api, ours, header=cursor) as reading:
        reset = await reading.next()
    assert (reset.event, json.loads(reset.data)["reason"]) == ("reset", "job")


async def test_a_hole_made_by_hand_is_a_reset_not_silence(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    attempt = await start(ledger, job_id)
    await ledger._database.fetch("DELETE FROM event WHERE job_id = $1 AND sequence = 1", job_id)
    async with watch(api, job_id, "earliest") as reading:
        reset = await reading.next()
        assert (reset.event, json.loads(reset.data)["reason"]) == ("reset", "gap")
        await succeed(ledger, attempt)
        assert [frame.event for frame in await reading.rest()] == ["job.succeeded"]


async def test_a_finished_job_without_its_log_still_ends(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    await succeed(ledger, await start(ledger, job_id))
    await ledger._database.fetch("DELETE FROM event WHERE job_id = $1", job_id)
    async with watch(api, job_id, "earliest") as reading:
        frames = await reading.rest()
    assert [frame.event for frame in frames] == ["reset", "job.succeeded"]
    assert json.loads(frames[1].data)["data"]["status"] == "success"
    final = {"Last-Event-ID": frames[1].last_event_id}
    assert (await api.get(f"/jobs/{job_id}/events", headers=final)).status_code == 204


def _frames(answer: httpx.Response) -> list[sse.Frame]:
    return list(sse.Decoder().feed(answer.content))
