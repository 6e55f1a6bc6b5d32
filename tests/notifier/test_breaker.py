"""Endpoints in trouble, through the real notifier: what is sent, what is held, what is parked, what comes back."""

import ssl
from pathlib import Path
from uuid import UUID

import pytest

from tests.conftest import until
from tests.make import TENANT
from tests.notifier.backlog import CAP, age, count, endpoint_of, owe_many, standings, unblock
from tests.notifier.certificates import server_context
from tests.notifier.conftest import notifying, owe, row_when
from tests.notifier.internet import HOST, Internet
from tests.notifier.receiver import Answer, receiving, status
from tests.notifier.test_killed import when
from todoke.model.delivery import Reason
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.endpoints import Endpoints
from todoke.store.ledger import Ledger

OWED = 40


async def stand(database: Database, **wanted: int) -> None:
    """Wait until the deliveries stand so."""

    async def is_so() -> bool:
        return await standings(database) == wanted

    try:
        await when(is_so, 30)
    except TimeoutError:
        raise AssertionError(await standings(database)) from None


async def test_a_breaker_opens_probes_and_closes(settings: Settings, database: Database) -> None:
    refusing = [status(500)] * 100
    async with receiving(*refusing) as receiver, notifying(settings):
        await owe_many(database, [receiver.url], OWED)
        await when(lambda: _opened(database, 1))
        # Those in flight when it opened end; nothing more is sent.
        await when(lambda: _none_leased(database))
        failed = len(receiver.received)
        assert 5 <= failed <= 5 + CAP - 1
        await stand(database, waiting=failed, held=OWED - failed)
        assert await count(database, "standing = 'held' AND attempt <> 0") == 0
        for trips in (2, 3):
            await unblock(database)
            await when(lambda trips=trips: _opened(database, trips))  # type: ignore[misc]
            assert len(receiver.received) == failed + trips - 1, "one probe at a time"
        receiver.answers.clear()
        await unblock(database)
        await when(lambda: _closed(database))
        await database.fetch("UPDATE delivery SET due_at = clock_timestamp() WHERE standing = 'waiting'")
        await stand(database, DELIVERED=OWED)
    assert await count(database, "attempt = 1") == OWED - failed - 2, "those behind the breaker paid nothing"


async def _opened(database: Database, trips: int) -> bool:
    return bool(await database.fetch("SELECT FROM endpoint WHERE is_open AND trips = $1", trips))


async def _closed(database: Database) -> bool:
    return bool(await database.fetch("SELECT FROM endpoint WHERE NOT is_open AND strain = 0"))


async def _is_disabled(database: Database) -> bool:
    return bool(await database.fetch("SELECT FROM endpoint WHERE state = 'DISABLED'"))


async def _none_leased(database: Database) -> bool:
    return await count(database, "state = 'PENDING' AND standing = 'leased'") == 0


async def test_a_410_disables_one_tenants_url_and_nobody_elses(
    settings: Settings, database: Database, ledger: Ledger
) -> None:
    async def gone_once(received: object, writer: object) -> None:
        is_first = all(each is received for each in receiver.received)
        await status(410 if is_first else 200)(received, writer)  # type: ignore[arg-type]

    answers: list[Answer] = [gone_once] * 300
    async with receiving(*answers) as receiver, notifying(settings):
        await owe_many(database, [receiver.url])
        await stand(database, PARKED=1)
        await owe_many(database, [receiver.url], 20)
        await stand(database, PARKED=21)
        assert len(receiver.received) == 1
        await owe_many(database, [receiver.url], 20, tenant_id="other")
        await owe_many(database, [receiver.url + "?another"], 20)
        await stand(database, PARKED=21, DELIVERED=40)
        born = await owe(ledger, receiver.url)
        [found] = await database.fetch("SELECT * FROM delivery WHERE job_id = $1", born)
        assert (found["state"], found["last_reason"], found["attempt"]) == ("PARKED", "endpoint_disabled", 0)
        assert found["finished_at"] is not None
        endpoints = Endpoints(database, settings.notify_channel)
        endpoint_id = await endpoint_of(database, receiver.url)
        assert await endpoints.enable(endpoint_id, TENANT) == (21, False)
        await stand(database, PARKED=1, DELIVERED=61)
    assert await count(database, "state = 'PARKED' AND last_reason = 'gone'") == 1


@pytest.mark.parametrize("word", ["disable", "abort-message"])
async def test_what_anybody_on_the_way_could_have_written_is_not_obeyed(
    settings: Settings, database: Database, word: str
) -> None:
    async with receiving(status(500, f"webhook-delivery: {word}")) as receiver, notifying(settings):
        await owe_many(database, [receiver.url])
        await stand(database, waiting=1)
        await database.fetch("UPDATE delivery SET due_at = clock_timestamp()")
        await stand(database, DELIVERED=1)


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return server_context(tmp_path, HOST)


