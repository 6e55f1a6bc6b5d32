"""Receivers that answer badly, slowly, endlessly or not at all: over real sockets, plain and TLS."""

import gzip
import ssl
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from notifier.transport import VettedTransport
from tests.notifier.certificates import server_context
from tests.notifier.internet import DEADLINE, HONEST, HOST, Internet, post_beside_honest
from tests.notifier.receiver import (
    Answer,
    Receiver,
    bytes_answer,
    drip,
    flood,
    hang_up,
    receiving,
    reset,
    silence,
    status,
    then_hang_up,
)
from todoke.model.delivery import Reason

BYTES_MAX = 8 * 2**20
HEAD = b"HTTP/1.1 200 OK\r\n"
NO = b"HTTP/1.1 500 No\r\n"
END = b"content-length: 0\r\n\r\n"
ENDLESS = b"content-length: 1000000\r\n\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
EARLY = b"HTTP/1.1 103 Early Hints\r\n\r\n"
RAW = bytes(64 * 2**20)
GZIP, DEFLATE = gzip.compress(RAW), zlib.compress(RAW)


def packed(coding: str, body: bytes) -> Answer:
    return bytes_answer(HEAD + f"content-encoding: {coding}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)


TIMEOUT = (None, Reason.TIMEOUT)
GONE = (None, Reason.DISCONNECTED)
WRONG = (None, Reason.PROTOCOL)
HUGE = (None, Reason.TOO_LARGE)
FINE = (200, Reason.DELIVERED)
REFUSED = (500, Reason.HTTP_STATUS)

# Numbers are those of the list of hostile receivers: 1 and 4 to 15, 17, 18.
CASES: dict[str, tuple[Answer, tuple[int | None, Reason]]] = {
    "01 silence": (silence, TIMEOUT),
    "04 hang up": (hang_up, GONE),
    "04 end before the head": (then_hang_up(b""), GONE),
    "04 end in the head": (then_hang_up(HEAD + b"x: y\r\n"), GONE),
    "04 end in the body": (then_hang_up(HEAD + ENDLESS + b"x"), FINE),
    "04 reset before the head": (reset(), GONE),
    "04 reset in the head": (reset(HEAD), GONE),
    "06 head dripping in the status line": (drip(b"HTTP/1.1 200 "), TIMEOUT),
    "06 head dripping in a field": (drip(HEAD + b"x: "), TIMEOUT),
    "06 head dripping fields": (drip(HEAD, b"x: y\r\n", 0.1), TIMEOUT),
    "07 body dripping": (drip(HEAD + ENDLESS), FINE),
    "07 body in chunks of one byte": (drip(HEAD + CHUNKED, b"1\r\nx\r\n"), FINE),
    "07 body dripping behind a failure": (drip(NO + ENDLESS), REFUSED),
    "08 interim heads dripping": (drip(b"", EARLY, 0.3), TIMEOUT),
    "08 interim heads": (flood(b"", EARLY * 100), HUGE),
    "08 eight interim heads": (bytes_answer(EARLY * 8 + HEAD + END), FINE),
    "08 nine interim heads": (bytes_answer(EARLY * 9 + HEAD + END), HUGE),
    "08 100 without being asked": (bytes_answer(b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + END), FINE),
    "09 endless body": (flood(HEAD + b"\r\n", b"x" * 4096), FINE),
    "09 endless chunks": (flood(HEAD + CHUNKED, b"1000\r\n" + b"x" * 4096 + b"\r\n"), FINE),
    "09 endless body of a failure": (flood(NO + CHUNKED, b"1000\r\n" + b"x" * 4096 + b"\r\n"), REFUSED),
    "09 endless chunk extension": (flood(HEAD + CHUNKED + b"1;", b"x" * 4096), FINE),
    "10 length longer than the body": (then_hang_up(HEAD + b"content-length: 5\r\n\r\nx"), FINE),
    "10 length shorter than the body": (bytes_answer(HEAD + b"content-length: 1\r\n\r\nxxxxx"), FINE),
    "10 negative length": (bytes_answer(HEAD + b"content-length: -1\r\n\r\n"), WRONG),
    "10 length with a plus": (bytes_answer(HEAD + b"content-length: +1\r\n\r\nx"), WRONG),
    "10 no length": (bytes_answer(HEAD + b"content-length:\r\n\r\n"), WRONG),
    "10 overlong length": (bytes_answer(HEAD + b"content-length: " + b"9" * 30 + b"\r\n\r\n"), WRONG),
    "10 doubled length": (bytes_answer(HEAD + b"content-length: 1\r\ncontent-length: 1\r\n\r\nx"), WRONG),
    "10 two lengths": (bytes_answer(HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\nxx"), WRONG),
    "10 list of lengths": (bytes_answer(HEAD + b"content-length: 1, 1\r\n\r\nx"), WRONG),
    "10 length and chunks": (bytes_answer(HEAD + b"content-length: 5\r\n" + CHUNKED + b"0\r\n\r\n"), WRONG),
    "10 chunks and length": (
        bytes_answer(HEAD + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n"),
        WRONG,
    ),
    "10 chunks twice": (bytes_answer(HEAD + b"transfer-encoding: chunked\r\n" + CHUNKED + b"0\r\n\r\n"), WRONG),
    "10 another coding": (bytes_answer(HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), WRONG),
    "10 chunks in HTTP/1.0": (bytes_answer(b"HTTP/1.0 200 OK\r\n" + CHUNKED + b"0\r\n\r\n"), WRONG),
    # The head decides: what a 2xx says afterwards cannot take it back.
    "11 bad chunk size": (bytes_answer(HEAD + CHUNKED + b"ZZ\r\n"), FINE),
    "11 negative chunk size": (bytes_answer(NO + CHUNKED + b"-1\r\n"), REFUSED),
    "11 overlong chunk size": (bytes_answer(HEAD + CHUNKED + b"f" * 40 + b"\r\n"), FINE),
    "11 endless trailers": (flood(HEAD + CHUNKED + b"0\r\n", b"x: y\r\n" * 1000), FINE),
    "12 64 fields": (bytes_answer(HEAD + b"x: y\r\n" * 63 + END), FINE),
    "12 65 fields": (bytes_answer(HEAD + b"x: y\r\n" * 64 + END), HUGE),
    "12 3,000 fields": (bytes_answer(HEAD + b"x: y\r\n" * 3000 + b"\r\n"), HUGE),
    "12 endless fields": (flood(HEAD, b"x: y\r\n" * 100), HUGE),
    "12 a field of 1 MiB": (bytes_answer(HEAD + b"x: " + b"y" * 2**20 + b"\r\n\r\n"), HUGE),
    "12 an endless field": (flood(HEAD + b"x: ", b"y" * 4096), HUGE),
    "12 an endless name": (flood(HEAD, b"y" * 4096), HUGE),
    "12 endless reason": (flood(b"HTTP/1.1 200 ", b"y" * 4096), HUGE),
    "12 NUL in a value": (bytes_answer(HEAD + b"x: a\0b\r\n" + END), WRONG),
    "12 NUL in a name": (bytes_answer(HEAD + b"x\0: a\r\n" + END), WRONG),
    "12 NUL in the reason": (bytes_answer(b"HTTP/1.1 200 O\0K\r\n" + END), WRONG),
    "12 escape in a value": (bytes_answer(HEAD + b"x: \x1b[31m\r\n" + END), WRONG),
    "12 bare CR": (bytes_answer(HEAD + b"x: a\rb: c\r\n" + END), WRONG),
    "12 bare LF": (bytes_answer(HEAD + b"x: a\nb: c\r\n" + END), WRONG),
    "12 folded field": (bytes_answer(HEAD + b"x: a\r\n b\r\n" + END), WRONG),
    "12 blank before the colon": (bytes_answer(HEAD + b"x : a\r\n" + END), WRONG),
    "12 no colon": (bytes_answer(HEAD + b"x\r\n" + END), WRONG),
    "13 gzip": (packed("gzip", GZIP), FINE),
    "13 deflate": (packed("deflate", DEFLATE), FINE),
    "13 what calls itself br": (packed("br", GZIP), FINE),
    "13 what calls itself zstd": (packed("zstd", GZIP), FINE),
    "15 HTTP/0.9": (then_hang_up(b"<html>hello</html>"), WRONG),
    "15 calls itself HTTP/0.9": (bytes_answer(b"HTTP/0.9 200 OK\r\n" + END), WRONG),
    "15 HTTP/2 preface": (bytes_answer(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), WRONG),
    "15 HTTP/2 frame": (bytes_answer(b"\0\0\x12\x04\0\0\0\0\0" + bytes(18)), WRONG),
    "15 calls itself HTTP/2": (bytes_answer(b"HTTP/2.0 200 OK\r\n" + END), WRONG),
    "15 HTTP/1.10": (bytes_answer(b"HTTP/1.10 200 OK\r\n" + END), WRONG),
    "15 ICY": (bytes_answer(b"ICY 200 OK\r\n" + END), WRONG),
    "15 SSH": (bytes_answer(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), WRONG),
    "15 upgrade": (bytes_answer(b"HTTP/1.1 101 No\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"), WRONG),
    "15 upgrade to nothing": (bytes_answer(b"HTTP/1.1 101 No\r\n\r\n" + HEAD + END), WRONG),
    "15 204 with a body": (bytes_answer(b"HTTP/1.1 204 No\r\ncontent-length: 5\r\n\r\nhello"), (204, Reason.DELIVERED)),
    "15 HTTP/1.0": (then_hang_up(b"HTTP/1.0 200 OK\r\n\r\nhello"), FINE),
    "17 head, then silence": (bytes_answer(HEAD + ENDLESS), FINE),
    "18 two answers": (bytes_answer((HEAD + END) * 2), FINE),
} | {
    f"15 status {code}": (bytes_answer(f"HTTP/1.1 {code} Word\r\n".encode() + END), WRONG)
    for code in ("000", "099", "600", "999", "1000", "20", "2x0", "-20", "")
}


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    folder: Path = tmp_path_factory.mktemp("certificates")
    return server_context(folder, HOST, HONEST)


@asynccontextmanager
async def facing(
    answer: Answer, tls: tuple[ssl.SSLContext, ssl.SSLContext] | None
) -> AsyncIterator[tuple[Receiver, VettedTransport]]:
    server, client = tls or (None, None)
    async with receiving(answer, tls=server) as hostile, receiving(tls=server) as honest:
        internet = Internet({HOST: hostile.port, HONEST: honest.port})
        async with internet.transport(client) as transport:
            yield hostile, transport


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("case", CASES)
async def test_every_answer_ends_in_time_with_its_reason(
    scheme: str, case: str, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    answer, expected = CASES[case]
    async with facing(answer, tls if scheme == "https" else None) as (hostile, transport):
        tracemalloc.start()
        try:
            got = await post_beside_honest(transport, f"{scheme}://{HOST}/")
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (got.status, got.reason) == expected
    assert got.seconds < DEADLINE + 0.5
    assert most < BYTES_MAX
    assert len(hostile.received) == 1
    assert got.is_success == (got.status in (200, 204))


@pytest.mark.parametrize("code", [200, 204, 299, 300, 301, 302, 303, 304, 307, 308, 400, 404, 408, 410, 429, 500, 599])
async def test_a_status_is_what_it_is_and_no_redirect_is_followed(code: int) -> None:
    async with receiving() as target:
        answer = status(code, f"location: http://127.0.0.1:{target.port}/", "retry-after: 7")
        async with facing(answer, None) as (_, transport):
            got = await post_beside_honest(transport, f"http://{HOST}/")
            assert transport.counts.dials == 2
    kind = {2: Reason.DELIVERED, 3: Reason.REDIRECT}.get(code // 100, Reason.HTTP_STATUS)
    assert (got.status, got.reason) == (code, kind)
    assert got.retry_after == (None if code < 300 else 7)
    assert target.connections == 0


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "http://169.254.169.254/", f"http://{HOST}/", "//", "\u00e9", ""]
)
async def test_wherever_a_redirect_leads_it_is_not_followed(location: str) -> None:
    async with facing(status(302, f"location: {location}"), None) as (hostile, transport):
        got = await post_beside_honest(transport, f"http://{HOST}/")
    assert (got.status, got.reason, len(hostile.received)) == (302, Reason.REDIRECT, 1)


@pytest.mark.parametrize("value", ["0", "-1", "1e9", "NaN", "Thu, 01 Jan 1970 00:00:00 GMT"])
async def test_a_retry_after_without_sense_is_none(value: str) -> None:
    async with facing(status(503, f"retry-after: {value}"), None) as (_, transport):
        got = await post_beside_honest(transport, f"http://{HOST}/")
    assert (got.status, got.retry_after) == (503, None)


async def test_a_body_is_shown_short_and_escaped() -> None:
    body = b"\x1b[31m<script>\0" + b"x" * 5000
    raw = NO + f"content-length: {len(body)}\r\n\r\n".encode() + body
    async with facing(bytes_answer(raw), None) as (_, transport):
        got = await post_beside_honest(transport, f"http://{HOST}/")
    assert got.excerpt is not None
    assert got.excerpt.startswith("\\x1b[31m<script>\\x00xxx")
    assert len(got.excerpt) <= 1024
    assert got.peer == "93.184.216.34"
