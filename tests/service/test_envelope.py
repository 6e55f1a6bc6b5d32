"""What every request passes and every answer gets, around an application of the test's own."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import httpx
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.testing import capture_logs

from service.connection import Connection
from service.cors import Cors
from service.envelope import Envelope
from service.identity import IDENTITY, Identity, Right
from service.problems import Problem, ProblemError
from tests.conftest import REPOSITORY, until
from tests.streams.raw import connection, read_until, request
from todoke.model.codes import Code
from todoke.model.errors import InvalidInput, Unavailable
from todoke.runtime.settings import load_settings
from todoke.runtime.telemetry import ENCODER
from todoke.runtime.tracing import Off

OURS = ("https://app.example.com", "http://localhost:5173")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
JOB = "01a211c0-9b20-7b47-9225-656c1d57a96c"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}


class App:
    """Answers as it is told; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.status, self.headers, self.error = 200, [(b"content-type", b"application/json")], Exception()
        self.fails_before = self.fails_behind = False
        self.changes: dict[str, Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(f"{scope['method']} {scope['path']}")
        scope.update(self.changes)
        if self.fails_before:
            raise self.error
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        if self.fails_behind:
            raise self.error
        await send({"type": "http.response.body", "body": b"{}"})


@pytest.fixture
def app() -> App:
    return App()


@contextlib.asynccontextmanager
async def calling(app: ASGIApp, *origins: str, public_url: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    envelope: Any = Envelope(app, Cors(origins), Off(), public_url)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(envelope), base_url="http://todoke") as api:
        yield api


async def test_every_answer_has_the_safe_headers(app: App) -> None:
    async with calling(app) as api:
        answer = await api.get("/jobs/x")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"
    assert "strict-transport-security" not in answer.headers
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert "vary" not in answer.headers


async def test_what_a_route_says_stands(app: App) -> None:
    app.headers += [(b"content-security-policy", b"sandbox"), (b"cache-control", b"private, no-cache")]
    async with calling(app) as api:
        answer = await api.get("/jobs/x/result")
    assert answer.headers.get_list("content-security-policy") == ["sandbox"]
    assert answer.headers.get_list("cache-control") == ["private, no-cache"]


async def test_tls_is_insisted_on_only_where_callers_come_by_it(app: App) -> None:
    for url, has in ((None, False), ("http://jobs.example.com", False), ("https://jobs.example.com", True)):
        async with calling(app, public_url=url) as api:
            assert ("strict-transport-security" in (await api.get("/")).headers) is has


@pytest.mark.parametrize("given", ["a" * 8, "Z-_9" * 16, "0123456789abcdef"])
async def test_a_request_id_that_can_be_used_is_kept(app: App, given: str) -> None:
    async with calling(app) as api:
        assert (await api.get("/", headers={"X-Request-Id": given})).headers.get_list("x-request-id") == [given]


BAD_IDS = [
    "",
    "short",
    "a" * 65,
    "with space",
    "semi;colon-x",
    "a\tb-c-d-e-f",
    "ünïcödë-id",
    '"quoted-id"',
    "a,b,c,d,e,f",
]


@pytest.mark.parametrize("given", BAD_IDS, ids=range(len(BAD_IDS)))
async def test_any_other_is_replaced(app: App, given: str) -> None:
    async with calling(app) as api:
        answer = await api.get("/", headers={"X-Request-Id": given.encode()})
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


async def test_a_fault_is_logged_once_and_told_without_its_words(app: App) -> None:
    app.fails_before, app.error = True, RuntimeError("the password is hunter2")
    async with calling(app) as api:
        with capture_logs() as lines:
            answer = await api.get("/", headers={"X-Request-Id": "id-of-this-request"})
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["traceId"]) == (500, "INTERNAL", "id-of-this-request")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "hunter2" not in answer.text
    assert [line["event"] for line in lines] == ["request.fault", "request"]
    assert lines[1]["status"] == 500


