"""Readers that attach at every possible moment of a job's life: each sees 1..n, in order, once."""

import asyncio
import random

import httpx
import pytest

from tests.make import WORKER, accept, start, succeed
from todoke.model.job import Progress
from todoke.store.ledger import Ledger
from todoke.wire import sse

COUNTS = [20, pytest.param(1500, marks=[pytest.mark.full, pytest.mark.timeout(900)])]


async def live(ledger: Ledger, job_id: object, rng: random.Random) -> None:
    """One job's life at a random pace."""
    await asyncio.sleep(rng.random() * 0.02)
    attempt = await start(ledger, job_id)  # type: ignore[arg-type]
    for percent in range(0, 100, 50):
        await asyncio.sleep(rng.random() * 0.01)
        await ledger.report([Progress(attempt.id, attempt.lease, percent, "")], WORKER)
    await succeed(ledger, attempt)


async def read(api: httpx.AsyncClient, job_id: object, rng: random.Random) -> list[str]:
    """The numbered events one impatient reader saw, cut off at random places and resumed from its cursor."""
    decoder, seen = sse.Decoder(), []
    await asyncio.sleep(rng.random() * 0.04)
    while True:
        headers = {"Last-Event-ID": decoder.last_event_id or "earliest"}
        async with api.stream("GET", f"/jobs/{job_id}/events", headers=headers) as answer:
            if answer.status_code == httpx.codes.NO_CONTENT:
                return seen
            patience = rng.randrange(1, 6)
            async for chunk in answer.aiter_bytes():
                frames = [frame for frame in decoder.feed(chunk) if frame.event != "job.progress"]
                seen += [f"{frame.last_event_id.partition('.')[2]} {frame.event}" for frame in frames]
                patience -= 1
                if patience == 0:
                    break


@pytest.mark.parametrize("jobs", COUNTS)
async def test_every_reader_sees_every_event_once(api: httpx.AsyncClient, ledger: Ledger, jobs: int, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(0, jobs, 10):
        ids = [await accept(ledger) for _ in range(10)]
        lives = [live(ledger, job_id, rng) for job_id in ids]
        readers = [read(api, job_id, rng) for job_id in ids for _ in range(3)]
        async with asyncio.timeout(60):
            results = await asyncio.gather(*lives, *readers)
        for seen in results[len(lives) :]:
            assert seen == ["1 job.accepted", "2 job.started", "3 job.succeeded"]
