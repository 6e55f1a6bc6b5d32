"""How the ledger's rooms change jobs: one transaction with one NOTIFY each, run again where that is safe."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import asyncpg

from todoke.model.event import Hint
from todoke.store.bell import ring
from todoke.store.database import Connection, Database

DEADLOCK_TRIES = 5

Answer = TypeVar("Answer")
Item = TypeVar("Item")


class Transactions:
    """What every room of the ledger stands on. Raises Unavailable when PostgreSQL is away."""

    def __init__(self, database: Database, channel: str) -> None:
        self._database = database
        self._channel = channel

    async def _transact(self, work: Callable[[Connection], Awaitable[Answer]]) -> Answer:
        """Run `work` in one transaction; a deadlock undid everything, so it may simply be run again."""
        for _ in range(DEADLOCK_TRIES - 1):
            try:
                async with self._database.transaction() as connection:
                    return await work(connection)
            except asyncpg.DeadlockDetectedError:
                continue
        async with self._database.transaction() as connection:
            return await work(connection)

    async def _ring(self, connection: Connection, rows: Sequence[asyncpg.Record]) -> None:
        """Tell watchers of these jobs (id, sequence, progress_version) when the transaction commits."""
        hints = [Hint(row["id"], row["sequence"], row["progress_version"]) for row in rows]
        await ring(connection, self._channel, hints)


def columns(items: Sequence[Item], spell: Callable[[Item], tuple[object, ...]]) -> list[list[object]]:
    """Rows to columns, the shape unnest takes."""
    return [list(column) for column in zip(*map(spell, items), strict=True)]
