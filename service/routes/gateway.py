"""`/internal/auth`: tells the gateway who may come in, before it reads what they bring."""

import re
from urllib.parse import unquote

from fastapi import APIRouter, Request
from fastapi.responses import Response

from service.cors import ANY, has_ticket
from service.identity import identify
from service.problems import ProblemError

WATCHED = re.compile("/jobs/([^/]+)/events")


class GatewayRoutes:
    """For a gateway alone, which keeps this path from callers."""

    def add_to(self, router: APIRouter) -> None:
        """Offer the route."""
        router.add_api_route("/internal/auth", self._auth, methods=["GET"], include_in_schema=False)

    async def _auth(self, request: Request) -> Response:
        """204 for a caller who would be let in; else the problem it would get, in a header too.

        Gateways throw the body of such an answer away. What a caller may do is left to the route it goes to. Raises
        Unavailable.
        """
        asked = _original(request)
        try:
            await identify(asked)
        except ProblemError as error:
            response = error.problem.response()
            if has_ticket(asked.scope["path"], asked.scope["query_string"]):
                # A page elsewhere that comes by it may read why not, as it may without a gateway.
                response.raw_headers += ANY
            response.raw_headers.append((b"x-todoke-problem", bytes(response.body)))
            return response
        return Response(status_code=204)


def _original(request: Request) -> Request:
    """The caller's own request, as far as who it is depends on it: its headers, where it goes, its query."""
    path, _, query = request.headers.get("x-original-uri", "").partition("?")
    path = unquote(path)
    watched = WATCHED.fullmatch(path)
    parts = {"job_id": watched[1]} if watched else {}
    asked = {"path": path, "query_string": query.encode("latin-1"), "path_params": parts}
    return Request({**request.scope, **asked})
