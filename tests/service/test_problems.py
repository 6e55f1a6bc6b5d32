"""Every error answer is a problem: from routes, from the framework, from the server below it; none says what it got."""

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import jsonschema
import pytest
from structlog.testing import capture_logs

from service.problems import MEDIA_TYPE, mistake
from tests.conftest import serve
from tests.make import accept
from tests.service.callers import guarded, make_key
from tests.streams.raw import connection, read_until, request
from todoke.model.codes import Code
from todoke.model.ids import new_id
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.ledger import Ledger

CANARY = "canary-7f3a"
REQUEST_ID = "id-of-the-request"


@pytest.fixture
async def url(settings: Settings) -> AsyncIterator[str]:
    async with serve(guarded(settings, body_bytes_max=2048)) as url:
        yield url


def check(answer: httpx.Response, status: int, code: Code) -> None:
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code), answer.text
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert problem["traceId"] == answer.headers["x-request-id"] == REQUEST_ID
    assert problem["type"] == f"urn:todoke:problem:{code.lower().replace('_', '-')}"
    assert problem["title"]
    assert problem["detail"]
    assert CANARY not in answer.text
    assert "Traceback" not in answer.text


async def test_every_refusal_is_a_problem_that_repeats_nothing(url: str, database: Database, ledger: Ledger) -> None:
    _, key = await make_key(database)
    job_id = await accept(ledger)
    body = json.dumps(
        {"params": {"title": [CANARY]}, "metadata": CANARY, "callbackEvents": [CANARY], "priority": CANARY}
    )
    cases: list[tuple[int, Code, str, str, dict[str, Any]]] = [
        (404, Code.NOT_FOUND, "GET", f"/{CANARY}", {}),
        (404, Code.NOT_FOUND, "GET", f"/jobs/{CANARY}", {}),
        (404, Code.NOT_FOUND, "GET", f"/jobs/{new_id()}", {}),
        (404, Code.NOT_FOUND, "GET", "/static-offline-docs/%2e%2e/core.py", {}),
        (404, Code.NOT_FOUND, "POST", "/generate-report/", {}),
        (404, Code.NOT_FOUND, "GET", f"/jobs/{job_id}/", {}),
        (405, Code.METHOD_NOT_ALLOWED, "GET", "/generate-report", {}),
        (405, Code.METHOD_NOT_ALLOWED, "PATCH", f"/jobs/{job_id}/tokens", {}),
        (405, Code.METHOD_NOT_ALLOWED, "POST", "/static-offline-docs/redoc.standalone.js", {}),
        (400, Code.MALFORMED_JSON, "POST", "/generate-report", {"content": f'{{"params": {CANARY}'}),
        (413, Code.CONTENT_TOO_LARGE, "POST", "/generate-report", {"content": CANARY * 1000}),
        (422, Code.INVALID_INPUT, "POST", "/generate-report", {"content": body}),
        (422, Code.INVALID_INPUT, "GET", f"/jobs/{job_id}/events?limit={CANARY}&wait={CANARY}", {}),
        (422, Code.INVALID_INPUT, "GET", f"/events?type={CANARY}", {}),
        (409, Code.CURSOR_LOST, "GET", f"/jobs/{job_id}/events?after=7", {"headers": {"Accept": "application/json"}}),
        (409, Code.NOT_FINISHED, "GET", f"/jobs/{job_id}/result?artifact={CANARY}", {}),
        (401, Code.KEY_REFUSED, "GET", f"/jobs/{job_id}", {"headers": {"Authorization": f"Bearer tdk_{CANARY}"}}),
    ]
    text_type = {"Content-Type": f"text/{CANARY}"}
    cases.append((415, Code.UNSUPPORTED_MEDIA_TYPE, "POST", "/generate-report", {"content": "x", "headers": text_type}))
    async with httpx.AsyncClient(base_url=url, headers=key | {"X-Request-Id": REQUEST_ID}) as api:
        for status, code, method, path, options in cases:
            answer = await api.request(method, path, **options)
            check(answer, status, code)
            assert (status == 405) == ("allow" in answer.headers), path
        assert (await api.get("/generate-report")).headers["allow"] == "POST"
        assert (await api.patch(f"/jobs/{job_id}/tokens")).headers["allow"] == "POST, DELETE"
        assert (await api.post("/todoke.js")).headers["allow"] == "GET, HEAD"
        del api.headers["Authorization"]
        check(await api.get(f"/jobs/{job_id}?x={CANARY}"), 401, Code.KEY_REQUIRED)


