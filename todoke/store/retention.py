"""What goes when its time is over or its tenant says so: results, jobs with their events, in the end tombstones."""

from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from todoke.model.errors import NotFinished
from todoke.store.database import Connection, Database, queries

SQL = queries("retention")

# Any constant will do, as long as every pruner asks for the same.
PRUNE_LOCK = 7_064_655
# Why there is a tombstone.
AGE, ERASED = "age", "erased"

Work = Callable[[Connection], Awaitable[int]]


class Retention:
    """Each call is one transaction over at most `rows_max` rows and says how many there were; 0 too when another
    pruner is at work. Ages are in days of the database's clock. Raises Unavailable when PostgreSQL is away.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def expire_results(self, days: float, rows_max: int, *, is_store_known: bool = True) -> int:
        """Take the results of old jobs from the ledger, in the same commit that says so and names their objects.

        is_store_known: whether attempts that left no result may have left objects.
        """

        async def work(connection: Connection) -> int:
            ids = [row["id"] for row in await connection.fetch(SQL["old_results"], days, rows_max)]
            return len(await connection.fetch(SQL["expire"], ids, is_store_known))

        return await self._alone(work)

    async def erase_jobs(self, days: float, rows_max: int) -> int:
        """Put tombstones in the place of old jobs whose results have expired and whose deliveries have ended."""

        async def work(connection: Connection) -> int:
            ids = [row["id"] for row in await connection.fetch(SQL["old_jobs"], days, rows_max)]
            # A parked delivery may have been asked for again since the jobs were chosen.
            deliveries = await connection.fetch(SQL["owed"], ids)
            owed = {row["job_id"] for row in deliveries if row["state"] == "PENDING"}
            return len(await connection.fetch(SQL["bury"], [id_ for id_ in ids if id_ not in owed], AGE))

        return await self._alone(work)

    async def erase(self, job_id: UUID, tenant_id: str, *, is_store_known: bool = True) -> bool:
        """Put a tombstone in the place of one finished job and all that belongs to it, deliveries still owed too.

        False: this tenant has no such job. Raises NotFinished while it runs.
        """
        async with self._database.transaction() as connection:
            rows = await connection.fetch(SQL["asked"], job_id, tenant_id)
            if not rows:
                return False
            if not rows[0]["has_ended"]:
                raise NotFinished("job not finished: cancel it first")
            # Locked before they go, in the order everyone takes.
            await connection.fetch(SQL["owed"], [job_id])
            await connection.fetch(SQL["expire"], [job_id], is_store_known)
            await connection.fetch(SQL["bury"], [job_id], ERASED)
            return True

    async def drop_tombstones(self, days: float, rows_max: int) -> int:
        """Forget jobs that were erased long ago."""

        async def work(connection: Connection) -> int:
            return len(await connection.fetch(SQL["drop_tombstones"], days, rows_max))

        return await self._alone(work)

    async def drop_callback_tests(self, days: float, rows_max: int) -> int:
        """Forget tests of callbacks that were asked for long ago; says how many."""

        async def work(connection: Connection) -> int:
            return len(await connection.fetch(SQL["drop_callback_tests"], days, rows_max))

        return await self._alone(work)

    async def take_orphans(self, rows_max: int) -> list[str]:
        """Key prefixes of objects nothing refers to any more; named again, later and later, until dropped."""
        async with self._database.transaction() as connection:
            return [row["prefix"] for row in await connection.fetch(SQL["take_orphans"], rows_max)]

    async def drop_orphans(self, prefixes: Sequence[str]) -> None:
        """The store has nothing below these prefixes any more."""
        async with self._database.transaction() as connection:
            await connection.execute(SQL["drop_orphans"], list(prefixes))

    async def _alone(self, work: Work) -> int:
        async with self._database.transaction() as connection:
            is_leader = (await connection.fetch(SQL["lead"], PRUNE_LOCK))[0]["is_leader"]
            return await work(connection) if is_leader else 0
