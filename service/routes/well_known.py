"""`/.well-known/`: the public keys that verify webhooks of this service. No key, any origin (see cors.py)."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from todoke.model.errors import Unavailable
from todoke.runtime.batcher import Batcher
from todoke.store.signing import PublishedKey, SigningKeys
from todoke.wire.asymmetric import jwks

# Whoever asks often costs one query in so long.
KEEP_SECONDS = 5.0
ASK_MAX = 10_000
SHARED = {"Cache-Control": "public, max-age=300"}
# The first key is about to be made: nobody is to remember that there was none.
UNSHARED = {"Cache-Control": "no-store"}


class WellKnownRoutes:
    """`clock` counts seconds."""

    def __init__(self, keys: SigningKeys, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys, self._clock = keys, clock
        self._known: list[PublishedKey] | None = None
        self._until = -float("inf")
        self._batcher: Batcher[None, list[PublishedKey]] = Batcher(self._read, ASK_MAX, "published_keys")

    def add_to(self, router: APIRouter) -> None:
        """Offer the routes."""
        for path, endpoint in (("webhook-keys", self._webhook_keys), ("jwks.json", self._jwks)):
            router.add_api_route(f"/.well-known/{path}", endpoint, methods=["GET", "HEAD"], include_in_schema=False)

    async def _webhook_keys(self) -> Response:
        published = await self._published()
        keys = [{"id": key.id, "publicKey": key.public_key, "expiresAt": _moment(key.expires_at)} for key in published]
        return _answer({"keys": keys}, published, "application/json")

    async def _jwks(self) -> Response:
        published = await self._published()
        return _answer(jwks(key.public_key for key in published), published, "application/jwk-set+json")

    async def _published(self) -> list[PublishedKey]:
        if self._known is not None and self._clock() < self._until:
            return self._known
        return await self._batcher.put(None)

    async def _read(self, asked: Sequence[None]) -> list[list[PublishedKey]]:
        now = self._clock()
        try:
            self._known, self._until = await self._keys.published(), now + KEEP_SECONDS
        except Unavailable:
            # They are as good as before, and without them nobody verifies what is on its way.
            if self._known is None:
                raise
        return [self._known] * len(asked)


def _answer(body: object, published: Sequence[PublishedKey], media_type: str) -> Response:
    return JSONResponse(body, headers=SHARED if published else UNSHARED, media_type=media_type)


def _moment(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z") if moment else None
