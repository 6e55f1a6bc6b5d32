"""`/webhooks/endpoints`: how a tenant's callbacks fare, and disabling and enabling them."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from service.body import read_body
from service.identity import Identity, may
from service.submission import body_of, parse_submission
from todoke.model.access import Scope
from todoke.model.endpoint import EndpointState
from todoke.model.errors import InvalidInput, NotFound
from todoke.model.ids import parse_id
from todoke.store.endpoints import Endpoints

log = structlog.get_logger()

PART_MAX = 500
PART_DEFAULT = 100
BODY_BYTES_MAX = 16 * 1024
URL_LETTERS_MAX = 2048
NO_STORE = {"Cache-Control": "no-store"}
NONE_SUCH: dict[int | str, dict[str, Any]] = {404: {"description": "The caller has no such endpoint."}}


class Named(BaseModel):
    """The body that names an endpoint by its URL."""

    model_config = ConfigDict(extra="forbid", strict=True)

    callback_url: str = Field(
        alias="callbackUrl", max_length=URL_LETTERS_MAX, description="A callback's URL, exactly as submits name it."
    )


class EndpointRoutes:
    """check_callback: raises InvalidInput for a URL this service does not call."""

    def __init__(self, endpoints: Endpoints, check_callback: Callable[[str | None], None]) -> None:
        self._endpoints, self._check_callback = endpoints, check_callback

    def add_to(self, router: APIRouter) -> None:
        """Offer the routes."""
        router.add_api_route(
            "/webhooks/endpoints",
            self._listed,
            methods=["GET"],
            tags=["webhooks"],
            summary="See how callbacks fare: those that failed, or were disabled, at least once",
        )
        router.add_api_route(
            "/webhooks/endpoints",
            self._know,
            methods=["POST"],
            tags=["webhooks"],
            summary="Get the endpoint of a callback, which need not have failed yet",
            openapi_extra={"requestBody": body_of(Named, "/webhooks/endpoints")},
        )
        router.add_api_route(
            "/webhooks/endpoints/{endpoint_id}/disable",
            self._disable,
            methods=["POST"],
            tags=["webhooks"],
            summary="Send nothing more to a callback; what is owed to it is parked",
            responses=NONE_SUCH,
        )
        router.add_api_route(
            "/webhooks/endpoints/{endpoint_id}/enable",
            self._enable,
            methods=["POST"],
            tags=["webhooks"],
            summary="Send to a callback again, also what was parked because it was disabled",
            description="`owed` says how much that is, at most 10,000 at a time; ask again while there are `more`.",
            responses=NONE_SUCH,
        )

    async def _listed(
        self,
        identity: Annotated[Identity, Depends(may(Scope.READ))],
        state: Annotated[Literal["active", "disabled"] | None, Query(description="Only those in this state.")] = None,
        limit: Annotated[int, Query(ge=1, le=PART_MAX)] = PART_DEFAULT,
        after: Annotated[str | None, Query(description="The `cursor` of the part before.")] = None,
    ) -> Response:
        place = None if after is None else parse_id(after)
        if after is not None and place is None:
            raise InvalidInput("`after` is no cursor of this list")
        wanted = None if state is None else EndpointState(state.upper())
        found = await self._endpoints.listed(identity.tenant_id, limit + 1, place, wanted)
        part, has_more = found[:limit], len(found) > limit
        body = {
            "endpoints": [seen.public() for seen in part],
            "cursor": str(part[-1].id) if has_more else None,
            "hasMore": has_more,
        }
        return JSONResponse(body, headers=NO_STORE)

    async def _know(self, request: Request, identity: Annotated[Identity, Depends(may(Scope.ADMIN))]) -> Response:
        body = await read_body(request, BODY_BYTES_MAX)
        named = parse_submission(Named, body, request.headers.get("content-type", ""))
        self._check_callback(named.callback_url)
        endpoint_id = await self._endpoints.know(identity.tenant_id, named.callback_url)
        return await self._shown(str(endpoint_id), identity, {})

    async def _disable(self, endpoint_id: str, identity: Annotated[Identity, Depends(may(Scope.ADMIN))]) -> Response:
        parsed = parse_id(endpoint_id)
        if parsed and await self._endpoints.disable(parsed, identity.tenant_id):
            log.info("endpoint.disabled", endpoint=str(parsed), tenant=identity.tenant_id, reason="disabled_by_api")
        return await self._shown(endpoint_id, identity, {})

    async def _enable(self, endpoint_id: str, identity: Annotated[Identity, Depends(may(Scope.ADMIN))]) -> Response:
        parsed = parse_id(endpoint_id)
        done = await self._endpoints.enable(parsed, identity.tenant_id) if parsed else None
        owed, is_more = done or (0, False)
        if done:
            log.info("endpoint.enabled", endpoint=str(parsed), tenant=identity.tenant_id, deliveries=owed)
        return await self._shown(endpoint_id, identity, {"owed": owed, "more": is_more})

    async def _shown(self, endpoint_id: str, identity: Identity, extra: dict[str, object]) -> Response:
        parsed = parse_id(endpoint_id)
        seen = await self._endpoints.one(parsed, identity.tenant_id) if parsed else None
        if seen is None:
            raise NotFound("endpoint not found")
        return JSONResponse({**seen.public(), **extra}, headers=NO_STORE)
