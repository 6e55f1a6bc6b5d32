"""Signatures as the Standard Webhooks specification has them, checked against its own words and its own library."""

import base64
import hmac
import re
import time
from typing import Any

import pytest
import standardwebhooks
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from todoke.model.errors import InvalidInput
from todoke.wire.asymmetric import SigningKey
from todoke.wire.signing import Signer, new_secret, parse_secret, sign, signed_headers, verify

# Known answer of the specification's reference tests.
KNOWN_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
KNOWN_TIMESTAMP = 1614265330
KNOWN_BODY = b'{"test": 2432232314}'
KNOWN_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KNOWN_SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

# The same message, signed with ed25519.
KNOWN_V1A = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
KNOWN_PUBLIC_KEY = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
# As Svix's documentation shows it: its server's tests sign with it.
KNOWN_KEY = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="

SECRETS = st.binary(min_size=24, max_size=64).map(lambda key: "whsec_" + base64.b64encode(key).decode())
IDS = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
KEYS = st.binary(min_size=32, max_size=32).map(lambda seed: SigningKey(Ed25519PrivateKey.from_private_bytes(seed)))
# The whole header: v1 of one or two secrets, v1a of no, one or two keys, one space between, nothing around.
LINE = re.compile(r"v1,[A-Za-z0-9+/]{43}=( v1,[A-Za-z0-9+/]{43}=)?( v1a,[A-Za-z0-9+/]{86}==){0,2}")


def known_headers(signature: str = KNOWN_SIGNATURE) -> dict[str, str]:
    return {"webhook-id": KNOWN_ID, "webhook-timestamp": str(KNOWN_TIMESTAMP), "webhook-signature": signature}


def test_the_known_answer() -> None:
    assert sign(KNOWN_SECRET, KNOWN_ID, KNOWN_TIMESTAMP, KNOWN_BODY) == KNOWN_SIGNATURE
    verify(KNOWN_SECRET, known_headers(), KNOWN_BODY, now=KNOWN_TIMESTAMP)


def test_the_known_answers_of_both_versions_stand_in_one_line() -> None:
    signer = Signer([parse_secret(KNOWN_SECRET)], [SigningKey.parse(KNOWN_KEY)])
    headers = signer.headers(KNOWN_ID, KNOWN_TIMESTAMP, KNOWN_BODY)
    assert headers == known_headers(f"{KNOWN_SIGNATURE} {KNOWN_V1A}")


@given(
    st.lists(SECRETS.map(parse_secret), min_size=1, max_size=2),
    st.lists(KEYS, max_size=2),
    IDS,
    st.integers(min_value=0, max_value=10**12 - 1),
    st.binary(max_size=100),
)
def test_the_header_always_has_one_strict_shape(
    secrets: list[bytes], keys: list[SigningKey], webhook_id: str, timestamp: int, body: bytes
) -> None:
    headers = Signer(secrets, keys).headers(webhook_id, timestamp, body)
    assert LINE.fullmatch(headers["webhook-signature"])
    assert headers["webhook-signature"].count(",") == len(secrets) + len(keys)
    assert re.fullmatch("[0-9]{1,12}", headers["webhook-timestamp"])
    assert headers["webhook-id"] == webhook_id
    assert set(headers) == {"webhook-id", "webhook-timestamp", "webhook-signature"}


@given(st.lists(SECRETS.map(parse_secret), min_size=2, max_size=2), st.lists(KEYS, min_size=2, max_size=2), IDS)
def test_each_entry_is_of_its_secret_or_key_in_the_order_given(
    secrets: list[bytes], keys: list[SigningKey], webhook_id: str
) -> None:
    line = Signer(secrets, keys).headers(webhook_id, KNOWN_TIMESTAMP, KNOWN_BODY)["webhook-signature"]
    signed = f"{webhook_id}.{KNOWN_TIMESTAMP}.".encode() + KNOWN_BODY
    macs = [hmac.new(secret, signed, "sha256").digest() for secret in secrets]
    signatures = [key.sign(signed) for key in keys]
    expected = [("v1", mac) for mac in macs] + [("v1a", signature) for signature in signatures]
    assert line.split(" ") == [f"{version},{base64.b64encode(value).decode()}" for version, value in expected]


