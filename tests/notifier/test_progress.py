"""Progress as callbacks: the latest or nothing, never late, and it costs nobody anything."""

import asyncio
import json
import random
from collections.abc import Sequence
from uuid import UUID

import pytest

from tests.conftest import until
from tests.make import TYPE, WORKER, accept, make_job, start, succeed
from tests.notifier.backlog import CAP, came_to, claimed, count, hurry, refused, round_of, standings, unblock
from tests.notifier.conftest import notifying
from tests.notifier.receiver import OK, receiving, status
from tests.notifier.test_held import block
from todoke.model.delivery import Delivery
from todoke.model.event import PROGRESS, TERMINAL
from todoke.model.job import Attempt, Outcome, Progress, State
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.deliveries import Deliveries
from todoke.store.ledger import Ledger

URL = "https://hooks.example.com/held"
EVENTS = (*TERMINAL, PROGRESS)


@pytest.fixture
def deliveries(database: Database) -> Deliveries:
    return Deliveries(database, CAP)


async def working(ledger: Ledger, url: str = URL, events: Sequence[str] = EVENTS) -> Attempt:
    return await start(ledger, await accept(ledger, callback_url=url, callback_events=tuple(events)))


async def report(ledger: Ledger, attempt: Attempt, percent: float) -> None:
    await ledger.report([Progress(attempt.id, attempt.lease, percent, f"at {percent:g}")], WORKER)


def percent_of(delivery: Delivery) -> float:
    return float(json.loads(delivery.body)["data"]["progress"]["percent"])


async def test_the_latest_wins_and_at_most_one_is_ready(
    database: Database, ledger: Ledger, deliveries: Deliveries
) -> None:
    attempt = await working(ledger)
    for percent in range(10, 60, 10):
        await report(ledger, attempt, percent)
        assert await count(database, "sequence < 0 AND standing = 'ready'") == 1
    [progress] = await claimed(deliveries)
    assert percent_of(progress) == 50
    await report(ledger, attempt, 60)
    assert await standings(database) == {"leased": 1, "ready": 1}
    await deliveries.record([came_to(progress, 200)])
    assert await standings(database) == {"ready": 1}
    assert await database.fetch("SELECT FROM delivery_attempt") == []


async def test_a_job_that_asked_for_no_progress_gets_none(database: Database, ledger: Ledger) -> None:
    await report(ledger, await working(ledger, events=TERMINAL), 10)
    assert await count(database) == 0


@pytest.mark.parametrize("what", [200, 500, 410, None, "ours"])
async def test_it_is_sent_once_whatever_comes_of_it(
    database: Database, ledger: Ledger, deliveries: Deliveries, what: int | str | None
) -> None:
    attempt = await working(ledger)
    await report(ledger, attempt, 10)
    [progress] = await claimed(deliveries)
    await deliveries.record([refused(progress) if isinstance(what, str) else came_to(progress, what)])
    await round_of(deliveries)
    assert await count(database) == 0
    assert await database.fetch("SELECT FROM delivery_attempt") == []


async def test_one_whose_lease_is_lost_is_dropped(database: Database, ledger: Ledger, deliveries: Deliveries) -> None:
    await report(ledger, await working(ledger), 10)
    [progress] = await claimed(deliveries)
    await hurry(database)
    await round_of(deliveries)
    assert await count(database) == 0
    assert await deliveries.record([came_to(progress, 500)]) is not None
    assert await database.fetch("SELECT FROM delivery_attempt") == []


async def test_none_is_claimed_after_the_end_of_its_job(
    database: Database, ledger: Ledger, deliveries: Deliveries
) -> None:
    attempt = await working(ledger)
    await report(ledger, attempt, 10)
    await succeed(ledger, attempt)
    [end] = await claimed(deliveries)
    assert end.sequence == 3
    assert await count(database, "sequence < 0") == 0, "and it is forgotten"


