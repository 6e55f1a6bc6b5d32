"""What callers meet at the gateway: a real nginx with our configuration before a running API that requires keys."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.conftest import serve, until
from tests.gateway.conftest import Pair
from tests.gateway.front import Gateway, gateway, plain_gateway
from tests.make import accept, start, succeed
from todoke.dev.ports import free_port
from todoke.model.job import Artifact
from todoke.runtime.settings import Settings
from todoke.store.ledger import Ledger
from todoke.wire.sse import Decoder

pytestmark = pytest.mark.gateway

BODY_BYTES_MAX = 16 * 2**20


@pytest.fixture
async def desk(nginx: str, settings: Settings, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Before a desk, whose guard looks at Host and Origin."""
    async with serve(settings) as api:
        with gateway(nginx, tmp_path, urlsplit(api).netloc) as front:
            async with httpx.AsyncClient(base_url=front.url, timeout=20) as client:
                yield client


@pytest.fixture(scope="module")
def before_nothing(nginx: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(nginx, tmp_path_factory.mktemp("away"), f"127.0.0.1:{free_port()}") as front:
        yield front


async def test_submit_poll_and_result(client: httpx.AsyncClient, ledger: Ledger) -> None:
    submitted = await client.post("/generate-report", json={"params": {"csv": "a\n1\n"}})
    assert submitted.status_code == 202
    polled = await client.get(submitted.headers["location"])
    assert (polled.status_code, polled.json()["status"]) == (202, "running")
    job_id = await accept(ledger)
    page = Artifact("report.html", "text/html; charset=utf-8", 4, "00" * 32, content=b"<p/>")
    await succeed(ledger, await start(ledger, job_id), artifacts=(page,))
    polled = await client.get(f"/jobs/{job_id}")
    assert (polled.status_code, polled.json()["status"]) == (200, "success")
    result = await client.get(polled.json()["downloadUrl"])
    assert (result.status_code, result.content) == (200, b"<p/>")
    assert result.headers["content-security-policy"].startswith("sandbox")


async def test_headers_that_hold_for_every_answer(client: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    await succeed(
        ledger, await start(ledger, job_id), artifacts=(Artifact("a.txt", "text/plain", 1, "00" * 32, content=b"a"),)
    )
    for path in ("/healthz", "/nothing-here", "/metrics", f"/jobs/{job_id}/result", f"/jobs/{job_id}/events"):
        headers = (await client.get(path)).headers
        assert len(headers.get_list("cache-control")) <= 1
        assert headers.get_list("x-content-type-options") == ["nosniff"], path
        assert headers["referrer-policy"] == "no-referrer"
        assert len(headers["x-request-id"]) == 32
        assert headers["server"] in ("nginx", "uvicorn")


async def test_frames_arrive_one_by_one(client: httpx.AsyncClient, ledger: Ledger) -> None:
    """Each change is made only after the frame before it was read, so nothing may wait in a buffer."""
    job_id = await accept(ledger)
    headers = {"Accept": "text/event-stream", "Accept-Encoding": "gzip"}
    async with asyncio.timeout(20), client.stream("GET", f"/jobs/{job_id}/events", headers=headers) as answer:
        assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
        assert "content-encoding" not in answer.headers
        frames = _frames(answer)
        assert (await anext(frames)).event == "snapshot"
        attempt = await start(ledger, job_id)
        assert (await anext(frames)).event == "job.started"
        await succeed(ledger, attempt)
        assert (await anext(frames)).event == "job.succeeded"
        with pytest.raises(StopAsyncIteration):
            await anext(frames)


async def test_frames_arrive_one_by_one_through_an_nginx_that_knows_nothing_of_streams(
    nginx: str, settings: Settings, ledger: Ledger, tmp_path: Path
) -> None:
    """Buffering and gzip are as they come: the answer's own headers say that nothing may be held back."""
    job_id = await accept(ledger)
    async with _plain(nginx, settings, tmp_path) as client, _watching(client, job_id) as (answer, frames):
        assert answer.headers.get("content-encoding", "identity") in ("identity", "gzip")
        assert (await anext(frames)).event == "snapshot"
        attempt = await start(ledger, job_id)
        assert (await anext(frames)).event == "job.started"
        await succeed(ledger, attempt)
        assert (await anext(frames)).event == "job.succeeded"
        with pytest.raises(StopAsyncIteration):
            await anext(frames)


@pytest.mark.parametrize(
    ("patience", "heartbeat", "quiet"),
    [("2s", 0.5, 6), pytest.param("60s", 15, 65, marks=pytest.mark.full)],
    ids=["in-small", "as-it-comes"],
)
async def test_a_quiet_stream_outlives_the_patience_of_a_proxy(
    nginx: str, settings: Settings, ledger: Ledger, tmp_path: Path, patience: str, heartbeat: float, quiet: float
) -> None:
    settings = settings.model_copy(update={"stream_heartbeat_seconds": heartbeat})
    job_id = await accept(ledger)
    async with _plain(nginx, settings, tmp_path, f"proxy_read_timeout {patience};") as client:
        async with _watching(client, job_id, quiet + 30) as (_, frames):
            following = await _stays_quiet(frames, quiet)
            await succeed(ledger, await start(ledger, job_id))
            assert (await following).event == "job.started"
            assert [frame.event async for frame in frames] == ["job.succeeded"]


async def test_the_feed_is_passed_on_like_a_stream(nginx: str, tmp_path: Path) -> None:
    """Each frame is sent only after the one before it was read."""
    read = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: 1\n\n")
        await read.wait()
        writer.write(b"data: 2\n\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        upstream = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with gateway(nginx, tmp_path, upstream) as front:
            async with (
                httpx.AsyncClient(base_url=front.url) as client,
                asyncio.timeout(20),
                client.stream("GET", "/events") as answered,
            ):
                frames = _frames(answered)
                assert (await anext(frames)).data == "1"
                read.set()
                assert (await anext(frames)).data == "2"


async def test_a_stream_is_resumed_by_header_and_by_query(client: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    await succeed(ledger, await start(ledger, job_id))
    path = f"/jobs/{job_id}/events"
    events = [frame async for frame in _all_frames(client, path, {"lastEventId": "earliest"}, {})]
    assert [frame.event for frame in events] == ["job.accepted", "job.started", "job.succeeded"]
    rest = [frame async for frame in _all_frames(client, path, {}, {"Last-Event-ID": events[1].last_event_id})]
    assert [frame.event for frame in rest] == ["job.succeeded"]
    end = await client.get(path, headers={"Last-Event-ID": events[2].last_event_id})
    assert end.status_code == 204


async def test_a_body_at_the_limit_passes_and_one_above_is_a_problem(client: httpx.AsyncClient) -> None:
    at_limit = await client.post("/generate-report", content=b" " * BODY_BYTES_MAX)
    assert at_limit.status_code == 202
    above = await client.post("/generate-report", content=b" " * (BODY_BYTES_MAX + 1))
    assert (above.status_code, above.headers["content-type"]) == (413, "application/problem+json")
    assert above.json()["code"] == "CONTENT_TOO_LARGE"


async def test_the_host_is_passed_on(desk: httpx.AsyncClient) -> None:
    """Else the API would take its own address for the caller's and every page for its own."""
    refused = await desk.get("/healthz", headers={"Host": "rebound.example"})
    assert (refused.status_code, refused.json()["code"]) == (421, "HOST_REFUSED")
    foreign = await desk.post("/generate-report", headers={"Origin": "http://elsewhere.example"})
    assert (foreign.status_code, foreign.json()["code"]) == (403, "CROSS_SITE_REFUSED")
    own = await desk.post("/generate-report", headers={"Origin": str(desk.base_url).rstrip("/")})
    assert own.status_code == 202


async def test_metrics_are_not_for_callers(client: httpx.AsyncClient) -> None:
    answer = await client.get("/metrics")
    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")


async def test_the_access_log_is_json_and_tells_no_secret(client: httpx.AsyncClient, pair: Pair) -> None:
    agent, request_id = 'curl "8" \\ {}', "asked-by-a-test-1"
    answer = await client.get(
        "/jobs/x?ticket=very-secret", headers={b"User-Agent": agent.encode(), "X-Request-Id": request_id}
    )
    assert answer.headers.get_list("x-request-id") == [request_id]
    lines = await _lines_about(pair.front, request_id)
    assert len(lines) == 1
    [line] = lines
    assert (line["method"], line["path"], line["status"]) == ("GET", "/jobs/x", 404)
    assert (line["userAgent"], line["client"]) == (agent, "127.0.0.1")
    assert line["keyId"] == pair.key.split("_")[1]
    for name in ("access", "error"):
        assert "very-secret" not in pair.front.log(name)
        assert pair.key.split("_")[2] not in pair.front.log(name)


async def test_kept_connections_lose_no_request(client: httpx.AsyncClient, pair: Pair) -> None:
    before = len(pair.front.log("error"))
    for _ in range(50):
        assert (await client.post("/generate-report")).status_code == 202
    assert "[error]" not in pair.front.log("error")[before:]


async def test_an_api_that_is_away_is_a_problem_for_programs(before_nothing: Gateway) -> None:
    async with httpx.AsyncClient(base_url=before_nothing.url) as client:
        answers = [
            await client.get("/jobs/x"),
            await client.post("/generate-report"),
            await client.get("/jobs/x/events", headers={"Accept": "application/json"}),
        ]
    for answer in answers:
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        assert (answer.json()["code"], answer.headers["retry-after"]) == ("UNAVAILABLE", "2")


async def test_an_api_that_is_away_does_not_stop_an_event_source(before_nothing: Gateway) -> None:
    async with httpx.AsyncClient(base_url=before_nothing.url) as client:
        answer = await client.get("/jobs/x/events", headers={"Accept": "text/event-stream"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
    decoder = Decoder()
    assert list(decoder.feed(answer.content)) == []
    assert decoder.retry_milliseconds in (1500, 2500, 3500, 4500)


async def test_tickets_reach_no_log(before_nothing: Gateway) -> None:
    """Neither that of requests nor that of errors, where nginx likes to quote the whole request."""
    async with httpx.AsyncClient(base_url=before_nothing.url) as client:
        for accepts in ("text/event-stream", "application/json"):
            await client.get("/jobs/x/events?ticket=secret-words", headers={"Accept": accepts})
        last = await client.get("/jobs/told")
    assert last.status_code == 503
    await _lines_about(before_nothing, last.headers["x-request-id"])
    assert [line["status"] for line in before_nothing.lines if line["path"] == "/jobs/x/events"][-2:] == [200, 503]
    for name in ("access", "error"):
        assert "secret-words" not in before_nothing.log(name), name
    assert "/jobs/told" in before_nothing.log("error"), "other errors are told"


@contextlib.asynccontextmanager
async def _plain(nginx: str, settings: Settings, folder: Path, more: str = "") -> AsyncIterator[httpx.AsyncClient]:
    async with serve(settings) as api:
        with plain_gateway(nginx, folder, urlsplit(api).netloc, more) as front:
            async with httpx.AsyncClient(base_url=front.url, timeout=20) as client:
                yield client


@contextlib.asynccontextmanager
async def _watching(
    client: httpx.AsyncClient, job_id: object, seconds: float = 30
) -> AsyncIterator[tuple[httpx.Response, AsyncIterator[Any]]]:
    headers = {"Accept": "text/event-stream", "Accept-Encoding": "gzip"}
    async with asyncio.timeout(seconds), client.stream("GET", f"/jobs/{job_id}/events", headers=headers) as answer:
        yield answer, _frames(answer)


async def _stays_quiet(frames: AsyncIterator[Any], seconds: float) -> asyncio.Future[Any]:
    """After its snapshot a stream shows nothing for so long, and does not end; the answer is the next frame to come."""
    assert (await anext(frames)).event == "snapshot"
    following = asyncio.ensure_future(anext(frames))
    done, _ = await asyncio.wait([following], timeout=seconds)
    assert not done
    return following


async def _frames(answer: httpx.Response) -> AsyncIterator[Any]:
    decoder = Decoder()
    async for chunk in answer.aiter_bytes():
        for frame in decoder.feed(chunk):
            yield frame


async def _all_frames(
    client: httpx.AsyncClient, path: str, query: dict[str, str], headers: dict[str, str]
) -> AsyncIterator[Any]:
    async with client.stream("GET", path, params=query, headers=headers) as answer:
        async for frame in _frames(answer):
            yield frame


async def _lines_about(front: Gateway, request_id: str) -> list[dict[str, Any]]:
    """What the access log says of a request, once it does: nginx writes it when the answer has been sent."""

    def found() -> list[dict[str, Any]]:
        return [line for line in front.lines if line["requestId"] == request_id]

    await until(lambda: bool(found()))
    return found()
