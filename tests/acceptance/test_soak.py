"""A minute of work while processes are killed at random: every accepted job ends, once, and its webhook arrives."""

import asyncio
import os
import random
import signal
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.acceptance.conftest import Desk
from todoke.client.receiver import Receiver

VICTIMS = ("worker", "notifier", "api")


@pytest.mark.full
@pytest.mark.timeout(300)
async def test_kills_lose_nothing(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    quick = {"TODOKE_LEASE_SECONDS": "3", "TODOKE_SWEEP_SECONDS": "1", "TODOKE_REDISPATCH_SECONDS": "2"}
    desk = Desk(tmp_path / "state", "--workers", "2", **quick)
    await asyncio.to_thread(desk.wait_ready)
    try:
        async with Receiver(desk.facts["signingSecret"]) as receiver, httpx.AsyncClient(base_url=desk.url) as client:
            jobs = await work(client, desk, receiver.url, rng)
            events = await arrivals(receiver, len(jobs))
            for job_id in jobs:
                status = (await client.get(f"/jobs/{job_id}")).json()
                assert status["status"] == "success"
                log = (await client.get(f"/jobs/{job_id}/events", headers={"Accept": "application/json"})).json()
                assert [item["data"]["sequence"] for item in log] == list(range(1, len(log) + 1))
                assert [item["type"] for item in log].count("job.succeeded") == 1
            assert set(events) == jobs
    finally:
        await asyncio.to_thread(desk.stop)


async def work(client: httpx.AsyncClient, desk: Desk, callback: str, rng: random.Random) -> set[str]:
    """Submit for a minute, killing a process every few seconds; the ids that were answered with 202."""
    accepted: set[str] = set()
    body = {"params": {"csv": "a,b\n1,2\n"}, "callbackUrl": callback}
    for second in range(60):
        for _ in range(5):
            try:
                answer = await client.post("/generate-report", json=body)
            except httpx.TransportError:
                continue
            if answer.status_code == 202:
                accepted.add(answer.json()["jobId"])
        if second % 4 == 3:
            victim = rng.choice(desk.facts["pids"][rng.choice(VICTIMS)] or [0])
            if victim:
                os.kill(victim, signal.SIGKILL)
        await asyncio.sleep(1)
    assert len(accepted) > 100
    return accepted


async def arrivals(receiver: Receiver, count: int) -> "Counter[str]":
    """The verified webhooks by job, until each of `count` jobs had one."""
    seen: Counter[str] = Counter()
    async with asyncio.timeout(120):
        while len(seen) < count:
            received = await receiver.next()
            assert received.is_verified
            seen[received.event["data"]["jobId"]] += 1
    return seen
