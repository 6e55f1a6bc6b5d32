"""Deliveries in every standing, as the ledger makes them and the notifier would leave them."""

from uuid import UUID

import asyncpg

from tests.make import TENANT, accept, start, succeed
from todoke.model.event import TERMINAL
from todoke.store.database import Database
from todoke.store.ledger import Ledger

URL = "https://example.com/hook"


async def owe(ledger: Ledger, url: str = URL, tenant_id: str = TENANT) -> UUID:
    """A job that has succeeded and owes a delivery, of its event number 3."""
    job_id = await accept(
        ledger, callback_url=url, callback_events=TERMINAL, metadata='{"order": "届け"}', tenant_id=tenant_id
    )
    await succeed(ledger, await start(ledger, job_id))
    return job_id


async def park(database: Database, job_id: UUID, reason: str = "timeout", age_seconds: float = 0) -> None:
    """Its delivery is given up after twelve attempts, so long ago."""
    await database.fetch(
        "UPDATE delivery SET state = 'PARKED', standing = 'waiting', attempt = 12, lease = lease + 12,"
        " last_reason = $2, finished_at = clock_timestamp() - $3::float8 * interval '1 second',"
        " owed_since = clock_timestamp() - interval '4 days' WHERE job_id = $1",
        job_id,
        reason,
        age_seconds,
    )


async def owe_parked(
    ledger: Ledger, database: Database, *, url: str = URL, tenant_id: str = TENANT, **parking: object
) -> UUID:
    """A job whose delivery was given up; see `park`."""
    job_id = await owe(ledger, url, tenant_id)
    await park(database, job_id, **parking)  # type: ignore[arg-type]
    return job_id


async def put(database: Database, job_id: UUID, state: str, standing: str, attempt: int = 1) -> None:
    """Its delivery stands so."""
    await database.fetch(
        "UPDATE delivery SET state = $2, standing = $3, attempt = $4::int, lease = $4::int,"
        " due_at = clock_timestamp() + interval '1 hour',"
        " finished_at = CASE WHEN $2 <> 'PENDING' THEN clock_timestamp() END WHERE job_id = $1",
        job_id,
        state,
        standing,
        attempt,
    )


async def attempted(database: Database, job_id: UUID, attempt: int, **made: object) -> None:
    """One attempt at its delivery that has ended."""
    values = {"status": 500, "reason": "http_status", "peer": "192.0.2.1", "excerpt": "<b>no</b>", "lease": attempt}
    values |= made
    await database.fetch(
        "INSERT INTO delivery_attempt (job_id, sequence, lease, tenant_id, attempt, started_at, seconds, status,"
        " reason, peer, excerpt) SELECT job_id, sequence, $3, tenant_id, $2, clock_timestamp(), 0.25, $4, $5, $6, $7"
        " FROM delivery WHERE job_id = $1",
        job_id,
        attempt,
        *(values[name] for name in ("lease", "status", "reason", "peer", "excerpt")),
    )


async def disable(database: Database, url: str = URL, tenant_id: str = TENANT, reason: str = "gone") -> UUID:
    """The callback's endpoint is disabled."""
    return await endpoint(
        database, url, tenant_id, state="DISABLED", disabled_reason=reason, disabled_at="now", failures=1
    )


async def endpoint(database: Database, url: str = URL, tenant_id: str = TENANT, **columns: object) -> UUID:
    """The callback's endpoint has a row of these values; those of times are PostgreSQL's words for a moment."""
    names = ["url", "tenant_id", *columns, "updated_at"]
    values = [url, tenant_id, *columns.values(), "now"]
    spelled = ", ".join(
        f"${place}::text::timestamptz" if name.endswith(("_at", "_until", "_since")) else f"${place}"
        for place, name in enumerate(names, 1)
    )
    [row] = await database.fetch(
        f"INSERT INTO endpoint (id, {', '.join(names)}) VALUES (endpoint_key($2::text, $1::text), {spelled})"
        " RETURNING id",
        *values,
    )
    return UUID(str(row["id"]))


async def delivery_row(database: Database, job_id: UUID) -> asyncpg.Record:
    """Its delivery as it stands, with `body`, the stored text of its event, and ages in seconds."""
    [row] = await database.fetch(
        "SELECT delivery.*, event.body, extract(epoch FROM clock_timestamp() - owed_since)::float8 AS owed_seconds,"
        " extract(epoch FROM due_at - clock_timestamp())::float8 AS due_seconds"
        " FROM delivery JOIN event USING (job_id, sequence) WHERE job_id = $1 AND sequence > 0",
        job_id,
    )
    return row
