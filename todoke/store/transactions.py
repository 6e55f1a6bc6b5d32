"""How the ledger's rooms change jobs: one transaction, announced as its mode says, run again where that is safe."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import asyncpg

from todoke.model.event import Hint
from todoke.store.announcing import Announcement, Announcer, InTransaction
from todoke.store.database import Connection, Database

DEADLOCK_TRIES = 5
LIMIT_EXCEEDED = "54000"

Answer = TypeVar("Answer")
Item = TypeVar("Item")


class Transactions:
    """What every room of the ledger stands on. Raises Unavailable when PostgreSQL is away.

    announcer: how changes are announced; None: with one NOTIFY as part of each commit.
    """

    def __init__(self, database: Database, channel: str, announcer: Announcer | None = None) -> None:
        self._database = database
        self._channel = channel
        self._announcer = announcer or InTransaction()
        self._said: dict[Connection, list[Announcement]] = {}

    async def _transact(self, work: Callable[[Connection], Awaitable[Answer]]) -> Answer:
        """Run `work` in one transaction; a deadlock undid everything, so it may simply be run again."""
        for _ in range(DEADLOCK_TRIES - 1):
            try:
                return await self._commit(work)
            except asyncpg.DeadlockDetectedError:
                continue
        return await self._commit(work)

    async def _commit(self, work: Callable[[Connection], Awaitable[Answer]]) -> Answer:
        """Once; and once more without NOTIFY when it was the full queue of those that refused the commit."""
        try:
            return await self._attempt(work)
        except _NotifyRefused:
            self._announcer.refused()
            return await self._attempt(work)

    async def _attempt(self, work: Callable[[Connection], Awaitable[Answer]]) -> Answer:
        said: list[Announcement] = []
        is_committing = False
        try:
            async with self._database.transaction() as connection:
                self._said[connection] = said
                try:
                    answer = await work(connection)
                finally:
                    del self._said[connection]
                await self._announcer.before_commit(connection, said)
                is_committing = True
        except asyncpg.ProgramLimitExceededError as error:
            if is_committing and error.sqlstate == LIMIT_EXCEEDED:
                raise _NotifyRefused from error
            raise
        self._announcer.committed(said)
        return answer

    def _ring(self, connection: Connection, rows: Sequence[asyncpg.Record]) -> None:
        """Tell watchers of these jobs (id, sequence, progress_version) when the transaction commits."""
        self._announce(
            connection, self._channel, [Hint(row["id"], row["sequence"], row["progress_version"]) for row in rows]
        )

    def _announce(self, connection: Connection, channel: str, hints: Sequence[Hint]) -> None:
        """Have hints said on a channel if the transaction commits."""
        self._said[connection] += [(channel, hint) for hint in hints]


class _NotifyRefused(Exception):
    """The commit failed at its NOTIFY alone; nothing of it happened."""


def columns(items: Sequence[Item], spell: Callable[[Item], tuple[object, ...]]) -> list[list[object]]:
    """Rows to columns, the shape unnest takes."""
    return [list(column) for column in zip(*map(spell, items), strict=True)]
