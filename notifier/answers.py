"""What a receiver says in the headers and the body of its answer, read without trusting it."""

import re
import time
from collections.abc import Iterable
from datetime import UTC
from email.utils import parsedate_to_datetime

from todoke.model.delivery import RETRY_AFTER_SECONDS_MAX, Control

DIGITS = re.compile(r"[0-9]+")
DIGITS_MAX = 9
DATE_LETTERS_MAX = 40
# Shorter pieces of a signature are left: they are of no use, and could be anything.
PIECE_LETTERS_MIN = 6
PIECE = re.compile(rb"[A-Za-z0-9]{%d,}" % PIECE_LETTERS_MIN)
REDACTED = b"[signature]"


def read_retry_after(text: str | None, now: float | None = None) -> float | None:
    """Seconds a `Retry-After` asks to wait: whole seconds or an HTTP date; None for the past and for nonsense.

    Longer numbers than anybody means are as much as anybody may ask for. now: Unix seconds, default this machine's
    clock.
    """
    if text is None:
        return None
    text = text.strip(" \t")
    if DIGITS.fullmatch(text):
        return RETRY_AFTER_SECONDS_MAX if len(text.lstrip("0")) > DIGITS_MAX else float(text) or None
    if len(text) > DATE_LETTERS_MAX:
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        # The oldest of the three forms has no zone and means GMT.
        moment = moment.replace(tzinfo=UTC)
    seconds = moment.timestamp() - (time.time() if now is None else now)
    return seconds if seconds > 0 else None


def read_control(text: str | None, *, is_tls: bool) -> Control | None:
    """What `webhook-delivery` asks for; over plain HTTP anybody on the way could have written it."""
    if text is None or not is_tls:
        return None
    word = text.strip(" \t").lower()
    return Control(word) if word in tuple(Control) else None


def escaped(body: bytes, letters_max: int) -> str | None:
    """The start of a body as printable ASCII: no control character, escape sequence or NUL survives.

    Markup is left as it is and is to be escaped where it is shown. None for nothing.
    """
    if not body or not letters_max:
        return None
    return body[:letters_max].decode("utf-8", "backslashreplace").encode("unicode_escape").decode()[:letters_max]


def without_signatures(body: bytes, signatures: Iterable[str]) -> bytes:
    """A body without what `webhook-signature` said, should the receiver have sent it back.

    With it, whoever may read attempts could forge a repeat of ours for five minutes. Found piece by piece, between
    the letters that JSON, HTML and URLs spell in several ways; a piece the body's end has cut is found too.
    """
    for piece in {piece for each in signatures for piece in PIECE.findall(each.encode())}:
        body = body.replace(piece, REDACTED)
        for length in range(len(piece) - 1, PIECE_LETTERS_MIN - 1, -1):
            if body.endswith(piece[:length]):
                body = body[:-length] + REDACTED
                break
    return body