async def test_the_description_knows_problems_and_every_error_is_one(url: str, database: Database) -> None:
    _, key = await make_key(database)
    async with httpx.AsyncClient(base_url=url, headers=key) as api:
        described = (await api.get("/openapi.json")).json()
        answers = [
            await api.get("/nothing"),
            await api.get(f"/jobs/{new_id()}"),
            await api.patch("/generate-report"),
            await api.post("/generate-report", json={"priority": "x"}),
            await api.post("/generate-report", content="{"),
        ]
    schema = described["components"]["schemas"]["Problem"]
    assert schema["properties"]["code"]["enum"] == list(Code)
    for answer in answers:
        jsonschema.validate(answer.json(), schema)
    assert not {"HTTPValidationError", "ValidationError"} & described["components"]["schemas"].keys()
    operations = [operation for path in described["paths"].values() for operation in path.values()]
    for operation in operations:
        errors = {status: found for status, found in operation["responses"].items() if status[0] in "45d"}
        assert "default" in errors
        assert all(list(found["content"]) == [MEDIA_TYPE] for found in errors.values()), operation["operationId"]


async def test_a_pointer_is_all_that_comes_back_and_not_without_end(url: str, database: Database) -> None:
    _, key = await make_key(database)
    async with httpx.AsyncClient(base_url=url, headers=key) as api:
        answer = await api.post("/generate-report", json={"params": {}, "a" * 900: 1, "m~/n": 1})
        errors = answer.json()["errors"]
        assert {"/m~0~1n", "/" + "a" * 199} == {error["pointer"] for error in errors}
        half = await api.post("/generate-report", content=rb'{"\ud800": 1, "metadata": {"\udfff": "\ud800"}}')
        assert half.status_code in (400, 422)
    assert mistake(("\ud800",), "\udfff") == {"pointer": "/?", "detail": "?"}


async def test_a_fault_in_a_route_tells_nothing(url: str, database: Database, ledger: Ledger) -> None:
    _, key = await make_key(database)
    job_id = await accept(ledger)
    await database.fetch("ALTER TABLE job RENAME TO job_away")
    async with httpx.AsyncClient(base_url=url, headers=key | {"X-Request-Id": REQUEST_ID}) as api:
        with capture_logs() as lines:
            answer = await api.get(f"/jobs/{job_id}?x={CANARY}")
        check(answer, 500, Code.INTERNAL)
        assert "job" not in answer.text.lower()
    assert [line["event"] for line in lines] == ["request.fault", "request"]


NO_HTTP = {
    "no line": b"\r\n\r\nx\r\n\r\n",
    "nul": b"\0" * 100,
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "http 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "version": b"GET / HTTP/9.9 x\r\n\r\n",
    "method": b"CANARY-7f3a / HTTP/1.1\r\n\r\n",
    "header": b"GET / HTTP/1.1\r\nHost: x\r\ncanary-7f3a\r\n\r\n",
    "name": b"GET / HTTP/1.1\r\nHost: x\r\nbad name: canary-7f3a\r\n\r\n",
    "value": b"GET / HTTP/1.1\r\nHost: x\r\nX-Request-Id: canary-7f3a\x00\r\n\r\n",
    "fold": b"GET / HTTP/1.1\r\nHost: x\r\nX: a\r\n canary-7f3a: b\r\n\x01\r\n\r\n",
    "two lengths": b"POST /generate-report HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "both": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "length": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -2\r\n\r\n",
    "encoding": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "path": b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "space": b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
}


async def test_what_is_no_http_is_a_problem_too(url: str) -> None:
    for name, data in NO_HTTP.items():
        head, body = await said(url, data)
        assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n"), name
        problem = json.loads(body)
        assert problem["code"] == Code.MALFORMED_REQUEST
        assert b"canary" not in body.lower()
        assert f"x-request-id: {problem['traceId']}".encode() in head
        for line in (
            b"content-type: application/problem+json",
            b"connection: close",
            b"x-content-type-options: nosniff",
        ):
            assert line in head.splitlines(), name


async def test_a_head_without_end_is_refused(url: str) -> None:
    for data in (b"GET /" + b"x" * 200_000, b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000):
        head, body = await said(url, data)
        assert head.startswith(b"HTTP/1.1 431 "), head
        assert json.loads(body)["code"] == Code.HEAD_TOO_LARGE


