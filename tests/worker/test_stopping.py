"""An attempt that is to stop: told politely, in whatever it does, and ended by force when it does not listen."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.worker.bench import Bench, StartBench, benches
from tests.worker.conftest import descendants, is_alive, until
from worker.ending import TIMEOUT, Errored
from worker.process import STOP_GRACE_SECONDS

# What a polite stop may take at most: less than the grace, so that it cannot have been a kill.
POLITE_SECONDS = STOP_GRACE_SECONDS - 0.5


@pytest.fixture
async def start_bench(tmp_path: Path) -> AsyncIterator[StartBench]:
    async with benches(tmp_path) as start:
        yield start


@pytest.fixture
async def bench(start_bench: StartBench) -> Bench:
    return await start_bench()


@pytest.mark.parametrize(
    ("type_", "last"),
    [
        ("clean-up", "cleaned"),
        ("finish-anyway", "finished"),
        ("report-until-told", "told True"),
        ("ask-until-told", "told"),
        ("thread-until-told", "told"),
        ("async-until-told", "told True"),
    ],
)
async def test_a_job_hears_that_it_is_to_stop(bench: Bench, tmp_path: Path, type_: str, last: str) -> None:
    notes = tmp_path / "notes"
    assert await bench.stopped(type_, notes) < POLITE_SECONDS
    await until(lambda: notes.read_text().splitlines()[-1] == last, what=notes.read_text)
    assert await bench.value("double", {"number": 2}) == {"number": 4}


async def test_progress_without_a_pause_is_broken_into_without_harm(bench: Bench, tmp_path: Path) -> None:
    for number in range(6):
        notes = tmp_path / f"notes{number}"
        assert await bench.stopped("report-until-told", notes) < POLITE_SECONDS
        assert notes.read_text().splitlines() == ["started", "told True"]


@pytest.mark.parametrize("type_", ["stubborn", "deaf", "in-c"])
async def test_a_process_that_does_not_listen_is_killed(bench: Bench, tmp_path: Path, type_: str) -> None:
    notes = tmp_path / "notes"
    spent = await bench.stopped(type_, notes)
    assert STOP_GRACE_SECONDS <= spent < STOP_GRACE_SECONDS + 1
    [child] = bench.host._all
    await until(lambda: child.is_gone)
    assert await bench.value("double", {"number": 2}) == {"number": 4}


@pytest.mark.parametrize("type_", ["deaf-thread", "async-deaf"])
async def test_a_shared_process_that_does_not_listen_is_replaced_at_once(
    bench: Bench, tmp_path: Path, type_: str
) -> None:
    notes, others = tmp_path / "notes", tmp_path / "others"
    bystander = asyncio.create_task(bench.run("thread-until-told", {"path": str(others)}))
    await until(others.exists)
    await bench.stopped(type_, notes)
    old = int(notes.read_text().splitlines()[0])
    assert await bench.value("which-process") != old
    # The old one is left to its other job, and ends with it.
    assert is_alive(old)
    bystander.cancel()
    await asyncio.wait({bystander})
    await until(lambda: not is_alive(old))


async def test_a_shared_process_goes_on_after_a_polite_stop(bench: Bench, tmp_path: Path) -> None:
    before = await bench.value("which-process")
    bystander = asyncio.create_task(bench.value("sleep-async", {"number": 1}))
    for type_ in ("async-until-told", "thread-until-told"):
        assert await bench.stopped(type_, tmp_path / type_) < POLITE_SECONDS
    ending = await bench.run("sleep-async", {"number": 600}, seconds=0.2)
    assert isinstance(ending, Errored)
    assert ending.code == TIMEOUT
    assert await bystander == before
    assert await bench.value("which-process") == before


async def test_a_stop_that_comes_twice_still_grants_the_grace(bench: Bench, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    task = asyncio.create_task(bench.host.run(bench.order("stubborn", {"path": str(notes)}, seconds=1)))
    await until(lambda: notes.exists() and "swallowed" in notes.read_text())
    task.cancel()
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - began > 1


async def test_a_timeout_is_polite_too(bench: Bench, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    ending = await bench.run("finish-anyway", {"path": str(notes)}, seconds=0.5)
    assert isinstance(ending, Errored)
    assert ending.code == TIMEOUT
    assert notes.read_text().splitlines() == ["started", "finished"]


async def test_a_job_stopped_before_it_starts_never_runs(bench: Bench, tmp_path: Path) -> None:
    """The order and the stop arrive together, behind a job that holds the loop of the child."""
    notes = [tmp_path / "one", tmp_path / "other"]
    first = asyncio.create_task(bench.run("hold-the-loop", {"path": str(notes[0])}))
    await until(notes[0].exists)
    second = asyncio.create_task(bench.run("async-until-told", {"path": str(notes[1])}))
    await until(lambda: any(len(child._orders) == 2 for child in bench.host._all))
    second.cancel()
    await asyncio.wait({first, second})
    assert not notes[1].exists()


async def test_nothing_stays_when_the_host_closes(start_bench: StartBench, tmp_path: Path) -> None:
    bench = await start_bench()
    tasks = [
        asyncio.create_task(bench.run(type_, {"path": str(tmp_path / type_)}))
        for type_ in ("deaf", "deaf-thread", "daemonise-and-wait")
    ]
    await until(lambda: all((tmp_path / name).exists() for name in ("deaf", "deaf-thread", "daemonise-and-wait")))
    below = {pid for child in bench.host._all for pid in descendants(child.pid) | {child.pid}}
    assert int((tmp_path / "daemonise-and-wait").read_text()) in below
    await bench.host.close()
    await asyncio.wait(tasks)
    assert not [pid for pid in below if is_alive(pid)]
