"""What goes with age, what stays, and that nothing is left pointing at nothing."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.make import TENANT, WORKER, accept, fail, start, succeed
from todoke.model.callback_test import Kind
from todoke.model.ids import new_id
from todoke.model.job import Artifact
from todoke.store.callback_tests import CallbackTests
from todoke.store.database import Database, queries
from todoke.store.ledger import Ledger
from todoke.store.reading import Reader
from todoke.store.retention import PRUNE_LOCK, Retention

DAYS = 7
SMALL = Artifact("a.txt", "text/plain", 1, "11", content=b"a")
LARGE = Artifact("b.txt", "text/plain", 9, "22", object_key="k")


@pytest.fixture
def retention(database: Database) -> Retention:
    return Retention(database)


@pytest.fixture
async def other(database_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """Somebody else's connection."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def age(database: Database, job_id: UUID, days: float) -> None:
    """Let the end of this job lie so many days back. The guards are right to refuse that, so they are put aside."""
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(
            "UPDATE job SET finished_at = now() - $2 * interval '1 day' WHERE id = $1", job_id, days
        )


async def finished(ledger: Ledger, database: Database, days: float, *artifacts: Artifact, **changes: Any) -> UUID:
    """A success of so many days ago."""
    job_id = await accept(ledger, **changes)
    await succeed(ledger, await start(ledger, job_id), artifacts=artifacts)
    await age(database, job_id, days)
    return job_id


async def rows(database: Database, table: str) -> list[dict[str, Any]]:
    return [dict(row) for row in await database.fetch(f"SELECT * FROM {table}")]


async def test_results_go_by_age_and_objects_become_orphans(
    ledger: Ledger, database: Database, retention: Retention, reader: Reader
) -> None:
    small = await finished(ledger, database, DAYS + 1, SMALL)
    large = await finished(ledger, database, DAYS + 1, SMALL, LARGE)
    young = await finished(ledger, database, DAYS - 1, SMALL, LARGE)
    running = await accept(ledger)
    assert await retention.expire_results(DAYS, 100) == 2
    assert await retention.expire_results(DAYS, 100) == 0
    for job_id in (small, large):
        status = await reader.status(job_id, TENANT)
        assert status is not None
        assert status.result_expired_at is not None
        assert status.artifacts == []
        assert status.story["downloadUrl"] == f"/jobs/{job_id}/result"
    assert await reader.artifacts(young, TENANT) == [SMALL, LARGE]
    assert await retention.take_orphans(100) == [f"{TENANT}/{large}/"]
    assert {row["id"] for row in await rows(database, "job")} == {small, large, young, running}


async def test_a_job_that_was_claimed_twice_may_have_left_objects(
    ledger: Ledger, database: Database, retention: Retention
) -> None:
    job_id = await accept(ledger)
    await start(ledger, job_id, lease_seconds=0)
    await succeed(ledger, await start(ledger, job_id), artifacts=(SMALL,))
    await age(database, job_id, DAYS + 1)
    assert await retention.expire_results(DAYS, 100) == 1
    assert await retention.take_orphans(100) == [f"{TENANT}/{job_id}/"]


async def test_without_a_store_only_named_objects_become_orphans(
    ledger: Ledger, database: Database, retention: Retention
) -> None:
    failed = await accept(ledger)
    await fail(ledger, await start(ledger, failed))
    await age(database, failed, DAYS + 1)
    large = await finished(ledger, database, DAYS + 1, LARGE)
    assert await retention.expire_results(DAYS, 100, is_store_known=False) == 2
    assert await retention.take_orphans(100) == [f"{TENANT}/{large}/"]


async def test_results_go_in_small_steps_oldest_first(ledger: Ledger, database: Database, retention: Retention) -> None:
    ids = [await finished(ledger, database, 20 - number, SMALL) for number in range(5)]
    assert [await retention.expire_results(DAYS, 2) for _ in range(4)] == [2, 2, 1, 0]
    moments = {row["id"]: row["results_expired_at"] for row in await rows(database, "job")}
    assert sorted(ids, key=lambda id_: moments[id_])[-1] == ids[-1]


async def test_old_jobs_leave_a_tombstone_and_nothing_else(
    ledger: Ledger, database: Database, retention: Retention
) -> None:
    done = await finished(ledger, database, 31, SMALL, LARGE)
    failed = await accept(ledger)
    await fail(ledger, await start(ledger, failed))
    await age(database, failed, 31)
    never_ran = await accept(ledger)
    assert await ledger.cancel(never_ran, TENANT)
    await age(database, never_ran, 31)
    young = await finished(ledger, database, 29, SMALL)
    running = await accept(ledger)
    assert await retention.expire_results(30, 100) == 3
    # A worker that was killed may have left objects of the failed job; nobody ever ran the other.
    assert set(await retention.take_orphans(100)) == {f"{TENANT}/{done}/", f"{TENANT}/{failed}/"}
    assert await retention.erase_jobs(30, 100) == 3
    assert {row["id"] for row in await rows(database, "job")} == {young, running}
    for table in ("event", "artifact"):
        assert {row["job_id"] for row in await rows(database, table)} <= {young, running}
    tombstones = {row["job_id"]: row for row in await rows(database, "tombstone")}
    assert {id_: row["state"] for id_, row in tombstones.items()} == {
        done: "SUCCESS",
        failed: "FAILED",
        never_ran: "FAILED",
    }
    assert all(row["reason"] == "age" and row["erased_at"] > row["finished_at"] for row in tombstones.values())


