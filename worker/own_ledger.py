"""The ledger as one worker uses it: under its own id, for the job types it knows, on the terms of its settings."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any
from uuid import UUID, uuid4

import structlog

from todoke.model.errors import Unavailable
from todoke.model.job import Attempt, Outcome, Progress
from todoke.runtime.metrics import DOOMED_JOBS, INFRA_LOSSES
from todoke.runtime.settings import Settings
from todoke.store.ledger import Ledger
from todoke.store.repair import Repair

log = structlog.get_logger()

WORKER_LOST = "WORKER_LOST"


class OwnLedger:
    """Every call raises Unavailable when PostgreSQL is away.

    A claim that raises may have been committed all the same. What it took is given back before the next claim, so
    that no job waits for a lease nobody keeps and none is charged with a lost worker.
    """

    def __init__(self, ledger: Ledger, repair: Repair, settings: Settings, types: Collection[str]) -> None:
        self._ledger, self._repair = ledger, repair
        self._lease_seconds = settings.lease_seconds
        self._redispatch_seconds = settings.redispatch_seconds
        self._is_tenant_limited = settings.tenant_jobs_max > 0
        self._types, self._slots = types, settings.slots
        # Fresh at every start: a reused name would take the leases of the process before for its own.
        self.worker_id = str(uuid4())
        # Claims go one by one: between a commit and its answer, ours could not be told from strays.
        self._claiming = asyncio.Lock()
        self._is_unsure = False
        self._known: set[tuple[UUID, int]] = set()

    async def claim(self, ids: Sequence[UUID]) -> Sequence[Attempt]:
        """Take what is claimable among `ids`, or as many others while priorities are in play."""
        async with self._claiming:
            return await self._claimed(self._ledger.claim, ids)

    async def claim_limited(self, ids: Sequence[UUID]) -> Sequence[Attempt]:
        """Take what their limits allow among `ids`; the others are put off."""
        async with self._claiming:
            return await self._claimed(self._ledger.claim_limited, ids)

    async def claim_straight(self, jobs_max: int) -> Sequence[Attempt]:
        """Take up to `jobs_max` due jobs without having been told of any."""
        async with self._claiming:
            found = [*await self._claimed(self._ledger.claim_due, jobs_max)]
            try:
                named = await self._ledger.name_limited(jobs_max - len(found), self._types)
                if named:
                    found += await self._claimed(self._ledger.claim_limited, named)
            except Unavailable:
                # What was claimed already is ours to run.
                if not found:
                    raise
            return found

    async def make_sure(self) -> None:
        """Give back what claims whose answers were lost may have taken. Raises Unavailable while PostgreSQL is away."""
        async with self._claiming:
            if self._is_unsure:
                await self._give_back()
            else:
                await self._repair.check()

    async def renew(self, held: Sequence[tuple[UUID, int]]) -> Mapping[UUID, bool]:
        """Prolong leases (id, lease); the answer names the jobs still held and whether each is to be canceled."""
        return await self._ledger.renew(held, self.worker_id, self._lease_seconds)

    async def report(self, reports: Sequence[Progress]) -> Sequence[bool]:
        """Store progress. False: the lease is no longer ours."""
        return await self._ledger.report(reports, self.worker_id)

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[bool]:
        """End attempts. False: the lease is no longer ours."""
        answers = await self._ledger.settle(outcomes, self.worker_id)
        self._known.difference_update((outcome.id, outcome.lease) for outcome in outcomes)
        return answers

    async def standing(self, ids: Sequence[UUID]) -> Mapping[UUID, Mapping[str, Any]]:
        """The state of jobs that could not be claimed; all are limited when their tenants are."""
        rows = await self._ledger.standing(ids)
        return {id_: {**row, "is_limited": row["is_limited"] or self._is_tenant_limited} for id_, row in rows.items()}

    async def end_doomed(self, jobs_max: int) -> int:
        """End jobs nobody may run any more; says how many."""
        ended = await self._repair.end_doomed(jobs_max)
        for code in ended.values():
            DOOMED_JOBS.labels(code).inc()
            if code == WORKER_LOST:
                INFRA_LOSSES.labels("worker").inc()
        return len(ended)

    async def enroll(self, busy: int) -> None:
        """Say that this worker lives, and how many of its slots are busy."""
        await self._repair.enroll(self.worker_id, socket.gethostname(), os.getpid(), self._slots, busy, self._types)

    async def retire(self) -> None:
        """Strike this worker out."""
        await self._repair.retire(self.worker_id)

    async def count_overdue(self, jobs_max: int) -> int:
        """How many jobs that were never started have waited too long for their hints."""
        return await self._repair.count_overdue(jobs_max)

    async def count_due(self, jobs_max: int) -> int:
        """How many jobs that were never started are due."""
        return await self._repair.count_due(jobs_max)

    async def redispatch(self, jobs_max: int, *, is_started_only: bool) -> list[UUID]:
        """Name due jobs nobody has come for."""
        # Any job may have been put off because of its tenant, and then no hint of it is left.
        is_started_only = is_started_only and not self._is_tenant_limited
        return await self._repair.redispatch(jobs_max, self._redispatch_seconds, is_started_only=is_started_only)

    async def unsent(self, ids: Sequence[UUID]) -> None:
        """Have the next sweep name these jobs again."""
        await self._repair.dispatch_soon(ids)

    async def put_off(self, ids: Sequence[UUID]) -> None:
        """Have a later sweep name jobs this worker cannot run."""
        await self._repair.put_off(ids, self._redispatch_seconds)

    async def _claimed(self, claim: Callable[..., Awaitable[Sequence[Attempt]]], what: object) -> Sequence[Attempt]:
        """To be awaited under the lock."""
        try:
            if self._is_unsure:
                await self._give_back()
            attempts = await claim(what, self._types, self.worker_id, self._lease_seconds)
        except Unavailable:
            self._is_unsure = True
            raise
        self._known.update((attempt.id, attempt.lease) for attempt in attempts)
        return attempts

    async def _give_back(self) -> None:
        count = await self._ledger.give_back(self._known, self.worker_id)
        self._is_unsure = False
        if count:
            log.warning("claim.given_back", count=count)