@pytest.mark.parametrize(
    ("word", "reason", "state"), [("disable", Reason.GONE, "DISABLED"), ("abort-message", Reason.ABORTED, "ACTIVE")]
)
async def test_over_verified_tls_a_receiver_is_obeyed(
    settings: Settings,
    database: Database,
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
    word: str,
    reason: Reason,
    state: str,
) -> None:
    server, client = tls
    answers = [status(500, f"Webhook-Delivery: {word}")]
    async with receiving(*answers, tls=server) as receiver:
        transport = Internet({HOST: receiver.port}).transport(client)
        async with notifying(settings, transport):
            await owe_many(database, [f"https://{HOST}/hook"])
            await stand(database, PARKED=1)
            await owe_many(database, [f"https://{HOST}/hook"], 3)
            await stand(database, **({"PARKED": 4} if state == "DISABLED" else {"PARKED": 1, "DELIVERED": 3}))
    assert await count(database, f"last_reason = '{reason}'") == 1
    [endpoint] = await database.fetch("SELECT state FROM endpoint")
    assert endpoint["state"] == state


async def test_a_success_that_asks_to_be_disabled_is_a_success_and_the_last(
    settings: Settings, database: Database, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    server, client = tls
    async with receiving(status(200, "webhook-delivery: disable"), tls=server) as receiver:
        async with notifying(settings, Internet({HOST: receiver.port}).transport(client)):
            await owe_many(database, [f"https://{HOST}/hook"])
            await stand(database, DELIVERED=1)
            await owe_many(database, [f"https://{HOST}/hook"])
            await stand(database, DELIVERED=1, PARKED=1)
    [endpoint] = await database.fetch("SELECT state, disabled_reason FROM endpoint")
    assert tuple(endpoint) == ("DISABLED", "asked_by_receiver")


@pytest.mark.parametrize("code", [429, 503])
async def test_a_retry_after_cools_the_whole_endpoint(settings: Settings, database: Database, code: int) -> None:
    async with receiving(status(code, "retry-after: 300")) as receiver, notifying(settings):
        await owe_many(database, [receiver.url])
        await stand(database, waiting=1)
        await owe_many(database, [receiver.url], 5)
        await owe_many(database, [receiver.url], 5, tenant_id="other")
        await stand(database, waiting=1, held=5, DELIVERED=5)
        [row] = await database.fetch("SELECT extract(epoch FROM blocked_until - clock_timestamp()) FROM endpoint")
        assert 250 < row[0] <= 300
        await unblock(database)
        await stand(database, waiting=1, DELIVERED=10)
        [row] = await database.fetch(
            "SELECT extract(epoch FROM due_at - clock_timestamp()) FROM delivery WHERE state = 'PENDING'"
        )
        assert 250 < row[0] <= 375, "and the refused one waits for at least as long"


async def test_what_is_owed_too_long_is_parked_and_can_be_told_why(settings: Settings, database: Database) -> None:
    async with receiving(status(500)) as receiver:
        await owe_many(database, [receiver.url])
        await age(database, 121)
        async with notifying(settings):
            await stand(database, PARKED=1)
    assert len(receiver.received) == 1, "it is tried once, all the same"
    assert await count(database, "last_reason = 'window_over' AND last_status = 500") == 1


async def test_an_endpoint_that_fails_for_five_days_is_disabled(
    settings: Settings, database: Database, ledger: Ledger
) -> None:
    async with receiving(*[status(500)] * 100) as receiver, notifying(settings):
        await owe_many(database, [receiver.url], 2)
        await stand(database, waiting=2)
        await database.fetch(
            "UPDATE endpoint SET failing_since = clock_timestamp() - interval '121 hours', failures = 19"
        )
        await database.fetch("UPDATE delivery SET due_at = clock_timestamp()")
        await until(lambda: len(receiver.received) in (3, 4))
        await when(lambda: _is_disabled(database))
        # Those that wait for their next attempt are parked when its time has come.
        await when(lambda: _none_leased(database))
        await database.fetch("UPDATE delivery SET due_at = clock_timestamp()")
        await stand(database, PARKED=2)
        job_id = await owe(ledger, receiver.url)
        await row_when(database, job_id, lambda found: found["state"] == "PARKED")
    [endpoint] = await database.fetch("SELECT id, disabled_reason FROM endpoint")
    assert endpoint["disabled_reason"] == "failing_too_long"
    assert isinstance(endpoint["id"], UUID)
