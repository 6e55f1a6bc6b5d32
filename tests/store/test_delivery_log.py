"""Owing deliveries once more: along indexes however many there are, and safe from what is told late."""

import re
from datetime import UTC, datetime

import asyncpg
import pytest
from sqlalchemy.dialects import postgresql

from tests.make import TENANT
from tests.owing import URL, delivery_row, owe, owe_parked
from todoke.model.delivery import Answer, Delivery, DeliveryState, Reason, Verdict
from todoke.model.errors import EndpointDisabled
from todoke.model.ids import new_id
from todoke.runtime.settings import Settings
from todoke.store.database import Database, queries
from todoke.store.deliveries import Deliveries
from todoke.store.delivery_log import DeliveryLog, Place, Replayed, Wanted, parked_of
from todoke.store.ledger import Ledger

PARKED = 30_000
INDEXES = {
    "hold": "delivery_pkey",
    "pick": "delivery_parked",
    "pick_of": "delivery_parked_endpoint",
    "pick_disabled": "delivery_parked_endpoint",
    "owe_again": "delivery_pkey",
}


@pytest.fixture
def log(database: Database, settings: Settings) -> DeliveryLog:
    return DeliveryLog(database, settings.notify_channel)


async def fill(connection: "asyncpg.Connection[asyncpg.Record]", statistics: str = "ANALYZE delivery") -> None:
    """Many parked deliveries of one tenant, of fifty callbacks, and twice as many delivered ones."""
    await connection.execute(
        "INSERT INTO delivery (job_id, sequence, tenant_id, url, endpoint_id, state, standing, attempt, last_reason,"
        " due_at, created_at, finished_at)"
        " SELECT gen_random_uuid(), 3, 'default', url, endpoint_key('default', url), state, 'waiting', 12, 'timeout',"
        " now(), now(), now() - number * interval '1 second'"
        f" FROM generate_series(1, {PARKED}) AS numbered (number),"
        " LATERAL (SELECT 'https://example.com/' || number % 50 AS url) AS callback,"
        " (VALUES ('PARKED'), ('DELIVERED'), ('DELIVERED')) AS states (state)"
    )
    await connection.execute(statistics)


@pytest.mark.parametrize("statistics", ["ANALYZE delivery", "SELECT"], ids=["known", "not known yet"])
async def test_statements_use_indexes(database_url: str, statistics: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await fill(connection, statistics)
        for name, index in INDEXES.items():
            plan = await _plan(connection, queries("delivery_log")[name])
            assert "Seq Scan on delivery" not in plan, f"{name}:\n{plan}"
            assert re.search(rf"using {index} |on {index}\b", plan), f"{name}:\n{plan}"
            # The first so many along the index, not all of them sorted; one endpoint's alone may be.
            assert "Sort" not in plan or name == "pick_disabled", f"{name}:\n{plan}"
        plan = await _plan(connection, queries("delivery_log")["count_disabled"])
        assert "Seq Scan on delivery" not in plan, plan
        plan = await _plan(connection, queries("reading")["statuses"])
        assert "Seq Scan on delivery" not in plan, plan
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("wanted", "index"),
    [(Wanted(), "delivery_parked"), (Wanted(url="https://example.com/1"), "delivery_parked_endpoint")],
    ids=["all", "of a callback"],
)
async def test_lists_are_read_along_indexes(database_url: str, database: Database, wanted: Wanted, index: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await fill(connection)
    finally:
        await connection.close()
    for after in (None, Place(datetime.now(UTC), new_id(), 3)):
        asked = parked_of(TENANT, wanted, after).limit(100)
        spelled = asked.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})
        plan = "\n".join(row[0] for row in await database.fetch(f"EXPLAIN {spelled}"))
        assert re.search(rf"Index Scan Backward using {index} on delivery", plan), plan
        assert "Sort" not in plan, plan


async def test_a_replay_is_bounded_and_goes_on(database_url: str, log: DeliveryLog) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await fill(connection)
        counts = []
        while True:
            done = await log.replay(TENANT, Wanted(url="https://example.com/1"), 250)
            counts.append(done.count)
            if not done.is_more:
                break
        assert counts == [250, 250, 100]
        assert (await log.replay(TENANT, Wanted(), 10_000)) == Replayed(10_000, is_more=True, disabled=0)
        [row] = await connection.fetch(
            "SELECT count(*), count(*) FILTER (WHERE url LIKE '%/1') AS of_one, bool_and(due_at <= clock_timestamp())"
            " AS are_due FROM delivery WHERE state = 'PENDING'"
        )
        assert tuple(row) == (10_600, 600, True)
    finally:
        await connection.close()