async def test_nothing_is_put_into_an_answer_under_way(url: str, database: Database, ledger: Ledger) -> None:
    """Whoever reads it would take it for a part of that answer, or for the answer to that request."""
    job_id: UUID = await accept(ledger)
    _, key = await make_key(database)
    auth = f"Authorization: {key['Authorization']}"
    async with connection(url) as (reader, writer):
        writer.write(request(url, f"/jobs/{job_id}/events", auth))
        got = await read_until(reader, lambda got: b"snapshot" in got)
        writer.write(b"\0\0\0 no HTTP\r\n\r\n")
        got += await read_until(reader, lambda _: False)
    assert got.count(b"HTTP/1.1") == 1
    assert b"problem" not in got
    async with connection(url) as (reader, writer):
        writer.write(request(url, f"/jobs/{job_id}", auth, "Prefer: wait=20") + b"\0\0\0 no HTTP\r\n\r\n")
        assert b"400" not in await read_until(reader, lambda _: False)


async def test_a_body_that_breaks_off_in_its_encoding_is_answered_once(url: str, database: Database) -> None:
    _, key = await make_key(database)
    head = request(url, "/generate-report", f"Authorization: {key['Authorization']}", "Transfer-Encoding: chunked")
    async with connection(url) as (reader, writer):
        writer.write(head.replace(b"GET ", b"POST ") + b"2\r\n{}\r\nZZ\r\n")
        got = await read_until(reader, lambda _: False)
    assert got.count(b"HTTP/1.1") == 1
    assert Code.MALFORMED_REQUEST.encode() in got
    assert await database.fetch("SELECT FROM job") == []
    async with connection(url) as (reader, writer):
        writer.write(head.replace(b"GET ", b"POST ") + b"bb8\r\n" + b"x" * 3000 + b"\r\n")
        got = await read_until(reader, lambda got: b"CONTENT_TOO_LARGE" in got)
        writer.write(b"ZZ\r\n")
        got += await read_until(reader, lambda _: False)
    assert got.count(b"HTTP/1.1") == 1, "and not once more for the rest of what was refused"


async def said(url: str, data: bytes) -> tuple[bytes, bytes]:
    """Head and body of what is answered to these bytes, up to the end of the connection."""
    async with connection(url) as (reader, writer):
        writer.write(data)
        head, _, body = (await read_until(reader, lambda _: False)).partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
async def test_an_offer_to_upgrade_is_not_taken_up_and_costs_nothing(settings: Settings, protocol: str) -> None:
    offer = ("Connection: Upgrade, HTTP2-Settings", f"Upgrade: {protocol}", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA")
    async with serve(settings) as url, connection(url) as (reader, writer):
        for lines, sign in ((offer, b'"ok"'), ((), b'"ok"')):
            writer.write(request(url, "/healthz", *lines))
            assert sign in await read_until(reader, lambda got, sign=sign: sign in got)
        writer.write(request(url, "/generate-report", *offer, "Content-Length: 2", method="POST") + b"{}")
        assert b" 202 " in await read_until(reader, lambda got: b"jobId" in got)
        writer.write(request(url, "/healthz"))
        assert b'"ok"' in await read_until(reader, lambda got: b'"ok"' in got)


async def test_what_a_gateway_is_told_of_a_ticket_is_for_the_page_too(settings: Settings) -> None:
    watched = f"/jobs/{new_id()}/events"
    async with serve(guarded(settings, gateway_asks=True)) as url, httpx.AsyncClient(base_url=url) as api:
        for target, leave in ((f"{watched}?ticket=x", "*"), (watched, None), ("/events?ticket=x", None)):
            answer = await api.get("/internal/auth", headers={"X-Original-URI": target, "X-Request-Id": REQUEST_ID})
            check(answer, 401, Code.KEY_REFUSED if "ticket" in target else Code.KEY_REQUIRED)
            assert answer.headers.get("access-control-allow-origin") == leave, target


async def test_this_is_no_proxy(url: str) -> None:
    for target in ("evil.example:443", "/healthz", "*"):
        head, body = await said(url, request(url, target, "Connection: close", method="CONNECT"))
        assert head.split()[1] in (b"400", b"401", b"404", b"405"), head
        assert json.loads(body)["code"]
