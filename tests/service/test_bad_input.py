"""Whatever comes in is answered with a 4xx problem, within bounds, and leaves nothing behind."""

import asyncio
import contextlib
import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service import body as body_room
from service.body import SMALL_BYTES, Shape, parse_json
from service.problems import ProblemError
from tests.conftest import serve
from tests.make import accept
from tests.streams.raw import connection, read_until, request
from todoke.model.errors import InvalidInput
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.ledger import Ledger

JSON = "Content-Type: application/json"
BODIES = {
    "/generate-report": "{}",
    "/jobs/batch": '{"jobs": [{"type": "generate-report"}]}',
    "/webhooks/tests": '{"callbackUrl": "https://example.com/"}',
    "/webhooks/secrets": "{}",
    "/webhooks/endpoints": '{"callbackUrl": "https://example.com/"}',
    "/deliveries/replay": "{}",
}
# What no body may be, whatever is wanted of it.
HOSTILE = {
    "half": b'{"a": ',
    "two": b"{} {}",
    "bom": b"\xef\xbb\xbf{}",
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "latin-1": b'{"a": "\xe9"}',
    "surrogate": b'{"a": "\\ud800"}',
    "nul": b'{"a": 1}\x00',
    "control": b'{"a": "\x01"}',
    "nan": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "too large a number": b'{"a": 1e999}',
    "many digits": b'{"a": ' + b"9" * 5_000 + b"}",
    "leading zero": b'{"a": 01}',
    "twice": b'{"metadata": {"a": 1, "a": 2}}',
    "twice at the top": b'{"metadata": {}, "metadata": {}}',
    "twice by an escape": b'{"metadata": {"a": 1, "\\u0061": 2}}',
    "comment": b"{} // no",
    "single quotes": b"{'a': 1}",
    "trailing comma": b'{"a": 1,}',
    "deep lists": b'{"metadata": {"a": ' + b"[" * 65 + b"]" * 65 + b"}}",
    "deeper lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 10_000,
    "a list": b"[]",
    "null": b"null",
    "a text": b'"a"',
    "a form": b"a=b&c=d",
    "xml": b"<?xml version='1.0'?><a/>",
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\xae\x05\x00\x43\xbf\xa6\xa3\x02\x00\x00\x00",
}


HEADERS = ("Prefer", "If-None-Match", "Idempotency-Key", "Range", "If-Range", "Accept", "Last-Event-ID", "Cookie")
VALUES_OF_HEADERS = (b"\xff\xfe", b'"' * 9_000, b"wait=" + b"-9" * 4_000, b"bytes=" + b"0-," * 3_000)


async def rows(database: Database) -> list[int]:
    tables = ("job", "event", "delivery", "callback_test", "signing_secret", "endpoint")
    return [(await database.fetch(f"SELECT count(*) FROM {table}"))[0]["count"] for table in tables]


def refused(answer: httpx.Response, what: object) -> None:
    assert 400 <= answer.status_code < 500, (what, answer.status_code, answer.text)
    assert answer.headers["content-type"] == "application/problem+json", what
    assert answer.json()["status"] == answer.status_code, what
    assert answer.json()["code"], what


async def test_no_hostile_body_is_taken_anywhere(api: httpx.AsyncClient, database: Database) -> None:
    for path in BODIES:
        for name, body in HOSTILE.items():
            refused(await api.post(path, content=body, headers={"Content-Type": "application/json"}), (path, name))
        for encoding in ("gzip", "br", "identity, gzip", "x"):
            answer = await api.post(path, content=HOSTILE["gzip"], headers={"Content-Encoding": encoding})
            refused(answer, (path, encoding))
            assert answer.status_code == 415
    assert await rows(database) == [0] * 6
    assert (await api.post("/generate-report", headers={"Content-Encoding": "identity"})).status_code == 202


