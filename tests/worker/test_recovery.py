"""What happens when hints repeat, workers die or stop, and PostgreSQL or SQS go away."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tests.worker.conftest import Office, StartWorker, is_alive, terminate, until
from tests.worker.proxy import Proxy
from todoke.dev.aws import Emulator
from todoke.model.ids import new_id
from todoke.runtime.settings import Settings

LONG: dict[str, Any] = {"timeout_seconds": 900.0}


@pytest.fixture
async def postgres_proxy(settings: Settings) -> AsyncIterator[Proxy]:
    async with Proxy(settings.database_url.get_secret_value()) as proxy:
        yield proxy


@pytest.fixture
async def aws_proxy(emulator: Emulator) -> AsyncIterator[Proxy]:
    async with Proxy(emulator.url) as proxy:
        yield proxy


async def test_a_repeated_hint_runs_its_job_once(start_worker: StartWorker, office: Office, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    job = await office.submit("mark", {"path": str(marks), "number": 1})
    await office.queue.send([job] * 10)
    await start_worker()
    await start_worker()
    assert await office.result(job) == 1
    await office.queue.send([job] * 5)
    await office.until_queue_is_empty()
    assert len(marks.read_text().splitlines()) == 1
    assert (await office.row(job))["attempt"] == 1


async def test_a_killed_workers_job_runs_on_another(start_worker: StartWorker, office: Office, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    first = await start_worker()
    job = await office.submit("mark", {"path": str(marks), "number": 600}, **LONG)
    await until(marks.exists)
    second = await start_worker()
    children = first.children()
    first.process.kill()
    # Lease 2 s, sweep 0.3 s, and the run itself; the message of the dead worker stays hidden for a minute.
    row = await office.end(job, seconds=6)
    assert (row["state"], row["attempt"], row["losses"], row["failures"]) == ("SUCCESS", 2, 1, 0)
    await until(lambda: not any(map(is_alive, children)), seconds=2)
    assert second.process.returncode is None


async def test_a_killed_workers_files_are_removed_by_the_next(start_worker: StartWorker, tmp_path: Path) -> None:
    first = await start_worker()
    [folder] = first.scratch.iterdir()
    first.process.kill()
    await first.ended()
    assert (folder / "lock").exists()
    os.utime(folder / "lock", (0, 0))
    second = await start_worker(scratch=first.scratch)
    assert not folder.exists()
    assert len(list(second.scratch.iterdir())) == 1


async def test_a_frozen_worker_drops_what_it_lost(start_worker: StartWorker, office: Office, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    first = await start_worker()
    job = await office.submit("mark", {"path": str(marks), "number": 600}, **LONG)
    await until(marks.exists)
    await start_worker()
    first.process.send_signal(signal.SIGSTOP)
    try:
        row = await office.end(job, seconds=6)
        child = int(marks.read_text().split()[1])
    finally:
        first.process.send_signal(signal.SIGCONT)
    await until(lambda: not is_alive(child))
    await until(lambda: bool(first.logged("attempt.lost")))
    assert (await office.row(job))["sequence"] == row["sequence"]


async def test_stopping_gives_running_jobs_back_uncharged(
    start_worker: StartWorker, office: Office, tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    worker = await start_worker(drain_seconds=0.5)
    job = await office.submit("mark", {"path": str(marks), "number": 600}, **LONG)
    await until(marks.exists)
    children = worker.children()
    terminate(worker)
    assert await worker.ended() == 0
    row = await office.row(job)
    assert (row["state"], row["worker_id"], row["failures"], row["losses"]) == ("PROCESSING", None, 0, 0)
    assert row["error_code"] == "WORKER_STOPPED"
    assert not any(map(is_alive, children))
    assert list(worker.scratch.iterdir()) == []
    await start_worker()
    assert await office.result(job) == 2


async def test_stopping_lets_a_short_job_finish(start_worker: StartWorker, office: Office, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    worker = await start_worker()
    job = await office.submit("mark", {"path": str(marks), "number": 3}, **LONG)
    await until(marks.exists)
    terminate(worker)
    assert await worker.ended() == 0
    # Longer than the lease: it was kept while draining.
    row = await office.row(job)
    assert (row["state"], row["attempt"]) == ("SUCCESS", 1)
    await office.until_queue_is_empty()


async def test_an_idle_worker_stops_within_its_poll_grace(start_worker: StartWorker) -> None:
    worker = await start_worker(receive_wait_seconds=20)
    terminate(worker)
    assert await worker.ended(seconds=4.5) == 0


async def test_a_second_signal_ends_at_once(start_worker: StartWorker, office: Office, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    worker = await start_worker(receive_wait_seconds=20)
    await office.submit("mark", {"path": str(marks), "number": 600}, **LONG)
    await until(marks.exists)
    children = worker.children()
    terminate(worker)
    await until(lambda: bool(worker.logged("worker.draining")))
    terminate(worker)
    assert await worker.ended(seconds=3) == 1
    await until(lambda: not any(map(is_alive, children)), seconds=2)


async def test_a_lost_hint_is_found_by_the_sweep(start_worker: StartWorker, office: Office) -> None:
    await start_worker()
    job = await office.submit("double", {"number": 1}, is_hinted=False)
    assert await office.result(job) == {"number": 2}


async def test_a_job_of_an_unknown_type_waits_for_a_worker_that_knows_it(
    start_worker: StartWorker, office: Office
) -> None:
    worker = await start_worker(jobs=("todoke.jobs.generate_report",), redispatch_seconds=60.0)
    job = await office.submit("double", {"number": 1})
    await office.until_queue_is_empty()
    await until(lambda: bool(worker.logged("hint.type_unknown")))
    row = await office.row(job)
    assert (row["state"], row["attempt"]) == ("PENDING", 0)
    assert (row["redispatch_at"] - row["created_at"]).total_seconds() > 50


async def test_foreign_messages_are_left_for_the_dead_letters(start_worker: StartWorker, office: Office) -> None:
    office.queue._sqs.send_message(QueueUrl=office.queue._url, MessageBody="hello")
    worker = await start_worker(visibility_seconds=1)
    await until(lambda: len(worker.logged("hint.unparseable")) >= 2)
    assert worker.logged("hint.unparseable")[1]["receive_count"] == 2


async def test_a_hint_without_a_job_is_dropped_after_some_tries(start_worker: StartWorker, office: Office) -> None:
    worker = await start_worker()
    await office.queue.send([new_id()])
    await until(lambda: bool(worker.logged("hint.jobless")))
    await office.until_queue_is_empty()


async def test_a_long_job_keeps_its_lease_and_its_message(
    start_worker: StartWorker, office: Office, tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    await start_worker(visibility_seconds=2)
    await start_worker(visibility_seconds=2)
    job = await office.submit("mark", {"path": str(marks), "number": 6}, **LONG)
    row = await office.end(job)
    assert (row["attempt"], row["losses"]) == (1, 0)
    assert len(marks.read_text().splitlines()) == 1


async def test_postgresql_away_costs_nothing_but_time(
    start_worker: StartWorker, office: Office, settings: Settings, postgres_proxy: Proxy, tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    moved = SecretStr(postgres_proxy.url)
    worker = await start_worker(database_url=moved)
    running = await office.submit("mark", {"path": str(marks), "number": 2}, **LONG)
    await until(marks.exists)
    await postgres_proxy.cut()
    waiting = await office.submit("double", {"number": 1})
    await until(lambda: bool(worker.logged("outcome.waiting")))
    await until(lambda: bool(worker.logged("receiving.paused")))
    await postgres_proxy.mend()
    assert (await office.end(running))["state"] == "SUCCESS"
    assert await office.result(waiting) == {"number": 2}
    assert (await office.row(waiting))["attempt"] == 1
    assert worker.process.returncode is None


async def test_sqs_away_is_waited_out(
    start_worker: StartWorker, office: Office, settings: Settings, aws_proxy: Proxy
) -> None:
    await aws_proxy.cut()
    worker = await start_worker(aws_endpoint_url=aws_proxy.url, sqs_queue_url=aws_proxy.moved(settings.sqs_queue_url))
    job = await office.submit("double", {"number": 1}, is_hinted=False)
    await until(lambda: bool(worker.logged("queue.unreceived")))
    await until(lambda: bool(worker.logged("sweep.unsent")))
    await aws_proxy.mend()
    assert await office.result(job) == {"number": 2}


async def test_a_worker_waits_for_a_database_that_comes_later(
    start_worker: StartWorker, office: Office, settings: Settings, postgres_proxy: Proxy
) -> None:
    await postgres_proxy.cut()
    moved = SecretStr(postgres_proxy.url)
    worker = await start_worker(database_url=moved)
    job = await office.submit("double", {"number": 1})
    await until(lambda: bool(worker.logged("receiving.paused")))
    await postgres_proxy.mend()
    assert await office.result(job) == {"number": 2}


async def test_a_worker_without_a_queue_says_so_in_one_line(start_worker: StartWorker) -> None:
    worker = await start_worker(is_ready=False, sqs_queue_url="")
    assert await worker.ended() == 2
    assert [line["text"] for line in worker.lines] == [
        "todoke worker: SQS_QUEUE_URL is not set: a worker takes its hints from there\n"
    ]


async def test_many_jobs_all_run_once(start_worker: StartWorker, office: Office) -> None:
    worker = await start_worker(slots=32)
    jobs = [await office.submit("double-async", {"number": number}, is_hinted=False) for number in range(200)]
    for start in range(0, len(jobs), 10):
        await office.queue.send(jobs[start : start + 10])
    rows = [await office.end(job) for job in jobs]
    assert {(row["state"], row["attempt"], row["sequence"]) for row in rows} == {("SUCCESS", 1, 3)}
    await office.until_queue_is_empty()
    assert not worker.logged("attempt.lost")
