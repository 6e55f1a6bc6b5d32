"""How many jobs of a concurrency key, or of a tenant, may run at once: counted exactly, from the leases themselves.

There is no counter that could leak: a lease that has expired occupies nothing.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from uuid import UUID

import asyncpg

from todoke.store.database import Connection, queries

SQL = queries("limits")


async def admit(
    connection: Connection, ids: Sequence[UUID], types: Collection[str], tenant_jobs_max: int
) -> tuple[list[UUID], list[UUID]]:
    """The claimable jobs among `ids` that their limits let run now, best rank first, and those that must wait.

    Until the caller's transaction ends nobody else counts within the same limits. `tenant_jobs_max` 0: none.
    """
    rows = await connection.fetch(SQL["limited"], list(ids), list(types))
    names = {name for row in rows for name in _limits(row, tenant_jobs_max)}
    # One order for all, or two claims would lock each other out.
    await connection.execute(SQL["lock_limits"], [":".join(name) for name in sorted(names)])
    room = await _room(connection, rows, tenant_jobs_max)
    admitted, parked = [], []
    for row in rows:
        limits = _limits(row, tenant_jobs_max)
        if all(room[name] > 0 for name in limits):
            room.subtract(limits)
            admitted.append(row["id"])
        else:
            parked.append(row["id"])
    return admitted, parked


async def free(connection: Connection, ended: Sequence[asyncpg.Record], *, is_tenant_limited: bool) -> None:
    """Have a sweep name jobs that waited for those that have just `ended` (tenant_id, concurrency_key)."""
    keys = Counter((row["tenant_id"], row["concurrency_key"]) for row in ended if row["concurrency_key"] is not None)
    if keys:
        tenants, names = zip(*keys, strict=True)
        await connection.execute(SQL["unpark_keys"], list(tenants), list(names), list(keys.values()))
    if is_tenant_limited and ended:
        by_tenant = Counter(row["tenant_id"] for row in ended)
        await connection.execute(SQL["unpark_tenants"], list(by_tenant), list(by_tenant.values()))


def _limits(row: asyncpg.Record, tenant_jobs_max: int) -> list[tuple[str, ...]]:
    """The limits a job counts within, each by its name: (tenant,) or (tenant, concurrency key)."""
    tenant = [(row["tenant_id"],)] if tenant_jobs_max else []
    key = [(row["tenant_id"], row["concurrency_key"])] if row["concurrency_limit"] is not None else []
    return [*tenant, *key]


async def _room(
    connection: Connection, rows: Sequence[asyncpg.Record], tenant_jobs_max: int
) -> "Counter[tuple[str, ...]]":
    """How many more jobs each limit lets run. Of several limits told for one key the smallest holds."""
    limits: dict[tuple[str, ...], int] = {}
    for row in rows:
        for name in _limits(row, tenant_jobs_max):
            most = tenant_jobs_max if len(name) == 1 else row["concurrency_limit"]
            limits[name] = min(most, limits.get(name, most))
    room: Counter[tuple[str, ...]] = Counter(limits)
    keys = [name for name in limits if len(name) == 2]
    tenants = [name[0] for name in limits if len(name) == 1]
    if keys:
        held = await connection.fetch(SQL["held_by_key"], [name[0] for name in keys], [name[1] for name in keys])
        room.subtract({(row["tenant_id"], row["concurrency_key"]): row["held"] for row in held})
    if tenants:
        held = await connection.fetch(SQL["held_by_tenant"], tenants)
        room.subtract({(row["tenant_id"],): row["held"] for row in held})
    return room
