"""What receivers call: an event, or InvalidInput with a sentence that helps, and nothing else whatever comes."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from todoke.client.verify import verify_webhook, verify_webhook_with_key
from todoke.model.errors import InvalidInput
from todoke.wire.asymmetric import SigningKey, new_signing_key
from todoke.wire.signing import Signer, new_secret, parse_secret

SECRET, OLD_SECRET = new_secret(), new_secret()
KEY = SigningKey.parse(new_signing_key())
SIGNER = Signer([parse_secret(SECRET), parse_secret(OLD_SECRET)], [KEY])
EVENT = {"type": "job.succeeded", "data": {"jobId": "0192a1b2", "text": "届いた"}}
BODY = json.dumps(EVENT, ensure_ascii=False).encode()
NOW = 1_900_000_000
HEADERS = SIGNER.headers("evt_1_3", NOW, BODY)
LINE = HEADERS["webhook-signature"]

# Both ways to verify: with what, and by which function.
WAYS = [(SECRET, verify_webhook), (KEY.public, verify_webhook_with_key)]
ways = pytest.mark.parametrize(("key", "verify"), WAYS, ids=["secret", "key"])

Verify = Callable[..., dict[str, Any]]

# Anything Python can hold as a text, lone surrogates too; often pieces of a header line.
TEXTS = st.text(st.characters(exclude_categories=[]), max_size=60) | st.lists(
    st.sampled_from([*LINE.split(" "), "v1,", "v1a,", " ", ",", "v1", "A" * 44, "A" * 86 + "==", "\n", "\x00"]),
    max_size=30,
).map("".join)
JUNK = st.none() | st.integers() | st.floats() | st.text(max_size=9) | st.lists(st.text(max_size=9), max_size=3)


@ways
def test_a_signed_webhook_gives_its_event(key: str, verify: Verify) -> None:
    assert verify(key, HEADERS, BODY, now=NOW) == EVENT
    assert verify([key], HEADERS, bytearray(BODY), now=NOW) == EVENT


def test_any_of_several_secrets_will_do() -> None:
    for secrets in (OLD_SECRET, [OLD_SECRET], [new_secret(), SECRET], (SECRET, OLD_SECRET)):
        assert verify_webhook(secrets, HEADERS, BODY, now=NOW) == EVENT
    stranger = SigningKey.parse(new_signing_key()).public
    assert verify_webhook_with_key([stranger, KEY.public], HEADERS, BODY, now=NOW) == EVENT


@ways
@pytest.mark.parametrize(
    "headers",
    [
        {name.upper(): value for name, value in HEADERS.items()},
        {name.title(): f" {value}\t" for name, value in HEADERS.items()},
        list(HEADERS.items()),
        [(name.encode(), value.encode()) for name, value in HEADERS.items()],
        httpx.Headers(HEADERS),
        HEADERS | {"webhook-signature": ",".join(LINE.split(" "))},
        HEADERS | {"webhook-signature": ", ".join(reversed(LINE.split(" ")))},
        HEADERS | {"webhook-signature": f"v1 , {'x' * 9000}  v1a,AAAA v1,AAAA,,\n{LINE}"},
    ],
    ids=["upper", "title", "pairs", "ASGI", "httpx", "commas", "reversed", "malformed"],
)
def test_headers_come_in_many_shapes(key: str, verify: Verify, headers: Any) -> None:
    assert verify(key, headers, BODY, now=NOW) == EVENT


@ways
def test_header_lines_that_come_one_by_one_are_one(key: str, verify: Verify) -> None:
    pairs = [(name, value) for name, value in HEADERS.items() if name != "webhook-signature"]
    pairs += [("Webhook-Signature", entry) for entry in LINE.split(" ")]
    assert verify(key, pairs, BODY, now=NOW) == EVENT
    with pytest.raises(InvalidInput):
        verify(key, [*pairs, ("webhook-id", "evt_1_4")], BODY, now=NOW)


@ways
def test_the_tolerance_may_be_chosen(key: str, verify: Verify) -> None:
    assert verify(key, HEADERS, BODY, now=NOW + 3600, tolerance_seconds=3600) == EVENT
    for now, seconds in ((NOW + 11, 10), (NOW - 11, 10), (float("nan"), 10), (NOW, float("nan")), (NOW, -1)):
        with pytest.raises(InvalidInput, match=f"more than {seconds} seconds away"):
            verify(key, HEADERS, BODY, now=now, tolerance_seconds=seconds)


@ways
def test_without_a_time_it_is_now(key: str, verify: Verify) -> None:
    with pytest.raises(InvalidInput, match="clock"):
        verify(key, HEADERS, BODY)


@ways
@pytest.mark.parametrize("body", [BODY.decode(), EVENT, None, [BODY], 3])
def test_a_body_that_was_parsed_is_refused_with_advice(key: str, verify: Verify, body: Any) -> None:
    with pytest.raises(InvalidInput, match=f"raw bytes of the request, not {type(body).__name__}"):
        verify(key, HEADERS, body, now=NOW)


@ways
@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'"text"', b"\xff", b"{", b"\xef\xbb\xbf{}", b"[" * 100_000, b'{"a":' + b"9" * 5000 + b"}"],
    ids=["nothing", "list", "text", "not UTF-8", "half", "BOM", "deep", "huge number"],
)
def test_a_signed_body_that_is_no_event_is_told_apart(key: str, verify: Verify, body: bytes) -> None:
    with pytest.raises(InvalidInput, match="the signature holds"):
        verify(key, SIGNER.headers("evt_1_3", NOW, body), body, now=NOW)


@pytest.mark.parametrize("wrong", [KEY.public, KEY.public.replace("whpk_", "whsk_")], ids=["public", "private"])
def test_a_key_is_refused_where_a_secret_is_meant(wrong: str) -> None:
    with pytest.raises(InvalidInput, match="give a signing secret that starts with whsec_"):
        verify_webhook([SECRET, wrong], HEADERS, BODY, now=NOW)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [(SECRET, "give a public key"), (new_signing_key(), "give the public key that belongs to it")],
    ids=["secret", "private"],
)
def test_a_secret_is_refused_where_a_public_key_is_meant(wrong: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        verify_webhook_with_key([KEY.public, wrong], HEADERS, BODY, now=NOW)
    assert wrong[6:] not in str(caught.value)


@ways
@pytest.mark.parametrize("nothing", [None, [], (), "", 3, b"whsec_", [None]])
def test_nothing_verifies_nothing(key: str, verify: Verify, nothing: Any) -> None:
    with pytest.raises(InvalidInput, match="starts with"):
        verify(nothing, HEADERS, BODY, now=NOW)


@given(st.sampled_from(WAYS), TEXTS, TEXTS, TEXTS, st.binary(max_size=50))
def test_whatever_comes_is_refused_in_our_words(
    way: tuple[str, Verify], webhook_id: str, timestamp: str, line: str, body: bytes
) -> None:
    key, verify = way
    headers = {"webhook-id": webhook_id, "webhook-timestamp": timestamp, "webhook-signature": line}
    for given_headers in (headers, HEADERS | {"webhook-id": webhook_id}, HEADERS | {"webhook-timestamp": timestamp}):
        with pytest.raises(InvalidInput):
            verify(key, given_headers, body, now=NOW)


@given(st.sampled_from(WAYS), TEXTS)
def test_no_line_beside_a_good_signature_trips_it(way: tuple[str, Verify], line: str) -> None:
    key, verify = way
    with contextlib.suppress(InvalidInput):  # behind sixteen others a signature is not looked at
        assert verify(key, HEADERS | {"webhook-signature": f"{line} {LINE}"}, BODY, now=NOW) == EVENT


@given(st.sampled_from(WAYS), JUNK | st.dictionaries(st.text(max_size=9) | st.integers(), JUNK) | st.binary())
def test_headers_of_no_known_shape_are_refused(way: tuple[str, Verify], headers: Any) -> None:
    key, verify = way
    with pytest.raises(InvalidInput):
        verify(key, headers, BODY, now=NOW)


@given(st.sampled_from(WAYS), st.binary(max_size=200))
def test_a_signed_body_gives_an_event_or_our_words(way: tuple[str, Verify], body: bytes) -> None:
    key, verify = way
    headers = SIGNER.headers("evt_1_3", NOW, body)
    with contextlib.suppress(InvalidInput):
        assert isinstance(verify(key, headers, body, now=NOW), dict)