async def test_a_job_is_not_erased_before_its_results_have_expired(
    ledger: Ledger, database: Database, retention: Retention
) -> None:
    await finished(ledger, database, 31, LARGE)
    assert await retention.erase_jobs(30, 100) == 0
    assert await retention.expire_results(30, 100) == 1
    assert await retention.erase_jobs(30, 100) == 1


CALLBACK = {"callback_url": "http://127.0.0.1:9/x", "callback_events": ("job.succeeded",)}


async def test_a_job_is_kept_while_a_delivery_is_owed(ledger: Ledger, database: Database, retention: Retention) -> None:
    owed = await finished(ledger, database, 40, SMALL, **CALLBACK)
    free = await finished(ledger, database, 31, SMALL, **CALLBACK)
    await database.fetch("UPDATE delivery SET state = 'PARKED', finished_at = now() WHERE job_id = $1", free)
    assert await retention.expire_results(30, 100) == 2
    assert await retention.erase_jobs(30, 1) == 1
    assert {row["job_id"] for row in await rows(database, "tombstone")} == {free}
    assert {row["job_id"] for row in await rows(database, "delivery")} == {owed}
    await database.fetch("UPDATE delivery SET state = 'DELIVERED', finished_at = now() WHERE job_id = $1", owed)
    assert await retention.erase_jobs(30, 1) == 1
    assert await rows(database, "delivery") == []


