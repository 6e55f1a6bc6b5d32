"""Work goes on without the queue, within limits, and after a claim whose answer was lost."""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.worker.conftest import Office, StartWorker, terminate, until
from tests.worker.proxy import Proxy
from todoke.dev.aws import Emulator
from todoke.runtime.settings import Settings


@pytest.fixture
async def aws_proxy(emulator: Emulator) -> AsyncIterator[Proxy]:
    async with Proxy(emulator.url) as proxy:
        yield proxy


@pytest.fixture
async def postgres_proxy(settings: Settings) -> AsyncIterator[Proxy]:
    async with Proxy(settings.database_url.get_secret_value()) as proxy:
        yield proxy


async def test_jobs_are_taken_straight_from_postgresql_while_the_queue_is_away(
    start_worker: StartWorker, office: Office, settings: Settings, aws_proxy: Proxy
) -> None:
    worker = await start_worker(
        aws_endpoint_url=aws_proxy.url,
        sqs_queue_url=aws_proxy.moved(settings.sqs_queue_url),
        queue_outage_seconds=0.5,
    )
    await aws_proxy.cut()
    await until(lambda: bool(worker.logged("queue.away")))
    jobs = [await office.submit("double-async", {"number": number}, is_hinted=False) for number in range(30)]
    limited = [
        await office.submit("double", {"number": 1}, is_hinted=False, concurrency_key="k", concurrency_limit=1)
        for _ in range(3)
    ]
    rows = [await office.end(job) for job in [*jobs, *limited]]
    assert {(row["state"], row["attempt"], row["dispatch_count"]) for row in rows} == {("SUCCESS", 1, 0)}
    assert not worker.logged("queue.back")
    await aws_proxy.mend()
    await until(lambda: bool(worker.logged("queue.back")))
    job = await office.submit("double", {"number": 2})
    assert await office.result(job) == {"number": 4}
    await office.until_queue_is_empty()
    assert (len(worker.logged("queue.away")), len(worker.logged("queue.back"))) == (1, 1)


async def test_the_next_job_of_a_key_starts_at_once(start_worker: StartWorker, office: Office) -> None:
    await start_worker(sweep_seconds=60.0)
    jobs = [
        await office.submit("double-async", {"number": 1}, concurrency_key="k", concurrency_limit=1) for _ in range(6)
    ]
    rows = [await office.end(job, seconds=10) for job in jobs]
    spans = sorted((row["started_at"], row["finished_at"]) for row in rows)
    pauses = [(after[0] - before[1]).total_seconds() for before, after in itertools.pairwise(spans)]
    assert all(0 <= pause < 1 for pause in pauses), pauses
    await office.until_queue_is_empty()


async def test_what_a_claim_with_a_lost_answer_took_runs_at_once_and_uncharged(
    start_worker: StartWorker, office: Office, postgres_proxy: Proxy
) -> None:
    # Sixty seconds of lease: whatever waited for it would be too late here.
    worker = await start_worker(database_url=SecretStr(postgres_proxy.url), lease_seconds=60.0)
    postgres_proxy.cut_commit_of("lease = job.lease + 1")
    job = await office.submit("double", {"number": 1})
    row = await office.end(job, seconds=15)
    assert (row["state"], row["attempt"], row["losses"], row["failures"]) == ("SUCCESS", 2, 0, 0)
    assert worker.logged("claim.given_back")[0]["count"] == 1


async def test_a_worker_stops_in_time_with_a_stuck_job_and_a_silent_queue(
    start_worker: StartWorker, office: Office, settings: Settings, aws_proxy: Proxy, tmp_path: Path
) -> None:
    worker = await start_worker(
        aws_endpoint_url=aws_proxy.url,
        sqs_queue_url=aws_proxy.moved(settings.sqs_queue_url),
        receive_wait_seconds=20,
        drain_seconds=1.0,
    )
    marks = tmp_path / "marks"
    job = await office.submit("mark", {"path": str(marks), "number": 600}, timeout_seconds=900.0)
    await until(marks.exists)
    aws_proxy.silence()
    terminate(worker)
    # 15 s of draining are 1 s here; the rest of the 25 s is for endings, last calls and closing.
    assert await worker.ended(seconds=10) == 0
    assert (await office.row(job))["worker_id"] is None
