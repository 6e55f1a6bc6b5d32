"""Keeps other web sites away from a desk, which may ask for no key: foreign Host values and cross-site writes."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.cors import Cors
from service.problems import Problem
from todoke.model import loopback
from todoke.model.codes import Code

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OWN_SITE = frozenset({"same-origin", "none"})


class Guard:
    """ASGI middleware. A page in the same browser can reach loopback, so the address alone proves nothing:

    a foreign Host betrays DNS rebinding (421), a foreign Origin or Sec-Fetch-Site another site's page (403). An origin
    of `cors` is the operator's own.
    """

    def __init__(self, app: ASGIApp, cors: Cors) -> None:
        self._app, self._cors = app, cors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = self._judge(scope["method"], Headers(scope=scope)) if scope["type"] == "http" else None
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await problem.response()(scope, receive, send)

    def _judge(self, method: str, headers: Headers) -> Problem | None:
        host = headers.get("host", "")
        if _hostname(f"//{host}") not in loopback.HOSTS:
            return Problem(421, Code.HOST_REFUSED, "this API answers to its own host name only; check the Host header")
        if method in SAFE_METHODS:
            return None
        origin = headers.get("origin")
        if origin and self._cors.allows(origin):
            return None
        if headers.get("sec-fetch-site", "none") not in OWN_SITE or (origin and not _is_same(origin, host)):
            return Problem(403, Code.CROSS_SITE_REFUSED, "a page of another site may not write here")
        return None


def _is_same(origin: str, host: str) -> bool:
    return origin.partition("://")[2].lower() == host.lower()


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
