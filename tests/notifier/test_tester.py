"""Tests of callbacks as a notifier runs them: real PostgreSQL, real sockets, receivers good and bad."""

import asyncio
import signal
import time
from collections.abc import Callable
from typing import Any

import asyncpg
import httpx
import pytest
import standardwebhooks

from notifier import tester
from notifier.sender import Sender, Signer
from notifier.tester import spoiled
from tests.conftest import SIGNING_SECRET, until
from tests.notifier.conftest import notifying, owe, row_when
from tests.notifier.receiver import Answer, Received, receiving, silence
from tests.notifier.test_process import notifier
from todoke.dev.postgres import Postgres
from todoke.model.callback_test import (
    KEPT_MAX,
    OPEN_MAX,
    CallbackTest,
    Grade,
    Kind,
    Probe,
    grade,
    judged,
    report,
    skipped,
)
from todoke.model.delivery import Answer as Answered
from todoke.model.delivery import Reason
from todoke.model.errors import InvalidInput, Unavailable
from todoke.model.ids import new_id
from todoke.runtime.lifecycle import running
from todoke.runtime.settings import Settings
from todoke.store.announcing import Off
from todoke.store.callback_tests import CallbackTests
from todoke.store.database import Database
from todoke.store.endpoints import Endpoints
from todoke.store.ledger import Ledger
from todoke.wire.signing import new_secret, signed_headers, verify

TENANT = "default"
OK, REFUSED, BROKEN = (
    f"HTTP/1.1 {line}\r\ncontent-length: 0\r\n\r\n".encode()
    for line in ("200 OK", "401 Unauthorized", "500 Internal Server Error")
)

Judge = Callable[[Received, list[str]], bytes]


@pytest.fixture
def tests(database: Database, settings: Settings) -> CallbackTests:
    return CallbackTests(database, settings.notify_channel)


def judging(judge: Judge) -> Answer:
    """An answer for every request of a receiver that remembers the ids it has taken."""
    seen: list[str] = []

    async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
        raw = judge(received, seen)
        if raw == OK:
            seen.append(received.headers["webhook-id"])
        writer.write(raw)

    return answer


def verifies(received: Received) -> bool:
    """As the independent verifier of the standard has it, time included."""
    try:
        standardwebhooks.Webhook(SIGNING_SECRET).verify(received.body, received.headers)
    except standardwebhooks.WebhookVerificationError:
        return False
    return True


def correct(received: Received, _seen: list[str]) -> bytes:
    return OK if verifies(received) else REFUSED


def trusting(_received: Received, _seen: list[str]) -> bytes:
    return OK


def timeless(received: Received, _seen: list[str]) -> bytes:
    """Verifies, and takes the time of the sender for its own."""
    try:
        verify(SIGNING_SECRET, received.headers, received.body, now=float(received.headers["webhook-timestamp"]))
    except InvalidInput:
        return REFUSED
    return OK


def touchy(received: Received, seen: list[str]) -> bytes:
    if received.headers["webhook-id"] in seen:
        return BROKEN
    return correct(received, seen)


async def ask(tests: CallbackTests, url: str, kind: Kind = Kind.SELF_TEST, tenant_id: str = TENANT) -> CallbackTest:
    test = await tests.create(new_id(), tenant_id, url, kind)
    assert test is not None
    return test


async def done(tests: CallbackTests, asked: CallbackTest, seconds: float = 20) -> dict[str, Any]:
    """The report, as soon as it is there."""
    async with asyncio.timeout(seconds):
        while True:
            found = await tests.find(asked.id, TENANT)
            assert found is not None
            if found.is_done:
                assert found.report is not None
                return found.report
            await asyncio.sleep(0.02)


def verdicts(found: dict[str, Any]) -> dict[str, str]:
    return {each["probe"]: each["verdict"] for each in found["probes"]}


async def self_test(settings: Settings, tests: CallbackTests, judge: Judge) -> tuple[dict[str, Any], list[Received]]:
    async with receiving(*[judging(judge)] * len(Probe)) as receiver, notifying(settings):
        return await done(tests, await ask(tests, receiver.url)), receiver.received


