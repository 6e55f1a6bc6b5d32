"""PostgreSQL goes away under load, LISTEN breaks, NOTIFY is off: time is lost, no delivery is."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.conftest import until
from tests.notifier.backlog import count, owe_many, standings
from tests.notifier.conftest import notifying, owe, row_when
from tests.notifier.receiver import OK, receiving
from tests.notifier.test_killed import same_each_time, started, when
from todoke.dev.postgres import Postgres
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.ledger import Ledger
from todoke.store.migrate import migrate

OWED = 400


@pytest.fixture(scope="module")
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A server that these tests may harm; it keeps what it has promised."""
    folder = tmp_path_factory.mktemp("own-postgres") / "data"
    with Postgres(folder, secrets.token_hex(), durable=True) as server:
        migrate(server.url)
        yield server


@pytest.fixture
async def own(own_postgres: Postgres) -> AsyncIterator[Database]:
    async with Database(own_postgres.url) as database:
        await database.fetch("TRUNCATE delivery, delivery_attempt, event, endpoint")
        yield database


async def patient_standings(database: Database) -> dict[str, int]:
    """How they stand, once the server answers."""
    while True:
        with contextlib.suppress(Exception):
            return await standings(database)
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("way", ["stopped", "killed"])
async def test_postgresql_restarts_under_load(
    settings: Settings, own: Database, own_postgres: Postgres, tmp_path: Path, way: str
) -> None:
    """What was answered before or while it was away is recorded when it is back, and is not sent again."""

    async def slowly(_received: object, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05)
        writer.write(OK)

    here = settings.model_copy(
        update={"database_url": type(settings.database_url)(own_postgres.url), "webhook_slots": 32}
    )
    async with receiving(*[slowly] * 5 * OWED) as receiver, contextlib.AsyncExitStack() as stack:
        await owe_many(own, [f"{receiver.url}/{number}" for number in range(20)], OWED // 20)
        running = [await stack.enter_async_context(started(here, tmp_path)) for _ in range(2)]
        await until(lambda: len(receiver.received) > OWED // 5, 30)
        if way == "killed":
            own_postgres.kill()
        else:
            await asyncio.to_thread(own_postgres.stop)
        await asyncio.sleep(1)  # longer than what is in flight takes: it ends while nothing can be recorded
        own_postgres.start()  # in this thread: the server ends with the thread that started it
        async with asyncio.timeout(80):
            while await patient_standings(own) != {"DELIVERED": OWED}:
                await _end_lost_leases(own)
                await asyncio.sleep(0.1)
        assert all(each.is_alive for each in running)
    times = same_each_time(receiver.received)
    assert len(times) == OWED
    # A claim whose commit was under way is nobody's until its lease ends; what was sent is remembered.
    assert sum(times.values()) == OWED, "nothing was sent twice"


async def _end_lost_leases(database: Database) -> None:
    """End leases older than five seconds: no send takes a tenth of that here."""
    with contextlib.suppress(Exception):
        await database.fetch(
            "UPDATE delivery SET due_at = clock_timestamp() WHERE state = 'PENDING' AND standing = 'leased'"
            " AND due_at < clock_timestamp() + interval '15 seconds'"
        )


async def test_without_notify_deliveries_are_found(settings: Settings, database: Database, tmp_path: Path) -> None:
    quiet = settings.model_copy(update={"notify_mode": "off", "sweep_seconds": 600.0})
    ledger = Ledger(database, "nobody_listens_here")
    async with receiving() as receiver, started(quiet, tmp_path):
        for _ in range(3):
            job_id = await owe(ledger, receiver.url)
            await row_when(database, job_id, lambda found: found["state"] == "DELIVERED", 10)
    assert len(receiver.received) == 3


async def test_a_listener_that_is_cut_hears_again(settings: Settings, database: Database, ledger: Ledger) -> None:
    """The sweep is too far away to help: only a new LISTEN, and a look on its first breath, can."""
    patient = settings.model_copy(update={"sweep_seconds": 600.0})
    async with receiving() as receiver, notifying(patient):
        for _ in range(3):
            job_id = await owe(ledger, receiver.url)
            await row_when(database, job_id, lambda found: found["state"] == "DELIVERED", 20)
            await _cut_listeners(settings)
            # Told while nobody listens.
            missed = await owe(ledger, receiver.url)
            await row_when(database, missed, lambda found: found["state"] == "DELIVERED", 20)
    assert len(receiver.received) == 6


async def _cut_listeners(settings: Settings) -> None:
    """Every connection but those of the pools, which have a name, as soon as there is one."""
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    try:
        async with asyncio.timeout(20):
            while not await connection.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid() AND application_name <> 'todoke' AND backend_type = 'client backend'"
            ):
                await asyncio.sleep(0.02)
    finally:
        await connection.close()


async def test_every_connection_is_cut_again_and_again(settings: Settings, database: Database, tmp_path: Path) -> None:
    async with receiving() as receiver, started(settings, tmp_path) as running:
        await owe_many(database, [f"{receiver.url}/{number}" for number in range(20)], 50)
        for share in (100, 300, 500, 700):
            await when(lambda share=share: _delivered(database, share), 30)  # type: ignore[misc]
            with contextlib.suppress(Exception):
                await database.fetch(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND pid <> pg_backend_pid() AND application_name = (SELECT application_name FROM"
                    " pg_stat_activity WHERE pid = pg_backend_pid())"
                )
        async with asyncio.timeout(60):
            while await patient_standings(database) != {"DELIVERED": 1000}:
                await _end_lost_leases(database)
                await asyncio.sleep(0.1)
        assert running.is_alive
    assert len(same_each_time(receiver.received)) == 1000


async def _delivered(database: Database, least: int) -> bool:
    with contextlib.suppress(Exception):
        return await count(database, "state = 'DELIVERED'") >= least
    return False
