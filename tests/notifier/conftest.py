"""A notifier over a database of its own, and the deliveries it owes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from uuid import UUID

import asyncpg
import pytest
import uvloop

from notifier.app import notify
from notifier.transport import VettedTransport
from tests.conftest import SECRET_KEYS, SIGNING_SECRET
from tests.make import accept, start, succeed
from todoke.model.event import TERMINAL
from todoke.runtime.settings import Settings, load_settings
from todoke.store.database import Database
from todoke.store.ledger import Ledger
from todoke.wire.destination import Rules


@pytest.fixture
def settings(database_url: str) -> Settings:
    """No queue, no bucket: the notifier knows neither."""
    return load_settings(
        database_url=database_url,
        signing_secret=SIGNING_SECRET,
        secret_keys=SECRET_KEYS,
        desk_mode=True,
        sweep_seconds=0.5,
        webhook_timeout_seconds=1,
        log_level="WARNING",
    )


@contextlib.asynccontextmanager
async def notifying(settings: Settings, transport: VettedTransport | None = None) -> AsyncIterator[None]:
    """A notifier in this process; it is drained at the end of the block."""
    stopping = asyncio.Event()
    transport = transport or VettedTransport(Rules.of(settings))
    task = asyncio.create_task(notify(settings, transport, stopping))
    try:
        yield
    finally:
        stopping.set()
        await asyncio.wait_for(task, 20)


async def owe(ledger: Ledger, url: str) -> UUID:
    """A job that has succeeded and owes a delivery to `url`."""
    job_id = await accept(ledger, callback_url=url, callback_events=TERMINAL, metadata='{"order": "届け"}')
    await succeed(ledger, await start(ledger, job_id))
    return job_id


async def row(database: Database, job_id: UUID) -> asyncpg.Record:
    """The job's delivery as it stands, with `body`, the stored text of its event."""
    [found] = await database.fetch(
        "SELECT delivery.*, event.body, extract(epoch FROM due_at - clock_timestamp())::float8 AS seconds_left "
        "FROM delivery JOIN event USING (job_id, sequence) WHERE job_id = $1",
        job_id,
    )
    return found


async def make_due(database: Database, job_id: UUID) -> None:
    """Let the time until the next attempt, or until the end of the lease, pass at once."""
    await database.fetch("UPDATE delivery SET due_at = clock_timestamp() WHERE job_id = $1", job_id)


async def row_when(
    database: Database, job_id: UUID, condition: Callable[[asyncpg.Record], bool], seconds: float = 15
) -> asyncpg.Record:
    """The delivery as soon as `condition` holds of it."""
    async with asyncio.timeout(seconds):
        while True:
            found = await row(database, job_id)
            if condition(found):
                return found
            await asyncio.sleep(0.02)


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The notifier's own loop."""
    return {"uvloop": uvloop.new_event_loop}
