"""Tests of callbacks: asked for by the API, run by a notifier under a lease, kept with their reports."""

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import asyncpg

from todoke.model.callback_test import (
    KEPT_MAX,
    LOST,
    NOBODY,
    OPEN_MAX,
    TRIES_MAX,
    WAIT_SECONDS,
    CallbackTest,
    ClaimedTest,
    Kind,
    report,
)
from todoke.model.event import Hint
from todoke.store.database import Connection, queries
from todoke.store.transactions import Transactions

SQL = queries("callback_tests")

# Any constant will do, as long as every process locks the same.
CREATE_TURN = 0x74657374


class CallbackTests(Transactions):
    """No connection is held while a test is run. Raises Unavailable when PostgreSQL is away."""

    async def create(self, id_: UUID, tenant_id: str, url: str, kind: Kind) -> CallbackTest | None:
        """Keep a test and ring the bell. None: the tenant has as many open ones as it may."""
        await self.give_up(tenant_id)

        async def work(connection: Connection) -> CallbackTest | None:
            await connection.execute(SQL["in_turn"], CREATE_TURN, tenant_id)
            await connection.execute(SQL["make_room"], tenant_id, KEPT_MAX)
            rows = await connection.fetch(SQL["create"], id_, tenant_id, url, kind, OPEN_MAX)
            # No job has a sequence of 0, so those who watch jobs pass it over.
            self._announce(connection, self._channel, [Hint(row["id"], 0, 0) for row in rows])
            return _test_of(rows[0]) if rows else None

        return await self._transact(work)

    async def find(self, id_: UUID, tenant_id: str) -> CallbackTest | None:
        """A test of this tenant; one that will not be run any more is done."""
        found = await self._find(id_, tenant_id)
        if found is not None and not found.is_done and await self.give_up(tenant_id):
            return await self._find(id_, tenant_id)
        return found

    async def claim(self, lease_seconds: float) -> ClaimedTest | None:
        """Take a test that is due; never a second one of the same tenant while the first runs."""
        rows = await self._database.fetch(SQL["claim"], lease_seconds)
        return ClaimedTest(**(dict(rows[0]) | {"kind": Kind(rows[0]["kind"])})) if rows else None

    async def release(self, claimed: ClaimedTest) -> None:
        """Give it back unfinished: another notifier takes it at once."""
        await self._database.fetch(SQL["release"], claimed.id, claimed.tries)

    async def finish(self, claimed: ClaimedTest, found: Mapping[str, object]) -> bool:
        """Keep the report. False: the lease has passed on."""
        return bool(await self._database.fetch(SQL["finish"], claimed.id, claimed.tries, json.dumps(found)))

    async def disabled(self, claimed: ClaimedTest) -> UUID | None:
        """The endpoint that was tested, when it is disabled and nobody wanted it so; None otherwise."""
        rows = await self._database.fetch(SQL["disabled"], claimed.tenant_id, claimed.url)
        return rows[0]["id"] if rows else None

    async def give_up(self, tenant_id: str | None = None) -> int:
        """End tests, of one tenant or of all, that nobody took or that were lost too often; says how many."""
        words = [json.dumps(report([], advice)) for advice in (NOBODY, LOST)]
        rows = await self._database.fetch(SQL["give_up"], TRIES_MAX, WAIT_SECONDS, *words, tenant_id)
        return len(rows)

    async def _find(self, id_: UUID, tenant_id: str) -> CallbackTest | None:
        rows = await self._database.fetch(SQL["find"], id_, tenant_id)
        return _test_of(rows[0]) if rows else None


def _test_of(row: asyncpg.Record) -> CallbackTest:
    found: dict[str, Any] | None = None if row["report"] is None else json.loads(row["report"])
    return CallbackTest(
        id=row["id"],
        kind=Kind(row["kind"]),
        url=row["url"],
        is_done=row["state"] == "DONE",
        created_at=row["created_at"],
        finished_at=row["finished_at"],
        report=found,
    )
