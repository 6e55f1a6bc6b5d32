"""What a blocked endpoint holds comes out again, whoever commits when; the store alone, step by step."""

import asyncio
from uuid import UUID

import pytest

from tests.make import TYPE, WORKER, accept, start
from tests.notifier.backlog import (
    CAP,
    WINDOW_SECONDS,
    age,
    came_to,
    claimed,
    count,
    endpoint_of,
    hurry,
    owe_many,
    round_of,
    standings,
    unblock,
)
from todoke.model.event import TERMINAL
from todoke.store.database import Database
from todoke.store.deliveries import STAGED_MAX, Deliveries
from todoke.store.ledger import Ledger

URL = "https://hooks.example.com/held"


@pytest.fixture
def deliveries(database: Database) -> Deliveries:
    return Deliveries(database, CAP)


async def block(database: Database, seconds: float, *, is_open: bool = False, url: str = URL) -> UUID:
    """The endpoint is blocked until that many seconds from now."""
    endpoint_id = await endpoint_of(database, url)
    await database.fetch(
        "INSERT INTO endpoint (id, tenant_id, url, failures, strain, is_open, blocked_until, updated_at)"
        " VALUES ($1, 'default', $2, 5, 5, $3, clock_timestamp() + $4::float8 * interval '1 second',"
        " clock_timestamp()) ON CONFLICT (id) DO UPDATE"
        " SET blocked_until = excluded.blocked_until, is_open = excluded.is_open",
        endpoint_id,
        url,
        is_open,
        seconds,
    )
    return endpoint_id


SETTLE = (
    "UPDATE job SET state = 'SUCCESS', sequence = sequence + 1, lease_expires_at = NULL, worker_id = NULL,"
    " finished_at = clock_timestamp(), updated_at = clock_timestamp() WHERE id = $1"
)


@pytest.mark.parametrize("is_open", [False, True], ids=["cool-down", "breaker"])
async def test_what_is_held_just_after_the_last_visit_comes_out(
    database: Database, ledger: Ledger, deliveries: Deliveries, is_open: bool
) -> None:
    await block(database, -1, is_open=is_open)
    job_id = await accept(ledger, callback_url=URL, callback_events=TERMINAL)
    await start(ledger, job_id)
    async with database.transaction() as connection:
        await connection.execute(SETTLE, job_id)
        await deliveries.release(WINDOW_SECONDS)
        await deliveries.release(WINDOW_SECONDS)
        [row] = await database.fetch("SELECT blocked_until FROM endpoint")
        assert row["blocked_until"] is None, "nothing was held that anybody could see"
    assert await standings(database) == {"held": 1}
    for _ in range(3):
        await round_of(deliveries)
    assert [each.job_id for each in await claimed(deliveries)] == [job_id]


async def test_what_was_ready_just_before_a_block_is_held_and_not_sent(
    database: Database, ledger: Ledger, deliveries: Deliveries
) -> None:
    """The other order: the settling transaction still saw no block."""
    job_id = await accept(ledger, callback_url=URL, callback_events=TERMINAL)
    await start(ledger, job_id)
    async with database.transaction() as connection:
        await connection.execute(SETTLE, job_id)
        await block(database, 60)
    assert await standings(database) == {"ready": 1}
    assert await deliveries.claim({("default", await endpoint_of(database, URL)): 4}, 60) == []
    assert await claimed(deliveries) == []
    assert await standings(database) == {"held": 1}
    await unblock(database)
    await round_of(deliveries)
    assert len(await claimed(deliveries)) == 1


async def test_what_was_ready_just_before_a_disable_is_parked(database: Database, deliveries: Deliveries) -> None:
    await owe_many(database, [URL], 3)
    await block(database, -1)
    await database.fetch("UPDATE endpoint SET state = 'DISABLED'")
    assert await deliveries.claim({("default", await endpoint_of(database, URL)): 4}, 60) == []
    assert await claimed(deliveries) == []
    assert await standings(database) == {"PARKED": 3}


async def test_a_held_row_locked_by_a_visit_is_not_forgotten(database: Database, deliveries: Deliveries) -> None:
    """A release that finds all it holds locked by somebody must not think there is nothing."""
    await block(database, -1)
    await owe_many(database, [URL], standing="held")
    async with database.transaction() as connection:
        await connection.fetch("SELECT FROM delivery FOR UPDATE")
        assert await deliveries.release(WINDOW_SECONDS) == 0
    for _ in range(3):
        await round_of(deliveries)
    assert await standings(database) == {"ready": 1}


async def test_two_releases_at_once_let_go_of_one_probe(database: Database, deliveries: Deliveries) -> None:
    await owe_many(database, [URL], 20, standing="held")
    for _ in range(5):
        await block(database, -1, is_open=True)
        await asyncio.gather(*(deliveries.release(WINDOW_SECONDS) for _ in range(4)))
        assert (await standings(database))["held"] == 19
        [probe] = await claimed(deliveries)
        await asyncio.gather(*(deliveries.release(WINDOW_SECONDS) for _ in range(4)))
        assert await claimed(deliveries) == [], "one probe at a time"
        await deliveries.record([came_to(probe, 500)])
        await database.fetch("UPDATE delivery SET standing = 'held', attempt = 0 WHERE state = 'PENDING'")