def test_a_signer_needs_a_secret_that_is_long_enough() -> None:
    for secrets in ([b""], [b"x" * 23], [b"x" * 32, b"x" * 65]):
        with pytest.raises(InvalidInput):
            Signer(secrets, [SigningKey.parse(KNOWN_KEY)])
    with pytest.raises(InvalidInput):
        Signer([])


def test_without_a_secret_the_key_signs_alone() -> None:
    headers = Signer([], [SigningKey.parse(KNOWN_KEY)]).headers(KNOWN_ID, KNOWN_TIMESTAMP, KNOWN_BODY)
    assert headers["webhook-signature"].startswith("v1a,")
    assert " " not in headers["webhook-signature"]


@pytest.mark.parametrize("signature", [f"{KNOWN_SIGNATURE} {KNOWN_V1A}", f"{KNOWN_V1A} {KNOWN_SIGNATURE}"])
def test_a_v1a_signature_beside_ours_is_passed_over(signature: str) -> None:
    verify(KNOWN_SECRET, known_headers(signature), KNOWN_BODY, now=KNOWN_TIMESTAMP)


def test_a_v1a_signature_alone_verifies_nothing() -> None:
    with pytest.raises(InvalidInput, match="no signature matches"):
        verify(KNOWN_SECRET, known_headers(KNOWN_V1A), KNOWN_BODY, now=KNOWN_TIMESTAMP)


@given(SECRETS, IDS, st.text(max_size=200))
def test_the_reference_library_verifies_what_we_sign(secret: str, webhook_id: str, text: str) -> None:
    body = text.encode()
    headers = signed_headers(secret, webhook_id, int(time.time()), body)
    standardwebhooks.Webhook(secret).verify(body, headers, json_parse=False)
    verify(secret, headers, body)


@given(st.lists(SECRETS, min_size=1, max_size=3, unique=True), st.binary(max_size=100))
def test_while_secrets_rotate_each_of_them_verifies(secrets: list[str], body: bytes) -> None:
    headers = signed_headers(secrets, KNOWN_ID, KNOWN_TIMESTAMP, body)
    assert headers["webhook-signature"].count(" ") == len(secrets) - 1
    for secret in secrets:
        verify(secret, headers, body, now=KNOWN_TIMESTAMP)


@given(st.binary(min_size=1, max_size=50), st.integers(min_value=0, max_value=7))
def test_one_bit_changed_anywhere_in_the_body_is_noticed(body: bytes, bit: int) -> None:
    headers = signed_headers(KNOWN_SECRET, KNOWN_ID, KNOWN_TIMESTAMP, body)
    changed = bytes([body[0] ^ (1 << bit)]) + body[1:]
    with pytest.raises(InvalidInput, match="no signature matches"):
        verify(KNOWN_SECRET, headers, changed, now=KNOWN_TIMESTAMP)


@pytest.mark.parametrize("changed", [{"webhook-id": "msg_other"}, {"webhook-timestamp": str(KNOWN_TIMESTAMP + 1)}])
def test_id_and_timestamp_are_signed_too(changed: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match="no signature matches"):
        verify(KNOWN_SECRET, known_headers() | changed, KNOWN_BODY, now=KNOWN_TIMESTAMP)


@pytest.mark.parametrize("seconds", [-299, 0, 299, 300])
def test_within_five_minutes_a_webhook_is_taken(seconds: int) -> None:
    verify(KNOWN_SECRET, known_headers(), KNOWN_BODY, now=KNOWN_TIMESTAMP + seconds)


@pytest.mark.parametrize("seconds", [-301, 301, 10**9])
def test_beyond_five_minutes_it_is_refused(seconds: int) -> None:
    with pytest.raises(InvalidInput, match="300 seconds"):
        verify(KNOWN_SECRET, known_headers(), KNOWN_BODY, now=KNOWN_TIMESTAMP + seconds)


