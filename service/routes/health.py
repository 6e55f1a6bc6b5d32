"""`/healthz`, `/readyz` and `/metrics`, for whoever runs the process."""

from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.identity import admit
from service.readiness import Readiness
from todoke.model import loopback
from todoke.model.access import Scope

# What a proxy adds: then the address of the connection is the proxy's, not the caller's.
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


class HealthRoutes:
    """Health of this process."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    def add_to(self, router: APIRouter) -> None:
        """Offer the routes."""
        for path, endpoint in (("/healthz", self._live), ("/readyz", self._ready), ("/metrics", self._metrics)):
            router.add_api_route(path, endpoint, methods=["GET", "HEAD"], include_in_schema=False)

    async def _live(self) -> Response:
        return JSONResponse({"status": "ok"})

    async def _ready(self) -> Response:
        """Ready when jobs can be accepted and watched; not ready while draining."""
        standing = await self._readiness.look()
        return JSONResponse({"status": standing.status, **standing.parts}, 200 if standing.is_ready else 503)

    async def _metrics(self, request: Request) -> Response:
        """Needs an operator's key, unless asked for on this machine. Raises ProblemError 401 and 403, Unavailable."""
        if not _is_on_this_machine(request):
            await admit(request, Scope.ADMIN)
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def _is_on_this_machine(request: Request) -> bool:
    """A page in a browser here may be led to loopback under another name, and a proxy here speaks for others."""
    client = request.client
    if client is None or not loopback.is_loopback_address(client.host) or any(map(request.headers.get, FORWARDED)):
        return False
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname in loopback.HOSTS
    except ValueError:
        return False
