"""The `traceparent` header (W3C Trace Context): read from callers, carried by jobs, sent with webhooks."""

import re

NAME = "traceparent"
# A later version may say more behind; the first four fields stay what they are.
SPELLING = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
LETTERS_MAX = 256


def parse(text: str | None) -> str | None:
    """The same as version 00 spells it; None for anything that the standard says to ignore."""
    if not text or len(text) > LETTERS_MAX:
        return None
    found = SPELLING.fullmatch(text)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return f"00-{trace_id}-{span_id}-{flags}"


def trace_id_of(traceparent: str) -> str:
    """The 32 hex digits shared by everything that came of one call."""
    return traceparent[3:35]


def told(traceparent: str | None) -> dict[str, str]:
    """What a line of the log says of it; nothing where there is none."""
    return {"traceId": trace_id_of(traceparent)} if traceparent else {}
