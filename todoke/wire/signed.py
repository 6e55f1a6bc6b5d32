"""What a webhook's signatures are made over and stand in, the same for HMAC (`v1`) and ed25519 (`v1a`)."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from todoke.model.errors import InvalidInput

ID = "webhook-id"
TIMESTAMP = "webhook-timestamp"
SIGNATURE = "webhook-signature"

TOLERANCE_SECONDS = 300
SIGNATURES_MAX = 16
WEBHOOK_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
UNIX_SECONDS = re.compile(r"[0-9]{1,12}")

# A comma may stand between entries too: proxies join repeated headers that way.
ENTRY = r"(?<![^\s,]){version},({signature})(?![^\s,])"

# A mapping, or pairs as ASGI has them. Names in any case; repeated ones count as one line joined with commas.
Headers = Mapping[str, str] | Iterable[tuple[str, str]] | Iterable[tuple[bytes, bytes]]


def entry(version: str, signature: str) -> re.Pattern[str]:
    """What finds a version's signatures in a header line. signature: a pattern of their base64, exact to the length."""
    return re.compile(ENTRY.format(version=version, signature=signature))


@dataclass(frozen=True)
class Signed:
    """What came: the bytes that were to be signed, and the header line of signatures."""

    content: bytes
    line: str

    def signatures(self, pattern: re.Pattern[str]) -> list[str]:
        """The base64 signatures of one version (see `entry`), malformed ones passed over, at most 16."""
        found = (match[1] for match in pattern.finditer(self.line))
        return [signature for signature, _ in zip(found, range(SIGNATURES_MAX), strict=False)]


def content(webhook_id: str, timestamp: int, body: bytes) -> bytes:
    """The signed bytes, `id.timestamp.body`. Raises ValueError for an id or a time that could be read in two ways."""
    if not WEBHOOK_ID.fullmatch(webhook_id):
        raise ValueError("a webhook id is 1 to 64 letters, digits, - and _; dots part what is signed")
    # `:d` trips over a time that is no whole number.
    if not UNIX_SECONDS.fullmatch(f"{timestamp:d}"):
        raise ValueError("a webhook's timestamp is Unix seconds")
    return f"{webhook_id}.{timestamp:d}.".encode() + body


def read(headers: Headers, body: bytes, now: float, tolerance_seconds: float = TOLERANCE_SECONDS) -> Signed:
    """What the signatures of a webhook must be over. Raises InvalidInput for headers or bodies that cannot be signed
    ones, and for a timestamp further than `tolerance_seconds` from `now` (Unix seconds).
    """
    found = _ours(headers)
    webhook_id, timestamp, line = (found.get(name, "") for name in (ID, TIMESTAMP, SIGNATURE))
    if not (webhook_id and timestamp and line):
        raise InvalidInput(f"the headers {ID}, {TIMESTAMP} and {SIGNATURE} are needed")
    if not WEBHOOK_ID.fullmatch(webhook_id):
        raise InvalidInput(f"{ID} must be 1 to 64 letters, digits, - and _")
    if not UNIX_SECONDS.fullmatch(timestamp):
        raise InvalidInput(f"{TIMESTAMP} must be whole Unix seconds")
    # Spelled so that a clock that is no number accepts nothing.
    if not abs(now - int(timestamp)) <= tolerance_seconds:
        raise InvalidInput(f"{TIMESTAMP} is more than {tolerance_seconds} seconds away from this machine's clock")
    return Signed(f"{webhook_id}.{timestamp}.".encode() + _raw(body), line)


def listed(one_or_more: Any, what: str) -> Sequence[str]:
    """One or several secrets or keys as several. Raises InvalidInput for none, naming `what` is wanted."""
    if isinstance(one_or_more, str):
        return [one_or_more]
    if not isinstance(one_or_more, Sequence) or not one_or_more:
        raise InvalidInput(f"give a {what}, or a list of them")
    return one_or_more


def no_match(what: str) -> InvalidInput:
    """The error for a webhook that none of the secrets or keys signed."""
    return InvalidInput(f"no signature matches: the {what} is another one, or the body was changed on its way")


def _ours(headers: Headers) -> dict[str, str]:
    """The three headers by their lower-case names; repeated ones joined, as HTTP has it."""
    found: dict[str, str] = {}
    try:
        items: Any = headers.items() if hasattr(headers, "items") else headers
        for given_name, given_value in items:
            name = _text(given_name).lower()
            if name in (ID, TIMESTAMP, SIGNATURE):
                value = _text(given_value).strip(" \t")
                found[name] = f"{found[name]}, {value}" if name in found else value
    except (TypeError, ValueError):
        raise InvalidInput("headers must be a mapping of names to values, or pairs of them") from None
    return found


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, str):
        return value
    raise TypeError


def _raw(body: Any) -> bytes:
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    raise InvalidInput(
        f"the body must be the raw bytes of the request, not {type(body).__name__}: "
        "parsed or decoded and written again it is no longer what was signed"
    )
