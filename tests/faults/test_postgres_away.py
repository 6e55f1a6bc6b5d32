"""PostgreSQL restarts, crashes, loses its backends, turns read-only or stalls (row 20): time is lost, nothing else."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import asyncpg
import httpx
import pytest

from tests.faults.house import House, open_house
from todoke.dev.aws import Emulator
from todoke.dev.postgres import Postgres
from todoke.store.migrate import migrate

Outage = Callable[[House, Postgres], Awaitable[None]]


@pytest.fixture(scope="module")
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A server that these tests may harm."""
    folder = tmp_path_factory.mktemp("own-postgres") / "data"
    with Postgres(folder, secrets.token_hex(), durable=False) as server:
        migrate(server.url)
        yield server


@pytest.fixture
async def house(own_postgres: Postgres, emulator: Emulator, tmp_path: Path) -> AsyncIterator[House]:
    """A message may be received three times only: an outage that burned receives would fill the dead letters."""
    async with open_house(own_postgres, emulator, tmp_path, receives_max=3, visibility_seconds=2) as house:
        yield house


async def restarted(_house: House, server: Postgres) -> None:
    await asyncio.to_thread(server.stop)
    server.start()  # in this thread: the server ends with the thread that started it


async def crashed(_house: House, server: Postgres) -> None:
    server.kill()
    await asyncio.sleep(2.5)  # longer than a lease
    server.start()


async def robbed_of_backends(house: House, _server: Postgres) -> None:
    url = house.settings.database_url.get_secret_value()
    for _ in range(5):
        with contextlib.suppress(asyncpg.PostgresError, OSError):
            connection = await asyncpg.connect(url)
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await connection.close()
        await asyncio.sleep(0.2)


async def read_only(house: House, _server: Postgres) -> None:
    """As the old primary of a failover is."""
    connection = await asyncpg.connect(house.settings.database_url.get_secret_value())
    await connection.execute("SET default_transaction_read_only = off")
    try:
        await connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await connection.execute("SELECT pg_reload_conf()")
        await asyncio.sleep(2.5)
    finally:
        await connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.close()


async def stalled(house: House, _server: Postgres) -> None:
    """Everybody waits for a lock, for longer than a lease."""
    connection = await asyncpg.connect(house.settings.database_url.get_secret_value())
    async with connection.transaction():
        await connection.execute("LOCK TABLE job IN ACCESS EXCLUSIVE MODE")
        await asyncio.sleep(2.5)
    await connection.close()


LONG = (restarted, robbed_of_backends, stalled)


@pytest.mark.parametrize(
    "outage", [crashed, read_only, *(pytest.param(outage, marks=pytest.mark.full) for outage in LONG)]
)
async def test_postgresql_goes_away_and_comes_back(house: House, own_postgres: Postgres, outage: Outage) -> None:
    api, workers = await house.start("api"), [await house.start(), await house.start()]
    async with httpx.AsyncClient(base_url=api.url, timeout=20) as client:
        running = [await house.submit(seconds=1.5, size=100_000) for _ in range(3)]
        for job in running:
            await house.started(job)
        waiting = [await house.submit(failures=number % 2) for number in range(8)]
        house.deed("cut", "postgres")
        going = asyncio.create_task(outage(house, own_postgres))
        try:
            while not going.done():
                await submitted(house, client)
                await asyncio.sleep(0.2)
        finally:
            await going
        # Service is back by itself, for a new job too.
        last = await submitted(house, client, seconds=10)
    rows = [await house.end(job, 30) for job in (*running, *waiting, last)]
    history = await house.verdict()
    assert {row["state"] for row in rows} == {"SUCCESS"}
    assert history.left.dead == ()
    assert {row["failures"] for row in history.rows.values()} <= {0, 1}
    assert api.is_alive
    assert all(worker.is_alive for worker in workers)


async def submitted(house: House, client: httpx.AsyncClient, seconds: float = 0) -> object:
    """Submit under a key until it is promised, or once; a promise is remembered."""
    key, deadline = secrets.token_hex(8), asyncio.get_running_loop().time() + seconds
    while True:
        with contextlib.suppress(httpx.HTTPError):
            answer = await client.post(
                "/act", json={"params": {"path": str(house.effects)}}, headers={"Idempotency-Key": key}
            )
            if answer.status_code == 202:
                return house.accept(answer, key)
            assert answer.status_code == 503, answer.text
        if asyncio.get_running_loop().time() > deadline:
            house.offer(key)
            return None
        await asyncio.sleep(0.1)
