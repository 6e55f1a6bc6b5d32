"""The ledger's other room: what sweeps do for jobs that hints, workers or commits have left lying."""

from collections.abc import Collection, Sequence
from uuid import UUID

from todoke.model.dead_letter import DeadLetter, LetterVerdict
from todoke.store.database import Connection, queries
from todoke.store.transactions import Transactions, columns

SQL = queries("repair")

# Any constant will do, as long as every sweep asks for the same.
SWEEP_LOCK = 7_064_654
# How often a hint must have been sent again before a dead letter may end its job.
DEAD_DISPATCHES = 3


class Repair(Transactions):
    """Every call is bounded and may be repeated, by any number of workers. Raises Unavailable without PostgreSQL."""

    async def end_doomed(self, jobs_max: int) -> dict[UUID, str]:
        """End jobs that expired, were canceled or lost too many workers; the answer holds the error code of each."""

        async def work(connection: Connection) -> dict[UUID, str]:
            if not await _leads(connection):
                return {}
            rows = await connection.fetch(SQL["end_doomed"], jobs_max)
            self._ring(connection, rows)
            return {row["id"]: row["error_code"] for row in rows}

        return await self._transact(work)

    async def redispatch(self, jobs_max: int, again_seconds: float, *, is_started_only: bool = False) -> list[UUID]:
        """Name due jobs nobody has come for; each is named again after `again_seconds`, doubling to 15 minutes.

        is_started_only: leave out those that were never started and have no concurrency limit, because their hints
        are still in the queue.
        """

        async def work(connection: Connection) -> list[UUID]:
            if not await _leads(connection):
                return []
            rows = await connection.fetch(SQL["redispatch"], jobs_max, again_seconds, not is_started_only)
            return [row["id"] for row in rows]

        return await self._transact(work)

    async def count_overdue(self, jobs_max: int) -> int:
        """How many jobs that were never started `redispatch` would name, counted up to `jobs_max`."""
        return int((await self._database.fetch(SQL["count_overdue"], jobs_max))[0]["overdue"])

    async def count_due(self, jobs_max: int) -> int:
        """How many jobs that were never started are due, counted up to `jobs_max`."""
        return int((await self._database.fetch(SQL["count_due"], jobs_max))[0]["due"])

    async def dispatch_soon(self, ids: Sequence[UUID]) -> None:
        """Let the next sweep send the hints of these jobs, which the queue did not take."""
        await self._run("dispatch_soon", list(ids))

    async def put_off(self, ids: Sequence[UUID], seconds: float) -> None:
        """Let a sweep send the hints of these jobs `seconds` from now, unless somebody holds them by then."""
        await self._run("put_off", list(ids), seconds)

    async def bury(self, letters: Sequence[DeadLetter]) -> list[LetterVerdict]:
        """Keep dead letters and do for their jobs what they mean, in one transaction; verdicts in the order asked.

        A job ends as DEAD_LETTERED only if it is due, unclaimed and was named several times in vain.
        """

        async def work(connection: Connection) -> list[LetterVerdict]:
            named = sorted({letter.job_id for letter in letters if letter.job_id is not None})
            rows = await connection.fetch(SQL["bury"], named, DEAD_DISPATCHES)
            self._ring(connection, rows)
            ended = {row["id"] for row in rows}
            verdicts = [_verdict(letter, ended) for letter in letters]
            kept = columns(
                list(
                    {letter.id: (letter, verdict) for letter, verdict in zip(letters, verdicts, strict=True)}.values()
                ),
                lambda pair: (
                    pair[0].id,
                    pair[0].body,
                    pair[0].job_id,
                    pair[1],
                    pair[0].receive_count,
                    pair[0].sent_at,
                ),
            )
            await connection.execute(SQL["keep_letters"], *kept)
            return verdicts

        return await self._transact(work)

    async def check(self) -> None:
        """Raises Unavailable while jobs cannot be changed."""
        await self._database.check_writable()

    async def enroll(self, worker_id: str, host: str, pid: int, slots: int, busy: int, types: Collection[str]) -> None:
        """Say that a worker lives, and how many of its slots are busy."""
        await self._run("enroll", worker_id, host, pid, slots, busy, sorted(types))

    async def retire(self, worker_id: str) -> None:
        """Strike out a worker that stops, and those not heard of for an hour."""
        await self._run("retire", worker_id)

    async def _run(self, query: str, *arguments: object) -> None:
        async def work(connection: Connection) -> None:
            await connection.execute(SQL[query], *arguments)

        await self._transact(work)


async def _leads(connection: Connection) -> bool:
    """Whether this sweep is the one that works now; the others leave it to it."""
    return bool((await connection.fetch(SQL["lead"], SWEEP_LOCK))[0]["is_leader"])


def _verdict(letter: DeadLetter, ended: Collection[UUID]) -> LetterVerdict:
    if letter.job_id is None:
        return LetterVerdict.UNPARSEABLE
    return LetterVerdict.FAILED if letter.job_id in ended else LetterVerdict.DROPPED
