"""Who comes in, and how often: decided before a route is looked up or a byte of the body is read."""

import asyncio
import re

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.budgets import Budget, Budgets, budget_of
from service.identity import IDENTITY, Door
from service.preferences import wants_list_in
from service.problems import ProblemError
from service.streams import LATER, Streams
from todoke.model.errors import NotFound, Unavailable

# Open to all, or asking for themselves. Whatever is not named here needs to be let in.
OPEN = frozenset(
    {"/healthz", "/readyz", "/metrics", "/docs", "/redoc", "/openapi.json", "/todoke.js", "/internal/auth"}
)
OPEN_BELOW = ("/.well-known/", "/static-offline-docs/", "/todoke/")
REFUSAL_SECONDS = 0.5
# Of those that wait for their refusal; what they hold is a few KiB each.
SLOWED_MAX = 2_000
STREAMS = re.compile(r"(?:/jobs/[^/]+)?/events")


class Gate:
    """ASGI. Raises ProblemError 401, 403, 429 for whoever stands outside to answer; while nothing can be checked the
    routes decide, of which streams ask their readers to come back.
    """

    def __init__(self, app: ASGIApp, door: Door, budgets: Budgets, streams: Streams) -> None:
        self._app, self._door, self._budgets, self._streams = app, door, budgets, streams
        self._slowed = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope["method"] == "OPTIONS" or is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        try:
            identity = scope[IDENTITY] = await self._door.identify(Request(scope))
        except Unavailable:
            await self._app(scope, receive, send)
            return
        if scope["path"].endswith("\n"):
            # Routers take it for the path without.
            raise NotFound("job not found" if scope["path"].startswith("/jobs/") else "Not Found")
        budget = budget_of(scope["method"])
        try:
            self._budgets.charge(identity, budget)
        except ProblemError:
            await self._slow_down()
            if not _is_stream(scope):
                raise
            # An error status would stop a browser's EventSource for good.
            await self._streams.apology("overloaded", LATER)(scope, receive, send)
            return
        await self._app(scope, receive, self._telling(scope, budget, send))

    async def _slow_down(self) -> None:
        """Whoever asks too much waits for each refusal; else refusing alone could keep this process busy."""
        if self._slowed < SLOWED_MAX:
            self._slowed += 1
            try:
                await asyncio.sleep(REFUSAL_SECONDS)
            finally:
                self._slowed -= 1

    def _telling(self, scope: Scope, budget: Budget, send: Send) -> Send:
        """`send`, with what is left of the budget in the head of the answer: what the request took in all is known."""
        identity = scope[IDENTITY]
        if not self._budgets.holds(identity, budget):
            return send

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._budgets.headers(identity, budget)]
            await send(message)

        return tell


def is_open(path: str) -> bool:
    """Whether a path is answered to everyone."""
    return path in OPEN or path.startswith(OPEN_BELOW)


def _is_stream(scope: Scope) -> bool:
    is_watching = scope["method"] == "GET" and STREAMS.fullmatch(scope["path"]) is not None
    return is_watching and not wants_list_in(Headers(scope=scope))
