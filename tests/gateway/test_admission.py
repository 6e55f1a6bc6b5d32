"""Who gets past the gateway with a body, and what those who do not are told."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.__main__ import config_of
from service.app import create_app
from tests.gateway.conftest import Pair
from tests.gateway.front import gateway
from tests.gateway.stub import ASK, reply, stub
from tests.service.callers import door
from tests.streams.raw import connection, read_until, request
from todoke.runtime.settings import Settings
from todoke.wire.sse import Decoder

pytestmark = pytest.mark.gateway

OPEN = ("/healthz", "/readyz", "/docs", "/openapi.json", "/.well-known/jwks.json", "/todoke.js")
MUCH = b" " * 10_000
JSON = "application/problem+json"
BAD_KEY = {"Authorization": f"Bearer tdk_{'0' * 16}_{'0' * 48}"}
PROBLEM = b'{"type":"urn:todoke:problem:x","title":"X","status":403,"detail":"tdk_\xe2\x80\xa6","code":"X"}'
# As the API says it to a page of another origin.
CORS = (
    "Access-Control-Allow-Origin: https://app.example.com",
    "Access-Control-Allow-Credentials: true",
    "Access-Control-Expose-Headers: Location, Retry-After, ETag",
    "Vary: Origin",
)


@pytest.mark.parametrize(
    "lines", [["Content-Length: 16000000"], ["Transfer-Encoding: chunked"]], ids=["length", "none"]
)
async def test_the_uninvited_are_refused_before_their_body_is_read(pair: Pair, lines: list[str]) -> None:
    before = len(pair.api.seen)
    async with connection(pair.front.url) as (reader, writer):
        writer.write(request(pair.front.url, "/generate-report", *lines, "Expect: 100-continue", method="POST"))
        answer = await read_until(reader, lambda got: b"KEY_REQUIRED" in got)
    # nginx says 100 before it throws away what is to come.
    assert answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").startswith(b"HTTP/1.1 401 ")
    assert len(pair.api.seen) == before


@pytest.mark.parametrize("shown", [{}, BAD_KEY, {"Authorization": "Basic x"}], ids=["nothing", "key", "scheme"])
async def test_they_are_told_what_the_api_says(stranger: httpx.AsyncClient, pair: Pair, shown: dict[str, str]) -> None:
    headers = shown | {"X-Request-Id": "the-same-for-both"}
    told = await stranger.post("/generate-report", headers=headers, content=MUCH)
    async with httpx.AsyncClient() as client:
        by_api = await client.post(pair.api.url + "/generate-report", headers=headers, content=MUCH)
    assert (told.status_code, told.content) == (by_api.status_code, by_api.content)
    for name in ("www-authenticate", "content-type"):
        assert told.headers.get_list(name) == by_api.headers.get_list(name), name
    assert told.status_code == 401


async def test_whoever_has_a_key_is_asked_about_once_and_let_in(client: httpx.AsyncClient, pair: Pair) -> None:
    asked = len(pair.api.asked)
    assert (await client.post("/generate-report", content=MUCH)).status_code == 202
    assert len(pair.api.asked) == asked + 1


async def test_little_is_not_asked_about(client: httpx.AsyncClient, stranger: httpx.AsyncClient, pair: Pair) -> None:
    """The API looks by itself; asking first would make each of these cost twice."""
    asked = len(pair.api.asked)
    assert (await client.post("/generate-report", content=MUCH[1:])).status_code == 202
    assert (await client.get("/jobs/x")).status_code == 404
    refused = await stranger.post("/generate-report", content=MUCH[1:])
    assert (refused.status_code, refused.json()["code"]) == (401, "KEY_REQUIRED")
    preflight = {"Origin": "https://app.example.com", "Access-Control-Request-Method": "POST"}
    assert (await stranger.options("/generate-report", headers=preflight)).status_code != 401
    for path in OPEN:
        assert (await stranger.get(path)).status_code == 200, path
    assert len(pair.api.asked) == asked


@pytest.mark.parametrize(("method", "path"), [("OPTIONS", "/generate-report"), ("GET", "/healthz"), ("POST", "/docs")])
async def test_no_way_around_the_question(stranger: httpx.AsyncClient, method: str, path: str) -> None:
    """A stranger could fill the gateway's disk by what is open to all."""
    assert (await stranger.request(method, path, content=MUCH)).status_code == 401


