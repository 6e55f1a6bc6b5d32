"""kill -9 of a notifier between any two steps, and commits whose answer is lost: nothing is lost, little repeated."""

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks

from tests.conftest import SIGNING_SECRET
from tests.faults.processes import Process, launch, until
from tests.faults.proxy_postgres import PostgresProxy
from tests.notifier.backlog import count, hurry, owe_many, standings
from tests.notifier.receiver import OK, Received, receiving, silence, status
from todoke.runtime.settings import Settings
from todoke.store.database import Database

OWED = 6
SLOTS = 4
# Of a tenant that is alone: three quarters.
IN_FLIGHT = 3
# What is sent and not yet recorded holds no slot: then the cap of the endpoint is what bounds it.
UNRECORDED = 4
LEASE_SECONDS = 30.0
CLAIM = "todoke.store.deliveries:Deliveries.claim"
RECORD = "todoke.store.deliveries:Deliveries.record"
SEND = "notifier.sender:Sender.send"
VERDICT = "notifier.recorder:Recorder.record"
LEARN = "todoke.store.endpoint_rows:Failing.learn"

# Step, what is sent before the process dies: none of the batch, or perhaps all of it.
STEPS = [
    ("before", CLAIM, 0),
    ("after", CLAIM, 0),
    ("before", SEND, 0),
    ("before", VERDICT, IN_FLIGHT),
    ("before", RECORD, UNRECORDED),
    ("before", LEARN, UNRECORDED),
    ("done", LEARN, UNRECORDED),
    ("after", RECORD, UNRECORDED),
]


@contextlib.asynccontextmanager
async def started(settings: Settings, folder: Path, *at: str, **changes: Any) -> AsyncIterator[Process]:
    """A notifier in a process of its own, as the settings say; killed at the end of the block."""
    process = await launch("notifier", at, settings.model_copy(update={"log_level": "INFO"} | changes), folder)
    try:
        await until(lambda: bool(process.logged("notifier.started")) or not process.is_alive, 40)
        yield process
    finally:
        process.signal(signal.SIGKILL)
        await process.ended()


async def when(condition: Callable[[], Awaitable[bool]], seconds: float = 40) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)


async def all_delivered(database: Database, owed: int = OWED) -> bool:
    return await standings(database) == {"DELIVERED": owed}


def same_each_time(received: list[Received]) -> Counter[str]:
    """How often each webhook came; every repeat is the same event in the same bytes, signed as it was sent."""
    bodies: dict[str, bytes] = {}
    for each in received:
        standardwebhooks.Webhook(SIGNING_SECRET).verify(each.body, each.headers)
        assert bodies.setdefault(each.webhook_id, each.body) == each.body
        assert abs(int(each.headers["webhook-timestamp"]) - each.at) < 10, "stamped when it was sent"
    return Counter(each.webhook_id for each in received)


@pytest.fixture
def few(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"webhook_slots": SLOTS, "webhook_timeout_seconds": 5.0, "webhook_lease_seconds": LEASE_SECONDS}
    )


@pytest.mark.parametrize(("when_", "target", "sent"), STEPS, ids=lambda value: str(value).rpartition(".")[2])
async def test_a_notifier_killed_at_any_step(
    few: Settings, database: Database, tmp_path: Path, when_: str, target: str, sent: int
) -> None:
    async with receiving() as receiver:
        await owe_many(database, [receiver.url], OWED)
        async with started(few, tmp_path, "kill", when_, target) as doomed:
            assert await doomed.ended(40) == -signal.SIGKILL, doomed.lines[-10:]
        assert len(receiver.received) <= sent
        async with started(few, tmp_path) as heir:
            await hurry(database)
            await when(lambda: all_delivered(database))
            heir.signal(signal.SIGTERM)
            assert await heir.ended() == 0
    times = same_each_time(receiver.received)
    assert len(times) == OWED
    assert set(times.values()) <= {1, 2}
    assert sum(times.values()) - OWED <= sent, "no more than what was in flight comes twice"


async def test_a_notifier_killed_while_its_receivers_think(few: Settings, database: Database, tmp_path: Path) -> None:
    """The bytes are written, the answers are not there: all that was in flight comes once more, nothing else does."""
    async with receiving(*[silence] * IN_FLIGHT) as receiver:
        async with started(few, tmp_path) as doomed:
            await owe_many(database, [f"{receiver.url}/{number}" for number in range(OWED)])
            await until(lambda: len(receiver.received) == IN_FLIGHT)
            doomed.signal(signal.SIGKILL)
            await doomed.ended()
        assert await count(database, "standing = 'leased'") >= IN_FLIGHT
        async with started(few, tmp_path):
            await hurry(database)
            await when(lambda: all_delivered(database))
    times = same_each_time(receiver.received)
    assert sorted(times.values()) == [1] * (OWED - IN_FLIGHT) + [2] * IN_FLIGHT
    assert await count(database, "attempt = 2") == IN_FLIGHT
    rows = await database.fetch("SELECT reason, count(*) FROM delivery_attempt GROUP BY 1")
    assert {row[0]: row[1] for row in rows} == {"delivered": OWED, "lost_lease": IN_FLIGHT}


