"""What became of deliveries, for those whose jobs they are; and owing them once more.

Every read and change names the tenant it is for, inside its statement.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
from sqlalchemy import Select, func, select, text, tuple_

from todoke.model.delivery import DeliveryState
from todoke.model.errors import EndpointDisabled
from todoke.model.event import Hint
from todoke.store.database import Connection, queries
from todoke.store.delivery_rows import Kept, attempts_of, kept, shown
from todoke.store.tables import delivery, job
from todoke.store.transactions import Transactions, columns

SQL = queries("delivery_log")

REPLAY_MAX = 10_000
# What a part of a list without an index looks through.
JOBS_MAX = 1_000
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
# Of one job, its newest; jobs have a handful.
SHOWN_MAX = 1_000


class Place(NamedTuple):
    """Where a delivery stands in a list: when it was parked (in lists of others: anything), and which it is."""

    at: datetime
    job_id: UUID
    sequence: int


@dataclass(frozen=True)
class Part:
    """A part of a list, and the place the next one begins behind; None: this was the last."""

    deliveries: list[Kept]
    end: Place | None


@dataclass(frozen=True)
class Wanted:
    """Which deliveries: ended (those that have not: made) from `since` to before `until`, of a reason, of a callback.

    None: any.
    """

    since: datetime | None = None
    until: datetime | None = None
    reason: str | None = None
    url: str | None = None


@dataclass(frozen=True)
class Replayed:
    """What a replay came to. is_more: as many as asked for were taken, and there are more.

    disabled: how many were left because their endpoints are disabled, counted up to 10,000.
    """

    count: int
    is_more: bool
    disabled: int


class DeliveryLog(Transactions):
    """Raises Unavailable when PostgreSQL is away."""

    async def of_job(self, job_id: UUID, tenant_id: str) -> list[Kept]:
        """The numbered deliveries of a tenant's job with every attempt, in order; empty when there is no such job."""
        return await self._read(job_id, tenant_id, None)

    async def one(self, job_id: UUID, sequence: int, tenant_id: str) -> Kept | None:
        """One delivery with every attempt."""
        return next(iter(await self._read(job_id, tenant_id, sequence)), None)

    async def parked(self, tenant_id: str | None, wanted: Wanted, after: Place | None, rows_max: int) -> Part:
        """Parked deliveries without their attempts, the latest parked first, behind a place. Tenant None: of all."""
        asked = parked_of(tenant_id, wanted, after).limit(rows_max + 1)
        async with self._database.read() as connection:
            rows = [kept(row) for row in (await connection.execute(asked)).mappings()]
        return Part(rows[:rows_max], _place(rows[rows_max - 1]) if len(rows) > rows_max else None)

    async def others(
        self, tenant_id: str, state: DeliveryState, wanted: Wanted, after: Place | None, rows_max: int
    ) -> Part:
        """Deliveries in another state, those of the newest job first. A part may be short, or empty, and not the last.

        They have no index of their own, which every delivery would pay for: the tenant's newest jobs are looked
        through, so many for each part.
        """
        place = (delivery.c.job_id, delivery.c.sequence)
        jobs = select(job.c.id).where(job.c.tenant_id == tenant_id).order_by(job.c.id.desc()).limit(JOBS_MAX)
        if after is not None:
            jobs = jobs.where(job.c.id <= after.job_id)
        async with self._database.read() as connection:
            seen = (await connection.execute(jobs)).scalars().all()
            asked = shown().where(delivery.c.job_id.in_(seen), delivery.c.state == state, delivery.c.sequence > 0)
            asked = _only(asked, tenant_id, wanted, is_open=True)
            asked = asked.order_by(*(column.desc() for column in place)).limit(rows_max + 1)
            if after is not None:
                asked = asked.where(tuple_(*place) < tuple_(*after[1:]))
            rows = [kept(row) for row in (await connection.execute(asked)).mappings()]
        if len(rows) > rows_max:
            return Part(rows[:rows_max], _place(rows[rows_max - 1]))
        return Part(rows, Place(BEGINNING, seen[-1], 0) if len(seen) == JOBS_MAX else None)

    async def redeliver(self, job_id: UUID, sequence: int, tenant_id: str) -> bool:
        """Owe a delivery once more, from its first attempt on, whatever became of it. False: no such delivery.

        One that is being sent, or owed anew already, is left as it is. Raises EndpointDisabled.
        """

        async def work(connection: Connection) -> bool:
            rows = await connection.fetch(SQL["hold"], job_id, tenant_id, sequence)
            for row in rows:
                if row["is_disabled"]:
                    raise EndpointDisabled(
                        "nothing is sent to this callback: enable its endpoint first",
                        {"endpointId": str(row["endpoint_id"])},
                    )
                if not _is_under_way(row):
                    self._tell(connection, await owe_again(connection, [(job_id, sequence)]))
            return bool(rows)

        return await self._transact(work)

    async def replay(self, tenant_id: str, wanted: Wanted, deliveries_max: int) -> Replayed:
        """Owe parked deliveries once more, the longest parked first; not those of disabled endpoints."""
        by_url = () if wanted.url is None else (wanted.url,)
        query = SQL["pick"] if wanted.url is None else SQL["pick_of"]
        asked = (tenant_id, wanted.since, wanted.until, wanted.reason)

        async def work(connection: Connection) -> Replayed:
            rows = await connection.fetch(query, *asked, deliveries_max + 1, *by_url)
            picked = [(row["job_id"], row["sequence"]) for row in rows[:deliveries_max]]
            self._tell(connection, await owe_again(connection, picked))
            [left] = await connection.fetch(SQL["count_disabled"], *asked, REPLAY_MAX, wanted.url)
            return Replayed(len(picked), len(rows) > deliveries_max, left["found"])

        return await self._transact(work)

    async def now(self) -> datetime:
        """The database's time."""
        async with self._database.read() as connection:
            moment: datetime = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
            return moment

    def _tell(self, connection: Connection, hint: Hint | None) -> None:
        # One is enough: whoever delivers looks at all that is due.
        if hint is not None:
            self._announce(connection, self._channel, [hint])

    async def _read(self, job_id: UUID, tenant_id: str, sequence: int | None) -> list[Kept]:
        asked = shown().where(delivery.c.job_id == job_id, delivery.c.tenant_id == tenant_id, delivery.c.sequence > 0)
        if sequence is not None:
            asked = asked.where(delivery.c.sequence == sequence)
        asked = asked.order_by(delivery.c.sequence.desc()).limit(SHOWN_MAX)
        async with self._database.read() as connection:
            # What was tried and how it stands, from one snapshot.
            await connection.execution_options(isolation_level="REPEATABLE READ")
            rows = (await connection.execute(asked)).mappings().all()
            if not rows:
                return []
            attempts = await attempts_of(connection, job_id, tenant_id, [row["sequence"] for row in rows])
        return [kept(row, attempts.get(row["sequence"], [])) for row in reversed(rows)]


