"""A cancel reaches the worker that runs the job, and operators see the worker, by table and by measure."""

import signal
import time
from pathlib import Path

import httpx
import pytest

from tests.make import TENANT
from tests.worker.conftest import Office, StartWorker, is_alive, terminate, until
from todoke.dev.ports import free_port

RUNNING = ["sleep", "sleep-in-a-thread", "sleep-async"]


@pytest.mark.parametrize("type_", RUNNING)
async def test_a_running_job_ends_soon_after_its_cancel(start_worker: StartWorker, office: Office, type_: str) -> None:
    # So slow a heartbeat that only the bell can be the one who told it.
    worker = await start_worker(lease_seconds=60.0)
    job = await office.submit(type_, {"number": 600}, timeout_seconds=900.0)
    await office.when(job, lambda row: row["state"] == "PROCESSING")
    asked = time.monotonic()
    assert await office.ledger.cancel(job, TENANT)
    row = await office.end(job, seconds=8)
    print(f"{type_}: {time.monotonic() - asked:.2f} s")
    assert (row["state"], row["error_code"], row["failures"]) == ("FAILED", "CANCELED", 0)
    assert worker.process.returncode is None
    await office.until_queue_is_empty()


async def test_a_cancel_nobody_heard_is_told_by_the_heartbeat(start_worker: StartWorker, office: Office) -> None:
    await start_worker()
    job = await office.submit("sleep", {"number": 600}, timeout_seconds=900.0)
    await office.when(job, lambda row: row["state"] == "PROCESSING")
    await office.database.fetch("UPDATE job SET cancel_requested_at = now() WHERE id = $1", job)
    assert (await office.end(job, seconds=8))["error_code"] == "CANCELED"


async def test_a_worker_is_on_the_roll_while_it_lives(
    start_worker: StartWorker, office: Office, tmp_path: Path
) -> None:
    async def roll() -> list[tuple[int, int]]:
        return [(row["pid"], row["busy"]) for row in await office.database.fetch("SELECT * FROM worker")]

    marks = tmp_path / "marks"
    first, second = await start_worker(), await start_worker(jobs=("todoke.jobs.generate_report",))
    await office.submit("mark", {"path": str(marks), "number": 600}, timeout_seconds=900.0)
    await until(marks.exists)
    deadline = time.monotonic() + 10
    while set(await roll()) != {(first.pid, 1), (second.pid, 0)}:
        assert time.monotonic() < deadline, await roll()
    terminate(second)
    assert await second.ended() == 0
    assert [pid for pid, _ in await roll()] == [first.pid]
    child = int(marks.read_text().split()[1])
    first.process.send_signal(signal.SIGKILL)
    await until(lambda: not is_alive(child))
    assert [pid for pid, _ in await roll()] == [first.pid], "a killed worker stays, to be seen as lost"


async def test_a_worker_shows_its_measures(start_worker: StartWorker, office: Office) -> None:
    port = free_port()
    await start_worker(metrics_port=port)
    await office.result(await office.submit("double", {"number": 1}))
    wanted = [
        'todoke_attempts_total{code="OK"} 1.0',
        'todoke_run_seconds_count{outcome="succeeded",type="double"} 1.0',
        'todoke_queue_wait_seconds_count{type="double"} 1.0',
        "todoke_slots 4.0",
        "todoke_slots_busy 0.0",
        "todoke_loop_healthy 1.0",
    ]
    deadline = time.monotonic() + 10
    async with httpx.AsyncClient() as client:
        while missing := [w for w in wanted if w not in (await client.get(f"http://127.0.0.1:{port}/metrics")).text]:
            assert time.monotonic() < deadline, missing