async def test_a_blocked_endpoint_gets_none_and_none_is_held(
    database: Database, ledger: Ledger, deliveries: Deliveries
) -> None:
    attempt = await working(ledger)
    await report(ledger, attempt, 10)
    await block(database, 60)
    assert await claimed(deliveries) == []
    assert await count(database) == 0
    await report(ledger, attempt, 20)
    assert await count(database) == 0
    await unblock(database)
    for _ in range(2):
        await round_of(deliveries)
    await report(ledger, attempt, 30)
    [progress] = await claimed(deliveries)
    assert percent_of(progress) == 30


async def test_ends_and_reports_at_the_same_time_as_claims(
    seed: int, database: Database, ledger: Ledger, deliveries: Deliveries
) -> None:
    """Batches of reports, of ends and of claims, each taking its locks in its own order."""
    chance = random.Random(seed)
    jobs = [make_job(callback_url=URL, callback_events=EVENTS) for _ in range(30)]
    await ledger.accept(jobs, 30)
    attempts = await ledger.claim([job.id for job in jobs], [TYPE], WORKER, 60)
    claims: list[tuple[UUID, int, str]] = []
    is_over = asyncio.Event()

    async def work(mine: list[Attempt]) -> None:
        for percent in range(1, 40):
            chance.shuffle(mine)
            await ledger.report([Progress(each.id, each.lease, percent, "") for each in mine], WORKER)
        await ledger.settle([Outcome(each.id, each.lease, State.SUCCESS) for each in mine], WORKER)

    async def notify() -> None:
        while not is_over.is_set() or await count(database, "state = 'PENDING'"):
            batch = await claimed(deliveries, 8)
            claims.extend((each.job_id, each.sequence, each.body) for each in batch)
            await deliveries.record([came_to(each, chance.choice((200, 200, 200))) for each in batch])
            rows = await database.fetch(
                "SELECT FROM delivery WHERE sequence < 0 AND standing = 'ready' GROUP BY job_id HAVING count(*) > 1"
            )
            assert rows == []

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        notifying_ = [group.create_task(notify()) for _ in range(2)]
        working_ = [group.create_task(work(list(attempts[part::3]))) for part in range(3)]
        await asyncio.gather(*working_)
        is_over.set()
        await asyncio.gather(*notifying_)
    for job in jobs:
        mine = [sequence for job_id, sequence, _ in claims if job_id == job.id]
        assert mine.count(3) == 1
        assert mine[-1] == 3, "nothing after the end"
        versions = [-sequence for sequence in mine if sequence < 0]
        assert versions == sorted(set(versions)), "in order and once each"
    assert await standings(database) == {"DELIVERED": 30}


async def test_end_to_end_nothing_is_sent_after_the_end(settings: Settings, database: Database, ledger: Ledger) -> None:
    async def slow(_received: object, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.02)
        writer.write(OK)

    async with receiving(*[slow] * 200) as receiver, notifying(settings):
        attempt = await working(ledger, receiver.url)
        for percent in range(1, 60):
            await report(ledger, attempt, percent)
        await succeed(ledger, attempt)
        await until(lambda: any(each.webhook_id.endswith("_3") for each in receiver.received))
    types = [json.loads(each.body)["type"] for each in receiver.received]
    assert types.count("job.succeeded") == 1
    assert len(types) - types.index("job.succeeded") <= CAP, "only what was on its way already came after the end"
    assert await count(database, "sequence < 0") == 0


async def test_progress_that_fails_does_not_repeat_but_counts_for_the_breaker(
    settings: Settings, database: Database, ledger: Ledger
) -> None:
    async with receiving(*[status(500)] * 50) as receiver, notifying(settings):
        attempt = await working(ledger, receiver.url)
        for percent in range(1, 40):
            await report(ledger, attempt, percent)
            if await database.fetch("SELECT FROM endpoint WHERE is_open"):
                break
            sent = len(receiver.received)
            await until(lambda sent=sent: len(receiver.received) >= min(sent, 5))  # type: ignore[misc]
            await asyncio.sleep(0.03)
        await until(lambda: len(receiver.received) >= 5)
    versions = [each.webhook_id for each in receiver.received]
    assert len(set(versions)) == len(versions)
    assert await count(database, "sequence < 0") == 0
