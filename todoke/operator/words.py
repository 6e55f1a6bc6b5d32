"""What operators type, checked, and moments as they read them."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from todoke.model.errors import InvalidInput

WORD_LETTERS_MAX = 100
LIMIT_MAX = 2**31 - 1
# As typed for "whatever the settings say".
DEFAULT = "default"

AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


def word(what: str, text: str) -> str:
    """A name. Raises InvalidInput that names the option `what`."""
    if not text.strip() or len(text) > WORD_LETTERS_MAX or not text.isprintable():
        raise InvalidInput(f"{what}: 1 to {WORD_LETTERS_MAX} printable characters")
    return text


def limit(what: str, text: str) -> int | None:
    """A limit as typed: a number, 0 for none, or `default`, which is None. Raises InvalidInput."""
    if text == DEFAULT:
        return None
    if not (text.isascii() and text.isdigit() and int(text[:20]) <= LIMIT_MAX):
        raise InvalidInput(f"{what}: a whole number, 0 for no limit, or `{DEFAULT}`")
    return int(text)


def moment(value: datetime | None) -> str | None:
    """ISO 8601, UTC, to the second."""
    return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if value else None