async def test_a_delivery_asked_for_again_at_that_moment_keeps_its_job(
    ledger: Ledger,
    database: Database,
    retention: Retention,
    other: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    job_id = await finished(ledger, database, 31, SMALL, **CALLBACK)
    await other.execute("UPDATE delivery SET state = 'PARKED', finished_at = now()")
    await retention.expire_results(30, 100)
    async with other.transaction():
        await other.execute("UPDATE delivery SET state = 'PENDING', finished_at = NULL")
        erasing = asyncio.create_task(retention.erase_jobs(30, 100))
        await _until_blocked(other)
    assert await erasing == 0
    assert [row["id"] for row in await rows(database, "job")] == [job_id]


async def test_tombstones_go_at_last(ledger: Ledger, database: Database, retention: Retention) -> None:
    for _ in range(3):
        await finished(ledger, database, 31)
    await retention.expire_results(30, 100)
    await retention.erase_jobs(30, 100)
    assert await retention.drop_tombstones(365, 100) == 0
    await database.fetch("UPDATE tombstone SET erased_at = now() - interval '366 days'")
    assert [await retention.drop_tombstones(365, 2) for _ in range(3)] == [2, 1, 0]
    assert await rows(database, "tombstone") == []


async def test_orphans_are_named_again_later_and_later(database: Database, retention: Retention) -> None:
    await database.fetch("INSERT INTO orphan (prefix, tenant_id, due_at) VALUES ('t/j/', 't', now())")
    pauses = []
    for _ in range(8):
        assert await retention.take_orphans(10) == ["t/j/"]
        assert await retention.take_orphans(10) == []
        [row] = await database.fetch("SELECT extract(epoch FROM due_at - now())::float8 AS seconds FROM orphan")
        pauses.append(round(row["seconds"], -1))
        await database.fetch("UPDATE orphan SET due_at = now()")
    assert pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    await retention.drop_orphans(["t/j/", "t/unknown/"])
    assert await rows(database, "orphan") == []


async def test_one_pruner_works_at_a_time(
    ledger: Ledger, database: Database, retention: Retention, other: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await finished(ledger, database, 31, SMALL)
    async with other.transaction():
        await other.execute("SELECT pg_advisory_xact_lock($1)", PRUNE_LOCK)
        assert await retention.expire_results(30, 100) == 0
    assert await retention.expire_results(30, 100) == 1


async def test_pruners_that_race_erase_everything_once(
    ledger: Ledger, database: Database, retention: Retention, database_url: str
) -> None:
    ids = [await finished(ledger, database, 31, SMALL) for _ in range(30)]

    async def prune() -> int:
        erased = 0
        for _ in range(100):
            await retention.expire_results(30, 3)
            erased += await retention.erase_jobs(30, 3)
        return erased

    assert sum(await asyncio.gather(prune(), prune(), prune())) == len(ids)
    assert {row["job_id"] for row in await rows(database, "tombstone")} == set(ids)


async def test_a_stale_attempt_finds_no_job_to_settle(ledger: Ledger, database: Database, retention: Retention) -> None:
    job_id = await accept(ledger)
    stale = await start(ledger, job_id, lease_seconds=0)
    await succeed(ledger, await start(ledger, job_id), artifacts=(SMALL,))
    await age(database, job_id, 31)
    await retention.expire_results(30, 100)
    await retention.erase_jobs(30, 100)
    assert not await succeed(ledger, stale, artifacts=(LARGE,))
    assert await ledger.renew([(job_id, stale.lease)], WORKER, 60) == {}
    assert await rows(database, "artifact") == await rows(database, "job") == []


IDS = f"'{{{','.join(str(new_id()) for _ in range(200))}}}'"
PRUNING = {
    "old_results": "7, 200",
    "expire": f"{IDS}, true",
    "asked": f"'{new_id()}', 'default'",
    "old_jobs": "30, 200",
    "owed": IDS,
    "bury": f"{IDS}, 'age'",
    "take_orphans": "20",
    "drop_orphans": "ARRAY['t/j/', 't/k/']",
    "drop_tombstones": "365, 200",
    "drop_callback_tests": "30, 200",
}


async def test_no_statement_reads_a_whole_table(other: "asyncpg.Connection[asyncpg.Record]") -> None:
    await _make_many(other)
    for name, arguments in PRUNING.items():
        # With the values it is used with: PostgreSQL keeps to such a plan as long as a general one costs more.
        await other.execute(f"SET plan_cache_mode = force_custom_plan; PREPARE pruning AS {queries('retention')[name]}")
        plan = "\n".join(row[0] for row in await other.fetch(f"EXPLAIN EXECUTE pruning ({arguments})"))
        await other.execute("DEALLOCATE pruning")
        assert "Seq Scan" not in plan, f"{name}:\n{plan}"
        if name in ("old_results", "old_jobs"):
            assert re.search(r"Index Cond: .*finished_at <= \(now\(\) -", plan), f"{name}:\n{plan}"
            assert "Sort Key: job.finished_at" not in plan, f"{name} reads all that is old:\n{plan}"


async def _make_many(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Finished jobs of a month: most results expired, the rest kept, a few failed."""
    await connection.execute(
        """
        SET session_replication_role = replica;
        INSERT INTO job (id, tenant_id, type, state, params, max_attempts, timeout_seconds, due_at, created_at,
            updated_at, finished_at, results_expired_at)
        SELECT gen_random_uuid(), 'default', 't', CASE WHEN n % 50 = 0 THEN 'FAILED' ELSE 'SUCCESS' END, '{}', 5, 60,
            now(), now(), now(), now() - n * interval '50 seconds',
            CASE WHEN n > 12000 THEN now() END
        FROM generate_series(1, 50000) AS n;
        INSERT INTO event (job_id, sequence, tenant_id, type, at, body)
            SELECT id, n, tenant_id, 't', now(), '{}' FROM job, generate_series(1, 3) AS n;
        INSERT INTO artifact (job_id, position, tenant_id, name, media_type, bytes, sha256, content)
            SELECT id, 0, tenant_id, 'n', 'm', 1, '00', 'x' FROM job WHERE results_expired_at IS NULL;
        INSERT INTO delivery (job_id, sequence, tenant_id, url, state, due_at, created_at)
            SELECT id, 3, tenant_id, 'u', 'DELIVERED', now(), now() FROM job;
        INSERT INTO delivery_attempt (job_id, sequence, lease, tenant_id, attempt, started_at, seconds, reason)
            SELECT id, 3, 1, tenant_id, 1, now(), 0.1, 'delivered' FROM job;
        INSERT INTO callback_test (id, tenant_id, url, kind, state, created_at)
            SELECT gen_random_uuid(), 'default', 'u', 'ping', 'DONE', now() - n * interval '1 minute'
            FROM generate_series(1, 50000) AS n;
        INSERT INTO tombstone (job_id, tenant_id, type, state, finished_at, erased_at, reason)
            SELECT gen_random_uuid(), 'default', 't', 'SUCCESS', now(), now() - n * interval '10 minutes', 'age'
            FROM generate_series(1, 50000) AS n;
        INSERT INTO orphan (prefix, tenant_id, due_at)
            SELECT n::text, 'default', now() FROM generate_series(1, 20000) AS n;
        SET session_replication_role = origin;
        ANALYZE;
        """
    )


async def _until_blocked(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Until somebody waits for a lock of this connection's."""
    blocked = "SELECT count(*) FROM pg_stat_activity WHERE pg_backend_pid() = ANY (pg_blocking_pids(pid))"
    async with asyncio.timeout(10):
        while not await connection.fetchval(blocked):
            await asyncio.sleep(0.02)


async def test_old_tests_of_callbacks_are_forgotten(database: Database, retention: Retention) -> None:
    tests = CallbackTests(database, "todoke")
    made = [await tests.create(new_id(), "default", "https://hooks.example.com/", Kind.PING) for _ in range(4)]
    old = [test.id for test in made[:3] if test]
    await database.fetch(
        "UPDATE callback_test SET created_at = now() - interval '31 days' WHERE id = ANY ($1::uuid[])", old
    )
    assert [await retention.drop_callback_tests(30, 2) for _ in range(3)] == [2, 1, 0]
    [left] = await database.fetch("SELECT id FROM callback_test")
    assert made[3]
    assert left["id"] == made[3].id
