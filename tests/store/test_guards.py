"""What the database refuses by itself, whoever writes the SQL."""

from uuid import UUID

import asyncpg
import pytest

from tests.make import TENANT, accept, fail, start, succeed
from todoke.store.database import Database
from todoke.store.ledger import Ledger
from todoke.store.reading import Reader

BACKWARDS = {
    "PENDING": ["state = 'SUCCESS', sequence = sequence + 1, finished_at = now()"],
    "PROCESSING": [
        "state = 'PENDING', sequence = sequence + 1, worker_id = NULL, lease_expires_at = NULL",
        "worker_id = 'another'",
        "state = 'FAILED', finished_at = now(), lease_expires_at = NULL",
    ],
    "SUCCESS": [
        "state = 'FAILED', sequence = sequence + 1",
        "error = 'late'",
        "attempt = attempt + 1",
        "finished_at = now() + interval '1 day'",
    ],
    "FAILED": [
        "state = 'PENDING', sequence = sequence + 1, finished_at = NULL",
        "state = 'PROCESSING', sequence = sequence + 1, finished_at = NULL",
        "error_code = 'OTHER'",
    ],
    "ANY": [
        "lease = lease - 1",
        "lease = lease + 2",
        "sequence = sequence - 1",
        "sequence = sequence + 2",
        "progress_version = progress_version - 1",
        "tenant_id = 'another'",
        "id = gen_random_uuid()",
    ],
}
CASES = [
    (state, change)
    for state in ("PENDING", "PROCESSING", "SUCCESS", "FAILED")
    for change in BACKWARDS[state] + BACKWARDS["ANY"]
]


async def job_in(ledger: Ledger, state: str) -> UUID:
    job_id = await accept(ledger)
    if state != "PENDING":
        attempt = await start(ledger, job_id)
        if state == "SUCCESS":
            await succeed(ledger, attempt)
        if state == "FAILED":
            await fail(ledger, attempt)
    return job_id


@pytest.mark.parametrize(("state", "change"), CASES)
async def test_a_job_cannot_be_moved_backwards_by_hand(
    ledger: Ledger, database: Database, state: str, change: str
) -> None:
    job_id = await job_in(ledger, state)
    before = await database.fetch("SELECT * FROM job WHERE id = $1", job_id)
    with pytest.raises(asyncpg.CheckViolationError, match=f"{job_id} refused: a job only goes forward"):
        await database.fetch(f"UPDATE job SET {change} WHERE id = $1", job_id)
    assert await database.fetch("SELECT * FROM job WHERE id = $1", job_id) == before


async def test_a_job_begins_pending(database: Database) -> None:
    for columns, values in (("state, finished_at", "'SUCCESS', now()"), ("lease", "7"), ("sequence", "2")):
        with pytest.raises(asyncpg.CheckViolationError):
            await database.fetch(
                "INSERT INTO job"
                " (id, tenant_id, type, params, max_attempts, timeout_seconds, due_at, created_at, updated_at,"
                f" {columns})"
                f" VALUES (gen_random_uuid(), 't', 't', '{{}}', 1, 1, now(), now(), now(), {values})"
            )


@pytest.mark.parametrize("state", ["PENDING", "PROCESSING"])
async def test_an_unfinished_job_cannot_be_deleted(ledger: Ledger, database: Database, state: str) -> None:
    job_id = await job_in(ledger, state)
    with pytest.raises(asyncpg.CheckViolationError):
        await database.fetch("DELETE FROM job WHERE id = $1", job_id)


async def test_the_log_is_never_rewritten(ledger: Ledger, database: Database) -> None:
    job_id = await accept(ledger)
    with pytest.raises(asyncpg.CheckViolationError, match=str(job_id)):
        await database.fetch("UPDATE event SET body = '{}' WHERE job_id = $1", job_id)


async def test_what_is_no_part_of_the_story_may_change_after_the_end(ledger: Ledger, database: Database) -> None:
    job_id = await job_in(ledger, "SUCCESS")
    await database.fetch("UPDATE job SET results_expired_at = now(), params = '{}' WHERE id = $1", job_id)
    await database.fetch("DELETE FROM job WHERE id = $1", job_id)


async def test_a_change_made_by_hand_is_logged_and_delivered_too(
    ledger: Ledger, database: Database, reader: Reader
) -> None:
    job_id = await accept(ledger, callback_url="https://example.com/", callback_events=("job.failed",))
    await database.fetch(
        "UPDATE job SET state = 'FAILED', sequence = sequence + 1, finished_at = now(), error_code = 'BY_HAND'"
        " WHERE id = $1",
        job_id,
    )
    assert [item.type for item in await reader.events([(job_id, TENANT, 0)])] == ["job.accepted", "job.failed"]
    assert len(await database.fetch("SELECT 1 FROM delivery WHERE job_id = $1 AND sequence = 2", job_id)) == 1