async def test_a_correct_receiver_passes(settings: Settings, tests: CallbackTests) -> None:
    found, received = await self_test(settings, tests, correct)
    assert found["grade"] == "pass"
    assert [(each["probe"], each["expected"], each["status"]) for each in found["probes"]] == [
        ("good", "2xx", 200),
        ("duplicate", "2xx", 200),
        ("bad_signature", "4xx", 401),
        ("no_signature", "4xx", 401),
        ("stale", "4xx", 401),
    ]
    assert not any(each["advice"] for each in found["probes"])
    good, duplicate, *others = received
    assert (good.body, good.webhook_id) == (duplicate.body, duplicate.webhook_id)
    assert len({each.webhook_id for each in received}) == 4, "a receiver that drops known ids first must see new ones"
    assert len(others) == 3


async def test_a_ping_is_one_good_event(settings: Settings, tests: CallbackTests) -> None:
    async with receiving() as receiver, notifying(settings):
        found = await done(tests, await ask(tests, receiver.url, Kind.PING))
    assert (found["grade"], verdicts(found)) == ("pass", {"good": "pass"})
    [received] = receiver.received
    event = standardwebhooks.Webhook(SIGNING_SECRET).verify(received.body, received.headers)
    assert event["type"] == "webhook.test"
    assert set(event) == {"type", "timestamp", "data"}
    assert received.headers["content-type"] == "application/json"
    assert received.headers["todoke-attempt"] == "1"


async def test_a_receiver_that_never_verifies_fails(settings: Settings, tests: CallbackTests) -> None:
    found, _ = await self_test(settings, tests, trusting)
    assert found["grade"] == "fail"
    assert verdicts(found) == {
        "good": "pass",
        "duplicate": "pass",
        "bad_signature": "fail",
        "no_signature": "fail",
        "stale": "weak",
    }
    assert "verify" in found["probes"][2]["advice"]


async def test_a_receiver_without_a_clock_is_weak(settings: Settings, tests: CallbackTests) -> None:
    found, received = await self_test(settings, tests, timeless)
    assert (found["grade"], verdicts(found)["stale"]) == ("weak", "weak")
    assert "five minutes" in found["probes"][-1]["advice"]
    assert 599 <= time.time() - int(received[-1].headers["webhook-timestamp"]) <= 630


async def test_a_receiver_that_breaks_at_repeats_is_weak(settings: Settings, tests: CallbackTests) -> None:
    found, _ = await self_test(settings, tests, touchy)
    assert (found["grade"], verdicts(found)["duplicate"]) == ("weak", "weak")
    assert found["probes"][1]["status"] == 500


async def test_what_refuses_good_events_is_asked_nothing_more(settings: Settings, tests: CallbackTests) -> None:
    found, received = await self_test(settings, tests, lambda *_: REFUSED)
    assert found["grade"] == "fail"
    assert set(list(verdicts(found).values())[1:]) == {"untested"}
    assert "secret" in found["probes"][0]["advice"]
    assert len(received) == 1


async def test_receivers_that_hang_hold_up_no_delivery(
    settings: Settings, tests: CallbackTests, database: Database, ledger: Ledger
) -> None:
    """At most two tests run at once; the third waits, deliveries do not."""
    slow = settings.model_copy(update={"webhook_timeout_seconds": 3.0})
    async with receiving(*[silence] * 9) as hung, receiving() as good, notifying(slow):
        asked = [await ask(tests, hung.url, Kind.PING, tenant) for tenant in (TENANT, "one", "two")]
        await until(lambda: len(hung.received) == 2)
        job_id = await owe(ledger, good.url)
        await row_when(database, job_id, lambda found: found["state"] == "DELIVERED")
        assert len(hung.received) == 2
        found = await done(tests, asked[0])
        await until(lambda: len(hung.received) == 3)
    assert (found["grade"], found["probes"][0]["reason"]) == ("fail", "timeout")
    assert found["probes"][0]["seconds"] >= 3


