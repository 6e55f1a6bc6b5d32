"""`GET /jobs`: a tenant's jobs, the newest first, in parts."""

from datetime import UTC, datetime
from typing import Annotated, Literal
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

from service.identity import Identity, may
from service.job_cursors import JobCursors
from service.statuses import Statuses
from todoke.model.access import Scope
from todoke.model.errors import InvalidInput
from todoke.model.job import State
from todoke.store.listing import Listing, Wanted

PART_DEFAULT, PART_MAX = 20, 100
WORD_LETTERS_MAX = 200
# PostgreSQL keeps no NUL.
NO_NUL = r"^[^\x00]*$"
YEARS = (1970, 9000)
STATES = {
    "running": (State.PENDING, State.PROCESSING),
    "success": (State.SUCCESS,),
    "failed": (State.FAILED,),
}


class Asked(BaseModel):
    """The query."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["running", "success", "failed"] | None = Field(None, description="Only jobs of this status.")
    type: str | None = Field(
        None, max_length=WORD_LETTERS_MAX, pattern=NO_NUL, description="Only jobs of this job type."
    )
    client_ref: str | None = Field(
        None,
        alias="clientRef",
        max_length=WORD_LETTERS_MAX,
        pattern=NO_NUL,
        description="Only jobs submitted with this `clientRef`.",
    )
    batch_id: UUID | None = Field(None, alias="batchId", description="Only jobs of this batch.")
    created_after: AwareDatetime | None = Field(None, alias="createdAfter", description="Accepted at or after this.")
    created_before: AwareDatetime | None = Field(None, alias="createdBefore", description="Accepted before this.")
    limit: int = Field(PART_DEFAULT, ge=1, description=f"So many at most; above {PART_MAX} it means {PART_MAX}.")
    after: str | None = Field(None, description="The `cursor` of the part before.")

    @field_validator("created_after", "created_before")
    @classmethod
    def _of_our_time(cls, value: datetime | None) -> datetime | None:
        if value is not None and not YEARS[0] <= value.year <= YEARS[1]:
            raise ValueError(f"give a moment of the years {YEARS[0]} to {YEARS[1]}")
        return value

    @property
    def filter(self) -> str:
        """What tells one list from another, as text."""
        return self.model_dump_json(exclude={"limit", "after"})

    @property
    def wanted(self) -> Wanted:
        """The same for the store."""
        after, before = (moment and moment.astimezone(UTC) for moment in (self.created_after, self.created_before))
        states = None if self.status is None else STATES[self.status]
        return Wanted(states, self.type, self.client_ref, self.batch_id, after, before)


class ListingRoutes:
    """The list of jobs."""

    def __init__(self, listing: Listing, statuses: Statuses, cursors: JobCursors) -> None:
        self._listing, self._statuses, self._cursors = listing, statuses, cursors

    def add_to(self, router: APIRouter) -> None:
        """Offer the route."""
        router.add_api_route(
            "/jobs",
            self._list,
            methods=["GET"],
            tags=["jobs"],
            summary="List jobs, the newest first",
            description="A part may be short, or empty, while it `hasMore`: one request looks at so many jobs only.",
            responses={200: {"description": "A part of the list.", "headers": {"Link": LINK}}},
        )

    async def _list(
        self,
        request: Request,
        identity: Annotated[Identity, Depends(may(Scope.READ))],
        asked: Annotated[Asked, Query()],
    ) -> Response:
        tenant_id = identity.tenant_id
        before = None if asked.after is None else self._cursors.parse(asked.after, tenant_id, asked.filter)
        if asked.after is not None and before is None:
            raise InvalidInput("`after` is no cursor of this list; begin it anew, without `after`")
        page = await self._listing.page(tenant_id, asked.wanted, before, min(asked.limit, PART_MAX))
        cursor = None if page.end is None else self._cursors.spell(tenant_id, asked.filter, page.end)
        jobs = await self._statuses.shown(page.ids, tenant_id)
        headers = {"Cache-Control": "private, no-cache"}
        if cursor is not None:
            headers["Link"] = f'<{_next(request, cursor)}>; rel="next"'
        return JSONResponse({"jobs": jobs, "cursor": cursor, "hasMore": cursor is not None}, headers=headers)


def _next(request: Request, cursor: str) -> str:
    """The same list, one part on; every value is spelled anew, so nothing of the query can leave the header."""
    query = {name: value for name, value in request.query_params.items() if name != "after"}
    return f"/jobs?{urlencode(query | {'after': cursor})}"


LINK = {"schema": {"type": "string"}, "description": 'The next part, `rel="next"`; absent in the last one.'}