async def test_a_ticket_and_the_cookie_open_the_stream_of_their_job(
    client: httpx.AsyncClient, stranger: httpx.AsyncClient, pair: Pair
) -> None:
    """With so much of a body that the gateway asks, which no browser sends."""
    events_url = (await client.post("/generate-report")).json()["eventsUrl"]
    assert "ticket=" in events_url
    async with _watched(stranger, events_url) as answer:
        assert answer.status_code == 200
        cookie = answer.headers["set-cookie"].partition(";")[0]
    assert pair.api.asked[-1].all("x-original-uri") == [events_url]
    path = events_url.partition("?")[0]
    async with _watched(stranger, path, {"Cookie": cookie}) as answer:
        assert answer.status_code == 200
    stranger.cookies.clear()
    other = (await client.post("/generate-report")).json()["eventsUrl"].partition("?")[0]
    for target in (f"{other}?{events_url.partition('?')[2]}", events_url.replace("/events", "/result"), path):
        refused = await stranger.request("GET", target, content=MUCH)
        assert (refused.status_code, refused.headers["content-type"]) == (401, JSON), target


async def test_frames_arrive_one_by_one_by_a_ticket(client: httpx.AsyncClient, stranger: httpx.AsyncClient) -> None:
    submitted = (await client.post("/generate-report")).json()
    headers = {"Accept": "text/event-stream", "Origin": "https://any.example", "Sec-Fetch-Site": "cross-site"}
    async with asyncio.timeout(20), stranger.stream("GET", submitted["eventsUrl"], headers=headers) as answer:
        # Once each: browsers take no second one.
        assert answer.headers.get_list("access-control-allow-origin") == ["*"]
        assert answer.headers.get_list("cache-control") == ["no-store"]
        frames = _frames(answer)
        assert (await anext(frames)).event == "snapshot"
        # Only now, so that nothing that waits in a buffer could be taken for it.
        assert (await client.post(f"/jobs/{submitted['jobId']}/cancel")).status_code in (200, 202)
        assert (await anext(frames)).event == "job.failed"


async def test_nobody_outside_asks(stranger: httpx.AsyncClient, client: httpx.AsyncClient, pair: Pair) -> None:
    asked, seen = len(pair.api.asked), len(pair.api.seen)
    for path in (ASK, "/gateway/ask", "/gateway/malformed", "/metrics", "/internal/other", "/internal/"):
        for who in (stranger, client):
            answer = await who.get(path, headers={"X-Original-URI": "/jobs/x"})
            assert (answer.status_code, answer.headers["content-type"]) == (404, JSON), path
            assert answer.json()["detail"] == "Not Found"
    assert (len(pair.api.asked), len(pair.api.seen)) == (asked, seen)


async def test_an_api_that_has_no_gateway_answers_no_such_question(settings: Settings) -> None:
    async with door(settings) as client:
        assert (await client.get(ASK)).status_code == 404
    async with door(settings, gateway_asks=True) as client:
        assert (await client.get(ASK)).status_code == 401


async def test_a_refusal_of_another_kind_passes_with_its_challenge(nginx: str, tmp_path: Path) -> None:
    lines = ("WWW-Authenticate: Bearer error=x", f"X-Todoke-Problem: {PROBLEM.decode()}", *CORS)
    async with _before(nginx, tmp_path, {ASK: reply("403 Forbidden", *lines)}) as client:
        answer = await client.post("/generate-report", content=MUCH)
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (403, PROBLEM, JSON)
    assert answer.headers.get_list("www-authenticate") == ["Bearer error=x"]
    _assert_cors(answer)