async def test_a_success_lets_go_of_everything_in_batches(database: Database, deliveries: Deliveries) -> None:
    owed = 2 * STAGED_MAX + 10
    await block(database, -1, is_open=True)
    await owe_many(database, [URL], owed, standing="held")
    await round_of(deliveries)
    [probe] = await claimed(deliveries)
    await deliveries.record([came_to(probe, 200)])
    released = []
    while moved := await deliveries.release(WINDOW_SECONDS):
        released.append(moved)
    assert released == [STAGED_MAX, STAGED_MAX, 9]
    assert await standings(database) == {"DELIVERED": 1, "ready": owed - 1}
    assert await count(database, "attempt > 0") == 1, "nobody behind the breaker paid"
    assert (await deliveries.next_due_seconds()) is None, "and nothing is left to be visited"


async def test_five_failures_open_and_those_behind_are_held_not_burned(
    database: Database, deliveries: Deliveries
) -> None:
    await owe_many(database, [URL], 50)
    failed = 0
    while batch := await claimed(deliveries):
        failed += len(batch)
        await deliveries.record([came_to(each, 500) for each in batch])
    assert 5 <= failed <= 5 + CAP - 1
    while await claimed(deliveries):
        raise AssertionError("blocked")
    assert await standings(database) == {"waiting": failed, "held": 50 - failed}
    assert await count(database, "standing = 'held' AND attempt > 0") == 0
    for probes in range(1, 4):
        await unblock(database)
        await round_of(deliveries)
        [probe] = await claimed(deliveries)
        await deliveries.record([came_to(probe, 500)])
        assert await count(database, "attempt > 0") == failed + probes
        await claimed(deliveries)
    [row] = await database.fetch("SELECT trips, extract(epoch FROM blocked_until - clock_timestamp()) FROM endpoint")
    assert row[0] == 4
    assert 230 < row[1] <= 240, "30 s, doubled three times"


async def test_what_the_window_is_over_for_is_parked_when_it_is_let_go(
    database: Database, deliveries: Deliveries
) -> None:
    await block(database, -1)
    await owe_many(database, [URL], 3, standing="held")
    await age(database, 121)
    await owe_many(database, [URL], 2, standing="held")
    await round_of(deliveries)
    assert await standings(database) == {"PARKED": 3, "ready": 2}
    assert await count(database, "last_reason = 'window_over' AND finished_at IS NOT NULL AND attempt = 0") == 3


async def test_a_probe_over_its_window_does_not_stop_the_others(database: Database, deliveries: Deliveries) -> None:
    """The breaker lets go of one; that one is parked instead of sent: the next must come."""
    await block(database, -1, is_open=True)
    await owe_many(database, [URL], 3, standing="held")
    await age(database, 121)
    await owe_many(database, [URL], 2, standing="held")
    for _ in range(5):
        await round_of(deliveries)
    assert len(await claimed(deliveries)) == 1
    assert await count(database, "state = 'PARKED'") == 3


async def test_retries_of_a_blocked_endpoint_are_held_too(database: Database, deliveries: Deliveries) -> None:
    await owe_many(database, [URL], 4)
    batch = await claimed(deliveries)
    await deliveries.record([came_to(each, 503, retry_after=600.0) for each in batch])
    await hurry(database)
    await round_of(deliveries)
    assert await standings(database) == {"held": 4}
    [row] = await database.fetch("SELECT extract(epoch FROM blocked_until - clock_timestamp()) FROM endpoint")
    assert 590 < row[0] <= 600, "a Retry-After is for the endpoint, not for one delivery"
    await unblock(database)
    await round_of(deliveries)
    assert len(await claimed(deliveries)) == CAP // 2, "a lowered cap"


async def test_jobs_that_end_while_an_endpoint_is_blocked_are_held_at_birth_and_the_next_ones_are_not(
    database: Database, ledger: Ledger, deliveries: Deliveries
) -> None:
    await block(database, 60)
    first = await accept(ledger, callback_url=URL, callback_events=TERMINAL)
    attempts = await ledger.claim([first], [TYPE], WORKER, 60)
    async with database.transaction() as connection:
        await connection.execute(SETTLE, attempts[0].id)
    assert await standings(database) == {"held": 1}
    await unblock(database)
    for _ in range(2):
        await round_of(deliveries)
    second = await accept(ledger, callback_url=URL, callback_events=TERMINAL)
    await start(ledger, second)
    async with database.transaction() as connection:
        await connection.execute(SETTLE, second)
    assert await standings(database) == {"ready": 2}