async def test_tests_of_one_tenant_run_one_after_another(tests: CallbackTests) -> None:
    first, second = [await ask(tests, "https://hooks.example.com/") for _ in range(2)]
    other = await ask(tests, "https://hooks.example.com/", Kind.PING, "other")
    claimed = [await tests.claim(60) for _ in range(3)]
    assert [each and each.id for each in claimed] == [first.id, other.id, None]
    assert claimed[0] is not None
    assert await tests.finish(claimed[0], {})
    assert not await tests.finish(claimed[0], {}), "a report is kept once"
    again = await tests.claim(60)
    assert again is not None
    assert again.id == second.id


async def test_only_so_many_tests_of_a_tenant_are_open(tests: CallbackTests) -> None:
    made = await asyncio.gather(
        *(tests.create(new_id(), TENANT, "https://hooks.example.com/", Kind.PING) for _ in range(OPEN_MAX + 3))
    )
    assert sum(test is not None for test in made) == OPEN_MAX
    assert await ask(tests, "https://hooks.example.com/", Kind.PING, "other")


async def test_only_so_many_reports_are_kept(tests: CallbackTests, database: Database) -> None:
    await database.fetch(
        "INSERT INTO callback_test (id, tenant_id, url, kind, state, created_at) "
        "SELECT gen_random_uuid(), tenant, 'https://hooks.example.com/', 'ping', 'DONE', now() - n * interval '1 s' "
        "FROM generate_series(1, $1) AS n, unnest(ARRAY['default', 'other']) AS tenant",
        KEPT_MAX + 20,
    )
    await ask(tests, "https://hooks.example.com/")
    rows = await database.fetch(
        "SELECT tenant_id, count(*), min(created_at) > now() - interval '110 s' AS is_newest FROM callback_test "
        "GROUP BY 1 ORDER BY 1"
    )
    assert [tuple(row) for row in rows] == [("default", KEPT_MAX + 1, True), ("other", KEPT_MAX + 20, False)]


