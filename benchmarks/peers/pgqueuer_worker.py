"""pgqueuer, runs in the peers' own environment. `fill COUNT` or `work BATCH_SIZE`, on DATABASE_URL."""

import asyncio
import os
import signal
import sys

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks.peers.gate import wait_for_start


async def fill(count: int) -> None:
    """Make the schema and the backlog."""
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    queries = Queries(AsyncpgDriver(connection))
    await queries.install()
    await queries.enqueue(["noop"] * count, [None] * count, [0] * count)
    await connection.close()


async def work(batch_size: int) -> None:
    """Drain until SIGTERM."""
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    pgq = PgQueuer.from_asyncpg_connection(connection)

    @pgq.entrypoint("noop")
    async def noop(job: Job) -> None:
        """Nothing."""

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, pgq.shutdown.set)
    await wait_for_start()
    await pgq.run(batch_size=batch_size)


if __name__ == "__main__":
    uvloop.run({"fill": fill, "work": work}[sys.argv[1]](int(sys.argv[2])))
