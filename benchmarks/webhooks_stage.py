"""What the parts of the webhooks benchmark share: receivers, endpoints, deliveries that are owed, a notifier."""

import asyncio
import contextlib
import http.client
import json
import secrets
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import asyncpg

from benchmarks import cpu
from benchmarks.drain_todoke import quiet
from benchmarks.stage import Program, Stage, until
from todoke.dev.ports import LOOPBACK, free_port
from todoke.model.event import ACCEPTED
from todoke.model.ids import new_id
from todoke.model.job import NewJob
from todoke.store.database import Database
from todoke.store.ledger import Ledger
from todoke.store.signing import SigningSecrets

PORTS = 4
SECRET_KEY = secrets.token_hex(32)
ACCEPT_MAX = 1000
# Makes the event's text about 1 KB.
METADATA = json.dumps({"note": "x" * 640})
FULL = ("-m", "notifier")
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@dataclass(frozen=True)
class Spot:
    """An endpoint: a callback of a tenant."""

    tenant_id: str
    url: str


class Receivers:
    """The sink's process, and a port where nobody listens."""

    def __init__(self, stage: Stage) -> None:
        self.program = stage.start([sys.executable, "-m", "benchmarks.webhooks_sink", str(PORTS)])
        self.dead_port = free_port()

    async def listening(self) -> None:
        """Wait until they are there."""
        await until(lambda: self.program.says("\n"), 30, "the sink listens")
        self.ports = [int(word) for word in self.program.log.read_text().split()[1:]]

    @property
    def hosts(self) -> list[str]:
        """As TODOKE_CALLBACK_HOSTS spells them."""
        return [f"{LOOPBACK}:{port}" for port in (*self.ports, self.dead_port)]

    def spots(self, count: int, tenants: int, word: str = "fast") -> list[Spot]:
        """So many endpoints, spread over so many tenants; `word` begins their paths."""
        return [
            Spot(f"tenant-{number % tenants:04}", f"http://{self.hosts[number % PORTS]}/{word}/{number}")
            for number in range(count)
        ]

    def answered(self) -> int:
        """How many posts were answered so far."""
        connection = http.client.HTTPConnection(LOOPBACK, self.ports[0], timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/count")
            return int(connection.getresponse().read())


class Owing:
    """Makes jobs whose first event is owed to a callback; closed by `async with`."""

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        self._ledger = Ledger(self._database, "todoke")
        self._secrets = SigningSecrets(self._database, [SECRET_KEY])

    async def __aenter__(self) -> "Owing":
        await self._database.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._database.__aexit__()

    async def sign(self, spots: Sequence[Spot]) -> None:
        """A signing secret for each of their tenants."""
        tenants = sorted({spot.tenant_id for spot in spots})
        for start in range(0, len(tenants), 8):
            await asyncio.gather(*(self._secrets.create(tenant, None) for tenant in tenants[start : start + 8]))

    async def owe(self, spots: Sequence[Spot]) -> None:
        """One delivery to each, in one commit for each thousand."""
        for start in range(0, len(spots), ACCEPT_MAX):
            await self._ledger.accept([_job(spot) for spot in spots[start : start + ACCEPT_MAX]], 86_400)

    async def flow(self, spots: Sequence[Spot], rate: float, seconds: float) -> None:
        """`rate` deliveries a second to one after the other, those due together in one commit."""
        loop = asyncio.get_running_loop()
        began, sent = loop.time(), 0
        while sent < int(rate * seconds):
            due = min(int(rate * seconds), int((loop.time() - began) * rate) + 1)
            await self.owe([spots[number % len(spots)] for number in range(sent, due)])
            sent = due
            await asyncio.sleep(max(0.0, began + sent / rate - loop.time()))


def _job(spot: Spot) -> NewJob:
    return NewJob(
        id=new_id(),
        tenant_id=spot.tenant_id,
        type="noop",
        params="{}",
        max_attempts=5,
        timeout_seconds=60,
        metadata=METADATA,
        callback_url=spot.url,
        callback_events=(ACCEPTED,),
    )


async def backlog(stage: Stage, spots: Sequence[Spot]) -> str:
    """The name of a database that owes these; to be copied for every round."""
    url = await stage.new_database()
    async with Owing(url) as owing:
        await owing.sign(spots)
        await owing.owe(spots)
    connection = await asyncpg.connect(url)
    await connection.execute("VACUUM ANALYZE")
    await connection.close()
    return url.rpartition("/")[2]


@dataclass
class Waiting:
    """A notifier that is up and at rest: it cannot see what it owes before `go`."""

    notifier: Program
    connection: Connection
    _lock: asyncpg.transaction.Transaction

    async def go(self) -> None:
        """Let it see."""
        await self._lock.rollback()

    async def settled(self, query: str, seconds: float, what: str) -> None:
        """Wait until a query answers true. Raises RuntimeError when the notifier ends, TimeoutError with `what`."""

        async def there() -> bool:
            await asyncio.sleep(0.1)
            self.notifier.must_run()
            return bool(await self.connection.fetchval(query))

        await until(there, seconds, what)


@contextlib.asynccontextmanager
async def standing_by(
    stage: Stage,
    receivers: Receivers,
    url: str,
    module: Sequence[str] = FULL,
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[Waiting]:
    """A real notifier process, its log at INFO written to a file; it ends with the block."""
    connection = await asyncpg.connect(url)
    lock = connection.transaction()
    await lock.start()
    await connection.execute("LOCK TABLE delivery IN ACCESS EXCLUSIVE MODE")
    notifier = stage.start(
        [sys.executable, *module],
        {
            "DATABASE_URL": url,
            "TODOKE_SECRET_KEYS": SECRET_KEY,
            "TODOKE_CALLBACK_HOSTS": ",".join(receivers.hosts),
            **(settings or {}),
        },
    )
    try:
        await until(lambda: notifier.says("notifier.started"), 60, "notifier started")
        await quiet(lambda: cpu.tree(notifier.pid))
        yield Waiting(notifier, connection, lock)
    finally:
        await asyncio.to_thread(notifier.kill)
        await connection.close()
