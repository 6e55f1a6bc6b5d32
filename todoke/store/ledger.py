"""The ledger: the only place that changes a job. Each call is one transaction of rows, events, deliveries, NOTIFY.

This room is a job's ordinary life, from its submit to its end; `repair.py` beside it is what sweeps do.
"""

import asyncio
from collections.abc import Collection, Sequence
from uuid import UUID

import asyncpg

from todoke.model.errors import KeyReused, Unavailable
from todoke.model.event import Hint
from todoke.model.job import Accepted, Attempt, NewJob, Outcome, Progress, State
from todoke.store import limits
from todoke.store.announcing import Announcer
from todoke.store.database import Connection, Database, queries
from todoke.store.transactions import Transactions, columns
from todoke.wire.notice import cancel_channel

SQL = queries("ledger")

# What keeping a result may take after the run: no lease outlives its attempt's deadline by more.
GRACE_SECONDS = 300.0
PARK_SECONDS = 30.0
# A caller waits for the answer.
AGAIN_SECONDS = 5.0
CLAIM_LOST = "CLAIM_LOST"


class Ledger(Transactions):
    """Every state change of a job, in batches. Raises Unavailable when PostgreSQL is away.

    tenant_jobs_max: how many jobs of one tenant may run at once; 0: no limit.
    """

    def __init__(
        self, database: Database, channel: str, tenant_jobs_max: int = 0, announcer: Announcer | None = None
    ) -> None:
        super().__init__(database, channel, announcer)
        self._tenant_jobs_max = tenant_jobs_max

    async def accept(
        self, jobs: Sequence[NewJob], redispatch_seconds: float, *, together: bool = False
    ) -> list[Accepted | KeyReused]:
        """Insert jobs; the answers stand in the order asked. Accepting the same jobs again changes nothing.

        A job whose idempotency key is taken answers with the job that holds it, or with KeyReused when that
        one was submitted with another body. Sweeps look for hints lost after `redispatch_seconds`.
        together: none is kept where one of the answers is KeyReused.
        """
        asked = columns(jobs, _spelled)

        async def work(connection: Connection) -> list[Accepted | KeyReused]:
            rows = await connection.fetch(SQL["accept"], *asked, redispatch_seconds)
            self._ring(connection, rows)
            new = {row["id"] for row in rows}
            holders = await _holders(connection, [job for job in jobs if job.id not in new])
            answers = [Accepted(job.id, is_replay=False) if job.id in new else holders[job.id] for job in jobs]
            if together and any(isinstance(answer, KeyReused) for answer in answers):
                raise _Undone(answers)
            return answers

        try:
            return await self._transact(work)
        except _Undone as undone:
            return undone.answers
        except Unavailable as error:
            # The answer of a commit may have been lost: asked again, the rows themselves say what became of it.
            try:
                async with asyncio.timeout(AGAIN_SECONDS):
                    return await self._transact(work)
            except TimeoutError:
                raise error from None

    async def claim(
        self, ids: Sequence[UUID], types: Collection[str], worker_id: str, lease_seconds: float
    ) -> list[Attempt]:
        """Take what is claimable among `ids`; jobs of other types, held or finished ones are left alone.

        While a job of another priority than 0 is due, ids are permits: as many jobs are taken, best rank first,
        whichever they are. Jobs with a concurrency limit are left to `claim_limited`.
        """
        if self._tenant_jobs_max:
            return await self.claim_limited(ids, types, worker_id, lease_seconds)

        async def work(connection: Connection) -> list[Attempt]:
            found = await self._take(connection, ids, types, worker_id, lease_seconds)
            if not found and (await connection.fetch(SQL["is_ranked"]))[0]["is_ranked"]:
                ranked = await _due(connection, len(ids), types)
                # What waits for another attempt has no rank; its own hint still takes it.
                chosen = list(dict.fromkeys([*ranked, *ids]))[: len(ids)]
                found = await self._take(connection, chosen, types, worker_id, lease_seconds, is_ranked=True)
            return found

        return await self._transact(work)

    async def claim_due(
        self, jobs_max: int, types: Collection[str], worker_id: str, lease_seconds: float
    ) -> list[Attempt]:
        """Take up to `jobs_max` jobs that are due without being told of them, best rank first.

        Jobs with a limit are left to `claim_limited`; `name_limited` names them.
        """

        async def work(connection: Connection) -> list[Attempt]:
            ids = await _due(connection, jobs_max, types)
            again = await connection.fetch(SQL["due_again"], jobs_max - len(ids), list(types))
            ids += [row["id"] for row in again]
            return await self._take(connection, ids, types, worker_id, lease_seconds, is_ranked=True)

        return [] if self._tenant_jobs_max else await self._transact(work)

    async def name_limited(self, jobs_max: int, types: Collection[str]) -> list[UUID]:
        """Up to `jobs_max` due jobs whose number at once is limited, the longest overdue first."""
        query = SQL["due_any"] if self._tenant_jobs_max else SQL["due_limited"]
        return [row["id"] for row in await self._database.fetch(query, jobs_max, list(types))]

    async def claim_limited(
        self, ids: Sequence[UUID], types: Collection[str], worker_id: str, lease_seconds: float
    ) -> list[Attempt]:
        """Take what is claimable among `ids` within the limits of their keys and tenants, and park the rest."""

        async def work(connection: Connection) -> list[Attempt]:
            admitted, parked = await limits.admit(connection, ids, types, self._tenant_jobs_max)
            if parked:
                await connection.fetch(SQL["park"], parked, PARK_SECONDS)
            return await self._take(
                connection, admitted, types, worker_id, lease_seconds, is_admitted=True, is_ranked=True
            )

        return await self._transact(work)

    async def renew(self, held: Sequence[tuple[UUID, int]], worker_id: str, lease_seconds: float) -> dict[UUID, bool]:
        """Prolong leases (id, lease); the answer names the jobs still held and whether each is to be canceled."""
        ids, leases = [id_ for id_, _ in held], [lease for _, lease in held]

        async def work(connection: Connection) -> dict[UUID, bool]:
            rows = await connection.fetch(SQL["renew"], ids, leases, worker_id, lease_seconds, GRACE_SECONDS)
            return {row["id"]: row["is_cancel_requested"] for row in rows}

        return await self._transact(work)

    async def report(self, reports: Sequence[Progress], worker_id: str) -> list[bool]:
        """Store progress, at most one a job in a batch. False: the lease is no longer ours."""
        asked = columns(reports, lambda report: (report.id, report.lease, report.percent, report.message))

        async def work(connection: Connection) -> list[bool]:
            rows = await connection.fetch(SQL["report"], *asked, worker_id)
            self._ring(connection, rows)
            changed = {row["id"] for row in rows}
            return [report.id in changed for report in reports]

        return await self._transact(work)

    async def settle(self, outcomes: Sequence[Outcome], worker_id: str) -> list[bool]:
        """End attempts, at most one a job in a batch. False: the lease is no longer ours and nothing was touched.

        An outcome that stands in the row already, because the answer of its commit was lost, is True.
        """
        asked = columns(
            outcomes,
            lambda end: (end.id, end.lease, end.state, end.error_code, end.error, end.delay, end.is_charged),
        )
        artifacts = _artifacts(outcomes)

        async def work(connection: Connection) -> list[bool]:
            rows = await connection.fetch(SQL["settle"], *asked, worker_id, *artifacts)
            self._ring(connection, rows)
            await limits.free(connection, rows, is_tenant_limited=self._tenant_jobs_max > 0)
            settled = {(row["id"], row["lease"]) for row in rows}
            rest = [end for end in outcomes if (end.id, end.lease) not in settled]
            settled |= await _landed(connection, rest, worker_id)
            return [(end.id, end.lease) in settled for end in outcomes]

        return await self._transact(work)

    async def cancel(self, job_id: UUID, tenant_id: str) -> bool:
        """End a job that nobody holds, or ask its holder to; a finished one stays. False: no such job."""

        async def work(connection: Connection) -> bool:
            rows = await connection.fetch(SQL["cancel"], job_id, tenant_id)
            for row in rows:
                hint = Hint(job_id, row["sequence"] or 0, row["progress_version"] or 0)
                if row["sequence"] is not None:
                    self._announce(connection, self._channel, [hint])
                if row["is_held"]:
                    self._announce(connection, cancel_channel(self._channel), [hint])
            return bool(rows)

        return await self._transact(work)

    async def revoke_tickets(self, job_id: UUID, tenant_id: str) -> bool:
        """Take back every ticket and stream cookie given for the job so far. False: no such job."""

        async def work(connection: Connection) -> bool:
            return bool(await connection.fetch(SQL["revoke_tickets"], job_id, tenant_id))

        return await self._transact(work)

    async def give_back(self, held: Collection[tuple[UUID, int]], worker_id: str) -> int:
        """Release, uncharged, what a claim whose answer was lost has put under this worker; says how many jobs.

        held: the attempts (id, lease) it knows of. No claim of this worker may be under way.
        """
        rows = await self._database.fetch(SQL["strays"], worker_id)
        words = "the answer of a claim was lost; the job starts again"
        strays = [
            Outcome(row["id"], row["lease"], State.PROCESSING, CLAIM_LOST, words)
            for row in rows
            if (row["id"], row["lease"]) not in held
        ]
        return sum(await self.settle(strays, worker_id)) if strays else 0

    async def standing(self, ids: Sequence[UUID]) -> dict[UUID, asyncpg.Record]:
        """What became of jobs that could not be claimed, by id.

        Members: state, type, lease, worker_id, dispatch_count, is_held, is_limited, due_seconds (0 or less: due).
        """
        return {row["id"]: row for row in await self._database.fetch(SQL["standing"], list(ids))}

    async def _take(
        self,
        connection: Connection,
        ids: Sequence[UUID],
        types: Collection[str],
        worker_id: str,
        lease_seconds: float,
        *,
        is_admitted: bool = False,
        is_ranked: bool = False,
    ) -> list[Attempt]:
        if not ids:
            return []
        rows = await connection.fetch(
            SQL["claim"], list(ids), list(types), worker_id, lease_seconds, is_admitted, is_ranked
        )
        self._ring(connection, rows)
        return [_attempt(row) for row in rows]


