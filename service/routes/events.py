"""`GET /jobs/{id}/events`: the log of a job, live as SSE or as it stands as a JSON list."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from sse_starlette import EventSourceResponse

from service.hub import Hub
from service.identity import admit
from service.routes.jobs import find
from service.stream import apology, is_at_end, watched
from service.tickets import Tickets
from todoke.model.access import Scope
from todoke.model.errors import Unavailable
from todoke.store.reading import Reader

# A reader that takes nothing for this long is gone; it comes back where it stopped.
SEND_SECONDS = 20


class EventRoutes:
    """Events of a job."""

    def __init__(self, reader: Reader, hub: Hub, tickets: Tickets, heartbeat_seconds: float) -> None:
        self._reader = reader
        self._hub = hub
        self._tickets = tickets
        self._heartbeat_seconds = heartbeat_seconds

    def add_to(self, router: APIRouter) -> None:
        """Offer the routes."""
        router.add_api_route(
            "/jobs/{job_id}/events",
            self._events,
            methods=["GET"],
            tags=["jobs"],
            summary="Watch a job (text/event-stream), or read its log (application/json)",
            responses={200: {"content": {"text/event-stream": {}, "application/json": {}}}, 204: {}},
        )

    async def _events(
        self,
        job_id: str,
        request: Request,
        last_event_id: Annotated[str | None, Query(alias="lastEventId", description="A cursor, or `earliest`.")] = None,
    ) -> Response:
        wants_list = _wants_list(request.headers.get("accept", ""))
        try:
            # Here and not as a dependency: a browser is to come back when this cannot be decided now.
            identity = await admit(request, Scope.READ)
            status = await find(self._reader, job_id, identity)
        except Unavailable:
            if wants_list:
                raise
            return EventSourceResponse(apology(), ping=0)
        headers = self._tickets.cookie_for(request, identity)
        if wants_list:
            log = await self._reader.events([(status.job_id, identity.tenant_id, 0)])
            return Response("[" + ",".join(item.body for item in log) + "]", 200, headers, "application/json")
        cursor = request.headers.get("last-event-id") or last_event_id
        if is_at_end(cursor, status):
            return Response(status_code=204, headers=headers)
        stream = watched(self._hub, status, cursor, self._heartbeat_seconds)
        return EventSourceResponse(stream, headers=headers, ping=0, send_timeout=SEND_SECONDS)


def _wants_list(accept: str) -> bool:
    return "application/json" in accept and "text/event-stream" not in accept
