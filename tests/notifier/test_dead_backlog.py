"""A hundred thousand deliveries to a dead receiver beside a thousand healthy tenants; ten thousand dead endpoints."""

import asyncio
import json
import re
import socket
import statistics
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from notifier.claimer import ENDPOINTS_MAX
from tests.conftest import until
from tests.notifier.backlog import CAP, NO_PIVOT, OWE, came_to, claimed, count, owe_many, round_of
from tests.notifier.receiver import receiving
from tests.notifier.test_killed import started, when
from todoke.runtime.settings import Settings
from todoke.store.database import Database, queries
from todoke.store.deliveries import STAGED_MAX, TENANT_ENDPOINTS_MAX, TENANTS_MAX, VISITED_MAX, Deliveries

SQL = queries("deliveries")
BACKLOG, HEALTHY = 100_000, 1_000


@pytest.fixture
def dead() -> Iterator[str]:
    """A receiver that takes connections into its backlog and never says a word."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen(1024)
        yield f"http://127.0.0.1:{door.getsockname()[1]}/dead"


@pytest.mark.full
@pytest.mark.timeout(300)
async def test_a_thousand_healthy_tenants_do_not_wait_for_a_dead_one(
    settings: Settings, database: Database, tmp_path: Path, dead: str
) -> None:
    for _ in range(BACKLOG // 20_000):
        await owe_many(database, [dead], 20_000, tenant_id="dead")
    async with receiving() as receiver:
        normal = settings.model_copy(update={"sweep_seconds": 5.0})
        async with started(normal, tmp_path) as running:
            await until(lambda: bool(running.logged("delivery.attempted")), 60)
            for number in range(0, HEALTHY, 100):
                rows = [f"h{tenant:04}" for tenant in range(number, number + 100)]
                await asyncio.gather(*(owe_many(database, [receiver.url], tenant_id=tenant) for tenant in rows))
                await database.fetch("SELECT pg_notify($1, '')", settings.notify_channel)
            await when(lambda: _healthy_are_done(database), 120)
            assert running.is_alive
    left = await count(database, "tenant_id = 'dead' AND state = 'PENDING'")
    assert left == BACKLOG
    assert await count(database, "tenant_id = 'dead' AND attempt > 1") <= 5
    rows = await database.fetch(
        "SELECT extract(epoch FROM started_at - created_at)::float8 AS delay FROM delivery_attempt"
        " JOIN delivery USING (job_id, sequence) WHERE delivery.tenant_id <> 'dead' AND state = 'DELIVERED'"
    )
    delays = sorted(row["delay"] for row in rows)
    assert len(delays) == HEALTHY
    cuts = statistics.quantiles(delays, n=100)
    print(f"start delay of {HEALTHY} healthy ones: p50 {cuts[49]:.3f} s, p99 {cuts[98]:.3f} s, most {delays[-1]:.3f} s")


async def _healthy_are_done(database: Database) -> bool:
    return await count(database, "state = 'DELIVERED'") == HEALTHY


class Cost:
    """Blocks touched and rows read by one execution of a statement, from EXPLAIN (ANALYZE, BUFFERS)."""

    def __init__(self, plan: dict[str, object], text: str) -> None:
        self.blocks = int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])  # type: ignore[call-overload]
        self.text = text


async def cost(connection: "asyncpg.Connection[asyncpg.Record]", name: str, *arguments: object) -> Cost:
    """What a statement costs, rolled back; with a plan made for any arguments, as in a long-lived process."""
    values = "(" + ", ".join(f"'{value}'" for value in arguments) + ")" if arguments else ""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE asked AS {SQL[name]}")
        [row] = await connection.fetch(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE asked {values}")
        return Cost(json.loads(row[0])[0]["Plan"], row[0])
    finally:
        await transaction.rollback()
        await connection.execute("DEALLOCATE asked")


DEAD = """
INSERT INTO endpoint (id, tenant_id, url, failures, strain, trips, is_open, blocked_until, updated_at)
SELECT DISTINCT endpoint_id, tenant_id, url, 9, 9, 3, true, clock_timestamp() - interval '1 second', now()
FROM delivery WHERE url LIKE '%dead%' ON CONFLICT DO NOTHING
"""


async def costs(connection: "asyncpg.Connection[asyncpg.Record]") -> dict[str, int]:
    """Blocks of each statement of a notifier's round."""
    spots = await connection.fetch(
        "SELECT tenant_id, endpoint_id FROM delivery WHERE state = 'PENDING' AND standing = 'ready'"
        " GROUP BY 1, 2 ORDER BY 1, 2 LIMIT 64"
    )
    ids = await connection.fetch("SELECT id FROM endpoint ORDER BY id LIMIT $1", VISITED_MAX)
    tenants = "{" + ",".join(row["tenant_id"] for row in spots) + "}"
    endpoints = "{" + ",".join(str(row["endpoint_id"]) for row in spots) + "}"
    amounts = "{" + ",".join("4" for _ in spots) + "}"
    found = {
        "look": await cost(connection, "look", "", TENANTS_MAX, uuid4(), TENANT_ENDPOINTS_MAX, ENDPOINTS_MAX),
        "claim": await cost(connection, "claim", tenants, endpoints, amounts, 40, CAP),
        "stage": await cost(connection, "stage", STAGED_MAX, 12),
        "visit": await cost(connection, "visit", VISITED_MAX),
        "release": await cost(
            connection, "release", "{" + ",".join(str(row["id"]) for row in ids) + "}", STAGED_MAX, 1e9
        ),
        "find_strays": await cost(connection, "find_strays", NO_PIVOT, STAGED_MAX),
        "next_due": await cost(connection, "next_due"),
    }
    for name, each in found.items():
        # A short table of endpoints may be read whole by a batch, not by every step of a look.
        tables = "delivery|event|job|endpoint" if name == "look" else "delivery|event|job"
        assert not re.search(rf'"Seq Scan",[^}}]*"Relation Name": "({tables})"', each.text), f"{name}: {each.text}"
    return {name: each.blocks for name, each in found.items()}


