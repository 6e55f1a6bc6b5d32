"""What no honest client sends: a request hidden in another, heads and paths that mean two things, slowness.

Every request that reaches the real API behind the gateway is noted, so that "refused" means that it never got there.
"""

import asyncio
import contextlib
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.conftest import until
from tests.gateway.behind import Behind, Seen
from tests.gateway.conftest import Pair
from tests.gateway.front import Gateway, gateway
from tests.streams.raw import connection, read_until

pytestmark = pytest.mark.gateway

QUICK = {
    "client_header_timeout 10s;": "client_header_timeout 1s;",
    "client_body_timeout 10s;": "client_body_timeout 1s;",
    "keepalive_timeout 75s;": "keepalive_timeout 1s;",
}
CLOSING = b"\r\nConnection: close\r\n"
# In each: {me} names this request in a path, {it} the one that is hidden, {key} is a good key's header.
HIDDEN = "GET /jobs/{it} HTTP/1.1\r\nHost: x\r\n\r\n"
POST = "POST /generate-report?{me} HTTP/1.1\r\nHost: x\r\n{key}\r\n"
GET = "GET /jobs/{me} HTTP/1.1\r\nHost: x\r\n"

# Never answered but by an error, after which nothing more is read from the connection.
REFUSED = {
    "CL.TE": POST + "Content-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "TE.CL": POST + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n3c\r\n" + HIDDEN + "\r\n0\r\n\r\n",
    "TE.TE, one unknown": POST + "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n" + HIDDEN,
    "TE.TE, twice": POST + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "TE, a list": POST + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + HIDDEN,
    "TE, almost chunked": POST + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "TE, a tab": POST + "Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "TE, a space before the colon": POST + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "TE, a vertical tab": POST + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "TE in HTTP/1.0": POST.replace("/1.1", "/1.0") + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "CL.CL": POST + "Content-Length: 0\r\nContent-Length: 40\r\n\r\n" + HIDDEN,
    "CL.CL, the same": POST + "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{{}}" + HIDDEN,
    "CL, a list": POST + "Content-Length: 0, 40\r\n\r\n" + HIDDEN,
    "CL, signed": POST + "Content-Length: +0\r\n\r\n" + HIDDEN,
    "CL, negative": POST + "Content-Length: -1\r\n\r\n" + HIDDEN,
    "CL, hexadecimal": POST + "Content-Length: 0x0\r\n\r\n" + HIDDEN,
    "CL, empty": POST + "Content-Length:\r\n\r\n" + HIDDEN,
    "CL, more than fits": POST + "Content-Length: 18446744073709551617\r\n\r\n" + HIDDEN,
    "chunk size, hexadecimal prefix": POST + "Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n" + HIDDEN,
    "chunk size, negative": POST + "Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n" + HIDDEN,
    "chunk size, more than fits": POST + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n\r\n" + HIDDEN,
    "a folded header": GET + "X-A: b\r\n GET /jobs/{it} HTTP/1.1\r\n\r\n",
    "a bare CR in a header": GET + "X-A: b\rX-B: c\r\n\r\n",
    "a bare CR behind the request": "GET /jobs/{me} HTTP/1.1\rHost: x\r\n\r\n",
    "a NUL in a header": GET + "X-A: b\0c\r\n\r\n",
    "a space in a header's name": GET + "X A: b\r\n\r\n",
    "a header without colon": GET + "Transfer-Encoding chunked\r\n\r\n",
    "no Host": "GET /jobs/{me} HTTP/1.1\r\n\r\n",
    "two Hosts": GET + "Host: y\r\n\r\n",
    "a header's end in the path": "GET /jobs/{me}%0d%0aX-Injected:%201%0d%0a%0d%0aGET%20/jobs/{it} HTTP/1.1\r\n"
    "Host: x\r\n\r\n",
    "a Host with a slash": "GET /jobs/{me} HTTP/1.1\r\nHost: x/../y\r\n\r\n",
    "a Host with a space": "GET /jobs/{me} HTTP/1.1\r\nHost: x y\r\n\r\n",
    "a Host with a NUL": "GET /jobs/{me} HTTP/1.1\r\nHost: x\0y\r\n\r\n",
    "a target that names a user": "GET http://me@x/jobs/{me} HTTP/1.1\r\nHost: x\r\n\r\n",
    "a target that is no path": "GET jobs/{me} HTTP/1.1\r\nHost: x\r\n\r\n",
    "above the root": "GET /../../jobs/{me} HTTP/1.1\r\nHost: x\r\n\r\n",
    "a version to come": "GET /jobs/{me} HTTP/2.0\r\nHost: x\r\n\r\n",
    "HTTP/2 as it begins": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a method in small letters": "get /jobs/{me} HTTP/1.1\r\nHost: x\r\n\r\n",
    "TRACE": "TRACE /jobs/{me} HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT": "CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": "\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n",
    "a long address": "GET /jobs/{me}" + "a" * 9000 + " HTTP/1.1\r\nHost: x\r\n\r\n",
    "a long header": GET + "X-A: " + "a" * 9000 + "\r\n\r\n",
    "many headers": GET + ("X-A: " + "a" * 1000 + "\r\n") * 40 + "\r\n",
    "many short headers": GET + "X-A: a\r\n" * 8000 + "\r\n",
    "a body too large": POST + "Content-Length: 17000000\r\n\r\n" + HIDDEN * 400,
}

