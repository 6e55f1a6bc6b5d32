"""What is redelivered, replayed or enabled goes out at once, as it went out before."""

import standardwebhooks

from tests.conftest import SIGNING_SECRET, until
from tests.make import TENANT
from tests.notifier.conftest import notifying, owe, row_when
from tests.notifier.receiver import receiving, status
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.delivery_log import DeliveryLog, Wanted
from todoke.store.endpoints import Endpoints
from todoke.store.ledger import Ledger

# Longer than a test may take: what is sent meanwhile, the bell called for.
SWEEP_SECONDS = 600


async def test_a_redelivery_is_the_same_event_in_the_same_bytes(
    settings: Settings, database: Database, ledger: Ledger
) -> None:
    log = DeliveryLog(database, settings.notify_channel)
    patient = settings.model_copy(update={"sweep_seconds": SWEEP_SECONDS})
    async with receiving() as receiver, notifying(patient):
        job_id = await owe(ledger, receiver.url)
        await row_when(database, job_id, lambda found: found["state"] == "DELIVERED")
        assert await log.redeliver(job_id, 3, TENANT)
        await until(lambda: len(receiver.received) == 2)
        again = await row_when(database, job_id, lambda found: found["state"] == "DELIVERED" and found["attempt"] == 1)
    first, second = receiver.received
    assert (second.body, second.webhook_id) == (first.body, first.webhook_id)
    for received in receiver.received:
        standardwebhooks.Webhook(SIGNING_SECRET).verify(received.body, received.headers)
    kept = await log.one(job_id, 3, TENANT)
    assert kept is not None
    assert kept.attempts is not None
    assert [(each["attempt"], each["status"]) for each in kept.attempts] == [(1, 200), (1, 200)]
    assert again["last_reason"] == "delivered"


async def test_a_410_disables_and_enabling_sends_what_was_parked_meanwhile(
    settings: Settings, database: Database, ledger: Ledger
) -> None:
    log = DeliveryLog(database, settings.notify_channel)
    endpoints = Endpoints(database, settings.notify_channel)
    patient = settings.model_copy(update={"sweep_seconds": SWEEP_SECONDS})
    async with receiving(status(410)) as receiver, notifying(patient):
        refused = await owe(ledger, receiver.url)
        await row_when(database, refused, lambda found: found["last_reason"] == "gone")
        waiting = [await owe(ledger, receiver.url) for _ in range(3)]
        [seen] = await endpoints.listed(TENANT, 10)
        assert (seen.state, seen.disabled_reason, seen.parked) == ("DISABLED", "gone", 4)
        assert len(receiver.received) == 1
        assert await endpoints.enable(seen.id, TENANT) == (3, False)
        for job_id in waiting:
            await row_when(database, job_id, lambda found: found["state"] == "DELIVERED")
        assert len(receiver.received) == 4
        done = await log.replay(TENANT, Wanted(reason="gone"), 10)
        assert (done.count, done.is_more, done.disabled) == (1, False, 0)
        await row_when(database, refused, lambda found: found["state"] == "DELIVERED")
    assert receiver.received[-1].body == receiver.received[0].body


async def test_disabling_parks_what_is_owed(settings: Settings, database: Database, ledger: Ledger) -> None:
    endpoints = Endpoints(database, settings.notify_channel)
    async with receiving() as receiver:
        owed = [await owe(ledger, receiver.url) for _ in range(3)]
        endpoint_id = await endpoints.know(TENANT, receiver.url)
        assert await endpoints.disable(endpoint_id, TENANT)
        async with notifying(settings):
            for job_id in owed:
                found = await row_when(database, job_id, lambda found: found["state"] == "PARKED")
                assert found["last_reason"] == "endpoint_disabled"
            assert await endpoints.enable(endpoint_id, TENANT) == (3, False)
            for job_id in owed:
                await row_when(database, job_id, lambda found: found["state"] == "DELIVERED")
    assert len(receiver.received) == 3
