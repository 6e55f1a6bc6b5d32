"""Many deliveries at once, the clock of their rows moved by hand, and the notifier's rounds without its loops."""

from collections.abc import Sequence
from uuid import UUID

from todoke.model.delivery import Answer, Delivery, DeliveryState, Reason, Verdict, judge
from todoke.store.database import Database
from todoke.store.deliveries import Deliveries, Due

CAP = 4
WINDOW_SECONDS = 120 * 3600.0
NO_PIVOT = UUID(int=0)

OWE = """
WITH made AS (
    SELECT gen_random_uuid() AS job_id, asked.url, asked.endpoint_id
    FROM (SELECT url, endpoint_key($1::text, url) AS endpoint_id FROM unnest($2::text[]) AS url) AS asked
    CROSS JOIN generate_series(1, $3::int)
), told AS (
    INSERT INTO event (job_id, sequence, tenant_id, type, at, body)
    SELECT job_id, 3, $1::text, 'job.succeeded', clock_timestamp(), '{"jobId":"' || job_id || '"}' FROM made
)
INSERT INTO delivery (job_id, sequence, tenant_id, url, endpoint_id, due_at, created_at, standing)
SELECT job_id, 3, $1::text, url, endpoint_id, clock_timestamp(), clock_timestamp(), $4::text FROM made
"""


async def owe_many(
    database: Database, urls: Sequence[str], each: int = 1, *, tenant_id: str = "default", standing: str = "ready"
) -> None:
    """So many deliveries of every URL, as if their jobs had ended just now."""
    await database.fetch(OWE, tenant_id, list(urls), each, standing)


async def endpoint_of(database: Database, url: str, tenant_id: str = "default") -> UUID:
    return UUID(str((await database.fetch("SELECT endpoint_key($1::text, $2::text)", tenant_id, url))[0][0]))


async def count(database: Database, condition: str = "true") -> int:
    """How many deliveries the condition holds of."""
    return int((await database.fetch(f"SELECT count(*) FROM delivery WHERE {condition}"))[0][0])


async def standings(database: Database) -> dict[str, int]:
    """How many stand how: the state, or of the PENDING ones the standing."""
    rows = await database.fetch(
        "SELECT CASE state WHEN 'PENDING' THEN standing ELSE state END AS stands, count(*) FROM delivery GROUP BY 1"
    )
    return {row["stands"]: row["count"] for row in rows}


async def unblock(database: Database) -> None:
    """Every block ends now."""
    await database.fetch("UPDATE endpoint SET blocked_until = clock_timestamp() WHERE blocked_until IS NOT NULL")


async def hurry(database: Database) -> None:
    """What waits for its next attempt, or for the end of its lease, is due now."""
    await database.fetch(
        "UPDATE delivery SET due_at = clock_timestamp() - interval '1 second'"
        " WHERE state = 'PENDING' AND standing IN ('waiting', 'leased')"
    )


async def age(database: Database, hours: float) -> None:
    """Everything is owed that much longer."""
    await database.fetch("UPDATE delivery SET owed_since = owed_since - $1::float8 * interval '1 hour'", hours)


async def round_of(deliveries: Deliveries, window_seconds: float = WINDOW_SECONDS) -> None:
    """What a stager does in a turn, its sweep for strays too."""
    await deliveries.find_strays(NO_PIVOT)
    await deliveries.stage()
    await deliveries.release(window_seconds)


async def seen(deliveries: Deliveries) -> list[Due]:
    """What a claimer sees, after it has withdrawn what is blocked."""
    found = await deliveries.look("", NO_PIVOT, 400)
    blocked = [due.endpoint_id for due in found if due.is_blocked]
    if blocked:
        await deliveries.withdraw(blocked)
    return [due for due in found if not due.is_blocked]


async def claimed(deliveries: Deliveries, most: int = 100, lease_seconds: float = 60) -> list[Delivery]:
    """Everything a claim is allowed to take, up to `most` of each endpoint."""
    amounts = {(due.tenant_id, due.endpoint_id): most for due in await seen(deliveries)}
    return await deliveries.claim(amounts, lease_seconds) if amounts else []


def came_to(delivery: Delivery, status: int | None, **values: object) -> Verdict:
    """The verdict on an answer; None for one that never came."""
    reason = Reason.TIMEOUT if status is None else Reason.DELIVERED if status < 300 else Reason.HTTP_STATUS
    return judge(delivery, Answer(reason, status, **values), WINDOW_SECONDS)  # type: ignore[arg-type]


def refused(delivery: Delivery) -> Verdict:
    """A fault of our own: nothing was sent."""
    return judge(delivery, Answer(Reason.SENDER), WINDOW_SECONDS)


def is_parked(verdict: Verdict) -> bool:
    return verdict.state is DeliveryState.PARKED