async def test_cors_is_the_apis_own(nginx: str, tmp_path: Path) -> None:
    lines = ("WWW-Authenticate: Bearer", "Content-Type: application/problem+json", *CORS)
    refusal = (*lines, f"X-Todoke-Problem: {PROBLEM.decode()}")
    preflight = ("Access-Control-Allow-Methods: POST", "Access-Control-Max-Age: 600", *CORS)
    answers = {
        ASK: reply("401 Unauthorized", *refusal),
        "/jobs/x": reply("404 Not Found", *lines, body=PROBLEM),
        "/generate-report": reply("204 No Content", *preflight),
    }
    async with _before(nginx, tmp_path, answers) as client:
        allowed = await client.options("/generate-report", headers={"Origin": "https://app.example.com"})
        found = await client.get("/jobs/x")
        refused = await client.post("/anything", content=MUCH)
        plain = await client.get("/other")
    assert allowed.headers["access-control-allow-methods"] == "POST"
    assert allowed.headers["access-control-max-age"] == "600"
    for answer in (allowed, found, refused):
        _assert_cors(answer)
    assert not [name for name in plain.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("status", ["503 Service Unavailable", "500 Internal Server Error", "404 Not Found"])
async def test_when_nobody_can_say_who_it_is(nginx: str, tmp_path: Path, status: str) -> None:
    async with _before(nginx, tmp_path, {ASK: reply(status)}) as client:
        program = await client.post("/generate-report", content=MUCH)
        stream = await client.request("GET", "/jobs/x/events?ticket=t", content=MUCH)
    assert (program.status_code, program.json()["code"], program.headers["retry-after"]) == (503, "UNAVAILABLE", "2")
    assert (stream.status_code, stream.headers["content-type"]) == (200, "text/event-stream")
    assert stream.headers["access-control-allow-origin"] == "*", "a page of any site may read when to come back"


async def test_what_the_api_answers_passes_as_it_is(nginx: str, tmp_path: Path) -> None:
    """Statuses for which the gateway has words of its own, too."""
    statuses = (400, 401, 403, 404, 405, 413, 414, 429, 431, 500, 501, 503)
    lines = (f"Content-Type: {JSON}", "Retry-After: 7", "RateLimit: x", "WWW-Authenticate: y")
    answers = {f"/{status}": reply(f"{status} Words", *lines, body=PROBLEM) for status in statuses}
    async with _before(nginx, tmp_path, answers) as client:
        for status in statuses:
            answer = await client.get(f"/{status}")
            assert (answer.status_code, answer.content) == (status, PROBLEM)
            for line in lines:
                name, _, value = line.partition(": ")
                assert answer.headers.get_list(name) == [value], (status, name)


def _assert_cors(answer: httpx.Response) -> None:
    for line in CORS:
        name, _, value = line.partition(": ")
        assert answer.headers.get_list(name) == value.split(", ") or answer.headers.get_list(name) == [value], name


@contextlib.asynccontextmanager
async def _before(nginx: str, folder: Path, answers: dict[str, bytes]) -> AsyncIterator[httpx.AsyncClient]:
    async with stub(answers) as upstream:
        with gateway(nginx, folder, upstream) as front:
            async with httpx.AsyncClient(base_url=front.url, timeout=20) as client:
                yield client


@contextlib.asynccontextmanager
async def _watched(
    client: httpx.AsyncClient, target: str, headers: dict[str, str] | None = None
) -> AsyncIterator[httpx.Response]:
    async with asyncio.timeout(20), client.stream("GET", target, headers=headers, content=MUCH) as answer:
        yield answer


async def _frames(answer: httpx.Response) -> AsyncIterator[Any]:
    decoder = Decoder()
    async for chunk in answer.aiter_bytes():
        for frame in decoder.feed(chunk):
            yield frame


async def test_a_kept_connection_can_outlast_a_load_balancers(settings: Settings) -> None:
    longer = settings.model_copy(update={"keep_alive_seconds": 75})
    assert config_of(create_app(longer), longer).timeout_keep_alive == 75
