"""Tabs of one origin that watch the same job: one connection for all, whoever leaves."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.gate import Gate
from tests.conftest import until
from tests.make import accept, start, succeed
from todoke.store.ledger import Ledger

pytestmark = pytest.mark.browser


async def test_two_tabs_share_a_connection_and_one_goes_on_alone(
    visit: Callable[[str], Any], gate: Gate, ledger: Ledger
) -> None:
    job_id = await accept(ledger)
    first, second = await visit(gate.url), await visit(gate.url)
    await first.watch(job_id)
    await first.is_in("open")
    await first.sees(1)
    await second.watch(job_id)
    await second.is_in("following")
    assert [event["type"] for event in await second.sees(1)] == ["snapshot"]
    attempt = await start(ledger, job_id)
    for reader in (first, second):
        assert [(event["type"], event["sequence"]) for event in await reader.sees(2)][1] == ("job.started", 2)
    late = await visit(gate.url)
    await late.watch(job_id)
    assert [(event["type"], event["sequence"]) for event in await late.sees(1)] == [("snapshot", 2)]
    assert len(gate.streams) == 1
    await first.page.close()
    await until(lambda: len(gate.streams) == 2 and gate.streams_open == 1, 20)
    assert gate.streams[1].query["lastEventId"][0].endswith(".2")
    await succeed(ledger, attempt)
    for reader in (second, late):
        assert (await reader.ends())["status"] == "success"
    assert await second.numbered() == [2, 3]
    assert await late.numbered() == [3]
    await until(lambda: gate.streams_open == 0)


async def test_a_tab_that_is_frozen_gives_way(visit: Callable[[str], Any], gate: Gate, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    first, second = await visit(gate.url), await visit(gate.url)
    for reader in (first, second):
        await reader.watch(job_id, timing={"asking": 200})
        await reader.sees(1)
    asleep = await first.freeze()
    await until(lambda: len(gate.streams) >= 2, 30)
    attempt = await start(ledger, job_id)
    await second.sees(2)
    await first.thaw(asleep)
    await succeed(ledger, attempt)
    for reader in (first, second):
        await reader.ends()
        assert await reader.numbered() == [2, 3]


async def test_without_locks_each_tab_has_its_own(visit: Callable[[str], Any], gate: Gate, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    first, second = await visit(gate.url), await visit(gate.url)
    await first.watch(job_id)
    await first.sees(1)
    await second.page.evaluate("Object.defineProperty(navigator, 'locks', { value: undefined })")
    await second.watch(job_id)
    await second.sees(1)
    assert gate.streams_open == 2
    await succeed(ledger, await start(ledger, job_id))
    for reader in (first, second):
        await reader.ends()
        assert await reader.numbered() == [2, 3]
