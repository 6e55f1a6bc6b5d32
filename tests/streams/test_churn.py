"""Thousands of readers come and go: tasks, descriptors and memory come back to where they were."""

import asyncio
import gc
import os
import random
from pathlib import Path

import pytest

from tests.conftest import until
from tests.faults.processes import answers, launch
from tests.streams.churn import RSS_KIB_MAX, connects, held, rounds, two_jobs
from tests.streams.stage import open_stage
from tests.streams.writing import Writer
from todoke.runtime import metrics
from todoke.runtime.settings import Settings
from todoke.store.database import Database

CONNECTS = [150, pytest.param(100_000, marks=[pytest.mark.full, pytest.mark.timeout(7_200)])]


@pytest.mark.parametrize("count", CONNECTS)
async def test_no_task_is_left_behind(settings: Settings, seed: int, count: int) -> None:
    async with open_stage(settings) as stage:
        jobs = await two_jobs(stage.writer)
        await connects(stage.api, *jobs, 50, random.Random(seed))
        await until(lambda: metrics.STREAMS._value.get() == 0)
        tasks, descriptors = len(asyncio.all_tasks()), held(os.getpid()).descriptors
        await connects(stage.api, *jobs, count, random.Random(seed))
        await until(lambda: metrics.STREAMS._value.get() == 0, 20)
        await until(lambda: len(asyncio.all_tasks()) <= tasks, 20)
        gc.collect()
        await until(lambda: held(os.getpid()).descriptors <= descriptors, 20)


@pytest.mark.parametrize("count", CONNECTS)
async def test_a_process_comes_back_to_its_base(settings: Settings, tmp_path: Path, seed: int, count: int) -> None:
    async with Database(settings.database_url.get_secret_value()) as database:
        jobs = await two_jobs(Writer(database, settings.notify_channel))
        process = await launch("api", (), settings, tmp_path)
        try:
            await answers(process)
            found = await rounds(process, jobs, [count, count, count], random.Random(seed))
        finally:
            process.process.kill()
            await process.ended()
    print(found)
    _, warm, *later = found
    assert all(item.descriptors <= warm.descriptors for item in later), found
    assert all(item.threads <= warm.threads + 2 for item in later), found
    assert later[-1].rss - later[0].rss < RSS_KIB_MAX, found
    assert not [line for line in process.lines if line.get("level") in ("error", "critical")], process.lines[-20:]
