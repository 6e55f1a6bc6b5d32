"""Jobs with a long log, written by SQL: what no worker would write in a test's time."""

from uuid import UUID

from tests.make import accept, start
from todoke.model.job import Attempt
from todoke.store.database import Database
from todoke.store.ledger import Ledger

# The likeness of the job's newest event, again and again.
FILL = """
INSERT INTO event (job_id, sequence, tenant_id, type, at, body)
SELECT
    job_id, n, tenant_id, type, at,
    replace(body, format('"sequence" : %s,', sequence), format('"sequence" : %s,', n))
FROM event, generate_series(sequence + 1, sequence + $2) AS n
WHERE job_id = $1 AND sequence = (SELECT sequence FROM job WHERE id = $1)
"""
RAISE = "UPDATE job SET sequence = sequence + $2 WHERE id = $1"


async def long_job(database: Database, ledger: Ledger, events: int, **changes: object) -> Attempt:
    """A running job with a log of `events`, the last of which is not its end."""
    attempt = await start(ledger, await accept(ledger, **changes))
    await grow(database, attempt.id, events - 2)
    return attempt


async def grow(database: Database, job_id: UUID, events: int) -> None:
    """Make the log that much longer, in one commit nobody is told of."""
    async with database.transaction() as connection:
        # The database's guards let a job go one step at a time.
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(FILL, job_id, events)
        await connection.execute(RAISE, job_id, events)
