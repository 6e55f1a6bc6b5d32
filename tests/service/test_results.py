"""How results leave: whole, in parts, as a redirect or a link, and that nobody's key goes to the object store."""

import asyncio
import base64
import contextlib
import hashlib
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import httpx
import pytest

from tests.conftest import serve
from tests.make import accept, start, succeed
from tests.service.callers import guarded, make_key
from todoke.model.job import Artifact
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.ledger import Ledger
from todoke.wire.ranges import Span, UnsatisfiableError, span_of

CONTENT = b"0123456789"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SMALL = Artifact("report 1.html", "text/html; charset=utf-8", len(CONTENT), SHA256, content=CONTENT)
LARGE = Artifact("大.csv", "text/csv", len(CONTENT), SHA256, object_key="default/j/1/big.csv")


async def left(ledger: Ledger, *artifacts: Artifact) -> UUID:
    job_id = await accept(ledger)
    await succeed(ledger, await start(ledger, job_id), artifacts=artifacts)
    return job_id


@pytest.mark.parametrize("path", ["result", "artifacts/report%201.html"])
async def test_head_says_what_get_would_send(api: httpx.AsyncClient, ledger: Ledger, path: str) -> None:
    job_id = await left(ledger, SMALL, LARGE)
    got, seen = await api.get(f"/jobs/{job_id}/{path}"), await api.head(f"/jobs/{job_id}/{path}")
    assert (got.status_code, got.content, seen.status_code, seen.content) == (200, CONTENT, 200, b"")
    for name in ("content-type", "content-length", "etag", "repr-digest", "content-disposition", "accept-ranges"):
        assert got.headers[name] == seen.headers[name], name
    assert got.headers["repr-digest"] == f"sha-256=:{base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()}:"
    assert got.headers["content-disposition"].startswith("attachment")
    assert (await api.get(f"/jobs/{job_id}/{path}?inline=1")).headers["content-disposition"].startswith("inline")


