"""The notifier as a process: several at once, killed, told to stop, told nothing at all."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import standardwebhooks

from tests.conftest import REPOSITORY, SECRET_KEYS, SIGNING_SECRET, until
from tests.make import TYPE, WORKER, make_job
from tests.notifier.conftest import make_due, owe, row, row_when
from tests.notifier.receiver import OK, receiving, silence
from todoke.model.event import TERMINAL
from todoke.model.job import Outcome, State
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.ledger import Ledger
from todoke.store.signing import SigningKeys
from todoke.wire.asymmetric import verify_with_key

DELIVERIES = 200


@dataclass
class Process:
    """A running `python -m notifier` and what it has logged."""

    process: asyncio.subprocess.Process
    lines: list[dict[str, object]] = field(default_factory=list)

    def logged(self, event: str) -> bool:
        return any(line["event"] == event for line in self.lines)

    async def listen(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            with contextlib.suppress(json.JSONDecodeError):
                self.lines.append(json.loads(line))

    async def end(self, number: signal.Signals, seconds: float = 20) -> int:
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), seconds)


@contextlib.asynccontextmanager
async def notifier(settings: Settings, **changes: str) -> AsyncIterator[Process]:
    environment = {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "TODOKE_SIGNING_SECRET": SIGNING_SECRET,
        "TODOKE_SECRET_KEYS": SECRET_KEYS,
        "TODOKE_DESK_MODE": "1",
        "TODOKE_SWEEP_SECONDS": "0.5",
        "TODOKE_WEBHOOK_TIMEOUT_SECONDS": "5",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "notifier",
        cwd=REPOSITORY,
        env={**os.environ, **environment, **changes},
        stderr=asyncio.subprocess.PIPE,
    )
    running = Process(process)
    listener = asyncio.create_task(running.listen())
    try:
        await until(lambda: running.logged("notifier.started"), 30)
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await listener


async def owe_many(ledger: Ledger, url: str, count: int) -> None:
    """Many jobs succeed in one commit, each of a callback of its own, so that no endpoint's cap is in the way."""
    jobs = [make_job(callback_url=f"{url}?job={number}", callback_events=TERMINAL) for number in range(count)]
    await ledger.accept(jobs, 30)
    attempts = await ledger.claim([job.id for job in jobs], [TYPE], WORKER, 60)
    await ledger.settle([Outcome(attempt.id, attempt.lease, State.SUCCESS) for attempt in attempts], WORKER)


async def count(database: Database, state: str) -> int:
    return int((await database.fetch("SELECT count(*) FROM delivery WHERE state = $1", state))[0][0])


async def test_two_notifiers_send_each_delivery_once(settings: Settings, database: Database, ledger: Ledger) -> None:
    async def slow(_received: object, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.02)
        writer.write(OK)

    async with (
        receiving(*[slow] * DELIVERIES) as receiver,
        notifier(settings, TODOKE_WEBHOOK_SLOTS="8") as first,
        notifier(settings, TODOKE_WEBHOOK_SLOTS="8") as second,
    ):
        await owe_many(ledger, receiver.url, DELIVERIES)
        async with asyncio.timeout(40):
            while True:
                if await count(database, "DELIVERED") == DELIVERIES:
                    break
                await asyncio.sleep(0.05)
        assert await first.end(signal.SIGTERM) == 0
        assert await second.end(signal.SIGTERM) == 0
    seen = Counter(received.webhook_id for received in receiver.received)
    assert len(seen) == DELIVERIES
    assert set(seen.values()) == {1}
    assert first.logged("delivery.attempted")
    assert second.logged("delivery.attempted")


async def test_a_killed_notifiers_delivery_is_sent_again_after_its_lease(
    settings: Settings, database: Database, ledger: Ledger
) -> None:
    async with receiving(silence) as receiver:
        async with notifier(settings, TODOKE_WEBHOOK_TIMEOUT_SECONDS="1") as first:
            job_id = await owe(ledger, receiver.url)
            await until(lambda: len(receiver.received) == 1)
            await first.end(signal.SIGKILL)
        held = await row(database, job_id)
        assert held["state"] == "PENDING"
        assert 20 < held["seconds_left"] <= 26
        async with notifier(settings) as second:
            await make_due(database, job_id)
            delivered = await row_when(database, job_id, lambda found: found["state"] == "DELIVERED")
            assert await second.end(signal.SIGTERM) == 0
    before, after = receiver.received
    assert (before.webhook_id, before.body) == (after.webhook_id, after.body)
    assert delivered["attempt"] == 2
    standardwebhooks.Webhook(SIGNING_SECRET).verify(after.body, after.headers)


