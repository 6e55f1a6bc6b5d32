"""Job code that takes its worker along (row 27), and object storage that fails (row 34)."""

import asyncio
from collections.abc import Callable

import pytest

from tests.faults.house import House, Process, until

Spoil = Callable[[House], None]


async def keep_alive(house: House, workers: list[Process], stop: asyncio.Event) -> None:
    """Start a worker for each that dies, as whoever runs Todoke would."""
    while not stop.is_set():
        for place, worker in enumerate(workers):
            if not worker.is_alive:
                house.deed("kill", worker.name)
                workers[place] = await house.start(is_ready=False)
        await asyncio.sleep(0.02)


async def test_poison_ends_after_three_workers_and_harms_no_other_job(house: House) -> None:
    workers = [await house.start(), await house.start()]
    stop = asyncio.Event()
    keeper = asyncio.create_task(keep_alive(house, workers, stop))
    try:
        poison = await house.submit("kill-the-worker")
        others = [await house.submit(seconds=0.3, max_losses=100) for _ in range(8)]
        row = await house.end(poison, 40)
        rows = [await house.end(job, 40) for job in others]
    finally:
        stop.set()
        await keeper
    assert (row["state"], row["error_code"], row["losses"], row["attempt"]) == ("FAILED", "WORKER_LOST", 3, 3)
    assert {(other["state"], other["failures"]) for other in rows} == {("SUCCESS", 0)}
    await house.verdict()


def down(house: House) -> None:
    house.aws.refuse("PutObject", 503, "SlowDown")


def spoiling(house: House) -> None:
    """As S3 answers when what arrived does not have the checksum that was announced."""
    house.aws.refuse("PutObject", 400, "BadDigest", times=2)


def slow(house: House) -> None:
    house.aws.delays["PutObject"] = 2.5


@pytest.mark.parametrize("spoil", [pytest.param(down, marks=pytest.mark.full), spoiling, slow])
async def test_no_success_without_its_object(house: House, spoil: Spoil) -> None:
    """Row 34: while the object cannot be stored, the job has no end that says so."""
    worker = await house.start()
    spoil(house)
    job = await house.submit(size=200_000, failures=0)
    await house.started(job, what="end")
    await until(lambda: any(action == "PutObject" for _, action, _ in house.aws.calls), what=lambda: worker.lines)
    if spoil is down:
        house.deed("cut", "s3")
        row = await house.when(job, lambda row: row["state"] == "PROCESSING" and row["worker_id"] is None)
        assert (row["error_code"], row["failures"]) == ("RESULT_UPLOAD_FAILED", 0)
        await house.database.fetch("UPDATE job SET due_at = now(), redispatch_at = now() WHERE id = $1", job)
        house.aws.calm()
    row = await house.end(job)
    history = await house.verdict()
    assert (row["state"], row["failures"], row["losses"]) == ("SUCCESS", 0, 0)
    assert [kept.key is not None for kept in history.kept] == [True, False]
