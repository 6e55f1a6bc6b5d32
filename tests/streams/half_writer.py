"""A writer that has done everything but commit, for a test to kill. For tests alone.

    DATABASE_URL=… python -m tests.streams.half_writer CHANNEL JOB

Does the job's next step in one transaction, says so, and then waits to be killed; at a line on stdin it rolls back.
"""

import asyncio
import contextlib
import os
import random
import sys
from collections.abc import AsyncIterator
from typing import cast
from uuid import UUID

import asyncpg

from tests.streams.writing import Writer
from todoke.store.database import Connection, Database

HELD = "held"


class RolledBack(Exception):
    """Raised before a commit, so that there is none."""


class HalfDatabase:
    """A Database whose transactions never commit."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        async with self._database.transaction() as connection:
            # The test holds it here for longer than a process that stopped may.
            await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            yield connection
            print(HELD, flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            raise RolledBack

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        return await self._database.fetch(query, *arguments)


async def main() -> None:
    channel, job = sys.argv[1], UUID(sys.argv[2])
    async with Database(os.environ["DATABASE_URL"]) as database:
        writer = Writer(cast(Database, HalfDatabase(database)), channel)
        with contextlib.suppress(RolledBack):
            await writer.step(job, 99, random.Random(0))


if __name__ == "__main__":
    asyncio.run(main())
