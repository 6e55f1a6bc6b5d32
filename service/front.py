"""The front door: where a stream runs after FastAPI has done its part and returned.

A stream stays open for minutes. Were it run where it is made, each would keep a stack of middleware, a request and
every dependency alive (10 KiB, and database connections in dependencies that close after the answer).
"""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

LEFT = "todoke.left"

Stream: TypeAlias = Callable[[Receive, Send], Awaitable[None]]


class Front:
    """ASGI: `app`, and then what one of its responses handed over, as the last thing of a request.

    api: the innermost of `app`, with the routes.
    """

    def __init__(self, app: ASGIApp, api: FastAPI) -> None:
        self._app, self.api = app, api
        self.state = api.state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if stream := await self._answer(scope, receive, send):
            _forget(scope)
            await stream(receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> Stream | None:
        left: list[Stream] = []
        await self._app({**scope, LEFT: left}, receive, send)
        return left.pop() if left else None


def _forget(scope: Scope) -> None:
    """Let go of the request but for its method, which servers ask for while they write.

    The answer has begun, so nobody reads it again; headers and address would stay for minutes (4 KiB).
    """
    method = scope["method"]
    # The server's own list: it keeps that as well.
    scope["headers"].clear()
    scope.clear()
    scope["method"] = method


def hand_over(scope: Scope, stream: Stream) -> None:
    """Have `stream` run once the request's own stack has returned."""
    scope[LEFT].append(stream)
