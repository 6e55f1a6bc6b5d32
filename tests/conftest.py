"""What every test may stand on: a real PostgreSQL, real SQS and S3 endpoints, a real API on a real socket."""

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import boto3
import httpx
import hypothesis
import pytest
import uvicorn
from botocore.loaders import JSONFileLoader

from service.app import create_app
from service.connection import Connection
from todoke.dev.aws import KEY_ID, REGION, SECRET, Emulator
from todoke.dev.postgres import Postgres
from todoke.runtime.settings import Settings, load_settings
from todoke.store.database import Database
from todoke.store.ledger import Ledger
from todoke.store.migrate import migrate
from todoke.store.reading import Reader
from todoke.store.repair import Repair

SIGNING_SECRET = "whsec_" + "VGhpcyBpcyBhIHRlc3Qgc2VjcmV0IG9mIDMyIGJ5dGU="
SECRET_KEYS = "a-secret-key-of-tests-that-is-long-enough"
REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="A skipped test fails the run: CI has what tests need.")
    parser.addoption("--seed", type=int, help="What random tests draw from: the number that an earlier run printed.")
    parser.addoption("--full", action="store_true", help="Long counts: more fuzzing, more races, a soak.")


def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.register_profile("short", max_examples=60, deadline=None)
    hypothesis.settings.register_profile("full", max_examples=2000, deadline=None)
    hypothesis.settings.load_profile("full" if config.getoption("--full") else "short")


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    if session.config.getoption("--no-skips") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """What a random test draws from; printed, so that a failure can be run again with `--seed`."""
    given: int | None = request.config.getoption("--seed")
    chosen = secrets.randbits(32) if given is None else given
    print(f"seed {chosen}")
    return chosen


@pytest.fixture(scope="session", autouse=True)
def _own_environment() -> Iterator[None]:
    """Tests decide their settings; whatever the machine has set stays out."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("TODOKE_", "AWS_")) or name in ("DATABASE_URL", "SQS_QUEUE_URL"):
                patch.delenv(name)
        patch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="session", autouse=True)
def _botocore_reads_its_files_once() -> Iterator[None]:
    """Each session of boto3 reads megabytes of JSON anew: a fifth of a second of every test that starts an API."""
    plain, kept = JSONFileLoader.load_file, {}

    def load_file(loader: JSONFileLoader, file_path: str) -> Any:
        if file_path not in kept:
            kept[file_path] = plain(loader, file_path)
        return kept[file_path]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", load_file)
        yield


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with Postgres(tmp_path_factory.mktemp("postgres") / "data", secrets.token_hex(), durable=False) as server:
        migrate(_database(server, "todoke"))
        yield server


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with Emulator(tmp_path_factory.mktemp("aws") / "aws") as server:
        yield server


@pytest.fixture
def database_url(postgres: Postgres) -> Iterator[str]:
    """A migrated database of this test's own."""
    with new_database(postgres) as url:
        yield url


@contextlib.contextmanager
def new_database(postgres: Postgres) -> Iterator[str]:
    """A migrated database, while the block lasts."""
    name = f"test_{secrets.token_hex(6)}"
    asyncio.run(_administer(postgres, f"CREATE DATABASE {name} TEMPLATE todoke"))
    url = _database(postgres, name)
    asyncio.run(_execute(url, "UPDATE epoch SET value = left(md5(random()::text), 8)"))
    yield url
    asyncio.run(_administer(postgres, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def queue_url(emulator: Emulator) -> Iterator[str]:
    """A queue of this test's own."""
    with new_queue(emulator) as url:
        yield url


@contextlib.contextmanager
def new_queue(emulator: Emulator) -> Iterator[str]:
    """A queue, while the block lasts."""
    client = boto3.client("sqs", endpoint_url=emulator.url, region_name=REGION)
    url = client.create_queue(QueueName=f"test-{secrets.token_hex(6)}")["QueueUrl"]
    yield url
    client.delete_queue(QueueUrl=url)
    client.close()


@pytest.fixture
def settings(database_url: str, queue_url: str, emulator: Emulator) -> Settings:
    return make_settings(database_url, queue_url, emulator)


def make_settings(database_url: str, queue_url: str, emulator: Emulator, **overrides: object) -> Settings:
    """Desk settings on the test's own parts."""
    values = {
        "database_url": database_url,
        "sqs_queue_url": queue_url,
        "s3_bucket": emulator.places.bucket,
        "aws_region": REGION,
        "aws_endpoint_url": emulator.url,
        "signing_secret": SIGNING_SECRET,
        "secret_keys": SECRET_KEYS,
        "desk_mode": True,
        "sweep_seconds": 0.5,
        "log_level": "WARNING",
    }
    return load_settings(**(values | overrides))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url) as database:
        yield database


@pytest.fixture
def ledger(database: Database, settings: Settings) -> Ledger:
    return Ledger(database, settings.notify_channel)


@pytest.fixture
def repair(database: Database, settings: Settings) -> Repair:
    return Repair(database, settings.notify_channel)


@pytest.fixture
def reader(database: Database) -> Reader:
    return Reader(database)


@contextlib.asynccontextmanager
async def serve(settings: Settings, *, is_ready: bool = True) -> AsyncIterator[str]:
    """The API on a free port of its own, in this process; the block gets its URL.

    is_ready: wait until jobs can be watched, for which it needs its database.
    """
    app = create_app(settings)
    server = uvicorn.Server(uvicorn.Config(app, http=Connection, port=0, log_config=None, timeout_graceful_shutdown=3))
    with server.capture_signals():
        task = asyncio.create_task(server.serve())
        while not server.started:
            assert not task.done(), task.exception()
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            await until(lambda: app.state.hub.is_ready or not is_ready)
            yield f"http://127.0.0.1:{port}"
        finally:
            app.state.streams.drain(0)
            server.should_exit = True
            await task


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a running API."""
    async with serve(settings) as url, httpx.AsyncClient(base_url=url, timeout=20) as client:
        yield client


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for a condition, bounded."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def _database(server: Postgres, name: str) -> str:
    return server.url.rsplit("/", 1)[0] + "/" + name


async def _administer(server: Postgres, statement: str) -> None:
    await _execute(_database(server, "postgres"), statement)


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
