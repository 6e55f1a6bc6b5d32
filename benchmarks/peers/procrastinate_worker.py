"""procrastinate, runs in the peers' own environment. `fill COUNT` or `work CONCURRENCY`, on DATABASE_URL."""

import asyncio
import os
import sys

import procrastinate

from benchmarks.peers.gate import wait_for_start

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=os.environ["DATABASE_URL"], max_size=20))


@app.task(name="noop")
async def noop() -> None:
    """Nothing."""


async def fill(count: int) -> None:
    """Make the schema and the backlog."""
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        for start in range(0, count, 1000):
            await noop.batch_defer_async(*[{}] * min(1000, count - start))


async def work(concurrency: int) -> None:
    """Drain until SIGTERM."""
    async with app.open_async():
        await app.check_connection_async()
        await wait_for_start()
        await app.run_worker_async(concurrency=concurrency)


if __name__ == "__main__":
    asyncio.run({"fill": fill, "work": work}[sys.argv[1]](int(sys.argv[2])))
