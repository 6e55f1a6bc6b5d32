"""A delivery from its row to its receiver and back, over real PostgreSQL and real sockets."""

import asyncio
import json
import time
from uuid import UUID

import asyncpg
import pytest
import standardwebhooks
from pydantic import SecretStr

from notifier.app import run
from tests.conftest import SIGNING_SECRET, until
from tests.notifier.conftest import make_due, notifying, owe, row, row_when
from tests.notifier.receiver import hang_up, receiving, status
from todoke.dev.postgres import Postgres
from todoke.model.delivery import ATTEMPTS_MAX, Answer, Delivery, DeliveryState, Reason, Verdict, judge
from todoke.model.errors import InvalidInput
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.deliveries import Deliveries
from todoke.store.ledger import Ledger

CAP = 4
WINDOW_SECONDS = 120 * 3600.0


async def claim_one(database: Database) -> Delivery:
    deliveries = Deliveries(database, CAP)
    await deliveries.stage()
    [due] = await deliveries.look("", UUID(int=0), 10)
    [delivery] = await deliveries.claim({(due.tenant_id, due.endpoint_id): 1}, 60)
    return delivery


def came_to(delivery: Delivery, reason: Reason, status: int | None = None) -> Verdict:
    return judge(delivery, Answer(reason, status), WINDOW_SECONDS)


async def test_a_delivery_is_posted_once_and_verifies(settings: Settings, database: Database, ledger: Ledger) -> None:
    async with receiving() as receiver, notifying(settings):
        job_id = await owe(ledger, receiver.url + "?token=secret")
        stored = await row_when(database, job_id, lambda found: found["state"] == "DELIVERED")
    [received] = receiver.received
    standardwebhooks.Webhook(SIGNING_SECRET).verify(received.body, received.headers)
    assert received.body == stored["body"].encode()
    assert json.loads(received.body)["data"]["metadata"] == {"order": "届け"}
    assert received.target == "POST /hook?token=secret HTTP/1.1"
    assert received.webhook_id == f"evt_{job_id.hex}_3"
    assert abs(int(received.headers["webhook-timestamp"]) - received.at) <= 1.1
    assert received.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert received.headers["content-type"] == "application/json"
    assert received.headers["user-agent"].startswith("Todoke/")
    assert received.headers["accept-encoding"] == "identity"
    assert received.headers["todoke-attempt"] == "1"
    assert "cookie" not in received.headers
    assert "transfer-encoding" not in received.headers
    assert (stored["attempt"], stored["last_status"], stored["last_reason"]) == (1, 200, Reason.DELIVERED)


async def test_after_a_500_the_same_bytes_come_again_freshly_signed(
    settings: Settings, database: Database, ledger: Ledger
) -> None:
    async with receiving(status(500)) as receiver, notifying(settings):
        job_id = await owe(ledger, receiver.url)
        failed = await row_when(database, job_id, lambda found: found["last_status"] == 500)
        assert (failed["state"], failed["attempt"], failed["last_reason"]) == ("PENDING", 1, Reason.HTTP_STATUS)
        assert 4 < failed["seconds_left"] <= 6.25
        signed_at = int(receiver.received[0].headers["webhook-timestamp"])
        await until(lambda: int(time.time()) > signed_at)
        await make_due(database, job_id)
        await row_when(database, job_id, lambda found: found["state"] == "DELIVERED")
    first, second = receiver.received
    assert (first.webhook_id, first.body) == (second.webhook_id, second.body)
    assert int(second.headers["webhook-timestamp"]) > int(first.headers["webhook-timestamp"])
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]
    assert second.headers["todoke-attempt"] == "2"
    standardwebhooks.Webhook(SIGNING_SECRET).verify(second.body, second.headers)


async def test_the_last_attempt_parks_the_delivery(settings: Settings, database: Database, ledger: Ledger) -> None:
    async with receiving(status(503)) as receiver:
        job_id = await owe(ledger, receiver.url)
        await database.fetch("UPDATE delivery SET attempt = $1 WHERE job_id = $2", ATTEMPTS_MAX - 1, job_id)
        async with notifying(settings):
            parked = await row_when(database, job_id, lambda found: found["state"] == "PARKED")
    assert (parked["attempt"], parked["last_status"]) == (ATTEMPTS_MAX, 503)
    assert parked["finished_at"] is not None