def parked_of(tenant_id: str | None, wanted: Wanted, after: Place | None) -> Select[Any]:
    """The statement behind `DeliveryLog.parked`."""
    place = (delivery.c.finished_at, delivery.c.job_id, delivery.c.sequence)
    asked = shown().where(text("delivery.state = 'PARKED'"), delivery.c.sequence > 0)
    asked = _only(asked, tenant_id, wanted).order_by(*(column.desc() for column in place))
    return asked if after is None else asked.where(tuple_(*place) < tuple_(*after))


async def owe_again(connection: Connection, picked: Sequence[tuple[UUID, int]]) -> Hint | None:
    """Begin deliveries (job, sequence) anew, whose locks are held. The answer is a hint of them, None of nothing."""
    if not picked:
        return None
    await connection.execute(SQL["owe_again"], *columns(picked, tuple))
    return Hint(*picked[0], 0)


async def owe_disabled(
    connection: Connection, tenant_id: str, endpoint_id: UUID, deliveries_max: int
) -> tuple[list[tuple[UUID, int]], bool]:
    """Begin anew what was parked because its endpoint was disabled. Says which, and whether there are more."""
    rows = await connection.fetch(SQL["pick_disabled"], tenant_id, endpoint_id, deliveries_max + 1)
    picked = [(row["job_id"], row["sequence"]) for row in rows[:deliveries_max]]
    await owe_again(connection, picked)
    return picked, len(rows) > deliveries_max


def _is_under_way(row: asyncpg.Record) -> bool:
    """Whether it is being sent, or is to be, as if for the first time."""
    if row["state"] != DeliveryState.PENDING:
        return False
    return bool(row["standing"] == "leased" or (row["standing"] == "ready" and row["attempt"] == 0))


def _place(row: Kept) -> Place:
    return Place(row.at or BEGINNING, row.job_id, row.sequence)


def _only(asked: Select[Any], tenant_id: str | None, wanted: Wanted, *, is_open: bool = False) -> Select[Any]:
    moment = func.coalesce(delivery.c.finished_at, delivery.c.created_at) if is_open else delivery.c.finished_at
    if tenant_id is not None:
        asked = asked.where(delivery.c.tenant_id == tenant_id)
    if wanted.since is not None:
        asked = asked.where(moment >= wanted.since)
    if wanted.until is not None:
        asked = asked.where(moment < wanted.until)
    if wanted.reason is not None:
        asked = asked.where(delivery.c.last_reason == wanted.reason)
    if wanted.url is not None:
        owner = delivery.c.tenant_id if tenant_id is None else tenant_id
        asked = asked.where(delivery.c.endpoint_id == func.endpoint_key(owner, wanted.url))
    return asked