@pytest.mark.full
@pytest.mark.timeout(300)
async def test_claims_cost_the_same_however_many_endpoints_are_dead(database: Database, database_url: str) -> None:
    """A thousand dead ones against ten thousand, ten held each and a probe ready: the same blocks, about."""
    connection = await asyncpg.connect(database_url)
    measured = []
    try:
        for first, last in ((0, 1_000), (1_000, 10_000)):
            urls = [f"https://dead.example.com/{number}" for number in range(first, last)]
            await connection.execute(OWE, "dead", urls, 9, "held")
            await connection.execute(OWE, "dead", urls, 1, "ready")
            await connection.execute(DEAD)
            if not first:
                healthy = [f"https://ok.example.com/{number}" for number in range(20)]
                for tenant_id in ("a", "b", "z"):
                    await connection.execute(OWE, tenant_id, healthy, 5, "ready")
            await connection.execute("VACUUM ANALYZE delivery")
            await connection.execute("VACUUM ANALYZE endpoint")
            measured.append(await costs(connection))
    finally:
        await connection.close()
    few, many = measured
    print("blocks with 1,000 dead endpoints:", few, "with 10,000:", many)
    for name in few:
        assert many[name] <= 2 * few[name] + 50, (name, few, many)
    taken = await claimed(Deliveries(database, CAP))
    assert {each.tenant_id for each in taken} == {"a", "b", "dead", "z"}


async def test_a_small_dead_backlog_does_not_stop_a_healthy_endpoint_of_the_same_tenant(database: Database) -> None:
    """The short form of the above: held rows are out of the claims' sight."""
    deliveries = Deliveries(database, CAP)
    await owe_many(database, ["https://dead.example.com/"], 3_000)
    while batch := await claimed(deliveries):
        await deliveries.record([came_to(each, None) for each in batch])
    for _ in range(3_000 // STAGED_MAX + 1):
        assert await claimed(deliveries) == []
        await round_of(deliveries)
    assert await count(database, "state = 'PENDING' AND standing = 'ready'") == 0
    await owe_many(database, ["https://ok.example.com/"], 5)
    assert {each.url for each in await claimed(deliveries)} == {"https://ok.example.com/"}
