"""Large results and what becomes of objects: kept with their lease, and none left that nothing refers to."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from botocore.exceptions import ClientError

from tests.make import TENANT, WORKER
from tests.worker.conftest import Office, StartWorker
from todoke.blobs.s3 import S3Blobs
from todoke.model.ids import new_id
from todoke.model.job import Artifact, Attempt, Outcome, State
from todoke.runtime.settings import Settings
from worker import results as results_module
from worker.ending import Errored, Failed, Made, Released, Stored
from worker.pruner import Ages
from worker.results import Results

SIZE = 2**17
SECOND = 1 / 86400


@pytest.fixture
async def blobs(settings: Settings) -> AsyncIterator[S3Blobs]:
    blobs = S3Blobs.from_settings(settings)
    yield blobs
    blobs.close()


def make_attempt(lease: int = 1, number: int = 1, failures: int = 0) -> Attempt:
    fields: dict[str, Any] = dict.fromkeys(Attempt.__dataclass_fields__, 0)
    told = {"id": new_id(), "tenant_id": TENANT, "lease": lease, "number": number, "failures": failures}
    return Attempt(**fields | told)


async def keys(blobs: S3Blobs, job_id: UUID) -> list[str]:
    prefix = f"{TENANT}/{job_id}/"
    return [key.removeprefix(prefix) async for page in blobs.keys(prefix) for key in page]


async def nothing_kept(_job_id: UUID, _tenant_id: str) -> Sequence[Artifact]:
    return []


def large(tmp_path: Path) -> tuple[Made, ...]:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(SIZE))
    return (Made("a.bin", "text/plain", path), Made("b.bin", "text/plain", path))


async def test_a_stale_attempt_removes_what_it_stored(blobs: S3Blobs, tmp_path: Path) -> None:
    results, attempt = Results(blobs, nothing_kept, 1000), make_attempt()
    ending = await results.keep(attempt, large(tmp_path))
    assert isinstance(ending, Stored)
    assert await keys(blobs, attempt.id) == ["1/0-a.bin", "1/1-b.bin"]
    results.recorded(attempt, Outcome(attempt.id, 1, State.SUCCESS, artifacts=ending.artifacts), False)
    await results.drain(10)
    assert await keys(blobs, attempt.id) == []


async def test_what_the_ledger_refers_to_stays_whatever_the_answer_was(blobs: S3Blobs, tmp_path: Path) -> None:
    attempt = make_attempt()
    held: list[Artifact] = []

    async def kept(_job_id: UUID, _tenant_id: str) -> Sequence[Artifact]:
        return held

    results = Results(blobs, kept, 1000)
    ending = await results.keep(attempt, large(tmp_path))
    assert isinstance(ending, Stored)
    held += ending.artifacts
    results.recorded(attempt, Outcome(attempt.id, 1, State.SUCCESS, artifacts=ending.artifacts), False)
    await results.drain(10)
    assert await keys(blobs, attempt.id) == ["1/0-a.bin", "1/1-b.bin"]


@pytest.mark.parametrize("kind", ["gone", "link", "pipe", "folder"])
async def test_only_a_plain_file_is_kept_and_nothing_beside_it(blobs: S3Blobs, tmp_path: Path, kind: str) -> None:
    odd = tmp_path / "odd"
    if kind == "link":
        odd.symlink_to("/etc/hostname")
    elif kind == "pipe":
        os.mkfifo(odd)
    elif kind == "folder":
        odd.mkdir()
    results, attempt = Results(blobs, nothing_kept, 1000), make_attempt()
    ending = await results.keep(attempt, (large(tmp_path)[0], Made("odd", "text/plain", odd)))
    assert isinstance(ending, Failed)
    assert ending.code == "RESULT_INVALID"
    await results.drain(10)
    assert await keys(blobs, attempt.id) == []


async def test_a_result_nobody_waits_for_leaves_nothing(blobs: S3Blobs, tmp_path: Path) -> None:
    results, attempt = Results(blobs, nothing_kept, 1000), make_attempt()
    keeping = asyncio.create_task(results.keep(attempt, large(tmp_path) * 20))
    while not await keys(blobs, attempt.id):
        assert not keeping.done()
    keeping.cancel()
    await asyncio.wait({keeping})
    await results.drain(10)
    async with asyncio.timeout(10):
        while await keys(blobs, attempt.id):
            await asyncio.sleep(0.02)


async def test_a_long_outage_is_met_with_growing_delays(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results_module, "UPLOAD_SECONDS", 0.0)
    away = S3Blobs("bucket-that-is-not-there", region=settings.aws_region, endpoint_url=settings.aws_endpoint_url)
    results = Results(away, nothing_kept, 1000)
    delays = []
    for number in range(1, 9):
        ending = await results.keep(make_attempt(number, number), large(tmp_path)[:1])
        assert isinstance(ending, Released)
        assert ending.code == "RESULT_UPLOAD_FAILED"
        delays.append(ending.delay)
    for delay, steady in zip(delays, (15, 30, 60, 120, 240, 300, 300, 300), strict=True):
        assert 0.75 * steady <= delay <= 1.25 * steady
    failed = await results.keep(make_attempt(5, 5, failures=4), large(tmp_path)[:1])
    assert isinstance(failed, Released)
    assert failed.delay < 20, "failures of the job itself are no outage"
    await results.drain(10)
    away.close()


async def test_an_object_the_store_refuses_is_charged(blobs: S3Blobs, tmp_path: Path) -> None:
    def refuse(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "EntityTooLarge"}}, "PutObject")

    blobs._s3.meta.events.register("before-call.s3.PutObject", refuse)
    results = Results(blobs, nothing_kept, 1000)
    ending = await results.keep(make_attempt(), large(tmp_path))
    assert isinstance(ending, Errored)
    assert ending.code == "RESULT_UPLOAD_FAILED"


async def test_the_lease_that_wins_clears_the_earlier_ones_away(
    start_worker: StartWorker, office: Office, blobs: S3Blobs
) -> None:
    job = await office.submit("artifacts", {"number": SIZE}, is_hinted=False)
    await office.ledger.claim([job], ["artifacts"], WORKER, 0)
    await blobs.put(f"{TENANT}/{job}/1/1-old.bin", b"of a worker that was killed", "text/plain")
    await start_worker()
    assert (await office.end(job))["lease"] == 2
    async with asyncio.timeout(10):
        while await keys(blobs, job) != ["2/1-big 届け.bin"]:
            await asyncio.sleep(0.02)


def test_results_never_outlive_their_job() -> None:
    assert Ages(7, 30, 365).results_at_most == 7
    assert Ages(0, 30, 0).results_at_most == 30
    assert Ages(40, 30, 0).results_at_most == 30
    assert Ages(7, 0, 0).results_at_most == 7
    assert Ages(0, 0, 0).results_at_most == 0


async def test_pruning_outlives_kills(start_worker: StartWorker, office: Office, blobs: S3Blobs, seed: int) -> None:
    """Workers that prune are killed again and again; in the end only tombstones are left."""
    rng = random.Random(seed)
    first = await start_worker(result_days=0.0, job_days=0.0)
    jobs = [await office.submit("artifacts", {"number": SIZE}) for _ in range(12)]
    for job in jobs:
        assert (await office.end(job))["state"] == "SUCCESS"
    first.process.kill()
    await first.ended()
    pruning = {"result_days": SECOND, "job_days": SECOND, "sweep_seconds": 0.02}
    for _ in range(4):
        worker = await start_worker(**pruning)
        await asyncio.wait({worker.reading}, timeout=rng.uniform(0.0, 0.15))
        worker.process.kill()
        await worker.ended()
        dangling = await office.database.fetch(
            "SELECT FROM artifact JOIN job ON job.id = artifact.job_id WHERE job.results_expired_at IS NOT NULL"
        )
        assert dangling == []
    # What a killed worker had taken is due again in a minute.
    await office.database.fetch("UPDATE orphan SET due_at = now()")
    await start_worker(**pruning)
    async with asyncio.timeout(20):
        while any([await keys(blobs, job) for job in jobs]) or await office.database.fetch("SELECT FROM orphan"):
            await asyncio.sleep(0.05)
    counts = "SELECT (SELECT count(*) FROM {}) AS count"
    assert (await office.database.fetch(counts.format("tombstone")))[0]["count"] == len(jobs)
    for table in ("job", "event", "artifact", "delivery"):
        assert (await office.database.fetch(counts.format(table)))[0]["count"] == 0, table
