"""What a receiver says in the headers and the body of its answer, read without trusting it."""

import re
import time
from email.utils import parsedate_to_datetime

from todoke.model.delivery import Control

DIGITS = re.compile(r"[0-9]{1,9}")
DATE_LETTERS_MAX = 40


def read_retry_after(text: str | None, now: float | None = None) -> float | None:
    """Seconds a `Retry-After` asks to wait: whole seconds or an HTTP date; None for the past and for nonsense.

    now: Unix seconds, default this machine's clock.
    """
    if text is None:
        return None
    text = text.strip()
    if DIGITS.fullmatch(text):
        return float(text) or None
    if len(text) > DATE_LETTERS_MAX:
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        return None
    seconds = moment.timestamp() - (time.time() if now is None else now)
    return seconds if seconds > 0 else None


def read_control(text: str | None, *, is_tls: bool) -> Control | None:
    """What `webhook-delivery` asks for; over plain HTTP anybody on the way could have written it."""
    if text is None or not is_tls:
        return None
    word = text.strip().lower()
    return Control(word) if word in tuple(Control) else None


def escaped(body: bytes, letters_max: int) -> str | None:
    """The start of a body as printable ASCII: no control character, escape sequence or NUL survives.

    Markup is left as it is and is to be escaped where it is shown. None for nothing.
    """
    if not body or not letters_max:
        return None
    return body[:letters_max].decode("utf-8", "backslashreplace").encode("unicode_escape").decode()[:letters_max]
