"""Standard Webhooks signatures: sign what is sent, `v1` (HMAC-SHA256) and `v1a` (ed25519); verify `v1`."""

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections.abc import Sequence

from todoke.model.errors import InvalidInput
from todoke.wire.asymmetric import SigningKey
from todoke.wire.signed import (
    ID,
    SIGNATURE,
    TIMESTAMP,
    TOLERANCE_SECONDS,
    Headers,
    content,
    entry,
    listed,
    no_match,
    read,
)

PREFIX = "whsec_"
KEY_PREFIXES = ("whpk_", "whsk_")
SECRET_BYTES_MIN = 24
SECRET_BYTES_MAX = 64
NEW_SECRET_BYTES = 32
V1_ENTRY = entry("v1", "[A-Za-z0-9+/]{43}=")

Secrets = str | Sequence[str]


class Signer:
    """Signs for one receiver, with secrets and keys parsed once.

    secrets: the current one first, behind it the previous one while they rotate. keys: likewise.
    Raises InvalidInput when there is neither, or a secret too short to be one.
    """

    def __init__(self, secrets: Sequence[bytes], keys: Sequence[SigningKey] = ()) -> None:
        if not secrets and not keys:
            raise InvalidInput("a webhook is signed with one secret or key at least")
        for secret in secrets:
            _check_size(secret)
        self._secrets = tuple(secrets)
        self._keys = tuple(keys)

    def headers(self, webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
        """The three headers of a signed webhook, all signatures in one line: v1 of each secret, then v1a of each key.

        timestamp: Unix seconds. Raises ValueError for an id of more than 64 characters or with a dot.
        """
        signed = content(webhook_id, timestamp, body)
        entries = [f"v1,{_mac(secret, signed)}" for secret in self._secrets]
        entries += [f"v1a,{base64.b64encode(key.sign(signed)).decode()}" for key in self._keys]
        return {ID: webhook_id, TIMESTAMP: str(timestamp), SIGNATURE: " ".join(entries)}


def new_secret() -> str:
    """A random signing secret, `whsec_` and the base64 of 32 bytes."""
    return PREFIX + base64.b64encode(secrets.token_bytes(NEW_SECRET_BYTES)).decode()


def parse_secret(text: str) -> bytes:
    """The 24 to 64 bytes that `whsec_…` stands for. Raises InvalidInput; its words never repeat the secret."""
    if not isinstance(text, str):
        raise InvalidInput("a signing secret is a str that starts with whsec_")
    if text.startswith(KEY_PREFIXES):
        # A public key taken for a secret would let anybody forge signatures.
        raise InvalidInput("this is an ed25519 key (whpk_ or whsk_); give a signing secret that starts with whsec_")
    if not text.startswith(PREFIX):
        raise InvalidInput("a signing secret starts with whsec_")
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput("what follows whsec_ in a signing secret must be base64") from None
    _check_size(key)
    return key


def sign(secret: Secrets, webhook_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` value: one `v1,…` entry for each secret, in the order given, one space between.

    timestamp: Unix seconds. Raises InvalidInput for a bad secret, ValueError for an id that holds a dot.
    """
    return signed_headers(secret, webhook_id, timestamp, body)[SIGNATURE]


def signed_headers(secret: Secrets, webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of a webhook signed with secrets alone; see `sign`."""
    return Signer(_parsed(secret)).headers(webhook_id, timestamp, body)


def verify(
    secret: Secrets,
    headers: Headers,
    body: bytes,
    now: float | None = None,
    tolerance_seconds: float = TOLERANCE_SECONDS,
) -> None:
    """Return if `body` was signed with one of the secrets within `tolerance_seconds` of `now` (Unix seconds).

    body: the bytes as they came, before any parsing. Raises InvalidInput otherwise.
    """
    keys = _parsed(secret)
    signed = read(headers, body, time.time() if now is None else now, tolerance_seconds)
    candidates = signed.signatures(V1_ENTRY)
    expected = [_mac(key, signed.content) for key in keys]
    # No early end: how long this takes must not tell which secret or entry came close.
    matches = [hmac.compare_digest(ours, theirs) for ours in expected for theirs in candidates]
    if not any(matches):
        raise no_match("secret")


def _parsed(secret: Secrets) -> list[bytes]:
    return [parse_secret(text) for text in listed(secret, "signing secret that starts with whsec_")]


def _check_size(key: bytes) -> None:
    if not SECRET_BYTES_MIN <= len(key) <= SECRET_BYTES_MAX:
        raise InvalidInput(
            f"a signing secret holds {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes, this one {len(key)}"
        )


def _mac(key: bytes, signed: bytes) -> str:
    return base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
