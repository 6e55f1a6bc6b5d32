"""With a long backlog, no statement of deliveries reads a whole table, however the planner was told of it."""

import re
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.notifier.backlog import OWE
from todoke.store.database import queries

SQL = queries("deliveries")
TABLES = ("delivery", "event", "job", "endpoint", "delivery_attempt")
DEAD = 10_000

# What the planner knows: nothing yet, as on a new deployment whose statements were planned early, or everything.
KNOWN = pytest.mark.parametrize("is_analyzed", [False, True], ids=["unknown", "analyzed"])


async def fill(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """100,000 deliveries: most are done, the rest stands in every way; and 10,000 endpoints that failed."""
    await connection.execute(
        "INSERT INTO job (id, tenant_id, type, params, max_attempts, timeout_seconds, due_at, created_at, updated_at)"
        " SELECT gen_random_uuid(), 'default', 't', '{}', 5, 60, now(), now(), now() FROM generate_series(1, 5000)"
    )
    urls = [f"https://hooks.example.com/{number}" for number in range(1000)]
    await connection.execute(OWE, "default", urls, 50, "ready")
    await connection.execute(OWE, "other", urls, 50, "waiting")
    await connection.execute(
        "UPDATE delivery SET"
        " standing = (ARRAY['ready', 'waiting', 'leased', 'held'])[1 + abs(hashtext(job_id::text)) % 4],"
        " state = (ARRAY['PENDING', 'DELIVERED', 'DELIVERED', 'PARKED'])[1 + abs(hashtext(url || job_id)) % 4]"
    )
    await connection.execute(
        "INSERT INTO endpoint (id, tenant_id, url, strain, is_open, blocked_until, updated_at)"
        " SELECT endpoint_key('default', url), 'default', url, 5, number % 2 = 0,"
        " CASE WHEN number % 3 > 0 THEN now() END, now() FROM generate_series(1, $1) AS number,"
        " LATERAL (SELECT 'https://hooks.example.com/' || number AS url) AS of_it",
        DEAD,
    )


@pytest.fixture
async def filled(database_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(database_url)
    try:
        await fill(connection)
        yield connection
    finally:
        await connection.close()


@KNOWN
async def test_no_statement_reads_a_whole_table(
    filled: "asyncpg.Connection[asyncpg.Record]", is_analyzed: bool
) -> None:
    if is_analyzed:
        await filled.execute("ANALYZE")
    wrong = []
    for name, statement in SQL.items():
        plan = await _plan(filled, statement)
        read = [table for table in TABLES if re.search(rf"Seq Scan on {table}\b", plan)]
        if read:
            wrong.append(f"{name} reads all of {read}:\n{plan}")
    assert not wrong, "\n\n".join(wrong)


async def _plan(connection: "asyncpg.Connection[asyncpg.Record]", query: str) -> str:
    arguments = max(map(int, re.findall(r"\$(\d+)", query)), default=0)
    nulls = "(" + ", ".join(["NULL"] * arguments) + ")" if arguments else ""
    await connection.execute(f"SET plan_cache_mode = force_generic_plan; PREPARE asked AS {query}")
    rows = await connection.fetch(f"EXPLAIN EXECUTE asked {nulls}")
    await connection.execute("DEALLOCATE asked")
    return "\n".join(row[0] for row in rows)