async def test_what_an_earlier_attempt_came_to_no_longer_counts_unless_it_is_a_success(
    database: Database, ledger: Ledger, log: DeliveryLog
) -> None:
    job_id, deliveries = await owe(ledger), Deliveries(database, 4)
    claimed = await _claim(database, deliveries)
    failed = Verdict(claimed, Answer(Reason.TIMEOUT), DeliveryState.PARKED, Reason.TIMEOUT)
    assert await deliveries.record([failed]) == [True]
    assert await log.redeliver(job_id, 3, TENANT)
    assert await deliveries.record([failed]) == [False], "the answer of the first record was lost, and it is repeated"
    assert (await delivery_row(database, job_id))["state"] == "PENDING"
    again = await _claim(database, deliveries)
    assert (again.attempt, again.body, again.webhook_id) == (1, claimed.body, claimed.webhook_id)
    assert again.lease > claimed.lease
    late = Verdict(claimed, Answer(Reason.DELIVERED, 200), DeliveryState.DELIVERED, Reason.DELIVERED)
    assert await deliveries.record([late]) == [True]
    kept = await log.one(job_id, 3, TENANT)
    assert kept is not None
    assert kept.state == "DELIVERED"
    assert kept.attempts is not None
    assert len(kept.attempts) == 1, "the second is still on its way, and the first was kept once"


async def test_a_delivered_one_of_an_older_version_finds_its_endpoint(
    database: Database, ledger: Ledger, log: DeliveryLog
) -> None:
    job_id = await owe(ledger)
    [row] = await database.fetch("SELECT endpoint_id FROM delivery")
    await database.fetch("UPDATE delivery SET state = 'DELIVERED', endpoint_id = NULL, finished_at = now()")
    assert await log.redeliver(job_id, 3, TENANT)
    assert (await delivery_row(database, job_id))["endpoint_id"] == row["endpoint_id"]
    await database.fetch("UPDATE delivery SET state = 'DELIVERED', endpoint_id = NULL, finished_at = now()")
    await database.fetch(
        "INSERT INTO endpoint (id, tenant_id, url, state, updated_at) VALUES ($1, $2, $3, 'DISABLED', now())",
        row["endpoint_id"],
        TENANT,
        URL,
    )
    with pytest.raises(EndpointDisabled) as refused:
        await log.redeliver(job_id, 3, TENANT)
    assert refused.value.members == {"endpointId": str(row["endpoint_id"])}


async def test_a_tenant_reaches_its_own_alone(database: Database, ledger: Ledger, log: DeliveryLog) -> None:
    theirs = await owe_parked(ledger, database, tenant_id="theirs")
    before = await database.fetch("SELECT * FROM delivery")
    assert await log.of_job(theirs, TENANT) == []
    assert not await log.redeliver(theirs, 3, TENANT)
    assert (await log.replay(TENANT, Wanted(), 10)).count == 0
    assert (await log.replay(TENANT, Wanted(url=URL), 10)).count == 0
    assert (await log.parked(TENANT, Wanted(), None, 10)).deliveries == []
    assert (await log.others(TENANT, DeliveryState.PENDING, Wanted(), None, 10)).deliveries == []
    assert await database.fetch("SELECT * FROM delivery") == before
    assert [each.job_id for each in (await log.parked("theirs", Wanted(), None, 10)).deliveries] == [theirs]


async def test_a_list_of_others_goes_on_behind_jobs_without_any(
    database: Database, ledger: Ledger, log: DeliveryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("todoke.store.delivery_log.JOBS_MAX", 2)
    first = await owe(ledger)
    for _ in range(5):
        await owe_parked(ledger, database)
    last = await owe(ledger)
    found, parts, end = [], 0, None
    while parts == 0 or end is not None:
        part = await log.others(TENANT, DeliveryState.PENDING, Wanted(), end, 10)
        found, parts, end = [*found, *(each.job_id for each in part.deliveries)], parts + 1, part.end
    assert found == [last, first]
    assert parts > 3


async def _claim(database: Database, deliveries: Deliveries) -> Delivery:
    [row] = await database.fetch("SELECT tenant_id, endpoint_id FROM delivery WHERE state = 'PENDING'")
    [claimed] = await deliveries.claim({(row["tenant_id"], row["endpoint_id"]): 1}, 40)
    return claimed


async def _plan(connection: "asyncpg.Connection[asyncpg.Record]", query: str) -> str:
    arguments = max(map(int, re.findall(r"\$(\d+)", query)))
    await connection.execute(f"SET plan_cache_mode = force_generic_plan; PREPARE hot AS {query}")
    rows = await connection.fetch(f"EXPLAIN EXECUTE hot ({', '.join(['NULL'] * arguments)})")
    await connection.execute("DEALLOCATE hot")
    return "\n".join(row[0] for row in rows)
