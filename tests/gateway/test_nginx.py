"""A real nginx with our configuration, only its ports and paths replaced, before a running API."""

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.conftest import REPOSITORY, serve, until
from tests.make import accept, start, succeed
from todoke.dev.ports import free_port
from todoke.model.job import Artifact
from todoke.runtime.settings import Settings
from todoke.store.ledger import Ledger
from todoke.wire.sse import Decoder

pytestmark = pytest.mark.gateway

CONFIGURATION = REPOSITORY / "docs/gateway/nginx.conf"
BODY_BYTES_MAX = 16 * 2**20
# What most have: nothing said about streams, buffering as it comes, and everything compressed.
DEFAULTS = """
pid {folder}/nginx.pid;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    gzip on;
    gzip_proxied any;
    gzip_min_length 0;
    gzip_types text/event-stream;
    server {{
        listen 127.0.0.1:{port};
        location = /metrics {{ return 404; }}
        location / {{
            proxy_pass http://{upstream};
            proxy_set_header Host $http_host;
            {more}
        }}
    }}
}}
"""


@dataclass(frozen=True)
class Gateway:
    """A running nginx."""

    url: str
    folder: Path

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The access log, without our own asking whether it listens."""
        lines = [json.loads(line) for line in (self.folder / "access.log").read_text().splitlines()]
        return [line for line in lines if line["path"] != "/metrics"]


@pytest.fixture(scope="module")
def nginx() -> str:
    found = shutil.which("nginx", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")
    if found is None:
        pytest.skip("nginx is not installed: apt-get install nginx-light")
    return found


@contextlib.asynccontextmanager
async def gateway(nginx: str, folder: Path, upstream: str) -> AsyncIterator[Gateway]:
    """nginx with our configuration before `upstream` (host:port)."""
    port = free_port()
    text = CONFIGURATION.read_text(encoding="utf-8")
    for ours, theirs in (
        ("server 127.0.0.1:8000;", f"server {upstream};"),
        ("listen 8080;", f"listen 127.0.0.1:{port};"),
        ("/tmp/", f"{folder}/"),
        ("/dev/stdout", f"{folder}/access.log"),
        ("/dev/stderr", f"{folder}/error.log"),
    ):
        assert ours in text
        text = text.replace(ours, theirs)
    async with running(nginx, folder, port, text) as front:
        yield front


@contextlib.asynccontextmanager
async def plain_gateway(nginx: str, folder: Path, upstream: str, more: str = "") -> AsyncIterator[Gateway]:
    """nginx as it comes, gzip on, before `upstream` (host:port). more: directives of its one location."""
    port = free_port()
    text = DEFAULTS.format(folder=folder, port=port, upstream=upstream, more=more)
    async with running(nginx, folder, port, text) as front:
        yield front


@contextlib.asynccontextmanager
async def running(nginx: str, folder: Path, port: int, text: str) -> AsyncIterator[Gateway]:
    """nginx with a configuration, ended by its process id."""
    (folder / "nginx.conf").write_text(text, encoding="utf-8")
    # As root its workers would become nobody, who may not enter a test's folder.
    user = " user root;" if os.geteuid() == 0 else ""
    process = await asyncio.create_subprocess_exec(
        nginx, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log", "-g", f"daemon off;{user}"
    )
    try:
        await until(lambda: process.returncode is not None or _listens(port))
        assert process.returncode is None, (folder / "error.log").read_text()
        yield Gateway(f"http://127.0.0.1:{port}", folder)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        assert await asyncio.wait_for(process.wait(), 10) == 0


@pytest.fixture
async def before_api(nginx: str, settings: Settings, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with serve(settings) as api, gateway(nginx, tmp_path, urlsplit(api).netloc) as front:
        yield front


@pytest.fixture
async def before_nothing(nginx: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with gateway(nginx, tmp_path, f"127.0.0.1:{free_port()}") as front:
        yield front


@pytest.fixture
async def client(before_api: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=before_api.url, timeout=20) as client:
        yield client


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
        async with gateway(nginx, tmp_path, upstream) as front, httpx.AsyncClient(base_url=front.url) as client:
            async with asyncio.timeout(20), client.stream("GET", "/events") as answered:
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


async def test_the_host_is_passed_on(client: httpx.AsyncClient) -> None:
    """Else the API would take its own address for the caller's and every page for its own."""
    refused = await client.get("/healthz", headers={"Host": "rebound.example"})
    assert (refused.status_code, refused.json()["code"]) == (421, "HOST_REFUSED")
    foreign = await client.post("/generate-report", headers={"Origin": "http://elsewhere.example"})
    assert (foreign.status_code, foreign.json()["code"]) == (403, "CROSS_SITE_REFUSED")
    own = await client.post("/generate-report", headers={"Origin": str(client.base_url).rstrip("/")})
    assert own.status_code == 202


async def test_metrics_are_not_for_callers(client: httpx.AsyncClient) -> None:
    answer = await client.get("/metrics")
    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")


async def test_the_access_log_is_json_and_tells_no_query(client: httpx.AsyncClient, before_api: Gateway) -> None:
    agent = 'curl "8" \\ é'
    answer = await client.get("/jobs/x?ticket=very-secret", headers={b"User-Agent": agent.encode()})
    await until(lambda: len(before_api.lines) == 1)
    [line] = before_api.lines
    assert line["requestId"] == answer.headers["x-request-id"]
    assert (line["method"], line["path"], line["status"]) == ("GET", "/jobs/x", 404)
    assert line["userAgent"] == agent
    assert "very-secret" not in (before_api.folder / "access.log").read_text()


async def test_kept_connections_lose_no_request(client: httpx.AsyncClient, before_api: Gateway) -> None:
    for _ in range(50):
        assert (await client.post("/generate-report")).status_code == 202
    assert "[error]" not in (before_api.folder / "error.log").read_text()


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
        assert (await client.get("/jobs/x")).status_code == 503
    assert [line["status"] for line in before_nothing.lines][-3:] == [200, 503, 503]
    for name in ("access.log", "error.log"):
        assert "secret-words" not in (before_nothing.folder / name).read_text(), name
    assert "/jobs/x" in (before_nothing.folder / "error.log").read_text(), "other errors are told"


@contextlib.asynccontextmanager
async def _plain(nginx: str, settings: Settings, folder: Path, more: str = "") -> AsyncIterator[httpx.AsyncClient]:
    async with serve(settings) as api, plain_gateway(nginx, folder, urlsplit(api).netloc, more) as front:
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


def _listens(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/metrics").status_code == 404
    except httpx.TransportError:
        return False


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
