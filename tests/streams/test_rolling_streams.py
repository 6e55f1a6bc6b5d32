"""Deploys under load: two API processes behind a balancer, stopped and killed in turn; no client loses or repeats."""

import asyncio
import contextlib
import json
import random
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from tests.faults.processes import Process, answers, launch
from tests.make import WORKER, accept, start, succeed
from tests.streams.cutting import Relay, relay
from tests.streams.event_source import EventSource
from tests.streams.oracle import check, committed
from todoke.model.job import Progress
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.ledger import Ledger

DRAIN_SECONDS = 1.5
# What an API may take beyond its drain when nobody holds it up.
GRACE_SECONDS = 10.0
FULL = [pytest.mark.full, pytest.mark.timeout(900)]


class Fleet:
    """API processes behind `balancer`; a new one takes the place of one that goes."""

    def __init__(self, settings: Settings, folder: Path, balancer: Relay) -> None:
        self.settings, self.folder, self.balancer = settings, folder, balancer
        self.processes: list[Process] = []

    async def add(self) -> Process:
        process = await launch("api", (), self.settings, self.folder)
        await answers(process)
        self.processes.append(process)
        self.balancer.targets.append(process.url)
        return process

    async def replace(self, number: signal.Signals) -> float:
        """Deploy: the new one first, then the oldest goes by this signal. Seconds until it had gone."""
        await self.add()
        oldest = self.processes.pop(0)
        began = time.monotonic()
        oldest.signal(number)
        code = await oldest.ended(DRAIN_SECONDS + GRACE_SECONDS)
        assert code == (0 if number == signal.SIGTERM else -number), oldest.lines[-10:]
        self.balancer.targets.remove(oldest.url)
        assert not oldest.logged("stream.fault")
        return time.monotonic() - began


@contextlib.asynccontextmanager
async def fleet(
    settings: Settings, folder: Path, size: int = 2, drain_seconds: float = DRAIN_SECONDS
) -> AsyncIterator[Fleet]:
    """So many API processes, ready to answer."""
    quick = settings.model_copy(update={"stream_drain_seconds": drain_seconds, "stream_heartbeat_seconds": 0.5})
    async with relay() as balancer:
        ours = Fleet(quick, folder, balancer)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(size):
                    group.create_task(ours.add())
            yield ours
        finally:
            for process in ours.processes:
                process.signal(signal.SIGKILL)
            for process in ours.processes:
                await process.ended()


async def live(ledger: Ledger, job_id: UUID, rng: random.Random, until_done: asyncio.Event) -> None:
    """A job that lasts until the deploys are done, with a word now and then."""
    attempt = await start(ledger, job_id, lease_seconds=600)
    percent = 0
    while not until_done.is_set():
        percent = min(percent + 1, 99)
        await ledger.report([Progress(job_id, attempt.lease, percent, "")], WORKER)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5 + rng.random()):
                await until_done.wait()
    await succeed(ledger, attempt)


async def brief_jobs(url: str, ledger: Ledger, until_done: asyncio.Event) -> list[tuple[UUID, EventSource]]:
    """Jobs that come and go all the while, each watched from its beginning."""
    sources = []
    while not until_done.is_set():
        job_id = await accept(ledger)
        async with EventSource(f"{url}/jobs/{job_id}/events", "earliest") as source:
            await source.until(lambda source: source.dispatched)
            await succeed(ledger, await start(ledger, job_id))
            await source.closed(30)
        sources.append((job_id, source))
    return sources


@pytest.mark.parametrize(
    ("number", "rounds"),
    [
        (signal.SIGTERM, 2),
        (signal.SIGKILL, 2),
        pytest.param(signal.SIGTERM, 5, marks=FULL),
        pytest.param(signal.SIGKILL, 20, marks=FULL),
    ],
)
async def test_deploys_under_load(
    settings: Settings,
    database: Database,
    ledger: Ledger,
    tmp_path: Path,
    seed: int,
    number: signal.Signals,
    rounds: int,
) -> None:
    rng, is_done = random.Random(seed), asyncio.Event()
    ids = [await accept(ledger) for _ in range(10)]
    async with fleet(settings, tmp_path) as ours, contextlib.AsyncExitStack() as stack:
        url = ours.balancer.url
        sources = [EventSource(f"{url}/jobs/{job_id}/events", "earliest") for job_id in ids for _ in range(3)]
        for source in sources:
            await stack.enter_async_context(source)
        async with asyncio.TaskGroup() as group:
            for job_id in ids:
                group.create_task(live(ledger, job_id, rng, is_done))
            brief = group.create_task(brief_jobs(url, ledger, is_done))
            for _ in range(rounds):
                took = await ours.replace(number)
                assert took < DRAIN_SECONDS + GRACE_SECONDS
            is_done.set()
        for source in sources:
            await source.closed(30)
    logs = await committed(database)
    watched = [job_id for job_id in ids for _ in range(3)]
    for job_id, source in [*zip(watched, sources, strict=True), *brief.result()]:
        assert set(source.statuses) == {200, 204}, source
        check(logs[job_id], source.dispatched, after=0)
    if number == signal.SIGTERM:
        said = {reason for source in sources for reason in reasons(source)}
        assert said == {"draining"}


async def test_a_stop_sends_its_readers_away_one_by_one(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    job_id = await accept(ledger)
    async with fleet(settings, tmp_path, 1) as ours, contextlib.AsyncExitStack() as stack:
        [process] = ours.processes
        # So long a wait that nobody comes back meanwhile.
        sources = [EventSource(f"{process.url}/jobs/{job_id}/events", scale=60) for _ in range(60)]
        for source in sources:
            await stack.enter_async_context(source)
        for source in sources:
            await source.until(lambda source: source.dispatched)
        began = time.monotonic()
        process.signal(signal.SIGTERM)
        left_at = await asyncio.gather(*(_left(source, began) for source in sources))
        assert await process.ended(GRACE_SECONDS) == 0
    assert all(reasons(source) == ["draining"] for source in sources)
    assert all(source.closings == ["end"] for source in sources), "politely, with the last chunk"
    thirds = [sum(third <= at / (DRAIN_SECONDS / 3) < third + 1 for at in left_at) for third in range(3)]
    assert min(thirds) >= 3, f"not spread over the drain: {sorted(left_at)}"
    assert all(1_000 <= source.retry_milliseconds <= 5_000 for source in sources)
    assert len({source.retry_milliseconds for source in sources}) > 20


async def test_a_second_signal_waits_for_nobody(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    job_id = await accept(ledger)
    async with fleet(settings, tmp_path, 1, drain_seconds=60) as ours:
        [process] = ours.processes
        async with contextlib.AsyncExitStack() as stack:
            sources = [EventSource(f"{process.url}/jobs/{job_id}/events", scale=60) for _ in range(20)]
            for source in sources:
                await stack.enter_async_context(source)
                await source.until(lambda source: source.dispatched)
            process.signal(signal.SIGTERM)
            async with httpx.AsyncClient(base_url=process.url) as api, asyncio.timeout(10):
                while (await api.get("/readyz")).status_code == 200:
                    await asyncio.sleep(0.05)
            process.signal(signal.SIGTERM)
            assert await process.ended(GRACE_SECONDS) == 0


def reasons(source: EventSource) -> list[str]:
    return [json.loads(frame.data)["reason"] for frame in source.dispatched if frame.event == "reconnect"]


async def _left(source: EventSource, began: float) -> float:
    await source.until(lambda source: source.closings, DRAIN_SECONDS + GRACE_SECONDS)
    return time.monotonic() - began
