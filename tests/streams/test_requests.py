"""Requests no browser makes: the API answers each in a defined way, and nothing of them stays behind."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import UUID

import httpx
import pytest

from tests.conftest import serve
from tests.make import accept, start, succeed
from tests.streams.event_source import EventSource, Parser
from tests.streams.oracle import check, committed
from tests.streams.raw import connection, open_streams, read_until, request, until_open
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.ledger import Ledger

ACCEPTS = [
    "",
    "*/*",
    "text/*",
    "text/event-stream",
    "TEXT/EVENT-STREAM",
    "text/event-stream;q=0",
    "image/png",
    ";;;,,,q=",
    "text/event-stream, application/json",
    "a" * 8_000,
    "\xff\xfe",
    "text/event-stream\t;\tq=high",
]


@pytest.fixture
async def url(settings: Settings) -> AsyncIterator[str]:
    async with serve(settings.model_copy(update={"stream_heartbeat_seconds": 0.1})) as url:
        yield url


@pytest.fixture
async def job_id(ledger: Ledger) -> UUID:
    return await accept(ledger)


async def test_a_stream_is_only_read(url: str, job_id: UUID) -> None:
    async with httpx.AsyncClient(base_url=url) as api:
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            answer = await api.request(method, f"/jobs/{job_id}/events", content=b"{}")
            assert answer.status_code == 405
            assert "GET" in answer.headers["allow"]
            assert answer.headers["content-type"] == "application/problem+json"


async def test_head_ends_and_has_no_body(url: str, job_id: UUID) -> None:
    async with connection(url) as (reader, writer):
        writer.write(request(url, f"/jobs/{job_id}/events", method="HEAD"))
        writer.write(request(url, "/healthz", "Connection: close"))
        got = await read_until(reader, lambda _: False)
    head, _, rest = got.partition(b"\r\n\r\n")
    assert head.split()[1] in (b"200", b"405")
    assert rest.startswith(b"HTTP/1.1 200 "), "the next answer follows the head at once"
    assert await open_streams(url) == 0


async def test_whatever_accept_says_short_of_json_it_is_a_stream(url: str, job_id: UUID) -> None:
    for words in ACCEPTS:
        async with connection(url) as (reader, writer):
            writer.write(request(url, f"/jobs/{job_id}/events", f"Accept: {words}"))
            got = await read_until(reader, lambda got: b"event: snapshot" in got)
        assert got.startswith(b"HTTP/1.1 200 "), words
        assert b"text/event-stream" in got


async def test_an_http_1_0_client_reads_to_the_end(url: str, database: Database, ledger: Ledger, job_id: UUID) -> None:
    """It knows no chunks: their sizes are lines of their own to it, which the rules of the stream pass over."""
    async with connection(url) as (reader, writer):
        writer.write(request(url, f"/jobs/{job_id}/events?lastEventId=earliest", version="1.0"))
        got = await read_until(reader, lambda got: b"job.accepted" in got)
        await succeed(ledger, await start(ledger, job_id))
        got += await read_until(reader, lambda _: False)
    head, _, body = got.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    check((await committed(database))[job_id], Parser().feed(body), after=0)


async def test_a_request_behind_a_stream_waits_for_its_end(url: str, ledger: Ledger, job_id: UUID) -> None:
    async with connection(url) as (reader, writer):
        writer.write(request(url, f"/jobs/{job_id}/events") + request(url, f"/jobs/{job_id}", "Connection: close"))
        got = await read_until(reader, lambda got: b"heartbeat" in got)
        assert got.count(b"HTTP/1.1") == 1
        await succeed(ledger, await start(ledger, job_id))
        got += await read_until(reader, lambda _: False)
    assert got.count(b"HTTP/1.1 200 ") == 2


async def test_a_reader_that_leaves_is_noticed_whatever_it_sent_behind(url: str, job_id: UUID) -> None:
    for behind in (0, 1, 2, 30):
        async with connection(url) as (reader, writer):
            path = f"/jobs/{job_id}/events"
            writer.write(request(url, path))
            await read_until(reader, lambda got: b"snapshot" in got)
            writer.write(request(url, path) * behind)
            await read_until(reader, lambda got: b"heartbeat" in got)
    await until_open(url, 0)


async def test_a_reader_that_only_stops_sending_is_let_go(url: str, job_id: UUID) -> None:
    """Closing one's own side is leaving, as it is to every server on this loop."""
    async with connection(url) as (reader, writer):
        writer.write(request(url, f"/jobs/{job_id}/events"))
        await read_until(reader, lambda got: b"snapshot" in got)
        writer.write_eof()
        await read_until(reader, lambda _: False)
    await until_open(url, 0)


