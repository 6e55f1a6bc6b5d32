"""`/todoke.js` where the line breaks without a word: silence, sleep, no network, buffers, a killed API."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import Desk
from tests.browser.conftest import Reader
from tests.browser.gate import Gate
from tests.conftest import until
from tests.make import accept, start, succeed
from todoke.store.ledger import Ledger

pytestmark = pytest.mark.browser

EARLIEST = {"lastEventId": "earliest"}


async def test_a_line_that_has_fallen_silent(reader: Reader, gate: Gate, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    await reader.watch(job_id, **EARLIEST, timing={"silence": 1000, "tick": 100})
    await reader.sees(1)
    gate.fall_silent()
    attempt = await start(ledger, job_id)
    await reader.sees(2)
    gate.fall_silent()
    await succeed(ledger, attempt)
    await reader.ends()
    assert await reader.numbered() == [1, 2, 3]


async def test_a_gateway_that_keeps_streams_back(reader: Reader, gate: Gate, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    gate.holds_streams = True
    await reader.watch(job_id, **EARLIEST, timing={"opening": 300, "silence": 300, "tick": 50, "backoff": 50})
    await reader.sees(1)
    await reader.is_in("polling")
    attempt = await start(ledger, job_id)
    await reader.sees(2)
    await succeed(ledger, attempt)
    await reader.ends()
    assert await reader.numbered() == [1, 2, 3]


async def test_a_network_that_goes_and_comes(reader: Reader, gate: Gate, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    await reader.watch(job_id, **EARLIEST)
    await reader.sees(1)
    await reader.page.context.set_offline(True)
    gate.fall_silent()
    attempt = await start(ledger, job_id)
    await reader.page.context.set_offline(False)
    await reader.sees(2)
    await succeed(ledger, attempt)
    await reader.ends()
    assert await reader.numbered() == [1, 2, 3]


async def test_a_page_that_sleeps(reader: Reader, gate: Gate, ledger: Ledger) -> None:
    """Its connection is dead when it wakes, and nobody tells it so."""
    job_id = await accept(ledger)
    await reader.watch(job_id, **EARLIEST, timing={"tick": 200})
    await reader.sees(1)
    asleep = await reader.freeze()
    gate.fall_silent()
    attempt = await start(ledger, job_id)
    until_when = time.monotonic() + 2
    await until(lambda: time.monotonic() > until_when)
    await reader.thaw(asleep)
    await reader.sees(2)
    await succeed(ledger, attempt)
    await reader.ends()
    assert await reader.numbered() == [1, 2, 3]


async def test_a_clock_that_jumps(reader: Reader, gate: Gate, ledger: Ledger) -> None:
    """A lid that was closed fires no event: only the time has moved on."""
    job_id = await accept(ledger)
    await reader.watch(job_id, **EARLIEST, timing={"tick": 200, "silence": 1_000_000_000})
    await reader.sees(1)
    gate.fall_silent()
    await start(ledger, job_id)
    await reader.page.evaluate("{ const now = Date.now; Date.now = () => now() + 60_000; }")
    await reader.sees(2)
    assert await reader.numbered() == [1, 2]


@pytest.mark.timeout(240)
async def test_an_api_that_is_killed(desk: Desk, visit: Callable[[str], Any], tmp_path: Path) -> None:
    async with Gate(desk.url) as gate, httpx.AsyncClient(base_url=desk.url, timeout=20) as client:
        reader = await visit(gate.url)
        answer = await client.post("/paced", json={"params": {"folder": str(tmp_path), "steps": 2}})
        await reader.watch(answer.json()["jobId"], **EARLIEST, timing={"backoff": 100})
        await reader.sees(2)
        for step, events in (("1", 3), ("2", 4)):
            [pid] = desk.facts["pids"]["api"]
            os.kill(pid, signal.SIGKILL)
            (tmp_path / step).touch()
            await until(lambda: desk.facts["pids"]["api"] not in ([], [pid]), 60)  # noqa: B023 - waited for at once
            await reader.sees(events)
        assert (await reader.ends())["status"] == "success"
        assert await reader.numbered() == [1, 2, 3]
        percents = [event["percent"] for event in await reader.seen() if event["type"] == "job.progress"]
        assert percents == sorted(set(percents))
