"""`/healthz`, `/readyz` and `/metrics`, for whoever runs the process."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.hub import Hub
from service.streams import Streams


class HealthRoutes:
    """Health of this process."""

    def __init__(self, hub: Hub, streams: Streams) -> None:
        self._hub, self._streams = hub, streams

    def add_to(self, router: APIRouter) -> None:
        """Offer the routes."""
        for path, endpoint in (("/healthz", self._live), ("/readyz", self._ready), ("/metrics", self._metrics)):
            router.add_api_route(path, endpoint, methods=["GET"], include_in_schema=False)

    async def _live(self) -> Response:
        return JSONResponse({"status": "ok"})

    async def _ready(self) -> Response:
        """Ready when jobs can be accepted and watched; not ready while draining."""
        is_ready = self._hub.is_ready and not self._streams.is_draining
        return JSONResponse({"status": "ready" if is_ready else "not ready"}, 200 if is_ready else 503)

    async def _metrics(self) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