async def test_head_of_a_large_one_does_not_redirect(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await left(ledger, LARGE)
    seen = await api.head(f"/jobs/{job_id}/result")
    assert (seen.status_code, seen.headers["content-length"], seen.headers["etag"]) == (200, "10", f'"{SHA256}"')
    assert seen.headers["content-type"] == "text/csv; charset=utf-8" or seen.headers["content-type"] == "text/csv"


@pytest.mark.parametrize(
    ("headers", "code", "content", "content_range"),
    [
        ({"Range": "bytes=2-4"}, 206, b"234", "bytes 2-4/10"),
        ({"Range": "bytes=7-"}, 206, b"789", "bytes 7-9/10"),
        ({"Range": "bytes=-3"}, 206, b"789", "bytes 7-9/10"),
        ({"Range": "bytes=-99"}, 206, CONTENT, "bytes 0-9/10"),
        ({"Range": "bytes=0-99"}, 206, CONTENT, "bytes 0-9/10"),
        ({"Range": "bytes=2-4", "If-Range": f'"{SHA256}"'}, 206, b"234", "bytes 2-4/10"),
        ({"Range": "bytes=2-4", "If-Range": '"other"'}, 200, CONTENT, None),
        ({"Range": "bytes=2-4", "If-Range": f'W/"{SHA256}"'}, 200, CONTENT, None),
        ({"Range": "bytes=0-1,3-4"}, 200, CONTENT, None),
        ({"Range": "bytes=4-2"}, 200, CONTENT, None),
        ({"Range": "lines=1-2"}, 200, CONTENT, None),
        ({"Range": "bytes=x"}, 200, CONTENT, None),
        ({"Range": "bytes=" + "9" * 400 + "-"}, 200, CONTENT, None),
        ({"If-None-Match": f'"{SHA256}"', "Range": "bytes=2-4"}, 304, b"", None),
        ({"If-None-Match": '"other"'}, 200, CONTENT, None),
    ],
)
async def test_parts(
    api: httpx.AsyncClient,
    ledger: Ledger,
    headers: dict[str, str],
    code: int,
    content: bytes,
    content_range: str | None,
) -> None:
    job_id = await left(ledger, SMALL)
    answer = await api.get(f"/jobs/{job_id}/result", headers=headers)
    assert (answer.status_code, answer.content, answer.headers.get("content-range")) == (code, content, content_range)


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=99-100", "bytes=-0"])
async def test_a_part_that_is_not_there(api: httpx.AsyncClient, ledger: Ledger, asked: str) -> None:
    job_id = await left(ledger, SMALL)
    answer = await api.get(f"/jobs/{job_id}/result", headers={"Range": asked})
    assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */10")
    assert answer.json()["code"] == "RANGE_REFUSED"


def test_spans_of_every_small_content() -> None:
    for size in range(5):
        whole = bytes(range(size))
        for first in range(6):
            for last in range(first, 7):
                expected = whole[first : last + 1]
                if not expected:
                    with pytest.raises(UnsatisfiableError):
                        span_of(f"bytes={first}-{last}", size)
                else:
                    span = span_of(f"bytes={first}-{last}", size)
                    assert span is not None
                    assert whole[span.first : span.last + 1] == expected
    assert span_of("bytes=-", 5) is None
    assert span_of("bytes=-2", 5) == Span(3, 4)


async def test_link_objects(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await left(ledger, SMALL, LARGE)
    small = await api.get(f"/jobs/{job_id}/result?redirect=false")
    assert small.headers["cache-control"] == "no-store"
    assert small.json() == {
        "url": f"/jobs/{job_id}/artifacts/report%201.html",
        "expiresAt": None,
        "needsKey": True,
        "name": "report 1.html",
        "mediaType": "text/html; charset=utf-8",
        "bytes": 10,
        "sha256": SHA256,
    }
    assert (await api.get(small.json()["url"])).content == CONTENT
    large = (await api.get(f"/jobs/{job_id}/artifacts/大.csv?redirect=false")).json()
    assert (large["needsKey"], large["name"], large["bytes"]) == (False, "大.csv", 10)
    asked = parse_qs(urlsplit(large["url"]).query)
    assert asked["X-Amz-Expires"] == ["900"]
    assert large["expiresAt"].endswith("Z")


async def test_names_that_are_not_there(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await left(ledger, SMALL)
    for name in ("x", "report%201.html%00", "%2e%2e", "a%2fb", "%ff", "n" * 4_000):
        answer = await api.get(f"/jobs/{job_id}/artifacts/{name}")
        assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND"), name


class Store:
    """An object store that refuses a second way of proving oneself, as S3 does. `asked`: the heads it was sent."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head)
        is_double = b"X-Amz-Signature=" in head.split(b"\r\n")[0] and b"\r\nauthorization:" in head.lower()
        status, body = (b"400 Bad Request", b"<Error/>") if is_double else (b"200 OK", CONTENT)
        writer.write(b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
        writer.close()


@contextlib.asynccontextmanager
async def object_store() -> AsyncIterator[Store]:
    store = Store()
    async with await asyncio.start_server(store.answer, "127.0.0.1", 0) as server:
        store.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield store


async def test_a_redirect_is_followed_without_the_key(settings: Settings, ledger: Ledger, database: Database) -> None:
    _, key = await make_key(database)
    job_id = await left(ledger, LARGE)
    async with object_store() as store:
        async with serve(guarded(settings, aws_endpoint_url=store.url)) as url, httpx.AsyncClient() as client:
            path = f"{url}/jobs/{job_id}/result"
            redirect = await client.get(path, headers=key)
            assert (redirect.status_code, redirect.headers["cache-control"]) == (303, "no-store")
            # What clients do by themselves: another host and port, another client to prove oneself to.
            followed = await client.get(path, headers=key, follow_redirects=True)
            assert (followed.status_code, followed.content) == (200, CONTENT)
            # What some do, and why there is a form without a redirect.
            naive = await client.get(redirect.headers["location"], headers=key)
            assert naive.status_code == 400
            link = (await client.get(f"{path}?redirect=false", headers=key)).json()
            assert (await client.get(link["url"])).content == CONTENT
    assert len(store.asked) == 3
    assert sum(b"tdk_" in head for head in store.asked) == 1, "the naive one's alone"


async def test_signed_anew_each_time(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await left(ledger, LARGE)
    location = (await api.get(f"/jobs/{job_id}/result")).headers["location"]
    asked = parse_qs(urlsplit(location).query)
    assert asked["X-Amz-Expires"] == ["900"]
    assert asked["response-content-disposition"][0].startswith("attachment")


async def test_a_status_lists_what_can_be_fetched_by_name(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await left(ledger, SMALL, LARGE)
    names = [each["name"] for each in (await api.get(f"/jobs/{job_id}")).json()["artifacts"]]
    for name in names:
        assert (await api.head(f"/jobs/{job_id}/artifacts/{name}")).status_code == 200
