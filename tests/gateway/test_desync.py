"""Requests framed at random, in the ways two parsers have disagreed about: what the API gets is what nginx sent."""

import asyncio
import contextlib
import random
import secrets
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.conftest import until
from tests.gateway.conftest import Pair
from tests.gateway.front import Gateway, gateway
from tests.streams.raw import connection

pytestmark = pytest.mark.gateway

# The first of each is as it should be, and taken as often as all others together.
NAMES = (
    "Content-Length",
    "content-length",
    "Content_Length",
    "Content-Length ",
    " Content-Length",
    "X:\nContent-Length",
)
LENGTHS = ("{n}", "0", "2", "+{n}", "0{n}", "{n},{n}", "{n} ", "0x2", "-1", "", "{n}\t", "{n}\x0b", "9" * 20)
CODINGS = (
    "Transfer-Encoding",
    "transfer-encoding",
    "Transfer_Encoding",
    "Transfer-Encoding ",
    "X: y\n Transfer-Encoding",
)
CODED = (
    "chunked",
    "Chunked",
    " chunked",
    "chunked ",
    "\tchunked",
    "\x0bchunked",
    "identity",
    "chunked, chunked",
    "x",
    "",
)
ENDS = ("\r\n", "\n", "\r", "\r\r\n", "\0\r\n")
SIZES = ("{x}", "0", "0{x}", "0x{x}", "{x};a=b", "{x} ", "-1", "f" * 17, "{x}\n", "")
METHODS = ("POST", "GET", "HEAD", "DELETE", "post", "POST\t")
VERSIONS = ("1.1", "1.0", "1.2", "2.0", "0.9")


# Nobody is refused for coming often.
WIDE = {"rate=600r/s": "rate=60000r/s", "rate=50r/s": "rate=60000r/s", "rate=1200r/s": "rate=60000r/s"}


@pytest.fixture(scope="module")
def wide(nginx: str, pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(nginx, tmp_path_factory.mktemp("wide"), urlsplit(pair.api.url).netloc, WIDE) as front:
        yield front


@pytest.mark.parametrize(
    "count", [200, pytest.param(20_000, marks=[pytest.mark.full, pytest.mark.timeout(900)])], ids=["few", "many"]
)
async def test_nothing_reaches_the_api_but_what_the_gateway_sent(
    pair: Pair, wide: Gateway, seed: int, count: int
) -> None:
    """The gateway gives each of its requests an id: one that came in another's body has none, or the other's."""
    chance, first = random.Random(seed), len(pair.api.seen)
    for _ in range(count):
        await _send(wide.url, _request(chance, pair.key))
    last = f"last-{secrets.token_hex(8)}"
    await _send(wide.url, _plain(pair.key, last))
    await until(lambda: last in wide.log("access"))
    sent = [line["requestId"] for line in wide.lines]
    came = [seen.all("x-request-id") for seen in pair.api.seen[first:]]
    assert came[-1] == [last]
    print(f"{len(came)} of {count} and those in them reached the API")
    assert all(len(ids) == 1 for ids in came)
    assert len({ids[0] for ids in came}) == len(came)
    assert {ids[0] for ids in came} <= set(sent)
    assert not [seen for seen in pair.api.seen[first:] if len(seen.all("content-length")) > 1]
    assert not [seen for seen in pair.api.seen[first:] if seen.all("transfer-encoding")]


def _request(chance: random.Random, key: str) -> bytes:
    """One request with another in its body, the frame around it spelled in one way or more."""
    # The gateway gives it an id of its own if it takes it for a request: this one is too short.
    hidden = f"GET /jobs/{chance.getrandbits(64):x} HTTP/1.1\r\nHost: x\r\nX-Request-Id: hidden\r\n\r\n"
    size = _pick(chance, SIZES).format(x=f"{len(hidden):x}")
    frames = [_length(chance, len(hidden)) for _ in range(chance.choice((0, 1, 1, 2)))]
    frames += [_coding(chance) for _ in range(chance.choice((0, 1, 1, 2) if not frames else (0, 0, 0, 1)))]
    lines = ["Host: x", f"Authorization: Bearer {key}", *frames]
    chance.shuffle(lines)
    head = f"{_pick(chance, METHODS)} /generate-report HTTP/{_pick(chance, VERSIONS)}{_pick(chance, ENDS)}"
    body = chance.choice((hidden, f"{size}\r\n{hidden}\r\n0\r\n\r\n", f"0\r\n\r\n{hidden}", f"{size}\n{hidden}\n0\n\n"))
    odd = chance.randrange(len(lines) * 2)
    ends = [_pick(chance, ENDS) if place == odd else "\r\n" for place in range(len(lines))]
    return (head + "".join(map("".join, zip(lines, ends, strict=True))) + "\r\n" + body).encode("latin-1")


def _pick(chance: random.Random, options: tuple[str, ...]) -> str:
    return options[0] if chance.random() < 0.5 else chance.choice(options)


def _length(chance: random.Random, length: int) -> str:
    return f"{_pick(chance, NAMES)}: {_pick(chance, LENGTHS).format(n=length)}"


def _coding(chance: random.Random) -> str:
    return f"{_pick(chance, CODINGS)}: {_pick(chance, CODED)}"


def _plain(key: str, request_id: str) -> bytes:
    lines = ("GET /jobs/x HTTP/1.1", "Host: x", f"Authorization: Bearer {key}", f"X-Request-Id: {request_id}", "", "")
    return "\r\n".join(lines).encode()


async def _send(url: str, request: bytes) -> None:
    """Send it all and read what comes until the gateway has said something and closes, or has nothing more to say."""
    with contextlib.suppress(ConnectionError):
        async with connection(url) as (reader, writer):
            writer.write(request)
            got = await asyncio.wait_for(_some(reader), 5)
            # It answers what it has read before it sees that nothing follows.
            if got:
                writer.write_eof()
                await asyncio.wait_for(reader.read(), 15)


async def _some(reader: asyncio.StreamReader) -> bytes:
    try:
        async with asyncio.timeout(0.05):
            return await reader.read(2**16)
    except TimeoutError:  # it waits for more of a body
        return b""
