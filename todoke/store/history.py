"""How long jobs of a type took lately, for telling callers when to come back. A bounded look, off every hot path."""

from dataclasses import dataclass

from todoke.store.database import Database, queries

SQL = queries("history")

ROWS_MAX = 2_000
ENDED_MAX = 100


@dataclass(frozen=True)
class Ended:
    """A job that ran to an end. Seconds: `waited` from being due to its start, `ran` from there to the end."""

    waited: float
    ran: float


class History:
    """What is past. Raises Unavailable when PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ended(self, tenant_id: str, job_type: str) -> list[Ended]:
        """The newest jobs of this type that ended, retries included, canceled ones not; at most 100.

        They are looked for among the tenant's newest 2,000 jobs.
        """
        rows = await self._database.fetch(SQL["ended"], tenant_id, job_type, ROWS_MAX, ENDED_MAX)
        return [Ended(row["waited"], row["ran"]) for row in rows]
