"""The ledger: the only place that changes a job. Each call is one transaction of rows, events, deliveries, NOTIFY."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeVar
from uuid import UUID

import asyncpg

from todoke.model.errors import KeyReused
from todoke.model.event import Hint
from todoke.model.job import Accepted, Attempt, NewJob, Outcome, Progress
from todoke.store.bell import ring
from todoke.store.database import Connection, Database, queries

SQL = queries("ledger")
DEADLOCK_TRIES = 5

Answer = TypeVar("Answer")


class Ledger:
    """Every state change of a job, in batches. Raises Unavailable when PostgreSQL is away."""

    def __init__(self, database: Database, channel: str) -> None:
        self._database = database
        self._channel = channel

    async def accept(self, jobs: Sequence[NewJob], redispatch_seconds: float) -> list[Accepted | KeyReused]:
        """Insert jobs; the answers stand in the order asked.

        A job whose idempotency key is taken answers with the job that holds it, or with KeyReused when that
        one was submitted with another body. Sweeps look for hints lost after `redispatch_seconds`.
        """
        columns = _columns(
            jobs,
            lambda job: (
                job.id,
                job.tenant_id,
                job.type,
                job.params,
                job.metadata,
                job.callback_url,
                ",".join(job.callback_events),
                job.idempotency_key,
                job.request_digest,
                job.max_attempts,
                job.timeout_seconds,
            ),
        )

        async def work(connection: Connection) -> list[Accepted | KeyReused]:
            rows = await connection.fetch(SQL["accept"], *columns, redispatch_seconds)
            await ring(connection, self._channel, _hints(rows))
            new = {row["id"] for row in rows}
            holders = await _holders(connection, [job for job in jobs if job.id not in new])
            return [Accepted(job.id, is_replay=False) if job.id in new else holders[job.id] for job in jobs]

        return await self._transact(work)

    async def claim(
        self, ids: Sequence[UUID], types: Collection[str], worker_id: str, lease_seconds: float
    ) -> list[Attempt]:
        """Take what is claimable among `ids`; jobs of other types, held or finished ones are left alone."""

        async def work(connection: Connection) -> list[Attempt]:
            rows = await connection.fetch(SQL["claim"], list(ids), list(types), worker_id, lease_seconds)
            await ring(connection, self._channel, _hints(rows))
            return [_attempt(row) for row in rows]

        return await self._transact(work)

    async def renew(self, held: Sequence[tuple[UUID, int]], worker_id: str, lease_seconds: float) -> set[UUID]:
        """Prolong leases (id, lease); the answer names the jobs still held."""
        ids, leases = [id_ for id_, _ in held], [lease for _, lease in held]

        async def work(connection: Connection) -> set[UUID]:
            rows = await connection.fetch(SQL["renew"], ids, leases, worker_id, lease_seconds)
            return {row["id"] for row in rows}

        return await self._transact(work)

    async def report(self, reports: Sequence[Progress], worker_id: str) -> list[bool]:
        """Store progress, at most one a job in a batch. False: the lease is no longer ours."""
        columns = _columns(reports, lambda report: (report.id, report.lease, report.percent, report.message))
        return await self._change("report", [report.id for report in reports], *columns, worker_id)

    async def settle(self, outcomes: Sequence[Outcome], worker_id: str) -> list[bool]:
        """End attempts, at most one a job in a batch. False: the lease is no longer ours and nothing was touched."""
        columns = _columns(
            outcomes,
            lambda end: (end.id, end.lease, end.state, end.error_code, end.error, end.delay, end.is_charged),
        )
        kept = [
            (end.id, position, file.name, file.media_type, file.size, file.sha256, file.content, file.object_key)
            for end in outcomes
            for position, file in enumerate(end.artifacts)
        ]
        artifacts = [list(column) for column in zip(*kept, strict=True)] or [[] for _ in range(8)]
        return await self._change("settle", [end.id for end in outcomes], *columns, worker_id, *artifacts)

    async def redispatch(self, jobs_max: int, again_seconds: float) -> list[UUID]:
        """Name due jobs nobody has come for; each is named again after `again_seconds`, doubling to 15 minutes."""
        return await self._ids("redispatch", jobs_max, again_seconds)

    async def dispatch_soon(self, ids: Sequence[UUID]) -> None:
        """Let the next sweep send the hints of these jobs, which the queue did not take."""
        await self._ids("dispatch_soon", list(ids))

    async def put_off(self, ids: Sequence[UUID], seconds: float) -> None:
        """Let a sweep send the hints of these jobs `seconds` from now, unless somebody holds them by then."""
        await self._ids("put_off", list(ids), seconds)

    async def standing(self, ids: Sequence[UUID]) -> dict[UUID, asyncpg.Record]:
        """What became of jobs that could not be claimed: state, type, is_held, is_due by id."""
        return {row["id"]: row for row in await self._database.fetch(SQL["standing"], list(ids))}

    async def _change(self, query: str, ids: Sequence[UUID], *arguments: object) -> list[bool]:
        async def work(connection: Connection) -> list[bool]:
            rows = await connection.fetch(SQL[query], *arguments)
            await ring(connection, self._channel, _hints(rows))
            changed = {row["id"] for row in rows}
            return [id_ in changed for id_ in ids]

        return await self._transact(work)

    async def _ids(self, query: str, *arguments: object) -> list[UUID]:
        async def work(connection: Connection) -> list[UUID]:
            return [row["id"] for row in await connection.fetch(SQL[query], *arguments)]

        return await self._transact(work)

    async def _transact(self, work: Callable[[Connection], Awaitable[Answer]]) -> Answer:
        """Run `work` in one transaction; a deadlock undid everything, so it may simply be run again."""
        for _ in range(DEADLOCK_TRIES - 1):
            try:
                async with self._database.transaction() as connection:
                    return await work(connection)
            except asyncpg.DeadlockDetectedError:
                continue
        async with self._database.transaction() as connection:
            return await work(connection)


Item = TypeVar("Item")


def _columns(items: Sequence[Item], spell: Callable[[Item], tuple[object, ...]]) -> list[list[object]]:
    """Rows to columns, the shape unnest takes."""
    return [list(column) for column in zip(*map(spell, items), strict=True)]


def _hints(rows: Sequence[asyncpg.Record]) -> list[Hint]:
    return [Hint(row["id"], row["sequence"], row["progress_version"]) for row in rows]


def _attempt(row: asyncpg.Record) -> Attempt:
    return Attempt(
        id=row["id"],
        tenant_id=row["tenant_id"],
        type=row["type"],
        params=row["params"],
        lease=row["lease"],
        number=row["attempt"],
        failures=row["failures"],
        max_attempts=row["max_attempts"],
        timeout_seconds=row["timeout_seconds"],
    )


async def _holders(connection: Connection, jobs: Sequence[NewJob]) -> dict[UUID, Accepted | KeyReused]:
    """For each job that was not inserted, what the holder of its key means to the caller."""
    if not jobs:
        return {}
    columns = _columns(jobs, lambda job: (job.tenant_id, job.type, job.idempotency_key))
    rows = await connection.fetch(SQL["by_key"], *columns)
    by_key = {(row["tenant_id"], row["type"], row["idempotency_key"]): row for row in rows}
    answers: dict[UUID, Accepted | KeyReused] = {}
    for job in jobs:
        holder = by_key[job.tenant_id, job.type, job.idempotency_key]
        if holder["request_digest"] == job.request_digest:
            answers[job.id] = Accepted(holder["id"], is_replay=True)
        else:
            answers[job.id] = KeyReused("this Idempotency-Key was used with another body; send a new key")
    return answers