async def test_no_hostile_query_or_header_is_a_fault(
    api: httpx.AsyncClient, ledger: Ledger, database: Database
) -> None:
    job_id = await accept(ledger)
    before = await rows(database)
    for path in (
        "/generate-report?validateOnly=maybe",
        "/jobs/batch?validateOnly=%00",
        f"/jobs/{job_id}/deliveries/{'9' * 5000}/redeliver",
        f"/jobs/{job_id}/deliveries/-1/redeliver",
        f"/jobs/{job_id}/deliveries/%00/redeliver",
    ):
        refused(await api.post(path), path[:60])
    for path in (
        "/deliveries?limit=x",
        "/deliveries?after=%00",
        "/deliveries?callbackUrl=%00",
        "/events?after=%00",
        "/events?limit=" + "9" * 5000,
        f"/jobs/{job_id}/events?after=%00",
        f"/jobs/{job_id}/events?after={'9' * 5000}",
        f"/jobs/{job_id}/result?inline=%00",
        f"/jobs/{job_id}/result?artifact=%00",
    ):
        refused(await api.get(path, headers={"Accept": "application/json"}), path[:60])
    for name in HEADERS:
        for value in VALUES_OF_HEADERS:
            for method, path in (
                ("GET", f"/jobs/{job_id}"),
                ("GET", f"/jobs/{job_id}/result"),
                ("POST", "/jobs/x/retry"),
            ):
                answer = await api.request(method, path, headers=[(name.encode(), value)])
                assert answer.status_code < 500, (name, value[:20], path)
    assert await rows(database) == before


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        (["Content-Length: -1"], b""),
        (["Content-Length: 1x"], b"{}"),
        (["Content-Length: " + "9" * 30], b""),
        (["Content-Length: 2", "Content-Length: 3"], b"{}"),
        (["Content-Length: 2", "Transfer-Encoding: chunked"], b"0\r\n\r\n"),
        (["Transfer-Encoding: chunked"], b"x\r\n{}\r\n0\r\n\r\n"),
        (["Transfer-Encoding: chunked"], b"-2\r\n{}\r\n0\r\n\r\n"),
        (["Transfer-Encoding: gzip"], b"{}"),
        (["A B: c"], b""),
        (["Content-Length : 2"], b"{}"),
    ],
    ids=str,
)
async def test_heads_that_are_no_http(
    api: httpx.AsyncClient, database: Database, lines: list[str], body: bytes
) -> None:
    url = str(api.base_url)
    async with connection(url) as (reader, writer):
        writer.write(request(url, "/generate-report", JSON, *lines, method="POST") + body)
        if lines[0].startswith("Content-Length: 999"):
            writer.write_eof()
        got = await read_until(reader, lambda got: b"\r\n\r\n" in got)
    assert got == b"" or got.startswith(b"HTTP/1.1 4"), got[:200]
    assert await rows(database) == [0] * 6
    assert (await api.get("/healthz")).status_code == 200


@pytest.mark.parametrize("lines", [["Content-Length: 100"], ["Transfer-Encoding: chunked"]], ids=["length", "chunked"])
async def test_a_body_that_does_not_come_is_refused(settings: Settings, database: Database, lines: list[str]) -> None:
    quick = settings.model_copy(update={"body_seconds": 0.2})
    async with serve(quick) as url, connection(url) as (reader, writer):
        writer.write(request(url, "/generate-report", JSON, *lines, method="POST"))
        got = await read_until(reader, lambda got: b"BODY_TIMEOUT" in got)
        assert got.startswith(b"HTTP/1.1 408"), got
        async with httpx.AsyncClient(base_url=url) as api:
            assert (await api.get("/healthz")).status_code == 200
    assert await rows(database) == [0] * 6