async def test_a_fault_behind_the_beginning_leaves_the_answer_unfinished(app: App) -> None:
    app.fails_behind = True
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> Any: ...

    with capture_logs() as lines:
        await Envelope(app, Cors(()), Off(), None)(_scope(), receive, send)
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert [line["event"] for line in lines] == ["request.fault", "request"]


async def test_the_server_closes_the_connection_of_an_unfinished_answer(app: App) -> None:
    app.fails_behind, app.headers = True, [(b"content-length", b"100")]
    config = uvicorn.Config(
        Envelope(app, Cors(()), Off(), None), http=Connection, port=0, log_config=None, lifespan="off"
    )
    server = uvicorn.Server(config)
    with server.capture_signals():
        task = asyncio.create_task(server.serve())
        await until(lambda: server.started)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        async with connection(url) as (reader, writer):
            writer.write(request(url, "/"))
            got = await read_until(reader, lambda _: False)
        server.should_exit = True
        await task
    assert got.startswith(b"HTTP/1.1 200 ")
    assert got.endswith(b"\r\n\r\n"), "nothing but the head"
    assert got.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ProblemError(Problem(403, Code.SCOPE_MISSING, "no")), "SCOPE_MISSING"),
        (InvalidInput("no"), "INVALID_INPUT"),
        (Unavailable("away"), "UNAVAILABLE"),
    ],
    ids=str,
)
async def test_what_is_raised_on_purpose_before_the_routes_is_answered(app: App, error: Exception, code: str) -> None:
    app.fails_before, app.error = True, error
    async with calling(app) as api:
        with capture_logs() as lines:
            answer = await api.get("/", headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"})
    assert (answer.json()["code"], answer.json()["traceId"]) == (code, TRACE)
    assert "request.fault" not in [line["event"] for line in lines]


async def test_the_line_of_a_request(app: App) -> None:
    route = type("Route", (), {"path": "/jobs/{job_id}"})
    identity = Identity("acme", frozenset(), Right("acme", "0123456789abcdef"))
    app.changes = {"route": route, "path_params": {"job_id": JOB}, IDENTITY: identity}
    headers = {"User-Agent": "curl/8 \x1b", "X-Forwarded-For": "10.0.0.3"}
    async with calling(app) as api:
        with capture_logs() as lines:
            await api.get(f"/jobs/{JOB}?ticket=secret", headers=headers)
    [line] = lines
    page = (REPOSITORY / "docs/operating.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page or f'"{name}"' in page for name in line.keys() - {"log_level"})
    assert line.pop("seconds") >= 0
    assert line == {
        "event": "request",
        "log_level": "info",
        "method": "GET",
        "route": "/jobs/{job_id}",
        "path": f"/jobs/{JOB}",
        "status": 200,
        "bytes": 2,
        "tenant": "acme",
        "keyId": "0123456789abcdef",
        "jobId": JOB,
        "client": "127.0.0.1",
        "forwardedFor": "10.0.0.3",
        "userAgent": "curl/8 ?",
    }


async def test_the_line_names_the_job_that_was_made_and_nothing_that_only_looks_like_one(app: App) -> None:
    async with calling(app) as api:
        for status, location, named in (
            (202, f"/jobs/{JOB}", JOB),
            (202, "/jobs/x", None),
            (303, f"https://bucket/{JOB}?X-Amz-Signature=secret", None),
        ):
            app.status, app.headers = status, [(b"location", location.encode())]
            with capture_logs() as lines:
                await api.post("/generate-report", follow_redirects=False)
            assert lines[0].get("jobId") == named
            assert "secret" not in str(lines)
        app.changes = {"path_params": {"job_id": "x\r\ny"}}
        with capture_logs() as lines:
            await api.get("/jobs/x")
        assert "jobId" not in lines[0]


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/a%0d%0aINFO%20forged", "/a%0d%0aINFO%20forged"),
        ("/events%3Fticket=secret", "/events"),
        ("/events%3fticket=secret", "/events"),
        ("/" + "x" * 9000, "/" + "x" * 199 + "…"),
        ("/%1b[31m", "/%1b[31m"),
    ],
    ids=range(5),
)
async def test_a_path_is_logged_as_it_was_sent_and_never_whole_when_long(app: App, path: str, shown: str) -> None:
    scope = _scope() | {"path": "/decoded\r\n\x1b", "raw_path": path.encode()}

    async def nothing(*_: object) -> Any: ...

    with capture_logs() as lines:
        await Envelope(app, Cors(()), Off(), None)(scope, nothing, nothing)
    assert lines[0]["path"] == shown


