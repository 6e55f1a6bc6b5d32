"""Deliveries: see who has some due, lease them, record what came of it. The rows themselves are written by the ledger.

Short transactions only: no connection is held while a webhook is on its way. Locks are taken on deliveries first, on
endpoints after them; whoever comes the other way passes over what is locked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from todoke.model.delivery import ATTEMPTS_MAX, Delivery, DeliveryState, Verdict
from todoke.store.database import Connection, Database, queries
from todoke.store.endpoint_rows import Failing
from todoke.store.transactions import columns

SQL = queries("deliveries")
CLAIM_TURN = 0x746F646F6B65_77  # "todoke" and a w; advisory locks of a database share one space
TENANTS_MAX = 200
TENANT_ENDPOINTS_MAX = 32
STAGED_MAX = 500
VISITED_MAX = 100
COUNT_MAX = 10_000
MEASURED_ENDPOINTS_MAX = 1_000


@dataclass(frozen=True)
class Due:
    """An endpoint with deliveries due. leased: how many are being sent, by whomever. cap: None for the usual.

    is_open: its breaker is, and a probe may be sent. is_blocked: nothing may.
    """

    tenant_id: str
    endpoint_id: UUID
    leased: int
    cap: int | None
    is_open: bool
    is_failing: bool
    is_blocked: bool


@dataclass(frozen=True)
class Measured:
    """How things stand: endpoints by their standing, parked deliveries, and how long the oldest due one has waited."""

    disabled: int
    open: int
    cooling: int
    parked: int
    oldest_due_seconds: float


class Deliveries:
    """usual_cap: deliveries in flight to one endpoint. Raises Unavailable when PostgreSQL is away."""

    def __init__(self, database: Database, usual_cap: int) -> None:
        self._database = database
        self._usual_cap = usual_cap

    async def look(self, after_tenant: str, pivot: UUID, endpoints_max: int) -> list[Due]:
        """Endpoints with deliveries due, of tenants after `after_tenant`, each tenant's from `pivot` on and around."""
        rows = await self._database.fetch(
            SQL["look"], after_tenant, TENANTS_MAX, pivot, TENANT_ENDPOINTS_MAX, endpoints_max
        )
        return [Due(**row) for row in rows]

    async def claim(self, amounts: Mapping[tuple[str, UUID], int], lease_seconds: float) -> list[Delivery]:
        """Take at most so many due deliveries of each (tenant, endpoint) for `lease_seconds`."""
        asked = columns(list(amounts.items()), lambda item: (*item[0], item[1]))
        async with self._database.transaction() as connection:
            await connection.execute(SQL["claim_in_turn"], CLAIM_TURN)
            rows = await connection.fetch(SQL["claim"], *asked, lease_seconds, self._usual_cap)
            # Progress that newer progress, or the end of the job, has overtaken has no body any more.
            await _forget(connection, [(row["job_id"], row["sequence"]) for row in rows if row["body"] is None])
        return [Delivery(**row) for row in rows if row["body"] is not None]

    async def record(self, verdicts: Sequence[Verdict]) -> list[bool]:
        """Store verdicts. False: the lease has passed on, and the verdict was not a success."""
        numbered = [verdict for verdict in verdicts if not verdict.delivery.is_progress]
        async with self._database.transaction() as connection:
            await connection.execute(SQL["steady"])
            rows = await connection.fetch(SQL["record"], *columns(numbered, _spelled)) if numbered else []
            recorded = {(row["job_id"], row["sequence"], row["lease"]) for row in rows}
            is_kept = [verdict.delivery.is_progress or _key(verdict) in recorded for verdict in verdicts]
            current = [verdict for verdict, is_current in zip(verdicts, is_kept, strict=True) if is_current]
            await Failing(connection, self._usual_cap).learn(current)
            progress = [each.delivery for each in verdicts if each.delivery.is_progress]
            await _forget(connection, [(each.job_id, each.sequence) for each in progress])
        return is_kept

    async def stage(self) -> tuple[int, int]:
        """Move what has come due to where claims see it. Returns how many were moved, and how many leases were lost."""
        [row] = await self._database.fetch(SQL["stage"], STAGED_MAX, ATTEMPTS_MAX)
        return row["staged"], row["lost"]

    async def withdraw(self, endpoint_ids: Sequence[UUID]) -> None:
        """Hold or park what is ready at endpoints that were blocked or disabled meanwhile."""
        await self._database.fetch(SQL["withdraw"], endpoint_ids, STAGED_MAX)

    async def release(self, window_seconds: float) -> int:
        """Let go what endpoints held whose block is over; where the breaker is open, one delivery as a probe."""
        async with self._database.transaction() as connection:
            visited = await connection.fetch(SQL["visit"], VISITED_MAX)
            if not visited:
                return 0
            ids = [row["id"] for row in visited]
            [row] = await connection.fetch(SQL["release"], ids, STAGED_MAX, window_seconds)
            return int(row["released"])

    async def find_strays(self, after: UUID) -> UUID:
        """Have `release` visit endpoints that hold something and were not to be visited, a batch of them after `after`.

        Returns where the next look goes on.
        """
        rows = await self._database.fetch(SQL["find_strays"], after, STAGED_MAX)
        return rows[-1]["endpoint_id"] if len(rows) == STAGED_MAX else UUID(int=0)

    async def next_due_seconds(self) -> float | None:
        """Seconds until `stage` or `release` has something to do, or None when nothing waits."""
        seconds = (await self._database.fetch(SQL["next_due"]))[0]["seconds"]
        return None if seconds is None else max(0.0, float(seconds))

    async def measure(self) -> Measured:
        """What monitors show; cheap, however much there is."""
        [row] = await self._database.fetch(SQL["measure"], COUNT_MAX, MEASURED_ENDPOINTS_MAX)
        return Measured(**row)


async def _forget(connection: Connection, keys: Sequence[tuple[UUID, int]]) -> None:
    if keys:
        await connection.execute(SQL["forget"], *columns(keys, lambda key: key))


def _key(verdict: Verdict) -> tuple[UUID, int, int]:
    return verdict.delivery.job_id, verdict.delivery.sequence, verdict.delivery.lease


def _spelled(verdict: Verdict) -> tuple[object, ...]:
    delivery, answer = verdict.delivery, verdict.answer
    return (
        delivery.job_id,
        delivery.sequence,
        delivery.lease,
        verdict.state,
        verdict.reason,
        0 if verdict.state is not DeliveryState.PENDING else verdict.delay,
        verdict.is_charged,
        answer.status,
        answer.reason,
        answer.started_at,
        answer.seconds,
        answer.peer,
        answer.excerpt,
        delivery.attempt,
    )