STATUSES = {
    "TRACE": {405},
    "a header's end in the path": {404},
    "CONNECT": {400, 405},
    "a long address": {431},
    "a long header": {431},
    "many headers": {431},
    "many short headers": {431},
    "a body too large": {413},
}

BODY = "Content-Length: 2\r\n\r\n{{}}"
CHUNKED = "Transfer-Encoding: chunked\r\n\r\n"
# Answered, and nothing but the one request gets through; a well-behaved one follows on the same connection.
TAMED = {
    "bare LF": "POST /generate-report?{me} HTTP/1.1\nHost: x\nContent-Length: 2\n\n{{}}",
    "empty lines before": "\r\n\r\n" + POST + BODY,
    "a request as a body": POST + "Content-Length: {length}\r\n\r\n" + HIDDEN,
    "a request as the body of a GET": GET + "Content-Length: {length}\r\n\r\n" + HIDDEN,
    "a request as the body of whoever is refused": "POST /generate-report?{me} HTTP/1.1\r\nHost: x\r\n"
    "Content-Length: {length}\r\n\r\n" + HIDDEN,
    "a request as a chunk": POST + CHUNKED + "{size}\r\n" + HIDDEN + "\r\n0\r\n\r\n",
    "a chunk's extension": POST + CHUNKED + "2;a=b\r\n{{}}\r\n0\r\n\r\n",
    "a trailer": POST + CHUNKED + "2\r\n{{}}\r\n0\r\nX-Injected: 1\r\n\r\n",
    "a length with zeros": POST + "Content-Length: 0000002\r\n\r\n{{}}",
    "a length spelled with an underscore": POST + "Content_Length: 0\r\n" + BODY,
    "chunked spelled with an underscore": POST + "Transfer_Encoding: chunked\r\n" + BODY,
    "HTTP/2 over plain text": GET
    + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    "a web socket": GET + "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
    "a header's end in the query": "GET /jobs/{me}?%0d%0aX-Injected:%201 HTTP/1.1\r\nHost: x\r\n\r\n",
    "headers taken off on the way": GET + "X-Forwarded-For: y\r\nConnection: X-Forwarded-For, X-Request-Id\r\n\r\n",
}
SPOOFED = (
    "X-Forwarded-For: 10.0.0.1",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: evil.example",
    "X-Forwarded-Port: 1",
    "X-Forwarded-Prefix: /evil",
    "X-Real-IP: 10.0.0.1",
    "Forwarded: for=10.0.0.1",
    "X-Original-URI: /jobs/evil",
    "X_Request_Id: evil-evil-evil",
    "X_Forwarded_For: 10.0.0.1",
    "X.Original.URI: /jobs/evil",
)
FROM_INSIDE = [
    "/{it}",
    "/./{it}",
    "/x/../{it}",
    "/x/%2e%2e/{it}",
    "/x/..%2f{it}",
    "/jobs/../{it}",
    "/jobs/%2e%2e%2f{it}",
    "/jobs/x/..%2f..%2f{it}",
    "/healthz/../{it}",
    "//{it}",
    "/x/..//{it}",
    "/{it}/",
    "/{it}?x",
    "/{it}#x",
    "/{it};x",
    "/;/{it}",
    "/x/..;/{it}",
    "/{it}%3fx",
    "/{it}%23x",
    "/{it}%20",
    "/{it}%00",
    "/{it}%0a",
    "/{it}%0d%0a",
    "/{it}%7f",
    "/%2f{it}",
    "/\\{it}",
    "/%252e/{it}",
    "/{spelled}",
    "/{upper}",
    "http://x/{it}",
    "http://127.0.0.1:8000/{it}",
    "HTTP://x/./{it}",
]


