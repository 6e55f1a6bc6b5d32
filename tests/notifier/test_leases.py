"""Leases that pass on: a success wins, a late failure is dropped, and saying a thing twice counts once."""

import pytest

from tests.conftest import until
from tests.make import TENANT
from tests.notifier.backlog import (
    CAP,
    came_to,
    claimed,
    count,
    hurry,
    owe_many,
    refused,
    round_of,
    standings,
    unblock,
)
from tests.notifier.conftest import notifying
from tests.notifier.receiver import OK, receiving
from todoke.model.delivery import ATTEMPTS_MAX, Delivery
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.deliveries import Deliveries
from todoke.store.delivery_log import DeliveryLog
from todoke.store.endpoints import Endpoints

URL = "https://hooks.example.com/leases"


@pytest.fixture
def deliveries(database: Database) -> Deliveries:
    return Deliveries(database, CAP)


async def again(database: Database, deliveries: Deliveries) -> Delivery:
    """The delivery after its lease has run out and another notifier has taken it."""
    await hurry(database)
    await round_of(deliveries)
    [delivery] = await claimed(deliveries)
    return delivery


async def made(database: Database) -> list[tuple[int, int, int | None, str]]:
    rows = await database.fetch("SELECT lease, attempt, status, reason FROM delivery_attempt ORDER BY lease")
    return [tuple(row) for row in rows]


async def test_twelve_lost_leases_park(database: Database, deliveries: Deliveries) -> None:
    await owe_many(database, [URL])
    for attempt in range(1, ATTEMPTS_MAX + 1):
        [delivery] = await claimed(deliveries)
        assert (delivery.attempt, delivery.lease) == (attempt, attempt)
        await hurry(database)
        assert await deliveries.stage() == (1, 1)
    assert await standings(database) == {"PARKED": 1}
    assert await made(database) == [(lease, lease, None, "lost_lease") for lease in range(1, ATTEMPTS_MAX + 1)]
    assert await count(database, "last_reason = 'lost_lease' AND finished_at IS NOT NULL") == 1
    assert await database.fetch("SELECT FROM endpoint") == [], "the receiver was not to blame"


@pytest.mark.parametrize("moment", ["leased", "staged", "taken", "parked"])
async def test_a_success_wins_at_any_moment_after_its_lease(
    database: Database, deliveries: Deliveries, moment: str
) -> None:
    await owe_many(database, [URL])
    [old] = await claimed(deliveries)
    if moment == "parked":
        await database.fetch("UPDATE delivery SET attempt = $1", ATTEMPTS_MAX)
    if moment != "leased":
        await hurry(database)
        await deliveries.stage()
    taken = await claimed(deliveries) if moment == "taken" else []
    assert await deliveries.record([came_to(old, 200)]) == [True]
    assert await standings(database) == {"DELIVERED": 1}
    assert [each[3] for each in await made(database)] == ["delivered"]
    for each in taken:
        assert await deliveries.record([came_to(each, 500)]) == [False], "a late failure changes nothing"
    assert await standings(database) == {"DELIVERED": 1}
    assert await database.fetch("SELECT FROM endpoint") == [], "and is no failure of the endpoint"


@pytest.mark.parametrize("order", [1, -1], ids=["success-first", "failure-first"])
async def test_a_stale_success_and_a_current_failure_in_one_batch(
    database: Database, deliveries: Deliveries, order: int
) -> None:
    """One notifier may hold both: its own lease ran out and it took the delivery again."""
    await owe_many(database, [URL])
    [old] = await claimed(deliveries)
    new = await again(database, deliveries)
    await deliveries.record([came_to(old, 200), came_to(new, 500)][::order])
    assert await standings(database) == {"DELIVERED": 1}


@pytest.mark.parametrize("order", [1, -1], ids=["old-first", "new-first"])
async def test_a_stale_failure_and_a_current_one_in_one_batch(
    database: Database, deliveries: Deliveries, order: int
) -> None:
    await owe_many(database, [URL])
    [old] = await claimed(deliveries)
    new = await again(database, deliveries)
    told = await deliveries.record([came_to(old, 500), came_to(new, 503)][::order])
    assert told[::order] == [False, True]
    assert await made(database) == [(1, 1, 500, "http_status"), (2, 2, 503, "http_status")]
    assert await count(database, "last_status = 503 AND standing = 'waiting' AND attempt = 2") == 1


async def test_a_late_failure_of_a_lease_nobody_took_since_counts_once(
    database: Database, deliveries: Deliveries
) -> None:
    await owe_many(database, [URL])
    [late] = await claimed(deliveries)
    await hurry(database)
    await deliveries.stage()
    await deliveries.record([came_to(late, 500)])
    assert await made(database) == [(1, 1, 500, "http_status")]
    assert await count(database, "attempt = 1 AND state = 'PENDING'") == 1
    assert (await again(database, deliveries)).attempt == 2


