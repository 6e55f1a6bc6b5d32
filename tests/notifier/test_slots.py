"""What holds a slot, and for how long: the claimer over a real database, sending taken from it."""

import asyncio
from collections.abc import Callable

import pytest

from notifier.claimer import Claimer
from tests.notifier.backlog import CAP, NO_PIVOT, owe_many
from todoke.model.delivery import Delivery
from todoke.store.database import Database
from todoke.store.deliveries import Deliveries

URLS = [f"http://127.0.0.1:1/{number}" for number in range(2)]


@pytest.mark.parametrize(("is_sent", "begun_at_most"), [(False, 2), (True, 4)])
async def test_what_is_sent_and_not_recorded_holds_no_slot_up_to_as_many_again(
    database: Database, is_sent: bool, begun_at_most: int
) -> None:
    begun: list[Delivery] = []
    enough, let_go = asyncio.Event(), asyncio.Event()

    async def deliver(delivery: Delivery, _until: float, sent: Callable[[bool], None]) -> None:
        begun.append(delivery)
        if is_sent:
            sent(True)
        if len(begun) == begun_at_most:
            enough.set()
        await let_go.wait()

    for tenant_id in ("a", "b", "c", "d"):
        await owe_many(database, URLS, tenant_id=tenant_id)
    deliveries = Deliveries(database, CAP)
    claimer = Claimer(deliveries, deliver, slots=2, endpoint_slots=CAP, lease_seconds=40, sweep_seconds=0.05)
    running = asyncio.create_task(claimer.run())
    await asyncio.wait_for(enough.wait(), 20)
    # Called again and again, while we ask PostgreSQL as often, it still takes no more.
    for _ in range(20):
        claimer.heard()
        await deliveries.look("", NO_PIVOT, 10)
    assert len(begun) == begun_at_most
    let_go.set()
    await claimer.drain(10)
    await running
