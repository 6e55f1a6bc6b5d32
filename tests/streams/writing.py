"""Who writes the log in these tests, and what it says at the end: the truth every stream is held against."""

import asyncio
import contextlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from tests.make import TYPE, WORKER, make_job
from todoke.model.errors import Unavailable
from todoke.model.job import Outcome, Progress, State
from todoke.store.database import Database
from todoke.store.ledger import Ledger

LEASE_SECONDS = 600.0


@dataclass
class Writer:
    """Lives jobs through a real ledger, whatever PostgreSQL does meanwhile: it asks the row what comes next.

    committed: every (job, sequence) whose commit PostgreSQL has acknowledged.
    """

    database: Database
    channel: str
    committed: set[tuple[UUID, int]] = field(default_factory=set)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.database, self.channel)

    async def accept(self, count: int = 1) -> list[UUID]:
        jobs = [make_job() for _ in range(count)]
        await self.ledger.accept(jobs, 600)
        self.committed |= {(job.id, 1) for job in jobs}
        return [job.id for job in jobs]

    async def live(self, job: UUID, length: int, rng: random.Random, pause: float) -> None:
        """Write the job's events 2 to `length`, an odd number: started and retrying in turn, then succeeded."""
        while True:
            await asyncio.sleep(rng.random() * 2 * pause)
            try:
                if await self.step(job, length, rng):
                    return
            except Unavailable:
                await asyncio.sleep(0.05)

    async def sequence(self, job: UUID) -> int:
        """Where the job stands."""
        [row] = await self.database.fetch("SELECT sequence FROM job WHERE id = $1", job)
        return int(row["sequence"])

    async def step(self, job: UUID, length: int, rng: random.Random | None = None, *, is_charged: bool = False) -> bool:
        """Commit the next event; True when the job has ended. is_charged: a retry counts as a failed attempt."""
        [row] = await self.database.fetch("SELECT state, sequence, worker_id, lease FROM job WHERE id = $1", job)
        if row["state"] in ("SUCCESS", "FAILED"):
            self.committed.add((job, row["sequence"]))
            return True
        following = row["sequence"] + 1
        if row["worker_id"] is None:
            if await self.ledger.claim([job], [TYPE], WORKER, LEASE_SECONDS):
                self.committed.add((job, following))
            return False
        if rng is not None and rng.random() < 0.3:
            await self.ledger.report([Progress(job, row["lease"], rng.random() * 100, "on its way")], WORKER)
        state = State.SUCCESS if following >= length else State.PROCESSING
        code = None if state is State.SUCCESS else "WORKER_STOPPED"
        outcome = Outcome(job, row["lease"], state, code, is_charged=is_charged and code is not None)
        [is_taken] = await self.ledger.settle([outcome], WORKER)
        if is_taken:
            self.committed.add((job, following))
        return is_taken and state is State.SUCCESS

    async def rush(self, jobs: Sequence[UUID], turns: int) -> None:
        """Start and give up these new jobs `turns` times, each turn in two transactions, two events a job."""
        with contextlib.suppress(Unavailable):
            for _ in range(turns):
                attempts = await self.ledger.claim(jobs, [TYPE], WORKER, LEASE_SECONDS)
                ends = [Outcome(item.id, item.lease, State.PROCESSING, "WORKER_STOPPED") for item in attempts]
                assert await self.ledger.settle(ends, WORKER) == [True] * len(jobs)
