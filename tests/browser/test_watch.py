"""`/todoke.js` in a real browser: every event once and in order, whatever happens to the line."""

import pytest

from tests.browser.conftest import Reader
from tests.browser.gate import Gate
from tests.conftest import until
from tests.make import WORKER, accept, fail, start, succeed
from todoke.model.job import Progress
from todoke.store.ledger import Ledger

pytestmark = pytest.mark.browser

EARLIEST = {"lastEventId": "earliest"}
SOON = {"backoff": 50}


async def test_a_job_from_its_first_picture_to_its_end(reader: Reader, gate: Gate, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    await reader.watch(job_id)
    assert [event["type"] for event in await reader.sees(1)] == ["snapshot"]
    attempt = await start(ledger, job_id)
    await reader.sees(2)
    await succeed(ledger, attempt)
    final = await reader.ends()
    assert (final["status"], final["sequence"], final["jobId"]) == ("success", 3, str(job_id))
    assert [event["type"] for event in await reader.seen()] == ["snapshot", "job.started", "job.succeeded"]
    assert await reader.page.evaluate("states") == ["open", "ended"]
    await until(lambda: gate.streams_open == 0)
    assert len(gate.streams) == 1
    assert gate.polls == []


async def test_a_job_that_has_ended_shows_itself_and_its_end(reader: Reader, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    await fail(ledger, await start(ledger, job_id))
    await reader.watch(job_id)
    assert (await reader.ends())["status"] == "failed"
    assert [event["type"] for event in await reader.seen()] == ["snapshot", "job.failed"]


async def test_who_has_seen_the_end_is_told_how_it_was(reader: Reader, gate: Gate, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    await succeed(ledger, await start(ledger, job_id))
    await reader.watch(job_id, **EARLIEST)
    await reader.ends()
    await reader.watch(job_id, lastEventId=(await reader.seen())[-1]["id"])
    assert (await reader.ends())["sequence"] == 3
    assert await reader.seen() == []
    assert len(gate.streams) == 2


async def test_a_line_that_is_cut(reader: Reader, gate: Gate, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    await reader.watch(job_id, **EARLIEST)
    await reader.sees(1)
    gate.cut()
    attempt = await start(ledger, job_id)
    await reader.sees(2)
    gate.cut()
    await succeed(ledger, attempt)
    await reader.ends()
    assert await reader.numbered() == [1, 2, 3]


async def test_a_job_there_is_not(reader: Reader, gate: Gate) -> None:
    await reader.watch("00000000-0000-7000-8000-000000000000")
    assert await reader.is_refused() == 404
    assert await reader.page.evaluate("job.state") == "failed"
    assert (len(gate.streams), len(gate.polls)) == (1, 1)


async def test_close(reader: Reader, gate: Gate, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    await reader.watch(job_id)
    await reader.sees(1)
    assert await reader.page.evaluate("(job.close(), job.done)") is None
    await until(lambda: gate.streams_open == 0)
    await start(ledger, job_id)
    assert len(await reader.seen()) == 1


async def test_it_can_be_iterated(reader: Reader, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    await succeed(ledger, await start(ledger, job_id))
    script = """async (id) => {
        const { watch } = await import("/todoke.js");
        const types = [];
        for await (const event of watch(id, { lastEventId: "earliest" })) types.push(event.type);
        return types;
    }"""
    assert await reader.page.evaluate(script, str(job_id)) == ["job.accepted", "job.started", "job.succeeded"]


async def test_a_cursor_that_cannot_be_continued(reader: Reader, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    attempt = await start(ledger, job_id)
    await reader.watch(job_id, lastEventId="0000000000.1")
    assert [(event["type"], event["sequence"]) for event in await reader.sees(1)] == [("reset", 2)]
    await succeed(ledger, attempt)
    await reader.ends()
    assert await reader.numbered() == [3]


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_an_answer_that_stops_a_native_event_source_for_good(
    reader: Reader, gate: Gate, ledger: Ledger, status: int
) -> None:
    job_id = await accept(ledger)
    await reader.page.evaluate(
        """(id) => { window.native = new EventSource(`/jobs/${id}/events?native`); }""", str(job_id)
    )
    await reader.watch(job_id, **EARLIEST, timing=SOON)
    await reader.sees(1)
    await reader.page.wait_for_function("native.readyState === EventSource.OPEN")
    gate.refuse(status, "Retry-After: 1")
    gate.cut()
    await reader.page.wait_for_function("native.readyState === EventSource.CLOSED", timeout=20_000)
    await until(lambda: len(gate.polls) >= 2)
    gate.admit()
    await succeed(ledger, await start(ledger, job_id))
    await reader.ends()
    assert await reader.numbered() == [1, 2, 3]
    assert await reader.page.evaluate("native.readyState") == 2


async def test_where_no_stream_gets_through_it_polls_and_then_streams_again(
    reader: Reader, gate: Gate, ledger: Ledger
) -> None:
    job_id = await accept(ledger)
    gate.refuse(503, streams_only=True)
    await reader.watch(job_id, **EARLIEST, timing=SOON | {"again": 1500})
    await reader.is_in("polling")
    attempt = await start(ledger, job_id)
    assert [event["type"] for event in await reader.sees(2)] == ["job.accepted", "job.started"]
    refused = gate.refused
    await ledger.report([Progress(job_id, attempt.lease, 50, "half")], WORKER)
    await until(lambda: gate.refused > refused, 30)
    gate.admit()
    await until(lambda: gate.streams_open == 1, 60)
    await succeed(ledger, attempt)
    await reader.ends()
    assert [event["type"] for event in await reader.seen()] == [
        "job.accepted",
        "job.started",
        "job.progress",
        "job.succeeded",
    ]
