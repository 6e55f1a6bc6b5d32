"""Memory while a job runs, and children that are replaced before they grow old."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.worker.bench import Bench, StartBench, benches
from tests.worker.conftest import is_alive, until
from worker import processes
from worker.cgroups import V1, V2, Cgroup, Cgroups, clear_away
from worker.ending import MEMORY_LIMIT, Errored, Failed, Returned


@pytest.fixture
async def start_bench(tmp_path: Path) -> AsyncIterator[StartBench]:
    async with benches(tmp_path) as start:
        yield start


@pytest.fixture
async def bench(start_bench: StartBench) -> Bench:
    return await start_bench()


async def test_a_job_within_its_limit_is_left_alone(bench: Bench) -> None:
    assert await bench.value("eat", {"number": 100}) == 100 * 2**20


@pytest.mark.parametrize("type_", ["eat", "eat-in-programs"])
async def test_a_job_that_grows_beyond_its_limit_ends_alone(bench: Bench, type_: str) -> None:
    bystander = asyncio.create_task(bench.run("sleep", {"number": 2}))
    ending = await bench.run(type_, {"number": 400 if type_ == "eat" else 70})
    assert isinstance(ending, Failed)
    assert ending.code == MEMORY_LIMIT
    assert "192 MiB" in ending.message
    assert isinstance(await bystander, Returned)
    await until(lambda: len(bench.pids) <= 1)


async def test_what_forks_share_counts_once(bench: Bench) -> None:
    assert isinstance(await bench.run("share-memory", {"number": 70}), Returned)


async def test_the_setting_holds_where_the_type_says_nothing(start_bench: StartBench) -> None:
    bench = await start_bench(memory_mb=128)
    ending = await bench.run("leak-without-limit", {"number": 300})
    assert isinstance(ending, Failed)
    assert "128 MiB" in ending.message


async def test_a_shared_process_over_its_limit_lets_its_jobs_try_again(start_bench: StartBench) -> None:
    bench = await start_bench(memory_mb=192)
    bystander = asyncio.create_task(bench.run("sleep-async", {"number": 20}))
    endings = await asyncio.gather(bench.run("eat-in-a-thread", {"number": 400}), bystander)
    for ending in endings:
        assert isinstance(ending, Errored)
        assert ending.code == MEMORY_LIMIT
    assert await bench.value("double-async", {"number": 1}) == {"number": 2}


async def test_a_child_is_replaced_after_so_many_jobs(start_bench: StartBench) -> None:
    bench = await start_bench(jobs_max=2)
    alone = [await bench.value("own-pid") for _ in range(4)]
    shared = [await bench.value("which-process") for _ in range(4)]
    for pids in (alone, shared):
        assert (pids[0], pids[2]) == (pids[1], pids[3])
        assert pids[0] != pids[2]
    await until(lambda: not any(is_alive(int(str(pid))) for pid in (alone[0], shared[0])))


@pytest.mark.parametrize("type_", ["leak", "leak-in-a-thread"])
async def test_a_child_that_stays_large_is_replaced(start_bench: StartBench, type_: str) -> None:
    bench = await start_bench(memory_mb=192)
    small = [await bench.value(type_, {"number": 1}) for _ in range(2)]
    large = await bench.value(type_, {"number": 80})
    assert small[0] == small[1] == large
    assert await bench.value(type_, {"number": 1}) != large


@pytest.mark.parametrize("type_", ["leave-a-thread", "leave-a-program", "leave-a-daemon"])
async def test_a_child_in_which_something_goes_on_is_replaced(bench: Bench, tmp_path: Path, type_: str) -> None:
    path = tmp_path / "pid"
    if type_ == "leave-a-thread":
        first = await bench.value(type_)
    else:
        number = 1 if type_ == "leave-a-daemon" else 0
        first = await bench.value("leave-a-program", {"path": str(path), "number": number})
        await until(lambda: not is_alive(int(path.read_text())))
    assert await bench.value("own-pid") != first


async def test_groups_of_the_kernel_are_optional_and_hold_where_they_are(tmp_path: Path) -> None:
    found = Cgroups.found()
    group = found.new() if found is not None else None
    if group is not None:
        group.limit(64 * 2**20)
        assert group.kills() == 0
        await group.remove()
        assert not group.path.exists()
    for files in (V1, V2):
        nowhere = Cgroup(tmp_path / "nowhere", files)
        nowhere.limit(1)
        assert nowhere.kills() == 0
        await nowhere.remove()


@pytest.mark.parametrize("type_", ["eat", "eat-in-programs"])
async def test_the_kernel_keeps_the_limit_where_it_lets_us(
    start_bench: StartBench, monkeypatch: pytest.MonkeyPatch, type_: str
) -> None:
    cgroups = Cgroups.found()
    if cgroups is not None:
        # Nothing is polled but the kernel's own count.
        monkeypatch.setattr(processes, "memory_bytes", lambda _pids, _enough: 0)
    bench = await start_bench(cgroups=cgroups)
    paths = [child._cgroup.path for child in bench.host._all if child._cgroup is not None]
    ending = await bench.run(type_, {"number": 400 if type_ == "eat" else 70})
    assert isinstance(ending, Failed)
    assert ending.code == MEMORY_LIMIT
    await until(lambda: not any(path.exists() for path in paths))
    assert await bench.value("double", {"number": 1}) == {"number": 2}


def test_groups_of_workers_that_were_killed_are_cleared_away(tmp_path: Path) -> None:
    dead, ours, busy = f"todoke-{2**22 + 1}-1", f"todoke-{os.getpid()}-1", f"todoke-{2**22 + 1}-2"
    for name in (dead, ours, f"{busy}/process", "other"):
        (tmp_path / name).mkdir(parents=True)
    clear_away(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {ours, busy, "other"}


@pytest.mark.parametrize("files", [V1, V2])
def test_the_count_of_kills_is_read_from_either_version(tmp_path: Path, files: object) -> None:
    for name in ("memory.events", "memory.oom_control"):
        (tmp_path / name).write_text("low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert Cgroup(tmp_path, files).kills() == 2  # type: ignore[arg-type]


def test_a_process_that_is_gone_takes_no_memory() -> None:
    assert processes.memory_bytes([2**22 + 1], 0) == 0
    assert processes.below(2**22 + 1) == []
