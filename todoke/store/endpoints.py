"""Endpoints as their tenants see them: how they stand, and disabling and enabling them.

An endpoint has a row only once something was to be remembered of it. Here its lock comes before those of deliveries,
which are passed over where somebody else holds them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Double, Select, cast, extract, func, select, text

from todoke.model.endpoint import DisabledReason, Endpoint, EndpointState, disabled, enabled, warning
from todoke.model.event import Hint
from todoke.store.database import Connection, Database, queries
from todoke.store.delivery_log import REPLAY_MAX, owe_disabled
from todoke.store.endpoint_rows import Failing, endpoint_of
from todoke.store.tables import delivery, endpoint
from todoke.store.transactions import Transactions, columns

SQL = queries("endpoints")

# What is parked and held is counted up to this.
COUNT_MAX = 1_000


@dataclass(frozen=True)
class Seen:
    """An endpoint as it stands. Moments are ISO 8601 UTC.

    failing_seconds: since its first failure after the last success. parked, held: deliveries, counted up to 1,000.
    """

    id: UUID
    tenant_id: str
    url: str
    state: str
    disabled_reason: str | None
    disabled_at: str | None
    failures: int
    failing_since: str | None
    failing_seconds: float | None
    is_open: bool
    is_blocked: bool
    blocked_until: str | None
    cap: int | None
    parked: int
    held: int
    updated_at: str

    @property
    def breaker(self) -> str:
        """`open`: it failed too often, one delivery at a time probes it; `cooling`: it asked to be left alone."""
        if self.state == EndpointState.DISABLED:
            return "closed"
        return "open" if self.is_open else "cooling" if self.is_blocked else "closed"

    @property
    def warning(self) -> str | None:
        """For how long it has been failing, when that is long; at 120 hours it may be disabled."""
        if self.state == EndpointState.DISABLED:
            return None
        return warning(self.failing_seconds or 0)

    def public(self) -> dict[str, Any]:
        """The endpoint object of the API."""
        return {
            "id": str(self.id),
            "callbackUrl": self.url,
            "state": self.state.lower(),
            "disabledReason": self.disabled_reason,
            "disabledAt": self.disabled_at,
            "failures": self.failures,
            "failingSince": self.failing_since,
            "warning": self.warning,
            "breaker": self.breaker,
            "blockedUntil": self.blocked_until if self.breaker != "closed" and self.is_blocked else None,
            "cap": self.cap,
            "parked": self.parked,
            "held": self.held,
            "updatedAt": self.updated_at,
        }


class Callbacks:
    """What a submit needs to know of callbacks. Raises Unavailable when PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def are_disabled(self, callbacks: Sequence[tuple[str, str]]) -> list[bool]:
        """Of each (tenant, URL) whether nothing is sent to it, in the order asked."""
        rows = await self._database.fetch(SQL["disabled"], *columns(callbacks, tuple))
        places = {row["place"] - 1 for row in rows}
        return [place in places for place in range(len(callbacks))]