@dataclass(frozen=True)
class Exchange:
    """What was answered and what came through: the request itself, one that was hidden in it, one that followed."""

    answer: bytes
    this: list[Seen]
    hidden: list[Seen]
    last: list[Seen]

    @property
    def status(self) -> int:
        """Of the first answer."""
        return int(self.answer[9:12])


@pytest.mark.parametrize("way", REFUSED)
async def test_what_could_be_read_in_two_ways_is_refused(pair: Pair, way: str) -> None:
    told = await _send(pair, REFUSED[way])
    assert told.status in STATUSES.get(way, {400})
    assert b"Content-Type: application/problem+json\r\n" in told.answer
    assert told.answer.count(b"\r\nServer: ") == 1
    assert (told.this, told.hidden) == ([], [])


@pytest.mark.parametrize("way", TAMED)
async def test_what_passes_is_one_request(pair: Pair, way: str) -> None:
    told = await _send(pair, TAMED[way], follow=True)
    assert told.status in (202, 401, 404, 422, 400), told.answer
    assert (len(told.this), told.hidden, len(told.last)) == (1, [], 1)
    names = {name for name, _ in told.this[0].headers}
    assert not names & {"x-injected", "transfer-encoding", "transfer_encoding", "content_length", "upgrade"}
    assert len(told.this[0].all("content-length")) <= 1
    assert told.this[0].all("x-forwarded-for") == ["127.0.0.1"]
    assert len(told.this[0].all("x-request-id")) == 1


async def test_a_request_in_a_body_that_nobody_reads(pair: Pair) -> None:
    """Refused by its head, while the body is still to come and must not be taken for what follows."""
    hidden = HIDDEN * 400
    told = await _send(
        pair, "POST /generate-report?{me} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n" + hidden, follow=True
    )
    assert told.status == 401
    assert (told.this, told.hidden, len(told.last)) == ([], [], 1)


async def test_a_broken_chunk_of_the_uninvited(pair: Pair) -> None:
    told = await _send(pair, POST.replace("{key}\r\n", "") + CHUNKED + "0x0\r\n\r\n" + HIDDEN)
    assert told.status in (400, 401)
    assert (told.this, told.hidden) == ([], [])


@pytest.mark.parametrize("place", ["internal/auth", "metrics"])
async def test_what_is_for_inside_stays_there(pair: Pair, place: str) -> None:
    asked, seen = len(pair.api.asked), len(pair.api.seen)
    for way in FROM_INSIDE:
        spelled = "".join(f"%{ord(letter):02x}" for letter in place)
        target = way.format(it=place, spelled=spelled, upper=place.upper())
        answer = await _exchange(pair.front.url, _with_key(pair, target))
        assert answer[9:12] in (b"307", b"400", b"401", b"404"), target
        assert b"todoke_" not in answer.replace(b"todoke_stream", b""), target
    assert len(pair.api.asked) == asked
    for request in pair.api.seen[seen:]:
        assert unquote(request.path) not in (f"/{place}", "/metrics"), request


