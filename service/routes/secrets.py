"""`/webhooks/secrets`: what signs a tenant's webhooks. A secret is shown once, when it is made; making one rotates."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from service.body import read_body
from service.identity import Identity, may
from service.submission import body_of, parse_submission
from todoke.model.access import Scope
from todoke.model.errors import InvalidInput, NotFound
from todoke.model.ids import parse_id
from todoke.store.signing import OVERLAP_SECONDS, OVERLAP_SECONDS_MAX, ListedSecret, SigningSecrets

log = structlog.get_logger()

PART_MAX = 500
PART_DEFAULT = 100
BODY_BYTES_MAX = 16 * 1024
URL_LETTERS_MAX = 2048
NO_STORE = {"Cache-Control": "no-store"}
MOMENT = {"type": "string", "format": "date-time"}
MOMENT_OR_NULL = {"type": ["string", "null"], "format": "date-time"}
MEMBERS: dict[str, dict[str, Any]] = {
    "id": {"type": "string", "format": "uuid"},
    "callbackUrl": {"type": ["string", "null"], "description": "null: it signs for all that have none of their own."},
    "standing": {
        "enum": ["live", "ending", "ended"],
        "description": "`ending`: its successor signs beside it until `expiresAt`.",
    },
    "createdAt": MOMENT,
    "expiresAt": MOMENT_OR_NULL,
}
LISTED = {"type": "object", "required": list(MEMBERS), "properties": MEMBERS}
MADE_MEMBERS = MEMBERS | {"secret": {"type": "string", "description": "`whsec_…`, shown this once."}}
MADE = {"type": "object", "required": list(MADE_MEMBERS), "properties": MADE_MEMBERS}
PART_MEMBERS = {
    "secrets": {"type": "array", "items": LISTED},
    "cursor": {"type": ["string", "null"]},
    "hasMore": {"type": "boolean"},
}
PART = {"type": "object", "required": list(PART_MEMBERS), "properties": PART_MEMBERS}


class AskedSecret(BaseModel):
    """The body of `POST /webhooks/secrets`; none at all means the tenant's own, with the usual overlap."""

    model_config = ConfigDict(extra="forbid", strict=True)

    callback_url: str | None = Field(
        None,
        alias="callbackUrl",
        max_length=URL_LETTERS_MAX,
        description="Of this callback alone, exactly as submits name it. Default: of all that have none of their own.",
    )
    overlap_seconds: float = Field(
        OVERLAP_SECONDS,
        alias="overlapSeconds",
        ge=0,
        le=OVERLAP_SECONDS_MAX,
        description="So long the secret before this one signs too.",
    )
    secret: SecretStr | None = Field(
        None, description="A `whsec_…` that you bring, of 24 to 64 bytes. Default: a random one of 32."
    )


class SecretRoutes:
    """check_callback: raises InvalidInput for a URL this service does not call."""

    def __init__(self, secrets: SigningSecrets, check_callback: Callable[[str | None], None]) -> None:
        self._secrets, self._check_callback = secrets, check_callback

    def add_to(self, router: APIRouter) -> None:
        """Offer the routes."""
        router.add_api_route(
            "/webhooks/secrets",
            self._create,
            methods=["POST"],
            status_code=201,
            tags=["webhooks"],
            summary="Make a signing secret, which ends the one before it after an overlap",
            description="At most two are live: a third one ends the oldest at once.",
            openapi_extra={"requestBody": body_of(AskedSecret, "/webhooks/secrets")},
            responses={201: {"description": "Shown this once.", "content": {"application/json": {"schema": MADE}}}},
            response_class=Response,
        )
        router.add_api_route(
            "/webhooks/secrets",
            self._listed,
            methods=["GET"],
            tags=["webhooks"],
            summary="See which signing secrets there are and were, without the secrets themselves",
            responses={200: {"description": "Newest first.", "content": {"application/json": {"schema": PART}}}},
            response_class=Response,
        )
        router.add_api_route(
            "/webhooks/secrets/{secret_id}",
            self._end,
            methods=["DELETE"],
            status_code=204,
            tags=["webhooks"],
            summary="End a signing secret now; ending it again changes nothing",
            responses={404: {"description": "The caller has no such secret."}},
            response_class=Response,
        )

    async def _create(self, request: Request, identity: Annotated[Identity, Depends(may(Scope.ADMIN))]) -> Response:
        body = await read_body(request, BODY_BYTES_MAX)
        asked = parse_submission(AskedSecret, body, request.headers.get("content-type", ""))
        self._check_callback(asked.callback_url)
        brought = asked.secret.get_secret_value() if asked.secret is not None else None
        made = await self._secrets.create(identity.tenant_id, asked.callback_url, asked.overlap_seconds, brought)
        log.info("signing_secret.created", secret_id=made.id, tenant=identity.tenant_id)
        listed = ListedSecret(made.id, made.tenant_id, made.url, made.created_at, None, is_ended=False)
        return JSONResponse({**_public(listed), "secret": made.secret}, 201, NO_STORE)

    async def _listed(
        self,
        identity: Annotated[Identity, Depends(may(Scope.ADMIN))],
        limit: Annotated[int, Query(ge=1, le=PART_MAX)] = PART_DEFAULT,
        after: Annotated[str | None, Query(description="The `cursor` of the part before.")] = None,
    ) -> Response:
        if after is not None and parse_id(after) is None:
            raise InvalidInput("`after` is no cursor of this list")
        found = await self._secrets.listed(identity.tenant_id, limit + 1, after)
        part, has_more = found[:limit], len(found) > limit
        body = {
            "secrets": [_public(secret) for secret in part],
            "cursor": part[-1].id if has_more else None,
            "hasMore": has_more,
        }
        return JSONResponse(body, headers=NO_STORE)

    async def _end(self, secret_id: str, identity: Annotated[Identity, Depends(may(Scope.ADMIN))]) -> Response:
        parsed = parse_id(secret_id)
        if parsed is None or not await self._secrets.end(identity.tenant_id, str(parsed)):
            raise NotFound("signing secret not found")
        log.info("signing_secret.ended", secret_id=str(parsed), tenant=identity.tenant_id)
        return Response(status_code=204)


def _public(secret: ListedSecret) -> dict[str, Any]:
    return {
        "id": secret.id,
        "callbackUrl": secret.url,
        "standing": secret.standing,
        "createdAt": _moment(secret.created_at),
        "expiresAt": _moment(secret.expires_at),
    }


def _moment(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z") if moment else None