async def test_a_report_outlives_an_outage_of_postgresql(
    settings: Settings, tests: CallbackTests, postgres: Postgres
) -> None:
    """Connections are cut and refused while the receiver thinks: the report is kept when they come back."""
    name = settings.database_url.get_secret_value().rsplit("/", 1)[1]
    release = asyncio.Event()

    async def slow(_received: Received, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(OK)

    admin = await asyncpg.connect(postgres.url.rsplit("/", 1)[0] + "/postgres")
    try:
        long = settings.model_copy(update={"webhook_timeout_seconds": 10.0})
        async with receiving(slow) as receiver, notifying(long):
            asked = await ask(tests, receiver.url, Kind.PING)
            await until(lambda: len(receiver.received) == 1)
            await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
            release.set()
            with pytest.raises(Unavailable):
                await tests.find(asked.id, TENANT)
            await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            assert (await done(tests, asked))["grade"] == "pass"
    finally:
        await admin.close()
    assert len(receiver.received) == 1


async def test_a_killed_notifiers_test_is_run_by_another(
    settings: Settings, tests: CallbackTests, database: Database
) -> None:
    async with receiving(silence) as receiver:
        async with notifier(settings) as first:
            asked = await ask(tests, receiver.url)
            await until(lambda: len(receiver.received) == 1)
            await first.end(signal.SIGKILL)
        [kept] = await database.fetch("SELECT state, tries FROM callback_test")
        assert (kept["state"], kept["tries"]) == ("PENDING", 1)
        await database.fetch("UPDATE callback_test SET due_at = clock_timestamp()")
        receiver.answers += [judging(correct)] * len(Probe)
        async with notifier(settings):
            found = await done(tests, asked)
    assert found["grade"] == "pass"
    assert receiver.received[0].body == receiver.received[1].body, "the receiver knows the repeat by its id"
    assert receiver.received[0].webhook_id == receiver.received[1].webhook_id


async def test_a_stopped_notifier_gives_its_tests_back(
    settings: Settings, tests: CallbackTests, database: Database
) -> None:
    slow = settings.model_copy(update={"webhook_timeout_seconds": 20.0})
    async with receiving(silence) as receiver:
        async with notifying(slow):
            asked = await ask(tests, receiver.url, Kind.PING)
            await until(lambda: len(receiver.received) == 1)
        [kept] = await database.fetch("SELECT tries, due_at <= clock_timestamp() AS is_due FROM callback_test")
        assert (kept["tries"], kept["is_due"]) == (0, True)
        async with notifying(settings):
            assert (await done(tests, asked))["grade"] == "pass"


async def test_a_test_is_not_begun_for_ever(tests: CallbackTests, database: Database) -> None:
    lost, late = [await ask(tests, "https://hooks.example.com/", Kind.PING) for _ in range(2)]
    await database.fetch("UPDATE callback_test SET tries = 3 WHERE id = $1", lost.id)
    assert "lost" in (await done(tests, lost))["advice"]
    await database.fetch("UPDATE callback_test SET created_at = created_at - interval '1 hour' WHERE id = $1", late.id)
    found = await done(tests, late)
    assert (found["grade"], found["probes"]) == ("untested", [])
    assert "todoke notifier" in found["advice"]


@pytest.mark.parametrize(
    ("reason", "kind", "judge", "becomes"),
    [
        ("gone", Kind.SELF_TEST, correct, "ACTIVE"),
        ("disabled_by_api", Kind.SELF_TEST, correct, "DISABLED"),
        ("gone", Kind.SELF_TEST, trusting, "DISABLED"),
        ("gone", Kind.PING, correct, "DISABLED"),
    ],
    ids=["passed", "wanted", "failed", "ping"],
)
async def test_a_passed_self_test_enables_the_endpoint(
    settings: Settings, tests: CallbackTests, database: Database, reason: str, kind: Kind, judge: Judge, becomes: str
) -> None:
    async with receiving(*[judging(judge)] * len(Probe)) as receiver:
        for tenant in (TENANT, "other"):
            await database.fetch(
                "INSERT INTO endpoint (id, tenant_id, url, state, disabled_reason, disabled_at, failures, updated_at) "
                "VALUES (endpoint_key($1, $2), $1, $2, 'DISABLED', $3, now(), 7, now())",
                tenant,
                receiver.url,
                reason,
            )
        async with notifying(settings):
            found = await done(tests, await ask(tests, receiver.url, kind))
    rows = await database.fetch("SELECT tenant_id, state, failures FROM endpoint ORDER BY tenant_id")
    assert [(row["tenant_id"], row["state"]) for row in rows] == [("default", becomes), ("other", "DISABLED")]
    assert found["endpointEnabled"] == (becomes == "ACTIVE")


async def test_what_was_parked_is_sent_after_a_passed_self_test(
    settings: Settings, tests: CallbackTests, database: Database, ledger: Ledger
) -> None:
    async with receiving(*[judging(correct)] * len(Probe)) as receiver:
        await database.fetch(
            "INSERT INTO endpoint (id, tenant_id, url, state, disabled_reason, disabled_at, updated_at) "
            "VALUES (endpoint_key('default', $1), 'default', $1, 'DISABLED', 'gone', now(), now())",
            receiver.url,
        )
        job_id = await owe(ledger, receiver.url)
        async with notifying(settings):
            found = await done(tests, await ask(tests, receiver.url))
            await row_when(database, job_id, lambda found: found["state"] == "DELIVERED")
    assert (found["endpointEnabled"], found["redelivered"]) == (True, 1)
    assert receiver.received[-1].webhook_id == f"evt_{job_id.hex}_3"


async def test_without_notify_a_sweep_finds_the_test(settings: Settings, database: Database) -> None:
    silent = settings.model_copy(update={"notify_mode": "off"})
    tests = CallbackTests(database, silent.notify_channel, Off())
    async with receiving() as receiver, notifying(silent):
        assert (await done(tests, await ask(tests, receiver.url, Kind.PING)))["grade"] == "pass"


async def test_a_test_is_claimed_by_one_notifier(tests: CallbackTests) -> None:
    asked = {(await ask(tests, "https://hooks.example.com/", Kind.PING, f"tenant {n}")).id for n in range(4)}
    claimed = await asyncio.gather(*(tests.claim(60) for _ in range(8)))
    found = [each.id for each in claimed if each is not None]
    assert len(found) == len(set(found))
    rest = [each.id for _ in range(4) if (each := await tests.claim(60))]
    assert {*found, *rest} == asked
    assert len(found) + len(rest) == 4


class Secretless:
    """Signers of a deployment that has nothing to sign with."""

    async def of(self, tenant_id: str, url: str) -> Signer:
        raise InvalidInput("make a secret first")


async def test_what_cannot_be_signed_is_untested(tests: CallbackTests, settings: Settings, database: Database) -> None:
    asked = await ask(tests, "https://hooks.example.com/")
    sender = Sender(httpx.MockTransport(lambda _: httpx.Response(500)), 1, 0)
    endpoints = Endpoints(database, settings.notify_channel)
    room = tester.Tester(tests, endpoints, Secretless(), sender, timeout_seconds=1, sweep_seconds=1)
    async with running(room.run()):
        found = await done(tests, asked)
    assert (found["grade"], found["probes"], found["advice"]) == ("untested", [], "make a secret first")


def test_a_spoiled_signature_looks_like_one() -> None:
    good = signed_headers([new_secret(), new_secret()], "test_1", 1, b"{}")["webhook-signature"] + " v1a," + "QUJD" * 16
    bad = spoiled(good)
    assert [entry.partition(",")[0] for entry in bad.split(" ")] == ["v1", "v1", "v1a"]
    for ours, theirs in zip(good.split(" "), bad.split(" "), strict=True):
        assert ours != theirs
        assert len(ours) == len(theirs)


@pytest.mark.parametrize(
    ("probe", "answered", "verdict"),
    [
        (Probe.GOOD, Answered(Reason.HTTP_STATUS, 410), Grade.FAIL),
        (Probe.GOOD, Answered(Reason.REDIRECT, 301), Grade.FAIL),
        (Probe.GOOD, Answered(Reason.DNS), Grade.FAIL),
        (Probe.GOOD, Answered(Reason.SENDER), Grade.UNTESTED),
        (Probe.DUPLICATE, Answered(Reason.HTTP_STATUS, 409), Grade.WEAK),
        (Probe.BAD_SIGNATURE, Answered(Reason.HTTP_STATUS, 500), Grade.WEAK),
        (Probe.BAD_SIGNATURE, Answered(Reason.HTTP_STATUS, 429), Grade.WEAK),
        (Probe.BAD_SIGNATURE, Answered(Reason.DISCONNECTED), Grade.WEAK),
        (Probe.NO_SIGNATURE, Answered(Reason.HTTP_STATUS, 400), Grade.PASS),
        (Probe.STALE, Answered(Reason.HTTP_STATUS, 403), Grade.PASS),
        (Probe.STALE, Answered(Reason.DELIVERED, 204), Grade.WEAK),
    ],
)
def test_what_an_answer_is_worth(probe: Probe, answered: Answered, verdict: Grade) -> None:
    finding = judged(probe, answered)
    assert finding.verdict is verdict
    assert bool(finding.advice) == (verdict is not Grade.PASS)


def test_the_worst_finding_decides() -> None:
    good = judged(Probe.GOOD, Answered(Reason.DELIVERED, 200))
    weak = judged(Probe.DUPLICATE, Answered(Reason.HTTP_STATUS, 500))
    bad = judged(Probe.NO_SIGNATURE, Answered(Reason.DELIVERED, 200))
    assert [grade(found) for found in ([good], [good, weak], [weak, bad], [good, skipped(Probe.STALE)], [])] == [
        Grade.PASS,
        Grade.WEAK,
        Grade.FAIL,
        Grade.WEAK,
        Grade.UNTESTED,
    ]
    assert report([], "why")["advice"] == "why"
