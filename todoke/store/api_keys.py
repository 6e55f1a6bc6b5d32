"""API keys, and which rights that rest on them have ended. Every expiry is by the database's clock."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from todoke.model.access import ApiKey, Scope, granted, new_key, secret_digest, spell_key
from todoke.model.limits import NO_KEY_LIMITS, NO_TENANT_LIMITS, KeyLimits, TenantLimits
from todoke.store.database import Database, queries

SQL = queries("api_keys")

# How long a ticket stays good behind the end of its job, or, when it was given later, behind that.
TICKET_GRACE_SECONDS = 600.0


@dataclass(frozen=True)
class FoundKey:
    """What checking a caller needs. seconds_left: until it ends, 0 or less when it has, None: it does not.

    is_suspended: its tenant is.
    """

    id: str
    tenant_id: str
    digest: bytes
    scopes: frozenset[Scope]
    seconds_left: float | None
    limits: KeyLimits = NO_KEY_LIMITS
    tenant_limits: TenantLimits = NO_TENANT_LIMITS
    is_suspended: bool = False


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
        return {row["id"]: _found(row) for row in rows}

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
        self,
        tenant_id: str,
        name: str,
        scopes: Iterable[Scope],
        lifetime_seconds: float | None = None,
        limits: KeyLimits = NO_KEY_LIMITS,
    ) -> tuple[ApiKey, str]:
        """A new key, and the text its callers send: this is the only time it can be seen."""
        key_id, secret = new_key()
        asked = (key_id, tenant_id, name, secret_digest(secret), sorted(set(scopes)), lifetime_seconds)
        [row] = await self._database.fetch(SQL["create"], *asked, limits.submits_per_minute, limits.reads_per_minute)
        return _key(row), spell_key(key_id, secret)

    async def limit(self, key_id: str, limits: KeyLimits) -> ApiKey | None:
        """Have these limits hold for a key, besides its tenant's. None: there is no such key."""
        rows = await self._database.fetch(SQL["limit"], key_id, limits.submits_per_minute, limits.reads_per_minute)
        return _key(rows[0]) if rows else None

    async def used(self, ids: Iterable[str]) -> None:
        """Remember that these keys have been used."""
        await self._database.fetch(SQL["used"], list(ids))

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
    values = dict(row)
    limits = KeyLimits(values.pop("submits_per_minute"), values.pop("reads_per_minute"))
    return ApiKey(**values | {"scopes": tuple(Scope(scope) for scope in row["scopes"]), "limits": limits})


def _found(row: asyncpg.Record) -> FoundKey:
    return FoundKey(
        row["id"],
        row["tenant_id"],
        row["digest"],
        granted(row["scopes"]),
        row["seconds_left"],
        KeyLimits(row["key_submits"], row["key_reads"]),
        TenantLimits(row["submits_per_minute"], row["reads_per_minute"], row["queue_depth_max"], row["streams_max"]),
        row["is_suspended"],
    )
