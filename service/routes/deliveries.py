"""What became of a job's webhooks, which of a tenant's are parked, and sending them again."""

from datetime import UTC
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from service.body import read_body
from service.delivery_cursors import DeliveryCursors
from service.identity import Identity, may
from service.statuses import find
from service.submission import body_of, parse_submission
from todoke.model.access import Scope
from todoke.model.delivery import DeliveryState, Reason
from todoke.model.errors import InvalidInput, NotFound
from todoke.model.ids import parse_id
from todoke.store.delivery_log import REPLAY_MAX, DeliveryLog, Wanted
from todoke.store.reading import Reader

PART_MAX = 500
PART_DEFAULT = 100
BODY_BYTES_MAX = 16 * 1024
URL_LETTERS_MAX = 2048
NUMBER_DIGITS_MAX = 9
# PostgreSQL keeps no NUL.
NO_NUL = r"^[^\x00]*$"
NO_STORE = {"Cache-Control": "no-store"}
NONE_SUCH: dict[int | str, dict[str, Any]] = {
    404: {"description": "The caller has no such job, or the job no such delivery."},
    410: {"description": "The caller had such a job, and it has been erased."},
}


class Filter(BaseModel):
    """Which deliveries of a tenant."""

    model_config = ConfigDict(extra="forbid")

    since: AwareDatetime | None = Field(None, description="Parked at or after this.")
    until: AwareDatetime | None = Field(None, description="Parked before this.")
    reason: Reason | None = Field(None, description="Parked for this reason.")
    callback_url: str | None = Field(
        None,
        alias="callbackUrl",
        max_length=URL_LETTERS_MAX,
        pattern=NO_NUL,
        description="Owed to exactly this URL.",
    )


class Listing(Filter):
    """The query of the list."""

    state: Literal["parked", "pending", "delivered"] = Field(
        "parked", description="Of pending ones, `since` and `until` say when they were made; of delivered ones, when."
    )
    limit: int = Field(PART_DEFAULT, ge=1, le=PART_MAX, description="So many at most.")
    after: str | None = Field(None, description="The `cursor` of the part before.")


class Replay(Filter):
    """The body of a replay; an empty one means all that is parked."""

    limit: int = Field(REPLAY_MAX, ge=1, le=REPLAY_MAX, strict=True, description="So many at most.")


class DeliveryRoutes:
    """Deliveries, job by job and of the whole tenant."""

    def __init__(self, log: DeliveryLog, reader: Reader, cursors: DeliveryCursors) -> None:
        self._log, self._reader, self._cursors = log, reader, cursors

    def add_to(self, router: APIRouter) -> None:
        """Offer the routes."""
        router.add_api_route(
            "/jobs/{job_id}/deliveries",
            self._of_job,
            methods=["GET"],
            tags=["webhooks"],
            summary="See what became of a job's webhooks, with every attempt",
            responses=NONE_SUCH,
        )
        router.add_api_route(
            "/jobs/{job_id}/deliveries/{sequence}/redeliver",
            self._redeliver,
            methods=["POST"],
            status_code=202,
            tags=["webhooks"],
            summary="Send one webhook again, delivered or not",
            description="Same `webhook-id`, same body; attempts begin anew. May be repeated.",
            responses={
                **NONE_SUCH,
                202: {"description": "It is owed; one that is being sent at this moment is left as it is."},
                409: {"description": "The callback's endpoint is disabled; `endpointId` says which to enable first."},
            },
        )
        router.add_api_route(
            "/deliveries",
            self._listed,
            methods=["GET"],
            tags=["webhooks"],
            summary="List webhooks that were given up, the latest first; or those that are owed, or delivered",
            description="A part of a list of other than parked ones may be short, or empty, while it `hasMore`.",
        )
        router.add_api_route(
            "/deliveries/replay",
            self._replay,
            methods=["POST"],
            status_code=202,
            tags=["webhooks"],
            summary="Send many parked webhooks again",
            description=f"The longest parked first, at most {REPLAY_MAX}; those of disabled endpoints stay parked.",
            openapi_extra={"requestBody": body_of(Replay, "/deliveries/replay")},
            responses={202: {"description": "How many are owed again, and whether there are `more`."}},
        )

    async def _of_job(self, job_id: str, identity: Annotated[Identity, Depends(may(Scope.READ))]) -> Response:
        parsed = parse_id(job_id)
        found = await self._log.of_job(parsed, identity.tenant_id) if parsed else []
        if not found:
            await find(self._reader, job_id, identity)
        return JSONResponse({"deliveries": [each.public() for each in found]}, headers=NO_STORE)

    async def _redeliver(
        self, job_id: str, sequence: str, identity: Annotated[Identity, Depends(may(Scope.SUBMIT))]
    ) -> Response:
        parsed, number = parse_id(job_id), _number(sequence)
        if parsed and number and await self._log.redeliver(parsed, number, identity.tenant_id):
            owed = await self._log.one(parsed, number, identity.tenant_id)
            if owed is not None:
                return JSONResponse(owed.public(), 202, {"Location": f"/jobs/{parsed}/deliveries", **NO_STORE})
        await find(self._reader, job_id, identity)
        raise NotFound("delivery not found")

    async def _listed(
        self,
        identity: Annotated[Identity, Depends(may(Scope.READ))],
        asked: Annotated[Listing, Query()],
    ) -> Response:
        tenant_id, state = identity.tenant_id, DeliveryState(asked.state.upper())
        place = None if asked.after is None else self._cursors.parse(asked.after, tenant_id, state)
        if asked.after is not None and place is None:
            raise InvalidInput("`after` is no cursor of this list")
        if state is DeliveryState.PARKED:
            part = await self._log.parked(tenant_id, _wanted(asked), place, asked.limit)
        else:
            part = await self._log.others(tenant_id, state, _wanted(asked), place, asked.limit)
        body = {
            "deliveries": [each.public() for each in part.deliveries],
            "cursor": None if part.end is None else self._cursors.spell(tenant_id, state, part.end),
            "hasMore": part.end is not None,
        }
        return JSONResponse(body, headers=NO_STORE)

    async def _replay(self, request: Request, identity: Annotated[Identity, Depends(may(Scope.SUBMIT))]) -> Response:
        body = await read_body(request, BODY_BYTES_MAX)
        asked = parse_submission(Replay, body, request.headers.get("content-type", ""))
        done = await self._log.replay(identity.tenant_id, _wanted(asked), asked.limit)
        return JSONResponse({"replayed": done.count, "more": done.is_more, "disabled": done.disabled}, 202, NO_STORE)


def _number(text: str) -> int | None:
    is_number = text.isascii() and text.isdigit() and len(text) <= NUMBER_DIGITS_MAX
    return int(text) if is_number else None


def _wanted(asked: Filter) -> Wanted:
    try:
        since, until = (None if moment is None else moment.astimezone(UTC) for moment in (asked.since, asked.until))
    except OverflowError:
        raise InvalidInput("since, until: give moments of the years 1 to 9999") from None
    return Wanted(since, until, asked.reason, asked.callback_url)