async def test_a_huge_cursor_is_refused_or_told_so(url: str, job_id: UUID) -> None:
    async with connection(url) as (reader, writer):
        writer.write(request(url, f"/jobs/{job_id}/events", f"Last-Event-ID: {'e' * 30_000}"))
        assert b"event: reset" in await read_until(reader, lambda got: b"event: reset" in got)
    async with connection(url) as (reader, writer):
        with contextlib.suppress(ConnectionError):  # it need not read all of it before it closes
            writer.write(f"GET / HTTP/1.1\r\nHost: x\r\nLast-Event-ID: {'e' * 2_000_000}".encode())
            assert (await read_until(reader, lambda _: False))[9:12] in (b"400", b"431", b"")
    async with httpx.AsyncClient(base_url=url) as api:
        assert (await api.get("/healthz")).status_code == 200


async def test_a_body_may_be_longer_than_a_head(url: str) -> None:
    async with httpx.AsyncClient(base_url=url) as api:
        for _ in range(2):
            answer = await api.post("/generate-report", content=b" " * 500_000 + b"{}")
            assert answer.status_code == 202


async def test_who_does_not_finish_asking_is_let_go(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.connection.HEAD_SECONDS", 0.3)
    whole = request(url, "/healthz")
    for begun in (b"", b"GET /jobs", whole[:-2], whole + b"GET /jobs"):
        async with connection(url) as (reader, writer):
            writer.write(begun)
            with contextlib.suppress(ConnectionError):
                got = await read_until(reader, lambda _: False, 10)
                assert got.count(b"HTTP/1.1 200 ") == begun.count(b"\r\n\r\n")


async def test_bytes_that_are_no_request(url: str, job_id: UUID) -> None:
    for data in (
        b"\0" * 100,
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ):
        async with connection(url) as (reader, writer):
            writer.write(data)
            assert (await read_until(reader, lambda got: len(got) > 12))[9:12] in (b"400", b"505", b"")
    assert await open_streams(url) == 0


async def test_a_request_that_comes_byte_by_byte(url: str, job_id: UUID) -> None:
    async with connection(url) as (reader, writer):
        for byte in request(url, f"/jobs/{job_id}/events"):
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert b"event: snapshot" in await read_until(reader, lambda got: b"snapshot" in got)


@pytest.mark.parametrize("count", [300, pytest.param(5_000, marks=[pytest.mark.full, pytest.mark.timeout(300)])])
async def test_many_that_come_and_go_leave_nothing(url: str, ledger: Ledger, database: Database, count: int) -> None:
    """Some before the answer, some inside it, some after; who stays meanwhile sees all of its job."""
    watched, flood = await accept(ledger), await accept(ledger)
    before = len(asyncio.all_tasks())
    slots = asyncio.Semaphore(20)

    async def come_and_go(number: int) -> None:
        async with slots, connection(url) as (reader, writer):
            writer.write(request(url, f"/jobs/{flood}/events"))
            if number % 3:
                await reader.read(1 if number % 3 == 1 else 400)

    async with EventSource(f"{url}/jobs/{watched}/events", "earliest") as source:
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(come_and_go(number))
        await succeed(ledger, await start(ledger, watched))
        await source.closed()
    check((await committed(database))[watched], source.dispatched, after=0)
    await until_open(url, 0)
    async with asyncio.timeout(10):
        while len(asyncio.all_tasks()) > before + 1:
            await asyncio.sleep(0.02)


async def test_a_burst_does_not_get_past_the_limit(settings: Settings, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    async with serve(settings.model_copy(update={"streams_max": 5})) as url:
        sources = [EventSource(f"{url}/jobs/{job_id}/events", scale=1) for _ in range(60)]
        for source in sources:
            await source.__aenter__()
        for source in sources:
            await source.until(lambda source: source.dispatched)
        assert sum(source.dispatched[0].event == "snapshot" for source in sources) == 5
        assert await open_streams(url) == 5
        for source in sources:
            await source.close()
