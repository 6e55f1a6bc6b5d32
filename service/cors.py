"""Which pages of other sites may call (CORS), all in one place: the origins of the settings, and what is open to any.

Nobody is let in by this: it lets a browser hand an answer to the page that asked. Credentials (cookies) are never
allowed: keys and tickets need none, so there is nothing that a foreign page could use without having it.
"""

import re
from collections.abc import Mapping, Sequence

from starlette.types import Scope

from service.identity import IDENTITY

Headers = tuple[tuple[bytes, bytes], ...]

# Public for everyone: the keys that verify webhooks, and the module that pages import.
PUBLIC = ("/.well-known/", "/todoke.js", "/todoke/")
WATCHED = re.compile(r"/jobs/[^/]+/events")
TICKET = re.compile(rb"(?:^|&)ticket=")

METHODS = "GET, HEAD, POST, DELETE"
SENT = (
    "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, If-Range, Last-Event-ID, Prefer, Range, "
    "X-Request-Id, traceparent, tracestate"
)
READ = (
    "Accept-Ranges, Content-Disposition, Content-Location, Content-Range, ETag, Idempotent-Replayed, Link, Location, "
    "Preference-Applied, RateLimit, RateLimit-Policy, Repr-Digest, Retry-After, X-Request-Id"
)
# Browsers keep it no longer than two hours.
KEEP_SECONDS = 7200

VARY = b"Origin"
PREFLIGHT_VARY = (b"vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers")


def _spelled(**headers: str) -> Headers:
    return tuple(
        (f"access-control-{name.replace('_', '-')}".encode(), value.encode()) for name, value in headers.items()
    )


# What any page may read: why its ticket does not open the stream, and when to come back.
ANY = _spelled(allow_origin="*", expose_headers="ETag, Retry-After, X-Request-Id")
ANY_PREFLIGHT = (
    *_spelled(allow_origin="*", allow_methods="GET, HEAD", allow_headers="Last-Event-ID", max_age=str(KEEP_SECONDS)),
    PREFLIGHT_VARY,
)
PUBLIC_HEADERS = (*ANY, (b"cross-origin-resource-policy", b"cross-origin"))


class Cors:
    """`origins`: as the settings have checked them; compared letter by letter with what browsers send."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._answers = {origin.encode(): _spelled(allow_origin=origin, expose_headers=READ) for origin in origins}
        self._preflights = {
            origin.encode(): (
                *_spelled(allow_origin=origin, allow_methods=METHODS, allow_headers=SENT, max_age=str(KEEP_SECONDS)),
                PREFLIGHT_VARY,
            )
            for origin in origins
        }

    def allows(self, origin: str) -> bool:
        """Whether the operator has named this origin."""
        return origin.encode() in self._answers

    def preflight(self, scope: Scope, headers: Mapping[bytes, bytes]) -> Headers | None:
        """The headers of the answer to a browser that asks before it calls; None: no such question, or a stranger's."""
        if scope["method"] != "OPTIONS" or b"access-control-request-method" not in headers:
            return None
        origin = headers.get(b"origin")
        if origin is None:
            return None
        if found := self._preflights.get(origin):
            return found
        return ANY_PREFLIGHT if _is_public(scope) or _has_ticket(scope) else None

    def add_to(self, answer: list[tuple[bytes, bytes]], scope: Scope, origin: bytes | None) -> None:
        """Add to the headers of an answer what lets the page at `origin` read it."""
        if _is_public(scope):
            answer += PUBLIC_HEADERS
            return
        if self._answers:
            _vary(answer)
        if origin is not None and (found := self._answers.get(origin)):
            answer += found
        elif _has_ticket(scope) and _rests_on_it(scope):
            answer += ANY


def _is_public(scope: Scope) -> bool:
    return bool(scope["path"].startswith(PUBLIC))


def has_ticket(path: str, query: bytes) -> bool:
    """Whether this address shows a ticket where one counts."""
    return bool(TICKET.search(query)) and bool(WATCHED.fullmatch(path))


def _has_ticket(scope: Scope) -> bool:
    return has_ticket(scope["path"], scope["query_string"])


def _rests_on_it(scope: Scope) -> bool:
    """Whether the ticket let the caller in, or nothing did and the page may know why."""
    identity = scope.get(IDENTITY)
    return identity is None or identity.is_by_ticket


def _vary(answer: list[tuple[bytes, bytes]]) -> None:
    for place, (name, value) in enumerate(answer):
        if name == b"vary":
            answer[place] = (name, value + b", " + VARY)
            return
    answer.append((b"vary", VARY))
