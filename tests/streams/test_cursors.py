"""Cursors that cannot be continued are told so in the stream, with a whole picture; and an end is an end."""

import json
from uuid import UUID

import httpx
import pytest

from tests.conftest import serve
from tests.make import accept, start, succeed
from tests.streams.event_source import EventSource
from tests.streams.logs import long_job
from tests.streams.oracle import check, committed
from todoke.model.event import TERMINAL
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.ledger import Ledger

REASONS = {"malformed", "epoch", "job", "ahead", "expired"}
FOREIGN = {
    "word": "nonsense",
    "number": "2",
    "negative": "{epoch}.-1",
    "ahead by one": "{epoch}.3",
    "ahead": "{epoch}.99",
    "beyond every integer": "{epoch}.99999999999999999999",
    "at the edge of an integer": "{epoch}.2147483648",
    "nine digits more": "{epoch}.9999999999",
    "no number": "{epoch}.",
    "no epoch": ".2",
    "fraction": "{epoch}.1.5",
    "exponent": "{epoch}.1e0",
    "other digits": "{epoch}.２",
    "space inside": "{epoch}. 1",
    "other epoch": "ffffffff.2",
    "other job": "{other}.1",
    "other job, its end": "{other}.3",
    "upper case": "{EPOCH}.1",
    "two of them": "{epoch}.1,{epoch}.2",
    "earliest in capitals": "EARLIEST",
    "injection": "'; DROP TABLE event; --",
    "path": "../../etc/passwd",
    "long": "a" * 4_000,
    "feed's": "gAAAAABm-3KzQ_fB",
}


async def epoch_of(url: str, job_id: UUID) -> str:
    async with EventSource(f"{url}/jobs/{job_id}/events") as source:
        await source.until(lambda source: source.dispatched)
        return source.last_event_id.partition(".")[0]


async def cursors_of(url: str, ledger: Ledger, job_id: UUID) -> dict[str, str]:
    """The foreign cursors as this job's client might send them."""
    other = await accept(ledger)
    await succeed(ledger, await start(ledger, other))
    epoch = await epoch_of(url, job_id)
    names = {"epoch": epoch, "EPOCH": epoch.upper() + "F", "other": await epoch_of(url, other)}
    return {name: text.format(**names) for name, text in FOREIGN.items()}


@pytest.mark.parametrize("is_ended", [False, True], ids=["running", "ended"])
@pytest.mark.parametrize("place", ["header", "query"])
async def test_no_foreign_cursor_is_met_with_silence(
    settings: Settings, database: Database, ledger: Ledger, place: str, is_ended: bool
) -> None:
    job_id = await accept(ledger)
    attempt = await start(ledger, job_id)
    async with serve(settings) as url:
        cursors = await cursors_of(url, ledger, job_id)
        if is_ended:
            await succeed(ledger, attempt)
            cursors = {name: cursor for name, cursor in cursors.items() if name != "ahead by one"}  # now it is its end
        sources = []
        for name, cursor in cursors.items():
            if place == "header" and not cursor.isascii():
                continue
            source = EventSource(f"{url}/jobs/{job_id}/events", cursor if place == "query" else None)
            source.last_event_id = cursor if place == "header" else ""
            async with source:
                await source.until(lambda source: source.dispatched)
                if not is_ended and len(sources) == 3:
                    await succeed(ledger, attempt)  # the rest comes after the end
                    is_ended = True
                if is_ended:
                    await source.closed()
            sources.append((name, source))
    log = (await committed(database))[job_id]
    for name, source in sources:
        first = source.dispatched[0]
        assert first.event == "reset", (name, source)
        assert json.loads(first.data)["reason"] in REASONS, (name, first)
        assert {"jobId", "sequence", "status", "phase"} <= json.loads(first.data)["data"].keys()
        check(log, source.dispatched, after=0, is_complete=source.statuses[-1] == 204)


@pytest.mark.parametrize("start_cursor", [None, "earliest", "{epoch}.0", "{epoch}.1", "{epoch}.2"])
async def test_the_end_comes_once_and_is_the_end(
    settings: Settings, database: Database, ledger: Ledger, start_cursor: str | None
) -> None:
    job_id = await accept(ledger)
    attempt = await start(ledger, job_id)
    async with serve(settings) as url:
        epoch = await epoch_of(url, job_id)
        cursor = start_cursor and start_cursor.format(epoch=epoch)
        live = EventSource(f"{url}/jobs/{job_id}/events", cursor)
        async with live:
            await live.until(lambda source: source.state == "open")
            await succeed(ledger, attempt)
            await live.closed()
        late = EventSource(f"{url}/jobs/{job_id}/events", cursor)
        async with late:
            await late.closed()
        final = EventSource(f"{url}/jobs/{job_id}/events", late.last_event_id)
        async with final:
            await final.closed()
    log = (await committed(database))[job_id]
    after = None if cursor is None else 0 if cursor == "earliest" else int(cursor.partition(".")[2])
    for source in (live, late):
        assert source.statuses == [200, 204], source
        assert sum(frame.event in TERMINAL for frame in source.dispatched) == 1
        check(log, source.dispatched, after=after)
    assert final.statuses == [204]
    assert final.dispatched == []


async def test_204_is_empty_and_leaves_the_connection_usable(settings: Settings, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    await succeed(ledger, await start(ledger, job_id))
    async with serve(settings) as url, httpx.AsyncClient(base_url=url) as api:
        final = f"{await epoch_of(url, job_id)}.3"
        for _ in range(3):
            answer = await api.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": final})
            assert (answer.status_code, answer.content) == (204, b"")


async def test_the_final_cursor_spelled_otherwise_is_no_endless_loop(settings: Settings, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    await succeed(ledger, await start(ledger, job_id))
    async with serve(settings) as url:
        source = EventSource(f"{url}/jobs/{job_id}/events", scale=0.001)
        source.last_event_id = f"{await epoch_of(url, job_id)}.0003"
        async with source:
            await source.closed(5)
        assert source.connects <= 2, source


async def test_an_empty_header_does_not_hide_the_parameter(
    settings: Settings, database: Database, ledger: Ledger
) -> None:
    job_id = await accept(ledger)
    await succeed(ledger, await start(ledger, job_id))
    async with serve(settings) as url, httpx.AsyncClient(base_url=url) as api:
        answer = await api.get(f"/jobs/{job_id}/events?lastEventId=earliest", headers={"Last-Event-ID": ""})
        assert answer.text.count("event: job.") == 3


async def test_a_client_that_takes_the_standard_by_its_word_misses_and_repeats_nothing(
    settings: Settings, database: Database, ledger: Ledger
) -> None:
    """Such a one forgets its cursor at the first blank line of a connection that brought no id."""
    brief = settings.model_copy(update={"stream_rotation_seconds": 0.1, "stream_heartbeat_seconds": 0.2})
    attempt = await long_job(database, ledger, 3)
    async with serve(brief) as url:
        source = EventSource(f"{url}/jobs/{attempt.id}/events", "earliest", is_literal=True)
        async with source:
            await source.until(lambda source: len(source.opened_at) >= 4)
            await succeed(ledger, attempt)
            await source.closed()
    check((await committed(database))[attempt.id], source.dispatched, after=0)


async def test_jobs_that_are_not_there_end_a_browser_for_good(settings: Settings, ledger: Ledger) -> None:
    async with serve(settings) as url:
        for job_id in (UUID(int=1), "nonsense", "%00", "..%2fx"):
            async with EventSource(f"{url}/jobs/{job_id}/events", "earliest") as source:
                await source.closed()
            assert source.statuses == [404], source