class _Undone(Exception):
    """The transaction was rolled back because of these answers."""

    def __init__(self, answers: list[Accepted | KeyReused]) -> None:
        super().__init__()
        self.answers = answers


def _spelled(job: NewJob) -> tuple[object, ...]:
    return (
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
        job.max_losses,
        job.priority,
        job.delay_seconds,
        job.expires_seconds,
        job.concurrency_key,
        job.concurrency_limit,
        job.retry_of,
        job.client_ref,
        job.batch_id,
        job.trace,
    )


def _attempt(row: asyncpg.Record) -> Attempt:
    is_recovered, waited = row["is_recovered"], max(0.0, row["waited_seconds"])
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
        is_limited=row["is_limited"],
        queued_seconds=0.0 if is_recovered else waited,
        recovered_seconds=waited if is_recovered else None,
        trace=row["trace"],
    )


def _artifacts(outcomes: Sequence[Outcome]) -> list[list[object]]:
    kept = [
        (end.id, position, file.name, file.media_type, file.size, file.sha256, file.content, file.object_key)
        for end in outcomes
        for position, file in enumerate(end.artifacts)
    ]
    return [list(column) for column in zip(*kept, strict=True)] or [[] for _ in range(8)]


async def _due(connection: Connection, jobs_max: int, types: Collection[str]) -> list[UUID]:
    return [row["id"] for row in await connection.fetch(SQL["due"], jobs_max, list(types))]


