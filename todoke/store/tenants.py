"""Tenants: the limits they have instead of the settings', and whether they are suspended."""

from dataclasses import dataclass
from datetime import datetime

from todoke.model.limits import TenantLimits
from todoke.store.database import Database, queries

SQL = queries("tenants")


@dataclass(frozen=True)
class Tenant:
    """One tenant and how it stands. keys: how many are good; waiting, running: its jobs that have not ended."""

    id: str
    limits: TenantLimits
    suspended_at: datetime | None
    keys: int
    last_used_at: datetime | None
    waiting: int
    running: int


class Tenants:
    """Raises Unavailable when PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def waiting(self) -> dict[str, int]:
        """How many jobs of each tenant wait for their start."""
        return {row["tenant_id"]: row["jobs"] for row in await self._database.fetch(SQL["waiting"])}

    async def listed(self, tenant_id: str | None = None) -> list[Tenant]:
        """Every tenant that is known of, or this one, by name."""
        rows = await self._database.fetch(SQL["listed"], tenant_id)
        return [
            Tenant(
                row["tenant_id"],
                TenantLimits(
                    row["submits_per_minute"], row["reads_per_minute"], row["queue_depth_max"], row["streams_max"]
                ),
                row["suspended_at"],
                row["keys"],
                row["last_used_at"],
                row["waiting"],
                row["running"],
            )
            for row in rows
        ]

    async def set(self, tenant_id: str, limits: TenantLimits) -> None:
        """Have these limits hold for it."""
        asked = (limits.submits_per_minute, limits.reads_per_minute, limits.queue_depth_max, limits.streams_max)
        await self._database.fetch(SQL["set"], tenant_id, *asked)

    async def suspend(self, tenant_id: str, *, is_suspended: bool) -> None:
        """Refuse every key of it, or admit them again."""
        await self._database.fetch(SQL["suspend"], tenant_id, is_suspended)
