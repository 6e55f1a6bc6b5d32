"""Ed25519 keys and signatures, held to what Svix's server and the RFCs say."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.test_signing import (
    KNOWN_BODY,
    KNOWN_ID,
    KNOWN_KEY,
    KNOWN_PUBLIC_KEY,
    KNOWN_SECRET,
    KNOWN_SIGNATURE,
    KNOWN_TIMESTAMP,
    KNOWN_V1A,
    known_headers,
)
from todoke.model.errors import InvalidInput
from todoke.wire.asymmetric import (
    SigningKey,
    jwk,
    jwks,
    new_signing_key,
    parse_public_key,
    public_key,
    verify_with_key,
)
from todoke.wire.signed import content
from todoke.wire.signing import Signer

# RFC 8037, appendices A.2 and A.3.
RFC_PUBLIC = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
RFC_THUMBPRINT = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"

STRANGER = public_key(new_signing_key())


def verify(keys: str | list[str], headers: dict[str, str], body: bytes = KNOWN_BODY, seconds: int = 0) -> None:
    verify_with_key(keys, headers, body, now=KNOWN_TIMESTAMP + seconds)


def test_the_known_answer() -> None:
    signature = SigningKey.parse(KNOWN_KEY).sign(content(KNOWN_ID, KNOWN_TIMESTAMP, KNOWN_BODY))
    assert f"v1a,{base64.b64encode(signature).decode()}" == KNOWN_V1A
    assert public_key(KNOWN_KEY) == KNOWN_PUBLIC_KEY
    verify(KNOWN_PUBLIC_KEY, known_headers(KNOWN_V1A))


@pytest.mark.parametrize(
    "line",
    [
        f"{KNOWN_SIGNATURE} {KNOWN_V1A}",
        f"{KNOWN_V1A} {KNOWN_SIGNATURE}",
        f"{KNOWN_SIGNATURE},{KNOWN_V1A}",
        f"v1a,AAAA v1a nonsense v1a,{'A' * 86}== {KNOWN_V1A}",
        f"v1a,v1a,{KNOWN_V1A} ",
    ],
)
def test_other_and_malformed_entries_are_passed_over(line: str) -> None:
    verify(KNOWN_PUBLIC_KEY, known_headers(line))


def test_while_keys_rotate_each_of_them_verifies() -> None:
    texts = [new_signing_key(), new_signing_key()]
    signer = Signer([b"x" * 32], [SigningKey.parse(text) for text in texts])
    headers = signer.headers(KNOWN_ID, KNOWN_TIMESTAMP, KNOWN_BODY)
    for text in texts:
        verify(public_key(text), headers)
        verify([STRANGER, public_key(text)], headers)
    with pytest.raises(InvalidInput, match="no signature matches: the public key"):
        verify(STRANGER, headers)


def test_a_v1_signature_alone_proves_nothing_to_a_public_key() -> None:
    with pytest.raises(InvalidInput, match="no signature matches"):
        verify(KNOWN_PUBLIC_KEY, known_headers(KNOWN_SIGNATURE))


@pytest.mark.parametrize("seconds", [-300, -299, 299, 300])
def test_within_five_minutes_a_webhook_is_taken(seconds: int) -> None:
    verify(KNOWN_PUBLIC_KEY, known_headers(KNOWN_V1A), seconds=seconds)


@pytest.mark.parametrize("seconds", [-301, 301])
def test_beyond_five_minutes_it_is_refused(seconds: int) -> None:
    with pytest.raises(InvalidInput, match="300 seconds"):
        verify(KNOWN_PUBLIC_KEY, known_headers(KNOWN_V1A), seconds=seconds)


@given(st.integers(0, 7), st.data())
def test_one_bit_changed_anywhere_is_noticed(bit: int, data: st.DataObject) -> None:
    signature = base64.b64decode(KNOWN_V1A.removeprefix("v1a,"))
    changed_body, changed_signature = (_flipped(whole, bit, data) for whole in (KNOWN_BODY, signature))
    line = f"v1a,{base64.b64encode(changed_signature).decode()}"
    for headers, body in ((known_headers(KNOWN_V1A), changed_body), (known_headers(line), KNOWN_BODY)):
        with pytest.raises(InvalidInput, match="no signature matches"):
            verify(KNOWN_PUBLIC_KEY, headers, body)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=63, max_size=63))
def test_no_key_and_no_signature_trips_the_verifier(key: bytes, signature: bytes) -> None:
    """Half of all 32 bytes are no point of the curve. The last byte makes the signature one that never holds."""
    line = f"v1a,{base64.b64encode(signature + bytes([255])).decode()}"
    with pytest.raises(InvalidInput):
        verify(f"whpk_{base64.b64encode(key).decode()}", known_headers(line))


def test_the_web_key_of_the_rfc() -> None:
    raw = base64.urlsafe_b64decode(RFC_PUBLIC + "=")
    assert jwk(f"whpk_{base64.b64encode(raw).decode()}") == {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": RFC_PUBLIC,
        "kid": RFC_THUMBPRINT,
        "alg": "EdDSA",
        "use": "sig",
    }


def test_a_set_keeps_the_order_of_its_keys() -> None:
    assert jwks([KNOWN_PUBLIC_KEY, STRANGER]) == {"keys": [jwk(KNOWN_PUBLIC_KEY), jwk(STRANGER)]}
    assert jwks([]) == {"keys": []}


def test_a_new_key_holds_seed_and_public_key_and_is_never_the_same() -> None:
    text = new_signing_key()
    assert len(base64.b64decode(text.removeprefix("whsk_"))) == 64
    assert SigningKey.parse(text).public == public_key(text)
    assert new_signing_key() != text


def test_a_key_never_shows_itself() -> None:
    assert KNOWN_KEY[5:20] not in repr(SigningKey.parse(KNOWN_KEY))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (KNOWN_PUBLIC_KEY, "starts with whsk_"),
        (KNOWN_SECRET, "starts with whsk_"),
        ("", "starts with whsk_"),
        ("whsk_", "64 bytes"),
        ("whsk_%%%", "base64"),
        ("whsk_" + base64.b64encode(b"x" * 32).decode(), "64 bytes"),
        ("whsk_" + base64.b64encode(b"x" * 64).decode(), "do not belong together"),
    ],
)
def test_what_is_no_signing_key_is_refused_without_repeating_it(text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        SigningKey.parse(text)
    assert len(text) < 10 or text[6:] not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (KNOWN_SECRET, "give a public key that starts with whpk_"),
        (KNOWN_KEY, "give the public key that belongs to it"),
        (KNOWN_PUBLIC_KEY.removeprefix("whpk_"), "starts with whpk_"),
        ("whpk_é", "base64"),
        ("whpk_AAAA", "32 bytes"),
        (b"whpk_", "is a str"),
    ],
)
def test_what_is_no_public_key_is_refused_without_repeating_it(text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        parse_public_key(text)
    assert len(text) < 10 or text[6:] not in str(caught.value)


def _flipped(whole: bytes, bit: int, data: st.DataObject) -> bytes:
    place = data.draw(st.integers(0, len(whole) - 1))
    return whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :]