async def test_a_target_with_a_host_wins_over_the_header(pair: Pair) -> None:
    told = await _send(
        pair, "GET http://one.example:81/jobs/{me} HTTP/1.1\r\nHost: two.example\r\n{key}\r\n\r\n", follow=True
    )
    assert told.this[0].all("host") == ["one.example:81"]


async def test_an_old_client_without_a_host(pair: Pair) -> None:
    told = await _send(pair, "GET /jobs/{me} HTTP/1.0\r\n{key}\r\n\r\n")
    assert (told.status, len(told.this)) == (404, 1)


async def test_what_only_a_gateway_may_say(pair: Pair) -> None:
    lines = "".join(f"{line}\r\n" for line in SPOOFED)
    told = await _send(pair, GET + "{key}\r\n" + lines + "\r\n", follow=True)
    [seen] = told.this
    said = {name: value for name, value in seen.headers if name.startswith(("x", "forwarded"))}
    request_id = said.pop("x-request-id")
    assert said == {"x-forwarded-for": "127.0.0.1", "x-forwarded-proto": "http"}
    assert len(request_id) == 32


async def test_the_question_names_the_request_as_it_is(pair: Pair) -> None:
    """A caller who names another gets in nowhere."""
    lines = "X-Original-URI: /healthz\r\nX-Original-URI: /jobs/x/events\r\nContent-Length: 10000\r\n\r\n"
    await _send(pair, POST.replace("{key}\r\n", "") + lines + "x" * 10000, follow=True)
    [uri] = pair.api.asked[-1].all("x-original-uri")
    assert uri.startswith("/generate-report?")


@pytest.mark.parametrize(
    "sent", ["short", "a" * 65, "with space in", 'a"b{{}}-----', "${{jndi:ldap://x}}", "request\tid", "ééééééééé"]
)
async def test_a_request_id_that_is_none_is_replaced(pair: Pair, sent: str) -> None:
    told = await _send(pair, GET + f"X-Request-Id: {sent}\r\n\r\n", follow=True)
    [made] = told.this[0].all("x-request-id")
    assert (len(made), sent in made) == (32, False)
    assert f"X-Request-Id: {made}\r\n".encode() in told.answer


async def test_a_line_of_the_log_cannot_be_forged(pair: Pair) -> None:
    token = secrets.token_hex(8)
    target, agent = f'/jobs/"}}%0a{{"status":200,\\{token}', 'a"}\\'
    lines = (f"GET {target} HTTP/1.1", "Host: x", f"User-Agent: {agent}", "Connection: close", "", "")
    await _exchange(pair.front.url, "\r\n".join(lines).encode())
    line = await _logged(pair.front, token)
    assert (line["path"], line["userAgent"]) == (target, agent)


async def test_whatever_is_sent_the_log_stays_json(pair: Pair) -> None:
    """Bytes that are no text, a request so old that its answer has no status, and what was never a request."""
    token = secrets.token_hex(8)
    lines = (f"GET /jobs/{token}a\xff?\xff HTTP/1.1", "Host: \xff", "User-Agent: b\xff", "Connection: close", "", "")
    await _exchange(pair.front.url, "\r\n".join(lines).encode("latin-1"))
    line = await _logged(pair.front, f"{token}a")
    # A later nginx refuses that host before it reads on.
    assert (line["path"], line["host"], line["userAgent"] in ("", "b")) == (f"/jobs/{token}a", "", True)
    async with connection(pair.front.url) as (reader, writer):
        writer.write(f"GET /jobs/{token}b\r\n".encode())
        await read_until(reader, lambda _: False)
    await _logged(pair.front, f"{token}b")
    told = await _exchange(pair.front.url, f"\x16\x03 /jobs/{token}c \xff\r\n\r\n".encode("latin-1"))
    request_id = re.search(rb"X-Request-Id: (\w+)", told)
    assert request_id
    await until(lambda: request_id[1].decode() in pair.front.log("access"))
    assert all(isinstance(line["status"], int) for line in pair.front.lines)


