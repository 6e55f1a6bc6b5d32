"""How figures and strange text are put into words; plain text only, the page and the charts escape it."""

import math
import unicodedata
from datetime import date, datetime

NONE = "–"
GROUPED_FROM = 10_000
LONGEST = 1_000


def count(number: int) -> str:
    """6433 -> "6,433"."""
    return f"{number:,}"


def plural(number: int, word: str) -> str:
    """(1, "row") -> "1 row"; (2, "row") -> "2 rows"."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def share(part: int, whole: int) -> str:
    """(1, 3) -> "33.3%"; a part never reads as 0% or 100% when it is neither."""
    if not whole or part in (0, whole):
        return "100%" if part and part == whole else "0%"
    percent = 100 * part / whole
    if percent < 0.1:
        return "<0.1%"
    return ">99.9%" if percent > 99.9 else f"{percent:.1f}%"


def number(figure: float | None) -> str:
    """At most five significant digits for a fraction, all of a whole number up to 18 digits; NONE for None."""
    if figure is None or math.isnan(figure):
        return NONE
    if math.isinf(figure):
        return "∞" if figure > 0 else "−∞"
    if isinstance(figure, int) and abs(figure) < 10**18:
        return _signed(f"{figure:,}" if abs(figure) >= GROUPED_FROM else str(figure))
    size = abs(figure)
    if size >= 1e15 or 0 < size < 1e-4:
        return _signed(_powered(float(figure)))
    digits = 4 if size == 0 else max(0, min(8, 4 - math.floor(math.log10(size))))
    text = f"{figure:,.{digits}f}" if size >= GROUPED_FROM else f"{figure:.{digits}f}"
    return _signed(text.rstrip("0").rstrip(".") if "." in text else text)


def short_number(figure: float) -> str:
    """For the axis of a chart: 12500 -> "12.5K", 3e9 -> "3B"."""
    for limit, sign in ((1e15, ""), (1e9, "B"), (1e6, "M"), (1e4, "K")):
        if abs(figure) >= limit:
            size = {"B": 1e9, "M": 1e6, "K": 1e3}.get(sign)
            return _signed(f"{figure / size:.4g}{sign}") if size else number(figure)
    return number(figure)


def value(item: object) -> str:
    """Any value of a column as text for a reader; of a long one the beginning."""
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, int | float):
        return number(item)
    if isinstance(item, datetime):
        return item.isoformat(" ", "seconds" if not item.microsecond else "milliseconds")
    if isinstance(item, date):
        return item.isoformat()
    return visible(str(item)[:LONGEST]) or "(empty)"


def visible(text: str) -> str:
    """`text` on one line, where control characters that a page would swallow have a picture instead."""
    return "".join(_picture(char) for char in text)


def shown(text: str, width: int) -> str:
    """Text of a stranger, in one line of limited length."""
    return shorten(visible(text[: 4 * width]), width)


def shorten(text: str, width: int) -> str:
    """Cut `text` to `width` Latin letters; a wide character counts as two."""
    used = 0
    for index, char in enumerate(text):
        used += 2 if unicodedata.east_asian_width(char) in "WF" else 1
        if used > width:
            return text[: max(0, index - 1)].rstrip() + "…"
    return text


def _picture(char: str) -> str:
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    category = unicodedata.category(char)
    return "\ufffd" if category in ("Cc", "Cs", "Cn", "Zl", "Zp") else char


def _powered(figure: float) -> str:
    mantissa, _, exponent = f"{figure:.4e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def _signed(text: str) -> str:
    return text.replace("-", "−", 1) if text.startswith("-") else text
