"""The ledger as one worker uses it: under its own id, for the job types it knows, on the terms of its settings."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID, uuid4

from todoke.model.job import Attempt, Outcome, Progress
from todoke.runtime.settings import Settings
from todoke.store.ledger import Ledger
from todoke.store.repair import Repair


class OwnLedger:
    """Every call raises Unavailable when PostgreSQL is away."""

    def __init__(self, ledger: Ledger, repair: Repair, settings: Settings, types: Collection[str]) -> None:
        self._ledger, self._repair = ledger, repair
        self._lease_seconds = settings.lease_seconds
        self._redispatch_seconds = settings.redispatch_seconds
        self._types = types
        # Fresh at every start: a reused name would take the leases of the process before for its own.
        self.worker_id = str(uuid4())

    async def claim(self, ids: Sequence[UUID]) -> Sequence[Attempt]:
        """Take what is claimable among `ids`."""
        return await self._ledger.claim(ids, self._types, self.worker_id, self._lease_seconds)

    async def renew(self, held: Sequence[tuple[UUID, int]]) -> Mapping[UUID, bool]:
        """Prolong leases (id, lease); the answer names the jobs still held and whether each is to be canceled."""
        return await self._ledger.renew(held, self.worker_id, self._lease_seconds)

    async def report(self, reports: Sequence[Progress]) -> Sequence[bool]:
        """Store progress. False: the lease is no longer ours."""
        return await self._ledger.report(reports, self.worker_id)

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[bool]:
        """End attempts. False: the lease is no longer ours."""
        return await self._ledger.settle(outcomes, self.worker_id)

    async def standing(self, ids: Sequence[UUID]) -> Mapping[UUID, Mapping[str, Any]]:
        """The state of jobs that could not be claimed."""
        return {id_: dict(row) for id_, row in (await self._ledger.standing(ids)).items()}

    async def is_reachable(self) -> None:
        """Raises Unavailable while PostgreSQL is away."""
        await self._ledger.standing([])

    async def redispatch(self, jobs_max: int) -> list[UUID]:
        """Name due jobs nobody has come for."""
        return await self._repair.redispatch(jobs_max, self._redispatch_seconds)

    async def unsent(self, ids: Sequence[UUID]) -> None:
        """Have the next sweep name these jobs again."""
        await self._repair.dispatch_soon(ids)

    async def put_off(self, ids: Sequence[UUID]) -> None:
        """Have a later sweep name jobs this worker cannot run."""
        await self._repair.put_off(ids, self._redispatch_seconds)
