"""One line of the log, and two measures, for each request. What opens something never stands in it.

Of the address there is the path alone: queries carry tickets.
"""

import logging
import re
from collections.abc import Mapping

import structlog
from starlette.types import Scope

from service.identity import IDENTITY
from todoke.runtime import metrics

log = structlog.get_logger()

PATH_BYTES_MAX = 200
HINT_BYTES_MAX = 120
# Of requests that no route was found for.
UNMATCHED = "unmatched"
INTERNAL = "/internal/"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
JOB_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
STATUS_PATH = re.compile(rb"/jobs/([0-9a-f-]{36})")


class RequestLog:
    """Tells of requests when their answer has ended, of streams when it has begun."""

    def __init__(self) -> None:
        self._measures: dict[tuple[str, str, int], metrics.Measured] = {}

    def tell(
        self,
        scope: Scope,
        headers: Mapping[bytes, bytes],
        told: Mapping[str, object],
        answered: tuple[int, int, bytes | None],
        seconds: float,
    ) -> None:
        """`told`: what else the line says. answered: status (0: none was sent), bytes of the body, `Location`."""
        status, size, location = answered
        route = getattr(scope.get("route"), "path", UNMATCHED)
        self._measure(scope["method"], route, status, seconds)
        # What the gateway asks for each request is of interest only to whoever looks for a fault in it.
        level = logging.DEBUG if route.startswith(INTERNAL) else logging.INFO
        if not log.is_enabled_for(level):
            return
        line: dict[str, object] = {
            "method": scope["method"],
            "route": route,
            "path": _path(scope),
            "status": status,
            "seconds": round(seconds, 6),
            "bytes": 0 if scope["method"] == "HEAD" else size,
            **told,
        }
        if (identity := scope.get(IDENTITY)) is not None:
            line["tenant"] = identity.tenant_id
            if identity.right.key_id is not None:
                line["keyId"] = identity.right.key_id
        if job_id := _job_id(scope, location):
            line["jobId"] = job_id
        if client := scope.get("client"):
            line["client"] = client[0]
        for name, shown in ((b"x-forwarded-for", "forwardedFor"), (b"user-agent", "userAgent")):
            if value := headers.get(name):
                line[shown] = _text(value, HINT_BYTES_MAX)
        log.log(level, "request", **line)

    def _measure(self, method: str, route: str, status: int, seconds: float) -> None:
        key = (method if method in METHODS else "other", route, status)
        found = self._measures.get(key)
        if found is None:
            found = self._measures[key] = metrics.request_measures(*key)
        count, times = found
        count.inc()
        times.observe(seconds)


def _path(scope: Scope) -> str:
    """As it was sent, undecoded, so that whatever is in it stays harmless; a query hidden behind %3F is one too."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    if b"%3" in raw:
        raw = re.split(rb"%3f", raw, maxsplit=1, flags=re.IGNORECASE)[0]
    return _text(raw, PATH_BYTES_MAX)


def _text(value: bytes, bytes_max: int) -> str:
    """What a terminal may show."""
    text = value[:bytes_max].decode("latin-1")
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text + "…" if len(value) > bytes_max else text


def _job_id(scope: Scope, location: bytes | None) -> str | None:
    """The job of the path, or the one the answer tells of."""
    named = scope.get("path_params", {}).get("job_id")
    if named is not None:
        return named if JOB_ID.fullmatch(named) else None
    found = STATUS_PATH.fullmatch(location) if location is not None else None
    return found[1].decode() if found is not None else None
