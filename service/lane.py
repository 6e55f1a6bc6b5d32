"""The short way to the two busiest routes, past FastAPI's routing, dependencies and exit stacks.

They take twice as long as all that a submit has to do. The routes are FastAPI's all the same, for the description and
for whatever the lane leaves to it: the same functions answer there.
"""

import re
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.identity import IDENTITY, Identity, admit
from todoke.model import access

STATUS = re.compile(r"/jobs/([^/?#]+)")

Submit = Callable[[Request, Identity], Awaitable[Response]]
Status = Callable[[str, Request, Identity], Awaitable[Response]]


class Template:
    """Names a route in log and measures, as one of FastAPI's would."""

    def __init__(self, path: str) -> None:
        self.path = path


class Lane:
    """ASGI. submits: by path. Only callers who are known and send no query go here."""

    def __init__(self, app: ASGIApp, submits: Mapping[str, Submit], status: Status) -> None:
        self._app, self._status = app, status
        self._submits = {path: (submit, Template(path)) for path, submit in submits.items()}
        self._template = Template("/jobs/{job_id}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. Raises what the routes raise, for whoever stands outside to answer."""
        app = await self._answer(scope, receive) or self._app
        await app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response | None:
        """The answer of one of the two, which is ASGI as well; None: not one of them."""
        if scope["type"] != "http" or IDENTITY not in scope or scope["query_string"]:
            return None
        path, method = scope["path"], scope["method"]
        if method == "POST" and path in self._submits:
            submit, scope["route"] = self._submits[path]
            request = Request(scope, receive)
            return await submit(request, await admit(request, access.Scope.SUBMIT))
        if method == "GET" and (found := STATUS.fullmatch(path)):
            scope["route"] = self._template
            request = Request(scope, receive)
            return await self._status(found[1], request, await admit(request, access.Scope.READ))
        return None
