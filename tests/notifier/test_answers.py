"""Retry-After, control headers and bodies of answers, as strangers write them."""

import asyncio
import base64
import html
import json
import math
import re
import urllib.parse
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st

from notifier.answers import escaped, read_control, read_retry_after, without_signatures
from notifier.sender import Sender
from notifier.transport import VettedTransport
from tests.model.pages import a_delivery
from tests.notifier.internet import BODY
from tests.notifier.receiver import Received, bytes_answer, receiving, status
from todoke.model.delivery import RETRY_AFTER_SECONDS_MAX, Answer, Control, Reason, judge
from todoke.wire.destination import Rules
from todoke.wire.signing import new_secret, signed_headers

NOW = 1_700_000_000.0
MOMENT = datetime.fromtimestamp(NOW, UTC)
IN_AN_HOUR = MOMENT + timedelta(hours=1)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", None),
        ("00", None),
        ("1", 1),
        ("120", 120),
        ("00120", 120),
        ("999999999", 999_999_999),
        ("1000000000", RETRY_AFTER_SECONDS_MAX),
        ("9" * 5000, RETRY_AFTER_SECONDS_MAX),
        ("0" * 5000 + "7", 7),
        (" 7\t", 7),
        ("-1", None),
        ("+1", None),
        ("1.5", None),
        ("1e9", None),
        ("0x10", None),
        ("NaN", None),
        ("inf", None),
        ("", None),
        (" ", None),
        ("7 seconds", None),
        ("7, 8", None),
        ("7;", None),
        ("7\xa0", None),
        ("\xb2", None),
        ("٧", None),
        ("７", None),
        (format_datetime(IN_AN_HOUR, usegmt=True), 3600),
        (IN_AN_HOUR.strftime("%A, %d-%b-%y %H:%M:%S GMT"), 3600),
        (IN_AN_HOUR.strftime("%a %b %d %H:%M:%S %Y"), 3600),
        (format_datetime(IN_AN_HOUR.astimezone(None)), 3600),
        (format_datetime(MOMENT, usegmt=True), None),
        (format_datetime(MOMENT - timedelta(days=9), usegmt=True), None),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
        ("Fri, 31 Feb 2031 00:00:00 GMT", None),
        ("Sun, 06 Nov 2094 08:49:37 +99999999", None),
        ("2031-01-01T00:00:00Z", None),
        ("Sun, 06 Nov 2094 08:49:37 GMT" + " " * 5000 + "x", None),
        (None, None),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_retry_after(text: str | None, seconds: float | None) -> None:
    assert read_retry_after(text, NOW) == seconds


@given(
    st.text(st.characters(max_codepoint=255)) | st.from_regex(r"[A-Za-z]{3}, \d{1,2} [A-Z][a-z]{2} \d{1,5} [\d:+ -]*")
)
@example("Mon, 01 Jan 0001 00:00:00 +2359")
@example("Fri, 31 Dec 9999 23:59:59 -2359")
def test_whatever_it_says_there_is_a_finite_pause(text: str) -> None:
    seconds = read_retry_after(text, NOW)
    assert seconds is None or (math.isfinite(seconds) and seconds > 0)
    delay = judge(a_delivery(), Answer(Reason.HTTP_STATUS, 500, retry_after=seconds), 1e9).delay
    assert 5 <= delay <= RETRY_AFTER_SECONDS_MAX


@pytest.mark.parametrize(
    ("text", "control"),
    [
        ("abort-message", Control.ABORT),
        (" Disable\t", Control.DISABLE),
        ("disable, abort-message", None),
        ("disabled", None),
        ("", None),
        (None, None),
    ],
)
def test_control_counts_over_tls_only(text: str | None, control: Control | None) -> None:
    assert read_control(text, is_tls=True) is control
    assert read_control(text, is_tls=False) is None


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"", None),
        (b"no", "no"),
        (b"a\0b", "a\\x00b"),
        (b"\x1b]0;pwned\x07\x1b[2J", "\\x1b]0;pwned\\x07\\x1b[2J"),
        (b"one\r\ntwo\ttabs", "one\\r\\ntwo\\ttabs"),
        (b"\x7f\x9b1m", "\\x7f\\\\x9b1m"),
        (b"<script>alert('x')</script>", "<script>alert('x')</script>"),
        ("届け\u202e\u2028".encode(), "\\u5c4a\\u3051\\u202e\\u2028"),
        (b"\xff\xfe\xc3(", "\\\\xff\\\\xfe\\\\xc3("),
        (b"back\\slash", "back\\\\slash"),
    ],
)
def test_an_excerpt_is_printable(body: bytes, shown: str | None) -> None:
    assert escaped(body, 1024) == shown


