"""Job code that breaks its process or speaks for it: that job ends with a code, and nobody else notices."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.worker.bench import Bench, StartBench, benches
from tests.worker.conftest import is_alive, until
from worker import processes
from worker.ending import CHILD_DIED, JOB_ERROR, RESULT_INVALID, Errored, Failed, Returned
from worker.process import LAST_WORDS_SECONDS

MEBIBYTE = 2**20
SINS = ("close", "garbage", "huge-frame", "deep", "flood", "flood-of-questions", "nan", "escape", "empty")


@pytest.fixture
async def start_bench(tmp_path: Path) -> AsyncIterator[StartBench]:
    async with benches(tmp_path) as start:
        yield start


@pytest.fixture
async def bench(start_bench: StartBench) -> Bench:
    return await start_bench()


@pytest.mark.parametrize("words", SINS)
async def test_a_child_that_breaks_the_protocol_is_ended(bench: Bench, words: str) -> None:
    bystanders = [asyncio.create_task(bench.run(type_, {"number": 1})) for type_ in ("sleep", "sleep-async")]
    before, began = processes.resident_bytes(os.getpid()), time.monotonic()
    ending = await bench.run("misbehave", {"words": words})
    assert time.monotonic() - began < LAST_WORDS_SECONDS + 3
    assert processes.resident_bytes(os.getpid()) - before < 50 * MEBIBYTE
    assert isinstance(ending, Errored)
    assert ending.code == CHILD_DIED
    assert "pipe" in ending.message or "no job may send" in ending.message
    for bystander in bystanders:
        assert isinstance(await bystander, Returned)
    assert await bench.value("double", {"number": 1}) == {"number": 2}
    await until(lambda: len(bench.pids) <= 2)


async def test_a_forked_copy_is_not_heard(bench: Bench) -> None:
    for _ in range(5):
        assert await bench.value("fork-and-return") == "original"


async def test_a_daemon_ends_with_the_process_of_its_job(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    ending = await bench.run("daemonise-and-die", {"path": str(path)})
    assert isinstance(ending, Errored)
    assert ending.message == "the process that ran the job was killed by SIGKILL"
    assert not is_alive(int(path.read_text()))


@pytest.mark.parametrize("number", [0, 1])
async def test_a_result_that_cannot_travel_ends_the_job(bench: Bench, number: int) -> None:
    ending = await bench.run("unpicklable", {"number": number})
    assert isinstance(ending, Failed)
    assert ending.code == RESULT_INVALID
    assert len(ending.message) < 300


async def test_an_error_that_cannot_be_told_is_named(bench: Bench) -> None:
    ending = await bench.run("raise-unpicklable")
    assert ending == Errored(JOB_ERROR, "Odd")


async def test_a_million_reports_neither_slow_the_job_nor_reach_the_worker(bench: Bench) -> None:
    spent = await bench.value("hostile-progress", {"number": 1_000_000})
    assert isinstance(spent, float)
    assert spent < 20
    assert 2 <= len(bench.told) <= 12 + 10 * spent
    assert all(0 <= percent <= 100 and len(message) <= 200 for percent, message in bench.told)


async def test_a_million_lines_are_counted_not_logged(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bystander = asyncio.create_task(bench.value("double", {"number": 1}))
    began = time.monotonic()
    assert isinstance(await bench.run("print-a-lot", {"number": 100}), Returned)
    assert await bystander == {"number": 2}
    lines = capsys.readouterr().out.count("job.output ")
    assert lines < 1000 + 150 * (time.monotonic() - began)
