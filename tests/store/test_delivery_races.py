"""Whoever changes deliveries and endpoints at the same time: nobody waits for ever, and nothing is lost."""

import asyncio
import random

from tests.make import TENANT
from tests.owing import URL, owe
from todoke.model.delivery import Answer, Delivery, DeliveryState, Reason, Verdict
from todoke.model.endpoint import EndpointState
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.deliveries import Deliveries
from todoke.store.delivery_log import DeliveryLog, Wanted
from todoke.store.endpoints import Endpoints
from todoke.store.ledger import Ledger

OWED = 40
TURNS = 60
ANSWERS = (
    (Answer(Reason.DELIVERED, 200), DeliveryState.DELIVERED),
    (Answer(Reason.HTTP_STATUS, 410), DeliveryState.PARKED),
    (Answer(Reason.HTTP_STATUS, 503, retry_after=0.01), DeliveryState.PENDING),
    (Answer(Reason.TIMEOUT), DeliveryState.PENDING),
    (Answer(Reason.TIMEOUT), DeliveryState.PARKED),
)


async def test_changes_at_the_same_time(seed: int, database: Database, ledger: Ledger, settings: Settings) -> None:
    chance = random.Random(seed)
    jobs = [await owe(ledger, url) for url in (URL, URL + "?2") for _ in range(OWED // 2)]
    deliveries, log = Deliveries(database, 4), DeliveryLog(database, settings.notify_channel)
    endpoints = Endpoints(database, settings.notify_channel)
    ids = [await endpoints.know(TENANT, url) for url in (URL, URL + "?2")]

    async def notify() -> None:
        for _ in range(TURNS):
            answer, state = chance.choice(ANSWERS)
            await deliveries.record([_verdict(each, answer, state) for each in await _claim(deliveries, ids)])
            await deliveries.stage()
            await deliveries.release(1e9)
            await deliveries.withdraw(ids)

    async def operate() -> None:
        for _ in range(TURNS):
            endpoint_id = chance.choice(ids)
            await chance.choice((endpoints.disable, endpoints.enable, endpoints.enable))(endpoint_id, TENANT)

    async def integrate() -> None:
        for _ in range(TURNS):
            if chance.random() < 0.3:
                await log.replay(TENANT, Wanted(), chance.randrange(1, OWED))
            elif not await _is_disabled(endpoints):
                await asyncio.gather(
                    *(log.redeliver(job_id, 3, TENANT) for job_id in chance.sample(jobs, 5)), return_exceptions=True
                )

    async with asyncio.timeout(60):
        await asyncio.gather(notify(), notify(), operate(), operate(), integrate(), integrate())
    await _deliver_all(database, deliveries, log, endpoints)
    rows = await database.fetch("SELECT state, count(*) FROM delivery GROUP BY 1")
    assert [tuple(row) for row in rows] == [("DELIVERED", OWED)]


async def _deliver_all(database: Database, deliveries: Deliveries, log: DeliveryLog, endpoints: Endpoints) -> None:
    """Everybody else has gone: what is left is asked for once more and taken."""
    ids = [seen.id for seen in await endpoints.listed(TENANT, 10)]
    for endpoint_id in ids:
        await endpoints.disable(endpoint_id, TENANT)
        await endpoints.enable(endpoint_id, TENANT)
    for row in await database.fetch("SELECT job_id FROM delivery WHERE state <> 'DELIVERED'"):
        assert await log.redeliver(row["job_id"], 3, TENANT)
    async with asyncio.timeout(30):
        while claimed := await _claim(deliveries, ids):
            answer = Answer(Reason.DELIVERED, 200)
            told = [_verdict(each, answer, DeliveryState.DELIVERED) for each in claimed]
            assert all(await deliveries.record(told)), "nobody else holds them"


async def _claim(deliveries: Deliveries, ids: list) -> list[Delivery]:  # type: ignore[type-arg]
    return await deliveries.claim({(TENANT, endpoint_id): 4 for endpoint_id in ids}, 40)


async def _is_disabled(endpoints: Endpoints) -> bool:
    return bool(await endpoints.listed(TENANT, 1, state=EndpointState.DISABLED))


def _verdict(delivery: Delivery, answer: Answer, state: DeliveryState) -> Verdict:
    return Verdict(delivery, answer, state, answer.reason, 0.0)