@pytest.mark.parametrize(
    "signature",
    [
        f"nonsense {KNOWN_SIGNATURE}",
        f"v1, v1 , {KNOWN_SIGNATURE}",
        f"v1,%%%  {KNOWN_SIGNATURE}",
        f"v1,AAAA, {KNOWN_SIGNATURE}",
        f"v1,AAAA,{KNOWN_SIGNATURE}",
        f"v1,v1,{KNOWN_SIGNATURE}",
        f"v1{KNOWN_SIGNATURE},{KNOWN_SIGNATURE}",
        f"{KNOWN_V1A}, {KNOWN_SIGNATURE}",
        f"v2,{'A' * 44} {KNOWN_SIGNATURE} ",
    ],
)
def test_malformed_entries_are_passed_over(signature: str) -> None:
    verify(KNOWN_SECRET, known_headers(signature), KNOWN_BODY, now=KNOWN_TIMESTAMP)


@pytest.mark.parametrize("changed", ["AAAA" + KNOWN_SIGNATURE, KNOWN_SIGNATURE + "AAAA", KNOWN_SIGNATURE.upper()])
def test_a_signature_stands_alone_and_exactly(changed: str) -> None:
    with pytest.raises(InvalidInput, match="no signature matches"):
        verify(KNOWN_SECRET, known_headers(changed), KNOWN_BODY, now=KNOWN_TIMESTAMP)


@given(st.text(max_size=100))
def test_no_signature_header_trips_the_verifier(signature: str) -> None:
    with pytest.raises(InvalidInput):
        verify(KNOWN_SECRET, known_headers(signature), KNOWN_BODY, now=KNOWN_TIMESTAMP)


@pytest.mark.parametrize("timestamp", ["", "soon", "1614265330.0", "-1614265330", "１６１４２６５３３０", "9" * 40])
def test_a_timestamp_is_whole_seconds(timestamp: str) -> None:
    with pytest.raises(InvalidInput):
        verify(KNOWN_SECRET, known_headers() | {"webhook-timestamp": timestamp}, KNOWN_BODY, now=KNOWN_TIMESTAMP)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_each_header_is_needed_in_any_case_of_letters(name: str) -> None:
    headers = {key.upper(): value for key, value in known_headers().items()}
    verify(KNOWN_SECRET, headers, KNOWN_BODY, now=KNOWN_TIMESTAMP)
    del headers[name.upper()]
    with pytest.raises(InvalidInput, match="are needed"):
        verify(KNOWN_SECRET, headers, KNOWN_BODY, now=KNOWN_TIMESTAMP)


def test_a_new_secret_holds_32_bytes_and_is_never_the_same() -> None:
    assert len(parse_secret(new_secret())) == 32
    assert new_secret() != new_secret()


@pytest.mark.parametrize(
    "text",
    [
        KNOWN_PUBLIC_KEY,
        KNOWN_PUBLIC_KEY.replace("whpk_", "whsk_"),
        KNOWN_SECRET.removeprefix("whsec_"),
        "",
        "whsec_",
        "whsec_not base64!",
        "whsec_" + base64.b64encode(b"x" * 23).decode(),
        "whsec_" + base64.b64encode(b"x" * 65).decode(),
    ],
)
def test_what_is_no_secret_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        sign(text, KNOWN_ID, KNOWN_TIMESTAMP, KNOWN_BODY)
    assert len(text) < 10 or text[6:] not in str(caught.value)


@pytest.mark.parametrize("size", [24, 64])
def test_24_and_64_bytes_are_secrets(size: int) -> None:
    assert len(parse_secret("whsec_" + base64.b64encode(b"x" * size).decode())) == size


@pytest.mark.parametrize("webhook_id", ["evt_1.2", "", "evt 1", "evt_é", "evt_1\n", "e" * 65])
def test_an_id_with_a_dot_could_be_read_in_two_ways(webhook_id: str) -> None:
    with pytest.raises(ValueError, match="dot"):
        sign(KNOWN_SECRET, webhook_id, KNOWN_TIMESTAMP, KNOWN_BODY)
    with pytest.raises(InvalidInput):
        verify(KNOWN_SECRET, known_headers() | {"webhook-id": webhook_id}, KNOWN_BODY, now=KNOWN_TIMESTAMP)


@pytest.mark.parametrize("timestamp", [-1, 10**12, 1614265330.5, float(KNOWN_TIMESTAMP)])
def test_whole_seconds_alone_are_signed(timestamp: Any) -> None:
    with pytest.raises(ValueError, match=r"Unix seconds|format code"):
        sign(KNOWN_SECRET, KNOWN_ID, timestamp, KNOWN_BODY)