async def _logged(front: Gateway, token: str) -> dict[str, Any]:
    await until(lambda: token in front.log("access"))
    [line] = [line for line in front.lines if token in line["path"]]
    return line


@pytest.fixture(scope="module")
def quick(nginx: str, api_behind: Behind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Our configuration with a second's patience."""
    with gateway(nginx, tmp_path_factory.mktemp("quick"), urlsplit(api_behind.url).netloc, QUICK) as front:
        yield front


async def test_slow_clients_are_left(quick: Gateway, pair: Pair) -> None:
    """Those who send nothing, whose head trickles in without an end, and whose body stops; none reaches the API."""
    token = secrets.token_hex(8)
    head = f"POST /generate-report?{token} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {pair.key}\r\n"
    async with asyncio.timeout(15):
        answers = await asyncio.gather(
            _trickle(quick.url, b"", b""),
            _trickle(quick.url, head.encode(), b"X"),
            _trickle(quick.url, f"{head}Content-Length: 9\r\n\r\n".encode(), b""),
            _trickle(quick.url, f"{head}Content-Length: 90000\r\n\r\n".encode(), b""),
        )
    assert answers == [b""] * 4
    assert not [seen for seen in pair.api.seen if token in seen.query]


async def _trickle(url: str, head: bytes, more: bytes) -> bytes:
    """Send a head and then `more` again and again, until the other side closes; what it said."""
    async with connection(url) as (reader, writer):
        writer.write(head)
        reading = asyncio.ensure_future(reader.read())
        while not reading.done():
            writer.write(more)
            await asyncio.wait([reading], timeout=0.05)
        with contextlib.suppress(ConnectionError):
            return await reading
    return b""


async def _send(pair: Pair, text: str, *, follow: bool = False) -> Exchange:
    """follow: send a well-behaved request behind it, which closes the connection."""
    this, hidden, last = (secrets.token_hex(8) for _ in range(3))
    key = f"Authorization: Bearer {pair.key}"
    length = len(text.partition("{length}\r\n\r\n")[2].format(it=hidden))
    size = f"{len(HIDDEN.format(it=hidden)):x}"
    sent = text.format(me=this, it=hidden, key=key, length=length, size=size)
    if follow:
        sent += f"GET /jobs/{last} HTTP/1.1\r\nHost: x\r\n{key}\r\nConnection: close\r\n\r\n"
    answer = await _exchange(pair.front.url, sent.encode("latin-1"))

    def named(token: str) -> list[Seen]:
        return [seen for seen in pair.api.seen if token in seen.path + seen.query]

    return Exchange(answer, named(this), named(hidden), named(last))


async def _exchange(url: str, sent: bytes) -> bytes:
    """Everything that is answered, until the other side closes.

    Where nothing well-behaved follows, nginx waits a while for what else is sent; it need not once it has answered.
    """
    async with connection(url) as (reader, writer):
        writer.write(sent)
        if CLOSING in sent:
            return await read_until(reader, lambda _: False)
        answer = await read_until(reader, _is_whole)
        writer.write_eof()
        with contextlib.suppress(ConnectionError):
            answer += await read_until(reader, lambda _: False)
        return answer


def _is_whole(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"\r\nContent-Length: (\d+)", head)
    return length is not None and len(body) >= int(length[1])


def _with_key(pair: Pair, target: str) -> bytes:
    lines = (f"GET {target} HTTP/1.1", "Host: x", f"Authorization: Bearer {pair.key}", "Connection: close", "", "")
    return "\r\n".join(lines).encode("latin-1")
