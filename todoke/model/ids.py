"""Time-ordered identifiers."""

import os
import time
from datetime import datetime
from uuid import UUID

MILLISECONDS_MAX = 2**48 - 1


def new_id() -> UUID:
    """A UUID version 7 (RFC 9562): 48 bits of Unix milliseconds, then random."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    value = milliseconds << 80 | random
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return UUID(int=value)


def first_id(moment: datetime) -> UUID:
    """The lowest id that can have been made at this moment or later; `moment` knows its zone."""
    milliseconds = min(max(int(moment.timestamp() * 1000), 0), MILLISECONDS_MAX)
    return UUID(int=milliseconds << 80)


def parse_id(text: str) -> UUID | None:
    """The id spelled `text`, or None for anything but the 36 characters of a UUID."""
    if len(text) != 36:
        return None
    try:
        parsed = UUID(text)
    except ValueError:
        return None
    return parsed if str(parsed) == text.lower() else None
