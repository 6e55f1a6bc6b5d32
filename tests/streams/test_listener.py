"""The LISTEN connection is killed again and again, or hints go astray: only time is lost, and not much of it."""

import asyncio
import contextlib
import random
from functools import partial

import pytest

from tests.streams.mischief import RAW_CHANNEL, hints_astray, listener_killed, with_named_listener
from tests.streams.stage import has_told, is_started, open_stage
from todoke.runtime.settings import Settings

SWEEP_SECONDS = 1.0
LONG = pytest.param((100, 101), marks=[pytest.mark.full, pytest.mark.timeout(900)])


@pytest.mark.parametrize("load", [(10, 9), LONG])
async def test_a_listener_killed_under_load(
    settings: Settings, database_url: str, seed: int, load: tuple[int, int]
) -> None:
    rng, (jobs_count, length) = random.Random(seed), load
    async with open_stage(with_named_listener(settings)) as stage:
        jobs = await stage.writer.accept(jobs_count)
        await stage.watch(jobs * 2)
        await stage.watch(jobs, cursor=None)
        async with listener_killed(database_url, rng) as killed:
            await stage.live(jobs, length, rng, pause=0.6)
        await stage.ended()
        await stage.verdict()
        assert len(killed) > 1, "it came back, and was killed again"
        assert all(source.connects == 2 for source in stage.sources), "no reader noticed: one stream, then the 204"


@pytest.mark.parametrize("way", ["off", "unheard", "astray"])
@pytest.mark.parametrize("load", [(10, 5), LONG])
async def test_hints_that_never_come_or_come_wrong_cost_one_sweep_at_most(
    settings: Settings, database_url: str, seed: int, way: str, load: tuple[int, int]
) -> None:
    rng, (jobs_count, length) = random.Random(seed), load
    mode = "off" if way == "off" else "in_transaction"
    slow = settings.model_copy(update={"sweep_seconds": SWEEP_SECONDS, "notify_mode": mode})
    async with contextlib.AsyncExitStack() as stack:
        stage = await stack.enter_async_context(open_stage(slow, channel=RAW_CHANNEL))
        if way == "astray":
            counts = await stack.enter_async_context(hints_astray(database_url, settings.notify_channel, rng))
        jobs = await stage.writer.accept(jobs_count)
        await stage.watch(jobs)
        await stage.all(is_started)
        for sequence in range(2, length + 1):
            await asyncio.gather(*(stage.writer.step(job, length) for job in jobs))
            await stage.all(partial(has_told, sequence), SWEEP_SECONDS + 1)
        await stage.ended()
        await stage.verdict()
        if way == "astray":
            assert min(counts.values()) > 0, counts
