"""`GET /events`: the events of all jobs of a tenant, live as SSE or part by part as JSON."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from service.feed_filter import FeedFilter
from service.feed_log import FeedLog
from service.identity import admit
from service.preferences import wants_list_in
from service.streams import Streams
from todoke.model.access import Scope
from todoke.model.errors import InvalidInput, Unavailable
from todoke.model.feed import TYPES

PART_MAX = 1_000
PART_DEFAULT = 100


class FeedRoutes:
    """The tenant's feed."""

    def __init__(self, log: FeedLog, streams: Streams) -> None:
        self._log, self._streams = log, streams

    def add_to(self, router: APIRouter) -> None:
        """Offer the routes."""
        router.add_api_route(
            "/events",
            self._events,
            methods=["GET"],
            tags=["jobs"],
            summary="Watch all jobs (text/event-stream), or fetch their events (application/json)",
            responses={200: {"content": {"text/event-stream": {}, "application/json": {}}}},
        )

    async def _events(
        self,
        request: Request,
        types: Annotated[
            list[str], Query(alias="type", default_factory=list, description="Only these event types; repeatable.")
        ],
        job_types: Annotated[
            list[str], Query(alias="jobType", default_factory=list, description="Only these job types; repeatable.")
        ],
        last_event_id: Annotated[str | None, Query(alias="lastEventId", description="A cursor, or `earliest`.")] = None,
        after: Annotated[str | None, Query(description="JSON: a cursor; without one, from the beginning.")] = None,
        limit: Annotated[int, Query(ge=1, le=PART_MAX, description="JSON: events at most.")] = PART_DEFAULT,
    ) -> Response:
        wanted = FeedFilter.of(types, job_types)
        if wanted.unknown:
            raise InvalidInput(f"type: there is no such event type; there are {', '.join(TYPES)}")
        wants_list = wants_list_in(request.headers)
        try:
            # Here and not as a dependency: a browser is to come back when this cannot be decided now.
            identity = await admit(request, Scope.READ)
        except Unavailable:
            if wants_list:
                raise
            return self._streams.apology("unavailable")
        if wants_list:
            return await self._part(identity.tenant_id, after, limit, wanted)
        cursor = request.headers.get("last-event-id") or last_event_id
        return self._streams.response(self._log.source(identity.tenant_id, cursor, wanted), identity)

    async def _part(self, tenant_id: str, after: str | None, limit: int, wanted: FeedFilter) -> Response:
        part = await self._log.part(tenant_id, after, limit, wanted)
        # The bodies are JSON already, byte for byte what other channels send.
        has_more = "true" if part.has_more else "false"
        body = f'{{"events":[{",".join(part.bodies)}],"cursor":"{part.cursor}","hasMore":{has_more}}}'
        return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})
