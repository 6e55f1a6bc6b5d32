"""Which part of a content a `Range` header asks for (RFC 9110, section 14)."""

import re
from dataclasses import dataclass

# One range, open at one end at most; the digits are bounded as no content has that many bytes.
ONE = re.compile(r"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", re.IGNORECASE)


@dataclass(frozen=True)
class Span:
    """From byte `first` to byte `last`, both included, counted from 0."""

    first: int
    last: int


class UnsatisfiableError(ValueError):
    """The content has no such part."""


def span_of(header: str, size: int) -> Span | None:
    """The span asked for in a content of `size` bytes; None, the whole, for several ranges or what makes no sense.

    Raises UnsatisfiableError.
    """
    found = ONE.fullmatch(header)
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        length = min(int(found[2]), size)
        first, last = size - length, size - 1
    else:
        first, last = int(found[1]), int(found[2]) if found[2] else size - 1
        if found[2] and last < first:
            return None
    last = min(last, size - 1)
    if first > last:
        raise UnsatisfiableError
    return Span(first, last)
