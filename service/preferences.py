"""What a caller would like, by `Prefer` (RFC 7240) and `Accept`, and what it has, by `If-None-Match` (RFC 9110)."""

import re

from starlette.datastructures import Headers

WAIT_SECONDS_MAX = 30
WAIT_DIGITS_MAX = 9

WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
QUOTED = r'"(?:[^"\\]|\\.)*"'
PREFERENCE = re.compile(rf"\s*({WORD})\s*(?:=\s*({WORD}|{QUOTED})\s*)?(?:;.*)?", re.DOTALL)
ETAG = re.compile(r'(?:W/)?("[^"]*")')
ANY = "*"

WAIT = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "examples": ["wait=10"]},
    "description": (
        f"`wait=N`: hold the answer up to N seconds, at most {WAIT_SECONDS_MAX}. `Preference-Applied` says that it was "
        "done; anything else is ignored."
    ),
}
IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "An `ETag` of an earlier answer: 304 while it is still the current one.",
}
APPLIED = {"schema": {"type": "string"}, "description": "`wait=N` when the preference was followed."}
RETRY_AFTER = {
    "schema": {"type": "integer", "minimum": 2, "maximum": 5},
    "description": "Seconds until asking again is worth it, from this job type's own history.",
}


def wait_seconds(headers: Headers) -> int:
    """Seconds the caller would like to wait for news, 1 to 30; 0 without such a wish, or with one that makes no sense.

    The first `wait` counts, as RFC 7240 has it.
    """
    for member in _members(",".join(headers.getlist("prefer"))):
        match = PREFERENCE.fullmatch(member)
        if match and match[1].lower() == "wait":
            return _seconds((match[2] or "").strip('"'))
    return 0


def applied(seconds: int) -> dict[str, str]:
    """The headers that say for how long the answer was held at most; none for 0."""
    return {"Preference-Applied": f"wait={seconds}"} if seconds else {}


def seen(headers: Headers) -> frozenset[str] | None:
    """The entity tags the caller holds, compared weakly (`"…"` each, or `*`); None without the header."""
    given = headers.getlist("if-none-match")
    if not given:
        return None
    text = ",".join(given)
    return frozenset([ANY]) if text.strip() == ANY else frozenset(ETAG.findall(text))


def holds(tags: frozenset[str] | None, etag: str) -> bool:
    """Whether a caller that holds `tags` has the answer of this ETag."""
    return tags is not None and (etag in tags or ANY in tags)


def wants_list_in(headers: Headers) -> bool:
    """Whether events are asked for as JSON, not as a stream; who asks for both, or neither, gets the stream."""
    accept = headers.get("accept", "")
    return "application/json" in accept and "text/event-stream" not in accept


def _members(text: str) -> list[str]:
    """Cut at the commas that stand outside quotes."""
    members, quoted, escaped, start = [], False, False, 0
    for place, letter in enumerate(text):
        if escaped:
            escaped = False
        elif quoted and letter == "\\":
            escaped = True
        elif letter == '"':
            quoted = not quoted
        elif letter == "," and not quoted:
            members.append(text[start:place])
            start = place + 1
    return [*members, text[start:]]


def _seconds(text: str) -> int:
    digits = text.lstrip("0")
    if not re.fullmatch("[0-9]+", digits):
        return 0
    return WAIT_SECONDS_MAX if len(digits) > WAIT_DIGITS_MAX else min(int(digits), WAIT_SECONDS_MAX)
