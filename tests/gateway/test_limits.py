"""How much of the gateway one caller may take: our configuration with limits small enough to reach."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from tests.gateway.behind import Behind
from tests.gateway.conftest import Pair
from tests.gateway.front import Gateway, gateway
from tests.make import accept
from todoke.store.ledger import Ledger
from todoke.wire.sse import Decoder

pytestmark = pytest.mark.gateway

# Nothing that was counted comes back while a test runs.
SMALL = {
    "rate=600r/s;": "rate=1r/m;",
    "zone=keys burst=1200 nodelay;": "zone=keys burst=3 nodelay;",
    "rate=50r/s;": "rate=1r/m;",
    "zone=strangers burst=200 nodelay;": "zone=strangers burst=5 nodelay;",
}
MADE_HERE = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
FEW_AT_ONCE = {"limit_conn open_keys 2000;": "limit_conn open_keys 2;"}
AS_STREAM, AS_LIST = {"Accept": "text/event-stream"}, {"Accept": "application/json"}


@pytest.fixture(scope="module")
def narrow(nginx: str, api_behind: Behind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(nginx, tmp_path_factory.mktemp("narrow"), urlsplit(api_behind.url).netloc, SMALL) as front:
        yield front


@contextlib.asynccontextmanager
async def _caller(front: Gateway, key_id: str) -> AsyncIterator[httpx.AsyncClient]:
    """Who shows a key nobody gave. It is counted all the same, before anybody looks whether it is good."""
    headers = {"Authorization": f"Bearer tdk_{key_id}_{'0' * 48}"} if key_id else {}
    async with httpx.AsyncClient(base_url=front.url, headers=headers, timeout=20) as client:
        yield client


async def test_whoever_asks_too_much_is_told_and_nobody_else(narrow: Gateway) -> None:
    async with _caller(narrow, "a" * 16) as busy, _caller(narrow, "b" * 16) as other:
        statuses = [(await busy.get("/jobs/x")).status_code for _ in range(8)]
        assert statuses == [401] * 4 + [429] * 4
        answer = await busy.post("/generate-report")
        assert (answer.status_code, answer.headers["content-type"]) == (429, "application/problem+json")
        assert (answer.json()["code"], answer.headers["retry-after"]) == ("RATE_LIMITED", "2")
        assert answer.headers["x-request-id"] == answer.json()["traceId"]
        for name, value in MADE_HERE.items():
            assert answer.headers.get_list(name) == [value]
        assert (await other.get("/jobs/x")).status_code == 401


async def test_another_secret_does_not_make_another_caller(narrow: Gateway) -> None:
    statuses = []
    async with httpx.AsyncClient(base_url=narrow.url) as client:
        for number in range(6):
            headers = {"Authorization": f"bearer tdk_{'c' * 16}_{number:048}"}
            statuses.append((await client.get("/jobs/x", headers=headers)).status_code)
    assert statuses == [401] * 4 + [429] * 2


async def test_whoever_shows_no_key_is_counted_by_address(narrow: Gateway) -> None:
    """A browser among them is asked to come back: an error status would stop it for good."""
    async with _caller(narrow, "") as client:
        statuses = [(await client.get("/jobs/x")).status_code for _ in range(8)]
        assert statuses == [401] * 6 + [429] * 2
        stream = await client.get("/jobs/x/events?ticket=t", headers=AS_STREAM)
        listed = await client.get("/jobs/x/events?ticket=t", headers=AS_LIST)
    assert (stream.status_code, stream.headers["content-type"]) == (200, "text/event-stream")
    assert stream.headers["access-control-allow-origin"] == "*"
    decoder = Decoder()
    assert list(decoder.feed(stream.content)) == []
    assert decoder.retry_milliseconds in (6000, 9000, 12000, 15000)
    assert (listed.status_code, listed.headers["retry-after"]) == (429, "2")
    assert "ticket=t" not in narrow.log("error") + narrow.log("access")


async def test_streams_at_once(
    nginx: str, pair: Pair, ledger: Ledger, tmp_path_factory: pytest.TempPathFactory
) -> None:
    job_id, folder = await accept(ledger), tmp_path_factory.mktemp("few")
    with gateway(nginx, folder, urlsplit(pair.api.url).netloc, FEW_AT_ONCE) as front:
        async with httpx.AsyncClient(base_url=front.url, headers=pair.headers, timeout=20) as client:
            async with contextlib.AsyncExitStack() as stack, asyncio.timeout(20):
                kept = []
                for _ in range(2):
                    opened = await stack.enter_async_context(client.stream("GET", f"/jobs/{job_id}/events"))
                    kept.append(opened.aiter_text())
                    assert (await anext(kept[-1])).startswith(":")
                third = await client.get(f"/jobs/{job_id}/events", headers=AS_STREAM)
                polled = await client.get(f"/jobs/{job_id}")
    assert (third.status_code, third.text.partition(",")[0]) == (200, ": too many requests at once")
    assert (polled.status_code, polled.json()["code"]) == (429, "RATE_LIMITED")
