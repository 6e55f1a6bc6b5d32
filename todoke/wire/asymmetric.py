"""Standard Webhooks signatures, version `v1a` (ed25519): the service signs, and whoever has the public key verifies."""

import base64
import binascii
import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from todoke.model.errors import InvalidInput
from todoke.wire.signed import TOLERANCE_SECONDS, Headers, entry, listed, no_match, read

PRIVATE_PREFIX = "whsk_"
PUBLIC_PREFIX = "whpk_"
SECRET_PREFIX = "whsec_"  # noqa: S105 - how one begins
KEY_BYTES = 32
# 64 bytes have one spelling only: the four bits left over are zero.
V1A_ENTRY = entry("v1a", "[A-Za-z0-9+/]{85}[AQgw]==")


class SigningKey:
    """An ed25519 private key, parsed once. `public`: its `whpk_…` text."""

    __slots__ = ("_private", "public")

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = PUBLIC_PREFIX + base64.b64encode(private.public_key().public_bytes_raw()).decode()

    @classmethod
    def parse(cls, text: str) -> Self:
        """The key that `whsk_…` stands for: base64 of 32 bytes of seed and 32 of public key, as Svix writes it.

        Raises InvalidInput; its words never repeat the key.
        """
        if not text.startswith(PRIVATE_PREFIX):
            raise InvalidInput("a signing key starts with whsk_")
        both = _decoded(text, PRIVATE_PREFIX, 2 * KEY_BYTES)
        key = cls(Ed25519PrivateKey.from_private_bytes(both[:KEY_BYTES]))
        if key.public != PUBLIC_PREFIX + base64.b64encode(both[KEY_BYTES:]).decode():
            raise InvalidInput("the two halves of this signing key do not belong together")
        return key

    def sign(self, content: bytes) -> bytes:
        """The 64 bytes of signature of what `signed.content` made."""
        return self._private.sign(content)


def new_signing_key() -> str:
    """A random signing key, `whsk_…`."""
    private = Ed25519PrivateKey.generate()
    both = private.private_bytes_raw() + private.public_key().public_bytes_raw()
    return PRIVATE_PREFIX + base64.b64encode(both).decode()


def public_key(signing_key: str) -> str:
    """The `whpk_…` that verifies what this `whsk_…` signs. Raises InvalidInput."""
    return SigningKey.parse(signing_key).public


def parse_public_key(text: str) -> Ed25519PublicKey:
    """The key that `whpk_…` stands for. Raises InvalidInput; its words never repeat what was given."""
    if not isinstance(text, str):
        raise InvalidInput("a public key is a str that starts with whpk_")
    if text.startswith(SECRET_PREFIX):
        raise InvalidInput("this is a signing secret (whsec_); give a public key that starts with whpk_")
    if text.startswith(PRIVATE_PREFIX):
        raise InvalidInput("this is a private key (whsk_); give the public key that belongs to it, whpk_")
    if not text.startswith(PUBLIC_PREFIX):
        raise InvalidInput("a public key starts with whpk_")
    return Ed25519PublicKey.from_public_bytes(_decoded(text, PUBLIC_PREFIX, KEY_BYTES))


def jwk(public: str) -> dict[str, str]:
    """A `whpk_…` as a JSON Web Key (RFC 8037); `kid` is its thumbprint (RFC 7638). Raises InvalidInput."""
    x = _base64url(parse_public_key(public).public_bytes_raw())
    needed = {"crv": "Ed25519", "kty": "OKP", "x": x}
    thumbprint = hashlib.sha256(json.dumps(needed, separators=(",", ":"), sort_keys=True).encode()).digest()
    return {**needed, "kid": _base64url(thumbprint), "alg": "EdDSA", "use": "sig"}


def jwks(public: Iterable[str]) -> dict[str, list[dict[str, str]]]:
    """The JSON Web Key Set of these `whpk_…`, in their order. Raises InvalidInput."""
    return {"keys": [jwk(text) for text in public]}


def verify_with_key(
    public_keys: str | Sequence[str],
    headers: Headers,
    body: bytes,
    now: float | None = None,
    tolerance_seconds: float = TOLERANCE_SECONDS,
) -> None:
    """Return if `body` was signed with one of the `whpk_…` keys within `tolerance_seconds` of `now` (Unix seconds).

    body: the bytes as they came, before any parsing. Raises InvalidInput otherwise.
    """
    keys = [parse_public_key(text) for text in listed(public_keys, "public key that starts with whpk_")]
    signed = read(headers, body, time.time() if now is None else now, tolerance_seconds)
    signatures = [base64.b64decode(text) for text in signed.signatures(V1A_ENTRY)]
    if not any(_holds(key, signature, signed.content) for key in keys for signature in signatures):
        raise no_match("public key")


def _holds(key: Ed25519PublicKey, signature: bytes, content: bytes) -> bool:
    try:
        key.verify(signature, content)
    except InvalidSignature:
        return False
    return True


def _decoded(text: str, prefix: str, size: int) -> bytes:
    try:
        key = base64.b64decode(text.removeprefix(prefix), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(f"what follows {prefix} must be base64") from None
    if len(key) != size:
        raise InvalidInput(f"{prefix} is followed by {size} bytes as base64, here by {len(key)}")
    return key


def _base64url(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
