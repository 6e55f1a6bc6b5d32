"""All streams are cut at once: readers come back spread out, and what they ask of PostgreSQL leaves room for others."""

import asyncio
import random
import time
from functools import partial

import httpx
import pytest

from tests.faults.proxy import Proxy
from tests.streams.stage import has_told, is_started, open_stage
from todoke.runtime import metrics
from todoke.runtime.settings import Settings
from todoke.wire.sse import RETRY_MILLISECONDS

# More than a ring holds, so that who comes back must read the log.
BACKLOG = 80
LENGTH = BACKLOG + 3
JOBS = 4
READERS = [160, pytest.param(2_000, marks=[pytest.mark.full, pytest.mark.timeout(900)])]
SOONEST, LATEST = (limit / 1000 for limit in RETRY_MILLISECONDS)


@pytest.mark.parametrize("readers", READERS)
async def test_readers_cut_together_come_back_apart(settings: Settings, seed: int, readers: int) -> None:
    async with open_stage(settings) as stage, Proxy(stage.api) as road:
        jobs = await stage.writer.accept(JOBS)
        for _ in range(readers // JOBS):
            await stage.watch(jobs, api=road.url, scale=1)
        await stage.all(is_started, 60)
        replayed = metrics.STREAM_REPLAYS.labels("log")._value.get()
        cut_at = time.monotonic()
        road.drop()
        async with httpx.AsyncClient(base_url=stage.api, timeout=20) as client:
            polling = asyncio.create_task(poll(client, str(jobs[0])))
            # Before most of them are back.
            await stage.writer.rush(jobs, BACKLOG // 2)
            await stage.live(jobs, LENGTH, random.Random(seed), 0.01)
            await stage.all(partial(has_told, LENGTH), 90)
            polling.cancel()
            statuses = (await asyncio.gather(polling, return_exceptions=True))[0]
        assert isinstance(statuses, asyncio.CancelledError), statuses
        back = sorted(source.opened_at[1] - cut_at for source in stage.sources)
        assert back[0] >= SOONEST
        # Of a uniform draw, the first and the last tenth of the range are hardly ever empty.
        assert back[-1] - back[0] >= 0.8 * (LATEST - SOONEST), (back[0], back[-1])
        busiest = max(sum(at <= other < at + 1 for other in back) for at in back)
        assert busiest < 0.6 * readers, f"{busiest} of {readers} within a second"
        await stage.ended(90)
        assert metrics.STREAM_REPLAYS.labels("log")._value.get() > replayed, "they read the log"
        assert not any("unavailable" in frame.data for source in stage.sources for frame in source.dispatched)
        await stage.verdict()


async def poll(client: httpx.AsyncClient, job: str) -> None:
    """Somebody else, who is served all the while: the pool is never exhausted."""
    while True:
        answer = await client.get(f"/jobs/{job}")
        assert answer.status_code in (200, 202), answer.text
        answer = await client.post("/generate-report")
        assert answer.status_code == 202, answer.text
        await asyncio.sleep(0.05)