async def _landed(connection: Connection, outcomes: Sequence[Outcome], worker_id: str) -> set[tuple[UUID, int]]:
    if not outcomes:
        return set()
    asked = columns(outcomes, lambda end: (end.id, end.lease, end.state))
    return {(row["id"], row["lease"]) for row in await connection.fetch(SQL["landed"], *asked, worker_id)}


async def _holders(connection: Connection, jobs: Sequence[NewJob]) -> dict[UUID, Accepted | KeyReused]:
    """For each job that was not inserted, what the job that is there instead means to the caller."""
    if not jobs:
        return {}
    keyed = columns(jobs, lambda job: (job.tenant_id, job.type, job.idempotency_key))
    rows = await connection.fetch(SQL["holders"], *keyed, [job.id for job in jobs])
    ids = {row["id"] for row in rows}
    by_key = {(row["tenant_id"], row["type"], row["idempotency_key"]): row for row in rows}
    answers: dict[UUID, Accepted | KeyReused] = {}
    for job in jobs:
        if job.id in ids:
            answers[job.id] = Accepted(job.id, is_replay=False)
            continue
        holder = by_key.get((job.tenant_id, job.type, job.idempotency_key))
        if holder is None:
            # Erased between the two statements: asked once more, the key is free.
            raise Unavailable("the job that held an Idempotency-Key is just being erased")
        if holder["request_digest"] == job.request_digest:
            answers[job.id] = Accepted(holder["id"], is_replay=True, ticket_generation=holder["ticket_generation"])
        else:
            answers[job.id] = KeyReused("this Idempotency-Key was used with another body; send a new key")
    return answers