@given(st.binary(max_size=3000), st.integers(0, 1024))
def test_an_excerpt_is_printable_ascii_and_short(body: bytes, letters_max: int) -> None:
    shown = escaped(body, letters_max) or ""
    assert len(shown) <= letters_max
    assert re.fullmatch(r"[ -~]*", shown)


SPELLINGS: list[Callable[[str], str]] = [
    str,
    lambda text: json.dumps({"headers": text}),
    lambda text: json.dumps(text).replace("/", "\\/"),
    lambda text: json.dumps(text).replace("+", "\\u002b"),
    html.escape,
    lambda text: text.replace("+", "&#43;").replace("=", "&#61;").replace("/", "&#x2F;"),
    urllib.parse.quote,
    lambda text: urllib.parse.quote(text, safe=""),
    lambda text: "\n".join(text.split(",")),
]


@pytest.mark.parametrize("place", range(len(SPELLINGS)))
@given(st.lists(st.binary(min_size=32, max_size=64), min_size=1, max_size=3), st.integers(0, 200))
def test_a_signature_that_comes_back_is_cut_out(place: int, digests: list[bytes], cut: int) -> None:
    """In the usual spellings, and where the end of the excerpt has cut it."""
    entries = [base64.b64encode(digest).decode() for digest in digests]
    signature = " ".join(f"v1,{entry}" for entry in entries)
    body = ("you sent " + SPELLINGS[place](signature) + " to me")[: -cut or None].encode()
    left = without_signatures(body, [signature])
    for piece in re.findall("[A-Za-z0-9]{6,}", " ".join(entries)):
        assert piece[:6].encode() not in left.replace(b"[signature]", b"\0")
    assert without_signatures(body, ["", "v1,"]) == body


async def test_a_receiver_that_mirrors_our_request_teaches_no_reader_to_forge() -> None:
    secret, sent = new_secret(), []

    async def mirror(received: Received, writer: asyncio.StreamWriter) -> None:
        sent.append(received.headers["webhook-signature"])
        told = json.dumps(received.headers).encode()
        writer.write(b"HTTP/1.1 500 No\r\ncontent-length: %d\r\n\r\n%s" % (len(told), told))

    async with receiving(mirror) as receiver, VettedTransport(Rules(allow_loopback=True)) as transport:
        sender = Sender(transport, 2, 1024)
        answer = await sender.post(receiver.url, {}, BODY, lambda: signed_headers(secret, "evt_1_3", int(NOW), BODY))
    [signature] = sent
    shown = answer.excerpt or ""
    assert "[signature]" in shown
    assert "evt_1_3" in shown, "the rest is shown"
    for piece in re.findall("[A-Za-z0-9]{6,}", signature):
        assert piece not in shown


@pytest.mark.parametrize("length", [0, 10])
async def test_an_excerpt_is_as_long_as_the_operator_allows(length: int) -> None:
    async with (
        receiving(bytes_answer(b"HTTP/1.1 500 No\r\ncontent-length: 4000\r\n\r\n" + b"x" * 4000)) as receiver,
        VettedTransport(Rules(allow_loopback=True)) as transport,
    ):
        answer = await Sender(transport, 2, length).post(receiver.url, {}, BODY, dict)
    assert answer.excerpt == ("x" * length or None)


async def test_of_a_redirect_the_host_is_logged_and_no_more() -> None:
    places = [
        "https://user:key@elsewhere.example:8443/in?token=1",
        "/relative",
        "https://[bad/",
        f"https://{'a' * 999}/",
    ]
    async with (
        receiving(*[status(302, f"location: {place}") for place in places]) as receiver,
        VettedTransport(Rules(allow_loopback=True)) as transport,
    ):
        with structlog.testing.capture_logs() as lines:
            for _ in places:
                assert (await Sender(transport, 2, 0).post(receiver.url, {}, BODY, dict)).reason is Reason.REDIRECT
    told = [line["to"] for line in lines if line["event"] == "delivery.redirected"]
    assert told == ["elsewhere.example", None, None, "a" * 253]
    assert len(receiver.received) == len(places)
