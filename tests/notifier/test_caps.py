"""How many deliveries an endpoint has at once, counted where it hurts: at the receiver. With real notifiers."""

import asyncio
import contextlib
from collections import Counter
from pathlib import Path

import pytest

from tests.notifier.backlog import CAP, came_to, claimed, count, hurry, owe_many, round_of, standings, unblock
from tests.notifier.receiver import OK, Answer, Received, receiving
from tests.notifier.test_killed import started, when
from todoke.model.endpoint import RECOVERY_SUCCESSES
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.deliveries import Deliveries

NOTIFIERS = 3
MANY, FEW = 2_000, 40


class Crowd:
    """Counts how many requests of a path are being answered at once."""

    def __init__(self, seconds: float = 0.01) -> None:
        self._seconds = seconds
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    async def __call__(self, received: Received, writer: asyncio.StreamWriter) -> None:
        path = received.target.split()[1]
        self.now[path] += 1
        self.most[path] = max(self.most[path], self.now[path])
        await asyncio.sleep(self._seconds)
        # Before the answer: once it is written, the other side may send the next one.
        self.now[path] -= 1
        writer.write(OK)


async def test_three_notifiers_never_exceed_the_cap_of_an_endpoint(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    crowd = Crowd()
    wide = settings.model_copy(update={"webhook_slots": 64, "webhook_endpoint_slots": CAP})
    answers: list[Answer] = [crowd] * (MANY + 10 * FEW)
    async with receiving(*answers) as receiver, contextlib.AsyncExitStack() as stack:
        await owe_many(database, [f"{receiver.url}/big"], MANY)
        await owe_many(database, [f"{receiver.url}/{number}" for number in range(5)], FEW)
        await owe_many(database, [f"{receiver.url}/b{number}" for number in range(5)], FEW, tenant_id="b")
        running = [await stack.enter_async_context(started(wide, tmp_path)) for _ in range(NOTIFIERS)]
        await when(lambda: _is_done(database, MANY + 10 * FEW), 100)
        assert all(each.is_alive for each in running)
    assert len(receiver.received) == MANY + 10 * FEW
    assert max(Counter(each.webhook_id for each in receiver.received).values()) == 1
    assert max(crowd.most.values()) <= CAP, crowd.most
    assert crowd.most["/hook/big"] == CAP, "and it is used"
    assert all(each.logged("delivery.attempted") for each in running)


async def _is_done(database: Database, owed: int) -> bool:
    return await count(database, "state = 'DELIVERED'") == owed


async def test_claims_at_the_same_time_never_exceed_the_cap(database: Database) -> None:
    await owe_many(database, ["https://a.example.com/", "https://b.example.com/"], 100)
    stores = [Deliveries(database, CAP) for _ in range(6)]
    for _ in range(5):
        taken = await asyncio.gather(*(claimed(each) for each in stores))
        flat = [each for batch in taken for each in batch]
        assert Counter(each.url for each in flat) == {"https://a.example.com/": CAP, "https://b.example.com/": CAP}
        await stores[0].record([came_to(each, 200) for each in flat[:3]])
        again = await asyncio.gather(*(claimed(each) for each in stores))
        assert sum(map(len, again)) == 3
        flat = flat[3:] + [each for batch in again for each in batch]
        await stores[0].record([came_to(each, 200) for each in flat])


@pytest.mark.parametrize("code", [429, 503])
async def test_a_throttled_endpoint_gets_half_as_much_and_grows_again(database: Database, code: int) -> None:
    cap = 16
    deliveries = Deliveries(database, cap)
    await owe_many(database, ["https://a.example.com/"], 400)
    [first] = await claimed(deliveries, 1)
    await deliveries.record([came_to(first, code)])
    assert await claimed(deliveries) == [], "cooling down"
    await unblock(database)
    await round_of(deliveries)
    sizes = []
    while batch := await claimed(deliveries):
        sizes.append(len(batch))
        await deliveries.record([came_to(each, 200) for each in batch])
        await round_of(deliveries)
    assert sizes[0] == cap // 2
    assert sizes[:-1] == sorted(sizes[:-1]), "it only grows"
    assert max(sizes) == cap
    grown = sum(sizes[: sizes.index(cap)])
    assert (cap // 2) * RECOVERY_SUCCESSES <= grown <= (cap // 2) * RECOVERY_SUCCESSES + 2 * cap
    [row] = await database.fetch("SELECT cap, failures FROM endpoint")
    assert tuple(row) == (None, 0)


async def test_what_was_in_flight_when_it_was_throttled_does_not_throttle_it_again(database: Database) -> None:
    """Four at once are one burst: one answer to it, not four."""
    deliveries = Deliveries(database, 16)
    await owe_many(database, ["https://a.example.com/"], 40)
    batch = await claimed(deliveries, 4)
    await deliveries.record([came_to(each, 429) for each in batch])
    [row] = await database.fetch("SELECT cap FROM endpoint")
    assert row["cap"] == 8


async def test_a_lease_that_ran_out_still_counts_until_it_is_staged(database: Database) -> None:
    deliveries = Deliveries(database, CAP)
    await owe_many(database, ["https://a.example.com/"], 20)
    assert len(await claimed(deliveries)) == CAP
    await hurry(database)
    assert await claimed(deliveries) == []
    await deliveries.stage()
    assert len(await claimed(deliveries)) == CAP
    assert await standings(database) == {"leased": CAP, "ready": 20 - CAP}