async def test_a_failure_recorded_twice_counts_once(database: Database, deliveries: Deliveries) -> None:
    """The answer to the commit was lost, so the recorder says it again."""
    await owe_many(database, [URL])
    [delivery] = await claimed(deliveries)
    verdict = came_to(delivery, 500)
    await deliveries.record([verdict])
    await deliveries.record([verdict])
    [endpoint] = await database.fetch("SELECT failures, strain FROM endpoint")
    assert tuple(endpoint) == (1, 1)
    assert await count(database, "attempt = 1 AND standing = 'waiting'") == 1


async def test_a_throttling_recorded_twice_halves_the_cap_once(database: Database, deliveries: Deliveries) -> None:
    await owe_many(database, [URL])
    [delivery] = await claimed(deliveries)
    for _ in range(2):
        await deliveries.record([came_to(delivery, 429)])
    [endpoint] = await database.fetch("SELECT cap FROM endpoint")
    assert endpoint["cap"] == CAP // 2


async def test_a_fault_of_our_own_recorded_twice_gives_back_one_attempt(
    database: Database, deliveries: Deliveries
) -> None:
    await owe_many(database, [URL])
    [delivery] = await claimed(deliveries)
    for _ in range(3):
        await deliveries.record([refused(delivery)])
    assert await count(database, "attempt = 0") == 1
    assert (await again(database, deliveries)).attempt == 1


async def test_a_verdict_recorded_again_after_it_was_staged_does_not_put_it_off_again(
    database: Database, deliveries: Deliveries
) -> None:
    await owe_many(database, [URL])
    [delivery] = await claimed(deliveries)
    verdict = came_to(delivery, 500)
    await deliveries.record([verdict])
    await hurry(database)
    await deliveries.stage()
    await deliveries.record([verdict])
    assert await standings(database) == {"ready": 1}


async def test_what_a_dead_notifier_held_of_a_disabled_endpoint_comes_back_when_it_is_enabled(
    database: Database, deliveries: Deliveries, settings: Settings
) -> None:
    endpoints = Endpoints(database, settings.notify_channel)
    await owe_many(database, [URL])
    await claimed(deliveries)
    endpoint_id = await endpoints.know(TENANT, URL)
    assert await endpoints.disable(endpoint_id, TENANT)
    await hurry(database)
    await round_of(deliveries)
    assert await count(database, "state = 'PARKED' AND last_reason = 'endpoint_disabled'") == 1
    assert [each[3] for each in await made(database)] == ["lost_lease"]
    assert await endpoints.enable(endpoint_id, TENANT) == (1, False)
    await round_of(deliveries)
    assert len(await claimed(deliveries)) == 1


async def test_a_failure_from_before_a_redelivery_does_not_end_it(
    database: Database, deliveries: Deliveries, settings: Settings
) -> None:
    """The twelfth attempt is thought lost, parked, owed again by hand; only then its failure comes."""
    await owe_many(database, [URL])
    [late] = await claimed(deliveries)
    await database.fetch("UPDATE delivery SET attempt = $1", ATTEMPTS_MAX)
    await hurry(database)
    await deliveries.stage()
    assert await standings(database) == {"PARKED": 1}
    await database.fetch(
        "INSERT INTO job (id, tenant_id, type, params, max_attempts, timeout_seconds, due_at, created_at, updated_at)"
        " SELECT $1, $2::text, 't', '{}', 5, 60, now(), now(), now()",
        late.job_id,
        TENANT,
    )
    assert await DeliveryLog(database, settings.notify_channel).redeliver(late.job_id, 3, TENANT)
    last = Delivery(**{**late.__dict__, "attempt": ATTEMPTS_MAX})
    await deliveries.record([came_to(last, 500)])
    assert (await standings(database)).get("PARKED") is None


async def test_a_send_longer_than_its_lease_and_a_second_notifier_make_two_sends_and_no_third(
    settings: Settings, database: Database
) -> None:
    """The lease is ended by hand while the first one sends; its success counts, and ends the second one's too."""
    waiting: list[object] = []

    async def slow(received: object, writer: object) -> None:
        waiting.append(received)
        await until(lambda: len(waiting) >= 2, 20)
        writer.write(OK)  # type: ignore[attr-defined]

    long = settings.model_copy(update={"webhook_timeout_seconds": 15.0, "webhook_lease_seconds": 20.0})
    async with receiving(slow, slow) as receiver, notifying(long), notifying(long):
        await owe_many(database, [receiver.url])
        await until(lambda: len(waiting) == 1)
        await hurry(database)
        await until(lambda: len(waiting) == 2)
        async with notifying(long):
            deliveries = Deliveries(database, CAP)
            while (await standings(database)) != {"DELIVERED": 1}:
                await deliveries.stage()
            await hurry(database)
            await round_of(deliveries)
            assert await claimed(deliveries) == []
    assert len(receiver.received) == 2
    first, second = receiver.received
    assert (first.body, first.webhook_id) == (second.body, second.webhook_id)
    await unblock(database)