async def test_pages_of_named_origins_may_call(app: App) -> None:
    app.headers.append((b"vary", b"Prefer"))
    async with calling(app, *OURS) as api:
        for origin in OURS:
            answer = await api.post("/generate-report", headers={"Origin": origin})
            assert answer.headers.get_list("access-control-allow-origin") == [origin]
            exposed = set(answer.headers["access-control-expose-headers"].split(", "))
            assert {"Location", "Retry-After", "ETag", "Idempotent-Replayed", "Preference-Applied"} <= exposed
            assert {"RateLimit", "RateLimit-Policy", "Content-Disposition", "X-Request-Id"} <= exposed
            assert answer.headers["vary"] == "Prefer, Origin"
            assert "access-control-allow-credentials" not in answer.headers
        assert (await api.get("/")).headers["vary"] == "Prefer, Origin", "a cache must not mix them up"


STRANGERS = [
    "null",
    "https://app.example.com.evil.example",
    "https://evil-app.example.com",
    "https://app.example.com@evil.example",
    "https://app.example.com:443",
    "https://app.example.com:8443",
    "http://app.example.com",
    "HTTPS://APP.EXAMPLE.COM",
    "https://app.example.com/",
    "https://app.example.com.",
    "https://app.example.com https://evil.example",
    "https://sub.app.example.com",
    "http://localhost",
    "http://localhost:51730",
    "*",
    "",
    "file://",
]


@pytest.mark.parametrize("origin", STRANGERS, ids=range(len(STRANGERS)))
async def test_strangers_get_nothing(app: App, origin: str) -> None:
    async with calling(app, *OURS) as api:
        for answer in (
            await api.get("/jobs/x", headers={"Origin": origin}),
            await api.options("/jobs/x", headers={"Origin": origin} | PREFLIGHT),
        ):
            assert not [name for name in answer.headers if name.startswith("access-control")]
            assert answer.headers["vary"] == "Origin"
    assert app.asked == ["GET /jobs/x", "OPTIONS /jobs/x"], "a stranger's question is a request like any other"


async def test_a_preflight_is_answered_before_anybody_asks_for_a_key(app: App) -> None:
    async with calling(app, *OURS) as api:
        answer = await api.options("/jobs/x", headers={"Origin": OURS[0]} | PREFLIGHT)
    assert (answer.status_code, answer.content, app.asked) == (204, b"", [])
    assert answer.headers["access-control-allow-origin"] == OURS[0]
    assert {"POST", "DELETE"} <= set(answer.headers["access-control-allow-methods"].split(", "))
    allowed = set(answer.headers["access-control-allow-headers"].split(", "))
    assert {"Authorization", "Idempotency-Key", "Content-Type", "If-None-Match", "Prefer", "traceparent"} <= allowed
    assert int(answer.headers["access-control-max-age"]) > 0
    assert "Origin" in answer.headers["vary"]
    assert "access-control-allow-credentials" not in answer.headers