async def test_what_is_left_of_a_refused_body_is_thrown_away_for_a_while(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client reads why, although it still sends; one that goes on and on is cut off."""
    monkeypatch.setattr("service.connection.HEAD_SECONDS", 0.5)
    small = settings.model_copy(update={"body_bytes_max": 1024})
    async with serve(small) as url, connection(url) as (reader, writer):
        writer.write(request(url, "/generate-report", JSON, "Transfer-Encoding: chunked", method="POST"))
        chunk = b"400\r\n" + b" " * 1024 + b"\r\n"
        writer.write(chunk * 2)
        assert (await read_until(reader, lambda got: b"CONTENT_TOO_LARGE" in got)).startswith(b"HTTP/1.1 413")
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(10):
                while not reader.at_eof():
                    writer.write(chunk)
                    await writer.drain()
                    await asyncio.sleep(0.02)


async def test_a_large_body_is_checked_beside_the_loop(
    api: httpx.AsyncClient, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one is checked, others are answered."""
    job_id, answered = await accept(ledger), asyncio.Event()
    loop, plain = asyncio.get_running_loop(), body_room._measure

    def measure(value: Any, shape: Shape) -> None:
        plain(value, shape)
        # On the loop itself this would wait for ever.
        asyncio.run_coroutine_threadsafe(answered.wait(), loop).result(10)

    monkeypatch.setattr(body_room, "_measure", measure)
    body = json.dumps({"params": {"csv": "a\n" + "1\n" * SMALL_BYTES}})
    submitting = asyncio.create_task(api.post("/generate-report", content=body))
    assert (await api.get(f"/jobs/{job_id}")).status_code == 202
    answered.set()
    assert (await submitting).status_code == 202


async def test_bounds_of_shape_are_settings(settings: Settings) -> None:
    narrow = settings.model_copy(update={"params_depth_max": 3, "params_values_max": 5})
    async with serve(narrow) as url, httpx.AsyncClient(base_url=url) as api:
        # The body is one level and one value, `metadata` another.
        for metadata, code in (
            ('{"a": {"b": 1}}', 202),
            ('{"a": {"b": {}}}', 422),
            ('{"a": 1, "b": 2, "c": 3}', 202),
            ('{"a": 1, "b": 2, "c": 3, "d": 4}', 422),
        ):
            answer = await api.post("/generate-report", content=f'{{"metadata": {metadata}}}')
            assert answer.status_code == code, (metadata, answer.text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def read(body: bytes) -> Any:
    """The value of a body, or the status of its refusal."""
    try:
        return parse_json(body, "application/json", Shape())
    except ProblemError as error:
        return Refused(error.problem.status, error.problem.detail)
    except InvalidInput as error:
        return Refused(422, str(error))


class Refused(tuple[int, str]):
    """Nothing JSON could be equal to."""

    __slots__ = ()

    def __new__(cls, status: int, why: str) -> "Refused":
        return super().__new__(cls, (status, why))


@given(VALUES)
def test_what_is_json_is_read_as_it_is(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False)
    found = read(text.encode("utf-8", "surrogatepass"))
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        assert found[0] == 400
    else:
        assert found == value


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace")))
def test_anything_at_all_is_read_or_refused(body: bytes) -> None:
    found = read(body)
    if isinstance(found, Refused):
        assert found[0] in (400, 422)
        assert found[1]


MEMBERS = (
    "params",
    "callbackUrl",
    "callbackEvents",
    "metadata",
    "delaySeconds",
    "priority",
    "clientRef",
    "expiresSeconds",
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.dictionaries(st.sampled_from(MEMBERS), VALUES, max_size=4))
async def test_no_submission_is_a_fault(api: httpx.AsyncClient, submission: dict[str, Any]) -> None:
    body = json.dumps(submission).encode()
    answer = await api.post("/generate-report", content=body)
    if answer.status_code != 202:
        refused(answer, submission)
    batched = await api.post("/jobs/batch", content=json.dumps({"jobs": [submission | {"type": "generate-report"}]}))
    assert answer.status_code in (batched.status_code, 400), (answer.text, batched.text)
