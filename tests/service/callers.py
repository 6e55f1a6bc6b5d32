"""Callers with keys of their own, for tests of who may do what."""

import contextlib
from collections.abc import AsyncIterator

import httpx

from tests.conftest import serve
from todoke.model.access import ApiKey, Scope
from todoke.runtime.settings import Settings
from todoke.store.api_keys import ApiKeys
from todoke.store.database import Database


def guarded(settings: Settings, **changes: object) -> Settings:
    """The same settings where keys are required."""
    return settings.model_copy(update={"desk_mode": False, "require_keys": True, **changes})


async def make_key(
    database: Database, *scopes: Scope, tenant: str = "default", lifetime: float | None = None
) -> tuple[ApiKey, dict[str, str]]:
    """A key that stands, and the header its callers send."""
    key, text = await ApiKeys(database).create(tenant, "of a test", scopes or [Scope.ADMIN], lifetime)
    return key, {"Authorization": f"Bearer {text}"}


@contextlib.asynccontextmanager
async def door(settings: Settings, **changes: object) -> AsyncIterator[httpx.AsyncClient]:
    """A client, without a key, of an API that requires them.

    All its requests have one id, so that answers which must not differ can be compared byte for byte.
    """
    same = {"X-Request-Id": "one-and-the-same"}
    async with serve(guarded(settings, **changes)) as url:
        async with httpx.AsyncClient(base_url=url, timeout=20, headers=same) as client:
            yield client
