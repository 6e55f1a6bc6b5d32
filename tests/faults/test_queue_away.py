"""SQS refuses, answers 503 or says nothing at all (row 18): submits are kept, workers go on, and no storm follows."""

import asyncio
import time

import httpx
import pytest

from tests.faults.house import PATIENT, House
from tests.faults.proxy import Proxy

SETTINGS = PATIENT


async def submit(house: House, url: str, count: int, seconds: float) -> list[object]:
    """Each is promised within `seconds`, queue or no queue."""
    jobs: list[object] = []
    async with httpx.AsyncClient(base_url=url, timeout=20) as client:
        for _ in range(count):
            began = time.monotonic()
            jobs.append(house.accept(await client.post("/act", json={"params": {"path": str(house.effects)}})))
            assert time.monotonic() - began < seconds
    return jobs


@pytest.mark.parametrize(
    "how",
    [
        "refused",
        pytest.param("unavailable", marks=pytest.mark.full),
        pytest.param("silent", marks=[pytest.mark.full, pytest.mark.timeout(300)]),
    ],
)
async def test_without_sqs_jobs_are_kept_and_run_all_the_same(house: House, how: str) -> None:
    async with Proxy(house.aws.url) as line:
        parts = {
            "aws_endpoint_url": line.url,
            "sqs_queue_url": line.moved(house.settings.sqs_queue_url),
            "queue_outage_seconds": 0.5,
        }
        api = await house.start("api", **parts)
        workers = [await house.start(**parts), await house.start(**parts)]
        jobs = await submit(house, api.url, 2, 5)
        if how == "refused":
            await line.cut()
        elif how == "unavailable":
            house.aws.refuse("*")
        else:
            line.swallow()
        house.deed("cut", "sqs")
        jobs += await submit(house, api.url, 6, 3)
        # Straight from PostgreSQL, while the queue is still away.
        rows = [await house.end(job, 60) for job in jobs]  # type: ignore[arg-type]
        assert {(row["state"], row["attempt"]) for row in rows} == {("SUCCESS", 1)}
        house.aws.calm()
        await line.mend()
        mended_at = time.time()
        # Back to the queue by themselves: a hint that was sent after the end of the outage is received.
        while not any(item.action == "receive" and item.at > mended_at for item in house.aws.log):
            assert time.time() < mended_at + 40, house.told(None)
            jobs += await submit(house, api.url, 1, 3)
            await asyncio.sleep(0.3)
        history = await house.verdict(is_duplicates_only=True)
        sends = [item for item in history.traffic if item.action == "send" and item.is_done]
        assert len(sends) <= 3 * len(jobs), "a storm followed"
        assert all(worker.is_alive for worker in workers)