async def test_a_delivery_due_later_is_sent_by_the_clock(
    settings: Settings, database: Database, ledger: Ledger
) -> None:
    patient = settings.model_copy(update={"sweep_seconds": 600})
    async with receiving(hang_up) as receiver, notifying(patient):
        job_id = await owe(ledger, receiver.url)
        await row_when(database, job_id, lambda found: found["last_reason"] == Reason.DISCONNECTED)
        await database.fetch(
            "UPDATE delivery SET due_at = clock_timestamp() + interval '1 second' WHERE job_id = $1", job_id
        )
        # The next job's bell makes the claimer look, and learn of the earlier date.
        await owe(ledger, receiver.url)
        await row_when(database, job_id, lambda found: found["state"] == "DELIVERED")


async def test_a_connection_serves_many_deliveries(settings: Settings, database: Database, ledger: Ledger) -> None:
    async with receiving() as receiver, notifying(settings):
        for _ in range(5):
            job_id = await owe(ledger, receiver.url)
            await row_when(database, job_id, lambda found: found["state"] == "DELIVERED")
    assert len(receiver.received) == 5
    assert receiver.connections == 1


async def test_draining_finishes_what_is_in_flight(settings: Settings, database: Database, ledger: Ledger) -> None:
    release = asyncio.Event()

    async def slow(_received: object, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with receiving(slow) as receiver:
        async with notifying(settings):
            job_id = await owe(ledger, receiver.url)
            await until(lambda: len(receiver.received) == 1)
            asyncio.get_running_loop().call_later(0.2, release.set)
        assert (await row(database, job_id))["state"] == "DELIVERED"


async def test_a_fault_of_our_own_costs_no_attempt(database: Database, ledger: Ledger) -> None:
    job_id = await owe(ledger, "https://hooks.example.com/")
    for _ in range(3):
        delivery = await claim_one(database)
        assert delivery.attempt == 1
        assert await Deliveries(database, CAP).record([came_to(delivery, Reason.SENDER)]) == [True]
        await make_due(database, job_id)
    assert (await row(database, job_id))["attempt"] == 0


async def test_a_stale_failure_is_dropped_and_a_stale_success_wins(database: Database, ledger: Ledger) -> None:
    job_id = await owe(ledger, "https://hooks.example.com/")
    old = await claim_one(database)
    await make_due(database, job_id)
    new = await claim_one(database)
    assert (old.webhook_id, old.body) == (new.webhook_id, new.body)
    deliveries = Deliveries(database, CAP)
    assert await deliveries.record([came_to(old, Reason.HTTP_STATUS, 500)]) == [False]
    assert await deliveries.record([came_to(old, Reason.DELIVERED, 200)]) == [True]
    assert await deliveries.record([came_to(new, Reason.HTTP_STATUS, 500)]) == [False]
    assert (await row(database, job_id))["state"] == DeliveryState.DELIVERED


async def test_while_postgresql_is_away_nothing_is_lost_or_charged(
    settings: Settings, database: Database, ledger: Ledger, postgres: Postgres
) -> None:
    """Every connection is cut and new ones refused, in the middle of a send: it is recorded when they come back."""
    name = settings.database_url.get_secret_value().rsplit("/", 1)[1]
    release = asyncio.Event()

    async def slow(_received: object, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    long = settings.model_copy(update={"webhook_timeout_seconds": 10.0})
    admin = await asyncpg.connect(postgres.url.rsplit("/", 1)[0] + "/postgres")
    try:
        async with receiving(slow) as receiver, notifying(long):
            first = await owe(ledger, receiver.url)
            await until(lambda: len(receiver.received) == 1)
            await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
            release.set()
            await asyncio.wait_for(_refused(settings), 10)
            await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            delivered = await row_when(database, first, lambda found: found["state"] == "DELIVERED")
            second = await owe(ledger, receiver.url)
            await row_when(database, second, lambda found: found["state"] == "DELIVERED")
    finally:
        await admin.close()
    assert delivered["attempt"] == 1
    assert len(receiver.received) == 2


async def _refused(settings: Settings) -> None:
    """Return once PostgreSQL has turned a connection of ours away."""
    while True:
        try:
            connection = await asyncpg.connect(settings.database_url.get_secret_value())
        except asyncpg.PostgresError:
            return
        await connection.close()
        await asyncio.sleep(0.02)


async def test_a_signing_secret_that_is_none_stops_the_start(settings: Settings) -> None:
    bad = settings.model_copy(update={"signing_secret": SecretStr("whpk_AAAA")})
    with pytest.raises(InvalidInput, match="ed25519"):
        await run(bad)
