"""API keys, and which rights that rest on them have ended. Every expiry is by the database's clock."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from todoke.model.access import ApiKey, Scope, granted, new_key, secret_digest, spell_key
from todoke.store.database import Database, queries

SQL = queries("api_keys")

# How long a ticket stays good behind the end of its job, or, when it was given later, behind that.
TICKET_GRACE_SECONDS = 600.0


@dataclass(frozen=True)
class FoundKey:
    """What checking a caller needs. seconds_left: until it ends, 0 or less when it has, None: it does not."""

    id: str
    tenant_id: str
    digest: bytes
    scopes: frozenset[Scope]
    seconds_left: float | None


@dataclass(frozen=True)
class Claimed:
    """A right as it was given: what must still be so for it to hold. Moments are in unix seconds."""

    tenant_id: str
    key_id: str | None
    job_id: UUID | None
    generation: int | None
    issued_at: float | None
    ends_at: float | None


class ApiKeys:
    """Raises Unavailable when PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, ids: Iterable[str]) -> dict[str, FoundKey]:
        """Those keys that there are, ended ones included, by id."""
        rows = await self._database.fetch(SQL["find"], list(ids))
        return {
            row["id"]: FoundKey(row["id"], row["tenant_id"], row["digest"], granted(row["scopes"]), row["seconds_left"])
            for row in rows
        }

    async def lapsed(self, rights: Sequence[Claimed]) -> set[int]:
        """The places in `rights`, from 0, of those that have ended."""
        spelled = [
            (right.tenant_id, right.key_id, right.job_id, right.generation, right.issued_at, right.ends_at)
            for right in rights
        ]
        columns = [list(column) for column in zip(*spelled, strict=True)] or [[] for _ in range(6)]
        rows = await self._database.fetch(SQL["lapsed"], *columns, TICKET_GRACE_SECONDS)
        return {row["place"] - 1 for row in rows}

    async def newest(self, tenant_id: str | None = None) -> list[ApiKey]:
        """The keys of a tenant, or of all, the newest first."""
        return [_key(row) for row in await self._database.fetch(SQL["listed"], tenant_id)]

    async def create(
        self, tenant_id: str, name: str, scopes: Iterable[Scope], lifetime_seconds: float | None = None
    ) -> tuple[ApiKey, str]:
        """A new key, and the text its callers send: this is the only time it can be seen."""
        key_id, secret = new_key()
        asked = (key_id, tenant_id, name, secret_digest(secret), sorted(set(scopes)), lifetime_seconds)
        [row] = await self._database.fetch(SQL["create"], *asked)
        return _key(row), spell_key(key_id, secret)

    async def revoke(self, key_id: str) -> bool:
        """End a key now; False: there is none."""
        return bool(await self._database.fetch(SQL["revoke"], key_id))

    async def rotate(
        self, key_id: str, overlap_seconds: float, lifetime_seconds: float | None = None
    ) -> tuple[ApiKey, str] | None:
        """A new key like the old one, which ends after the overlap. None: no such key stands."""
        new_id, secret = new_key()
        asked = (key_id, new_id, secret_digest(secret), lifetime_seconds, overlap_seconds)
        rows = await self._database.fetch(SQL["rotate"], *asked)
        return (_key(rows[0]), spell_key(new_id, secret)) if rows else None


def _key(row: asyncpg.Record) -> ApiKey:
    return ApiKey(**{**row, "scopes": tuple(Scope(scope) for scope in row["scopes"])})
