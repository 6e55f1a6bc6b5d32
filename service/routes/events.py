"""`GET /jobs/{id}/events`: the log of a job, live as SSE or as it stands as a JSON list."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from service.hub import Hub
from service.identity import admit
from service.preferences import WAIT_SECONDS_MAX, wants_list_in
from service.routes.log import EVENTS_MAX, listed
from service.statuses import find
from service.stream import JobSource, is_at_end
from service.streams import Streams
from service.tickets import Tickets
from todoke.model.access import Scope
from todoke.model.errors import Unavailable
from todoke.store.reading import Reader


class EventRoutes:
    """Events of a job. replays: see JobSource."""

    def __init__(
        self, reader: Reader, hub: Hub, streams: Streams, tickets: Tickets, replays: asyncio.Semaphore
    ) -> None:
        self._reader, self._hub, self._streams, self._replays = reader, hub, streams, replays
        self._tickets = tickets

    def add_to(self, router: APIRouter) -> None:
        """Offer the routes."""
        router.add_api_route(
            "/jobs/{job_id}/events",
            self._events,
            methods=["GET"],
            operation_id="events_of_job",
            tags=["jobs"],
            summary="Watch a job (text/event-stream), or read its log (application/json)",
            responses={200: {"content": {"text/event-stream": {}, "application/json": {}}}, 204: {}},
        )

    async def _events(
        self,
        job_id: str,
        request: Request,
        last_event_id: Annotated[str | None, Query(alias="lastEventId", description="A cursor, or `earliest`.")] = None,
        wait: Annotated[
            int | None,
            Query(
                ge=1, le=WAIT_SECONDS_MAX, description="End the stream after the first news, at most so many seconds."
            ),
        ] = None,
        after: Annotated[str | None, Query(description="JSON only: the events behind this cursor or sequence.")] = None,
        limit: Annotated[int, Query(ge=1, le=EVENTS_MAX, description="JSON only: at most so many.")] = EVENTS_MAX,
    ) -> Response:
        wants_list = wants_list_in(request.headers)
        try:
            # Here and not as a dependency: a browser is to come back when this cannot be decided now.
            identity = await admit(request, Scope.READ)
            status = await find(self._reader, job_id, identity)
        except Unavailable:
            if wants_list:
                raise
            return self._streams.apology("unavailable")
        headers = self._tickets.cookie_for(request, identity)
        if wants_list:
            return await listed(self._reader, status, after, limit, headers)
        cursor = request.headers.get("last-event-id") or last_event_id
        if is_at_end(cursor, status):
            return Response(status_code=204, headers=headers)
        source = JobSource(self._hub, self._reader, self._replays, status, cursor, is_brief=wait is not None)
        return self._streams.response(source, identity, headers, wait=wait)