class Endpoints(Transactions):
    """Raises Unavailable when PostgreSQL is away."""

    async def listed(
        self, tenant_id: str | None, rows_max: int, after: UUID | None = None, state: EndpointState | None = None
    ) -> list[Seen]:
        """The endpoints of a tenant, or of all, behind one of them, in the order of their ids."""
        asked = _seen().order_by(endpoint.c.id).limit(rows_max)
        if tenant_id is not None:
            asked = asked.where(endpoint.c.tenant_id == tenant_id)
        if after is not None:
            asked = asked.where(endpoint.c.id > after)
        if state is not None:
            asked = asked.where(endpoint.c.state == state)
        return await self._read(asked)

    async def one(self, endpoint_id: UUID, tenant_id: str) -> Seen | None:
        """One endpoint, or None when this tenant has none such."""
        asked = _seen().where(endpoint.c.id == endpoint_id, endpoint.c.tenant_id == tenant_id)
        return next(iter(await self._read(asked)), None)

    async def tenant_of(self, endpoint_id: UUID) -> str | None:
        """Whose it is; for operators."""
        async with self._database.read() as connection:
            return (await connection.execute(select(endpoint.c.tenant_id).where(endpoint.c.id == endpoint_id))).scalar()

    async def know(self, tenant_id: str, url: str) -> UUID:
        """The id of a callback's endpoint, which has a row from now on."""
        async with self._database.transaction() as connection:
            return UUID(str((await connection.fetch(SQL["known"], tenant_id, url))[0]["id"]))

    async def disable(self, endpoint_id: UUID, tenant_id: str) -> bool:
        """Send nothing more; what is owed is parked by the notifiers, a retry when it is due. False: none such."""

        async def work(connection: Connection) -> bool:
            found = await _hold(connection, endpoint_id, tenant_id)
            if found and found[0].state is not EndpointState.DISABLED:
                stands, now = found
                await Failing(connection, 0).store([disabled(stands, DisabledReason.OPERATOR, now)])
            return found is not None

        return await self._transact(work)

    async def enable(self, endpoint_id: UUID, tenant_id: str) -> tuple[int, bool] | None:
        """Send again, as if it had never failed, and owe anew what was parked meanwhile: up to 10,000 deliveries.

        Says how many, and whether there are more; asked again, an endpoint that is not disabled keeps how it stands.
        None: no such endpoint.
        """

        async def work(connection: Connection) -> tuple[int, bool] | None:
            found = await _hold(connection, endpoint_id, tenant_id)
            if found is None:
                return None
            stands, now = found
            if stands.state is EndpointState.DISABLED:
                await Failing(connection, 0).store([enabled(stands, now)])
            owed, is_more = await owe_disabled(connection, tenant_id, endpoint_id, REPLAY_MAX)
            self._announce(connection, self._channel, [Hint(*each, 0) for each in owed[:1]])
            return len(owed), is_more

        return await self._transact(work)

    async def _read(self, asked: Select[Any]) -> list[Seen]:
        async with self._database.read() as connection:
            return [Seen(**row) for row in (await connection.execute(asked)).mappings()]


async def _hold(connection: Connection, endpoint_id: UUID, tenant_id: str) -> tuple[Endpoint, float] | None:
    """The endpoint, locked, and the database's time."""
    rows = await connection.fetch(SQL["hold"], endpoint_id, tenant_id)
    return (endpoint_of(dict(rows[0])), rows[0]["now"]) if rows else None


def _seen() -> Select[Any]:
    return select(
        endpoint.c.id,
        endpoint.c.tenant_id,
        endpoint.c.url,
        endpoint.c.state,
        endpoint.c.disabled_reason,
        func.utc(endpoint.c.disabled_at).label("disabled_at"),
        endpoint.c.failures,
        func.utc(endpoint.c.failing_since).label("failing_since"),
        cast(extract("epoch", func.clock_timestamp() - endpoint.c.failing_since), Double).label("failing_seconds"),
        endpoint.c.is_open,
        func.coalesce(endpoint.c.blocked_until > func.clock_timestamp(), False).label("is_blocked"),
        func.utc(endpoint.c.blocked_until).label("blocked_until"),
        endpoint.c.cap,
        _count("delivery.state = 'PARKED'").label("parked"),
        _count("delivery.state = 'PENDING' AND delivery.standing = 'held'").label("held"),
        func.utc(endpoint.c.updated_at).label("updated_at"),
    )


def _count(condition: str) -> Any:
    """How many of the endpoint's deliveries; spelled as the conditions of the indexes are."""
    counted = (
        select(delivery.c.sequence)
        .where(text(condition), delivery.c.endpoint_id == endpoint.c.id)
        .correlate(endpoint)
        .limit(COUNT_MAX)
        .subquery()
    )
    return select(func.count()).select_from(counted).scalar_subquery()