async def test_a_killed_notifiers_delivery_is_taken_up_by_another_that_runs(
    settings: Settings, database: Database, ledger: Ledger
) -> None:
    async with receiving(silence) as receiver, notifier(settings, TODOKE_WEBHOOK_TIMEOUT_SECONDS="30") as first:
        job_id = await owe(ledger, receiver.url)
        await until(lambda: len(receiver.received) == 1)
        async with notifier(settings) as second:
            await first.end(signal.SIGKILL)
            assert (await row(database, job_id))["seconds_left"] <= 60, "the longest lease there can be"
            # The rest of the lease in a second instead of a minute; nobody rings for its end.
            await database.fetch(
                "UPDATE delivery SET due_at = clock_timestamp() + interval '1 second' WHERE job_id = $1", job_id
            )
            began = time.monotonic()
            await row_when(database, job_id, lambda found: found["state"] == "DELIVERED")
            assert 0.5 < time.monotonic() - began < 4
            assert await second.end(signal.SIGTERM) == 0
    before, after = receiver.received
    assert (before.webhook_id, before.body) == (after.webhook_id, after.body)


async def test_sigterm_finishes_what_is_in_flight_and_claims_no_more(
    settings: Settings, database: Database, ledger: Ledger
) -> None:
    release = asyncio.Event()

    async def slow(_received: object, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(OK)

    async with receiving(slow) as receiver, notifier(settings) as running:
        first = await owe(ledger, receiver.url)
        await until(lambda: len(receiver.received) == 1)
        running.process.send_signal(signal.SIGTERM)
        await until(lambda: running.logged("notifier.draining"))
        second = await owe(ledger, receiver.url)
        release.set()
        assert await asyncio.wait_for(running.process.wait(), 10) == 0
        assert (await row(database, first))["state"] == "DELIVERED"
        assert (await row(database, second))["attempt"] == 0
    assert running.logged("notifier.stopped")


async def test_a_second_sigterm_does_not_wait(settings: Settings, ledger: Ledger) -> None:
    async with receiving(silence) as receiver, notifier(settings, TODOKE_WEBHOOK_TIMEOUT_SECONDS="30") as running:
        await owe(ledger, receiver.url)
        await until(lambda: len(receiver.received) == 1)
        running.process.send_signal(signal.SIGTERM)
        await until(lambda: running.logged("notifier.draining"))
        started = time.monotonic()
        assert await running.end(signal.SIGTERM) == 1
        assert time.monotonic() - started < 3


async def test_a_receiver_that_never_answers_holds_up_the_end_for_the_drain_alone(
    settings: Settings, database: Database, ledger: Ledger
) -> None:
    async with (
        receiving(silence) as receiver,
        notifier(settings, TODOKE_WEBHOOK_TIMEOUT_SECONDS="30", TODOKE_DRAIN_SECONDS="0.5") as running,
    ):
        job_id = await owe(ledger, receiver.url)
        await until(lambda: len(receiver.received) == 1)
        assert await running.end(signal.SIGTERM, 5) == 0
        assert running.logged("drain.cut")
        assert (await row(database, job_id))["state"] == "PENDING"


async def test_without_a_secret_of_anybody_a_delivery_is_signed_with_the_services_key_alone(
    settings: Settings, database: Database, ledger: Ledger
) -> None:
    async with receiving() as receiver, notifier(settings, TODOKE_SIGNING_SECRET="") as running:
        job_id = await owe(ledger, receiver.url)
        await row_when(database, job_id, lambda found: found["state"] == "DELIVERED")
        assert await running.end(signal.SIGTERM) == 0
    [received] = receiver.received
    [published] = await SigningKeys(database, ()).published()
    assert re.fullmatch(r"v1a,\S+", received.headers["webhook-signature"])
    verify_with_key(published.public_key, received.headers, received.body)


async def refused(**environment: str) -> str:
    """What a notifier says that does not start."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "notifier",
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 2
    assert b"Traceback" not in said
    return said.decode()


@pytest.mark.parametrize("secret", ["whpk_AAAA", "secret"])
async def test_a_secret_that_is_none_is_named_and_the_exit_code_is_2(secret: str) -> None:
    said = await refused(TODOKE_SIGNING_SECRET=secret, TODOKE_SECRET_KEYS=SECRET_KEYS)
    assert "whsec_" in said
    assert "AAAA" not in said


@pytest.mark.parametrize("is_desk", ["0", "1"])
async def test_without_secret_keys_it_does_not_start(is_desk: str) -> None:
    said = await refused(TODOKE_SIGNING_SECRET=SIGNING_SECRET, TODOKE_DESK_MODE=is_desk)
    assert "TODOKE_SECRET_KEYS is not set" in said
    assert "notifier" in said
    assert "openssl rand" in said


async def test_a_signing_key_that_cannot_be_opened_keeps_it_from_starting(
    settings: Settings, database: Database
) -> None:
    await SigningKeys(database, ["another-key-that-is-long-enough-for-it"]).ensure()
    said = await refused(
        DATABASE_URL=settings.database_url.get_secret_value(), TODOKE_DESK_MODE="1", TODOKE_SECRET_KEYS=SECRET_KEYS
    )
    assert "todoke webhooks keys rotate --overlap-hours 0" in said
    assert len(said.strip().splitlines()) == 1
