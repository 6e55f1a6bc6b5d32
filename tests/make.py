"""Builders of what tests are about, every part of it replaceable."""

from dataclasses import replace
from typing import Any
from uuid import UUID

from todoke.model.ids import new_id
from todoke.model.job import Attempt, NewJob, Outcome, State
from todoke.store.ledger import Ledger

TENANT = "default"
TYPE = "generate-report"
WORKER = "worker-of-the-test"


def make_job(**changes: Any) -> NewJob:
    """A job as submitted."""
    job = NewJob(id=new_id(), tenant_id=TENANT, type=TYPE, params="{}", max_attempts=5, timeout_seconds=60.0)
    return replace(job, **changes)


async def accept(ledger: Ledger, **changes: Any) -> UUID:
    """A job the ledger keeps."""
    job = make_job(**changes)
    await ledger.accept([job], 30)
    return job.id


async def start(ledger: Ledger, job_id: UUID, worker_id: str = WORKER, lease_seconds: float = 60) -> Attempt:
    """The attempt a claim of this job leads to."""
    [attempt] = await ledger.claim([job_id], [TYPE], worker_id, lease_seconds)
    return attempt


async def succeed(ledger: Ledger, attempt: Attempt, **changes: Any) -> bool:
    """Settle an attempt as SUCCESS; the answer says whether the lease still held."""
    outcome = replace(Outcome(attempt.id, attempt.lease, State.SUCCESS), **changes)
    [settled] = await ledger.settle([outcome], WORKER)
    return settled


async def fail(ledger: Ledger, attempt: Attempt, error: str = "it broke") -> bool:
    """Settle an attempt as FAILED."""
    return await succeed(ledger, attempt, state=State.FAILED, error_code="JOB_ERROR", error=error)
