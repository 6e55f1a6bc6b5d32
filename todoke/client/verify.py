"""For receivers: take a webhook only if it is signed, and get its event. One call, any framework."""

import json
from collections.abc import Sequence
from typing import Any

from todoke.model.errors import InvalidInput
from todoke.wire import asymmetric, signing
from todoke.wire.signed import TOLERANCE_SECONDS, Headers

__all__ = ["InvalidInput", "verify_webhook", "verify_webhook_with_key"]


def verify_webhook(
    secret_or_secrets: str | Sequence[str],
    headers: Headers,
    body: bytes,
    now: float | None = None,
    tolerance_seconds: float = TOLERANCE_SECONDS,
) -> dict[str, Any]:
    """The event of a webhook that one of the signing secrets (`whsec_…`) signed.

    headers: a mapping or pairs, names in any case. body: the raw bytes of the request. now: Unix seconds; the
    timestamp may be `tolerance_seconds` away from it. Raises InvalidInput for anything else, and nothing else.
    """
    signing.verify(secret_or_secrets, headers, body, now, tolerance_seconds)
    return _event(body)


def verify_webhook_with_key(
    public_keys: str | Sequence[str],
    headers: Headers,
    body: bytes,
    now: float | None = None,
    tolerance_seconds: float = TOLERANCE_SECONDS,
) -> dict[str, Any]:
    """The event of a webhook that the owner of one of the public keys (`whpk_…`) signed; otherwise as `verify_webhook`.

    The service publishes its keys at `/.well-known/webhook-keys`.
    """
    asymmetric.verify_with_key(public_keys, headers, body, now, tolerance_seconds)
    return _event(body)


def _event(body: bytes) -> dict[str, Any]:
    try:
        event = json.loads(bytes(body).decode())
    # A body may be nested deeper than Python can follow.
    except (ValueError, RecursionError):
        raise InvalidInput("the signature holds, but the body is no JSON in UTF-8") from None
    if not isinstance(event, dict):
        raise InvalidInput("the signature holds, but the body is no JSON object")
    return event