async def test_notifiers_killed_again_and_again_under_load(few: Settings, database: Database, tmp_path: Path) -> None:
    owed = 300

    async def slowly(_received: object, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.02)
        writer.write(OK)

    async with receiving(*[slowly] * 10_000) as receiver, started(few, tmp_path) as steady:
        urls = [f"{receiver.url}/{number}" for number in range(6)]
        await owe_many(database, urls, owed // len(urls))
        for share in (0.2, 0.4, 0.6):
            async with started(few, tmp_path) as doomed:
                await when(lambda share=share: _at_least(database, int(share * owed)))  # type: ignore[misc]
                doomed.signal(signal.SIGKILL)
                await doomed.ended()
        async with asyncio.timeout(60):
            while not await all_delivered(database, owed):
                await _end_old_leases(database)
                await asyncio.sleep(0.05)
        assert steady.is_alive
    times = same_each_time(receiver.received)
    assert len(times) == owed
    assert sum(times.values()) - owed <= 5 * SLOTS


async def _at_least(database: Database, delivered: int) -> bool:
    return await count(database, "state = 'DELIVERED'") >= delivered


async def _end_old_leases(database: Database) -> None:
    """End leases that were taken longer ago than any send of the living takes here."""
    await database.fetch(
        "UPDATE delivery SET due_at = clock_timestamp() WHERE state = 'PENDING' AND standing = 'leased'"
        " AND due_at < clock_timestamp() + $1::float8 * interval '1 second'",
        LEASE_SECONDS - 2,
    )


@pytest.mark.parametrize("is_delivered", [True, False], ids=["server-got-it", "server-did-not"])
@pytest.mark.parametrize("marker", ["delivery.lease + 1", "INSERT INTO delivery_attempt"], ids=["claim", "record"])
async def test_a_commit_whose_answer_is_lost(
    few: Settings, database: Database, tmp_path: Path, marker: str, is_delivered: bool
) -> None:
    async with receiving() as receiver, PostgresProxy(few.database_url.get_secret_value()) as wire:
        # `stage` writes attempts too, outside a transaction and without rows: it is not meant.
        cut = wire.cut_commit(marker if "lease" in marker else "AS asked (\n        job_id", is_delivered=is_delivered)
        await owe_many(database, [receiver.url], OWED)
        async with started(few, tmp_path, **wire.through) as running:
            await asyncio.wait_for(cut.happened.wait(), 20)
            if "lease" in marker:
                await when(lambda: _is_claimed_or_due(database))
                await hurry(database)
            await when(lambda: all_delivered(database))
            assert running.is_alive
    times = same_each_time(receiver.received)
    assert (len(times), set(times.values())) == (OWED, {1}), "what was not sent is, what was sent is not sent again"
    if "lease" not in marker:
        assert await count(database, "attempt <> 1") == 0


async def _is_claimed_or_due(database: Database) -> bool:
    return await count(database, "state = 'PENDING' AND standing IN ('leased', 'ready')") > 0


@pytest.mark.parametrize("seconds", [600, -600])
async def test_a_machine_whose_clock_is_wrong(few: Settings, database: Database, tmp_path: Path, seconds: int) -> None:
    """Leases and dates are the database's: ten minutes off, in either direction, change neither."""
    answers = [status(500), silence]
    async with receiving(*answers) as receiver, started(few, tmp_path, "clock", str(seconds)) as running:
        await owe_many(database, [receiver.url])
        await when(lambda: _standing(database, "waiting"))
        [row] = await database.fetch("SELECT extract(epoch FROM due_at - clock_timestamp()) FROM delivery")
        assert 0 < row[0] <= 6.25
        await hurry(database)
        await until(lambda: len(receiver.received) == 2)
        [row] = await database.fetch("SELECT extract(epoch FROM due_at - clock_timestamp()) FROM delivery")
        assert 0 < row[0] <= few.webhook_lease_seconds
        await when(lambda: _standing(database, "waiting"))
        async with started(few, tmp_path, "clock", str(-seconds)):
            await hurry(database)
            await when(lambda: all_delivered(database, 1))
        assert running.is_alive
    assert len(receiver.received) == 3


async def _standing(database: Database, standing: str) -> bool:
    return await count(database, f"state = 'PENDING' AND standing = '{standing}'") == 1