async def test_what_is_public_is_open_to_any_origin(app: App) -> None:
    async with calling(app, *OURS) as api:
        for path in ("/.well-known/jwks.json", "/todoke.js", "/todoke/tabs.js"):
            for origin in ({}, {"Origin": "https://elsewhere.example"}, {"Origin": OURS[0]}):
                answer = await api.get(path, headers=origin)
                assert answer.headers["access-control-allow-origin"] == "*"
                assert answer.headers.get_list("cross-origin-resource-policy") == ["cross-origin"]
        for path in ("/todoke", "/x/todoke.js", "/.well-knownx", "/jobs/.well-known/"):
            assert "access-control-allow-origin" not in (await api.get(path)).headers


async def test_a_ticket_opens_its_own_stream_to_any_origin_unless_something_else_let_the_caller_in(app: App) -> None:
    stranger, watch = {"Origin": "https://elsewhere.example"}, f"/jobs/{JOB}/events?lastEventId=x&ticket=t"
    by_ticket = Identity("acme", frozenset(), Right("acme", "k"), is_by_ticket=True)
    by_key = Identity("acme", frozenset(), Right("acme", "k"))
    async with calling(app) as api:
        for identity, allowed in ((by_ticket, "*"), (by_key, None), (None, "*")):
            app.changes = {} if identity is None else {IDENTITY: identity}
            answer = await api.get(watch, headers=stranger)
            assert answer.headers.get("access-control-allow-origin") == allowed
            assert "access-control-allow-credentials" not in answer.headers
        app.changes = {}
        for path in (
            f"/jobs/{JOB}?ticket=t",
            "/events?ticket=t",
            f"/jobs/{JOB}/events?xticket=t",
            f"/jobs/{JOB}/events",
        ):
            assert "access-control-allow-origin" not in (await api.get(path, headers=stranger)).headers
        preflight = await api.options(watch, headers=stranger | PREFLIGHT)
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert preflight.headers["access-control-allow-headers"] == "Last-Event-ID", "no key comes this way"


NO_ORIGINS = [
    "*",
    "https://*.example.com",
    "null",
    "app.example.com",
    "https://a.example/",
    "https://a.example/x",
    "ftp://a.example",
    "https://A.example",
    "https://a.example:443",
    "http://a.example:80",
    "https://u@a.example",
    "https://a.example:x",
    "https://a.example:99999",
    "https://",
    "https://a.example?x",
    "https://ä.example",
    "https://a\tb.example",
]


@pytest.mark.parametrize("origin", NO_ORIGINS, ids=range(len(NO_ORIGINS)))
def test_an_origin_that_no_browser_sends_is_refused_at_start(origin: str) -> None:
    with pytest.raises(InvalidInput, match="TODOKE_CORS_ORIGINS"):
        load_settings(cors_origins=f"https://good.example,{origin}", desk_mode=True)


def test_origins_that_browsers_send_are_taken() -> None:
    origins = ("https://a.example", "http://localhost:5173", "http://[::1]:8000", "https://xn--4ca.example:8443")
    assert load_settings(cors_origins=",".join(origins), desk_mode=True).cors_origins == origins


def _scope() -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [],
        "client": None,
    }


@given(
    st.binary(max_size=400).map(lambda data: data.translate(None, b"\r\n\0")),
    st.text(alphabet=st.characters(max_codepoint=0x7E, min_codepoint=0x21), max_size=400),
)
def test_whatever_is_sent_a_line_is_one_line_of_plain_json(noise: bytes, path: str) -> None:
    names = (b"user-agent", b"x-forwarded-for", b"x-request-id", b"traceparent", b"origin", b"x-other")
    scope = _scope() | {"raw_path": path.encode(), "headers": [(name, noise) for name in names]}

    async def nothing(*_: object) -> Any: ...

    with capture_logs() as lines:
        asyncio.run(Envelope(App(), Cors(OURS), Off(), None)(scope, nothing, nothing))
    [line] = lines
    text = ENCODER.encode(line)
    assert text.isascii()
    assert text.isprintable()
    assert len(text) < 4_000
    assert json.loads(text) == line
    assert "?" not in line["path"] or "?" in path
