"""Standard Webhooks signatures, version `v1` (HMAC-SHA256): sign what is sent, verify what is received."""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Mapping, Sequence

from todoke.model.errors import InvalidInput

PREFIX = "whsec_"
KEY_PREFIXES = ("whpk_", "whsk_")
SECRET_BYTES_MIN = 24
SECRET_BYTES_MAX = 64
NEW_SECRET_BYTES = 32
TOLERANCE_SECONDS = 300
SIGNATURES_MAX = 16
# A comma may stand between entries too: proxies join repeated headers that way.
V1_ENTRY = re.compile(r"(?<![^\s,])v1,([A-Za-z0-9+/=]+)(?![^\s,])")

ID = "webhook-id"
TIMESTAMP = "webhook-timestamp"
SIGNATURE = "webhook-signature"

Secrets = str | Sequence[str]


def new_secret() -> str:
    """A random signing secret, `whsec_` and the base64 of 32 bytes."""
    return PREFIX + base64.b64encode(secrets.token_bytes(NEW_SECRET_BYTES)).decode()


def parse_secret(text: str) -> bytes:
    """The 24 to 64 bytes that `whsec_…` stands for. Raises InvalidInput; its words never repeat the secret."""
    if text.startswith(KEY_PREFIXES):
        # A public key taken for a secret would let anybody forge signatures.
        raise InvalidInput("this is an ed25519 key (whpk_ or whsk_); give a signing secret that starts with whsec_")
    if not text.startswith(PREFIX):
        raise InvalidInput("a signing secret starts with whsec_")
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput("what follows whsec_ in a signing secret must be base64") from None
    if not SECRET_BYTES_MIN <= len(key) <= SECRET_BYTES_MAX:
        raise InvalidInput(
            f"a signing secret holds {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes, this one {len(key)}"
        )
    return key


def sign(secret: Secrets, webhook_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` value: one `v1,…` entry for each secret, in the order given, one space between.

    timestamp: Unix seconds. Raises InvalidInput for a bad secret, ValueError for an id that holds a dot.
    """
    if "." in webhook_id:
        raise ValueError("a webhook id holds no dot: dots part what is signed")
    content = f"{webhook_id}.{timestamp}.".encode() + body
    return " ".join(f"v1,{_mac(parse_secret(text), content)}" for text in _listed(secret))


def signed_headers(secret: Secrets, webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of a signed webhook; see `sign`."""
    return {
        ID: webhook_id,
        TIMESTAMP: str(timestamp),
        SIGNATURE: sign(secret, webhook_id, timestamp, body),
    }


def verify(secret: Secrets, headers: Mapping[str, str], body: bytes, now: float | None = None) -> None:
    """Return if `body` was signed with one of the secrets within five minutes of `now` (Unix seconds).

    headers: names in any case. body: the bytes as they came, before any parsing. Raises InvalidInput otherwise.
    """
    found = {name.lower(): value for name, value in headers.items()}
    webhook_id, timestamp, signatures = (found.get(name, "") for name in (ID, TIMESTAMP, SIGNATURE))
    if not (webhook_id and timestamp and signatures):
        raise InvalidInput(f"the headers {ID}, {TIMESTAMP} and {SIGNATURE} are needed")
    _check_time(timestamp, time.time() if now is None else now)
    content = f"{webhook_id}.{timestamp}.".encode() + body
    candidates = _v1_entries(signatures)
    expected = [_mac(parse_secret(text), content) for text in _listed(secret)]
    # No early end: how long this takes must not tell which secret or entry came close.
    matches = [hmac.compare_digest(ours, theirs) for ours in expected for theirs in candidates]
    if not any(matches):
        raise InvalidInput("no signature matches: the secret is another one, or the body was changed on its way")


def _listed(secret: Secrets) -> Sequence[str]:
    return [secret] if isinstance(secret, str) else secret


def _mac(key: bytes, content: bytes) -> str:
    return base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()


def _v1_entries(signatures: str) -> list[str]:
    """The v1 signatures of a header; other versions and malformed entries are passed over."""
    return V1_ENTRY.findall(signatures)[:SIGNATURES_MAX]


def _check_time(timestamp: str, now: float) -> None:
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        raise InvalidInput(f"{TIMESTAMP} must be whole Unix seconds")
    if abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        raise InvalidInput(f"{TIMESTAMP} is more than {TOLERANCE_SECONDS} seconds away from this machine's clock")
