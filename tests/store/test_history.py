"""What the past of a job type is made of: jobs that ran to an end, this tenant's, the newest."""

import pytest

from tests.make import accept, fail, start, succeed
from todoke.store import history
from todoke.store.database import Database
from todoke.store.history import History
from todoke.store.ledger import Ledger


async def test_only_what_ran_to_an_end_counts(database: Database, ledger: Ledger) -> None:
    await succeed(ledger, await start(ledger, await accept(ledger)))
    await fail(ledger, await start(ledger, await accept(ledger)))
    await ledger.cancel(await accept(ledger), "default")
    await accept(ledger)
    await start(ledger, await accept(ledger))
    await succeed(ledger, await start(ledger, await accept(ledger, tenant_id="another")))
    found = await History(database).ended("default", "generate-report")
    assert len(found) == 2
    assert all(item.waited >= 0 and item.ran >= 0 for item in found)
    assert await History(database).ended("default", "unknown") == []
    assert len(await History(database).ended("another", "generate-report")) == 1


async def test_waiting_counts_from_being_due_whatever_the_priority(database: Database, ledger: Ledger) -> None:
    job_id = await accept(ledger, priority=5)
    attempt = await start(ledger, job_id)
    await succeed(ledger, attempt)
    [found] = await History(database).ended("default", "generate-report")
    [row] = await database.fetch(
        "SELECT extract(epoch FROM started_at - created_at)::float8 AS waited,"
        " extract(epoch FROM finished_at - started_at)::float8 AS ran FROM job WHERE id = $1",
        job_id,
    )
    assert (found.waited, found.ran) == pytest.approx((row["waited"], row["ran"]))


async def test_the_look_is_bounded(database: Database, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(4):
        await succeed(ledger, await start(ledger, await accept(ledger)))
    await accept(ledger)
    monkeypatch.setattr(history, "ROWS_MAX", 4)
    assert len(await History(database).ended("default", "generate-report")) == 3
    monkeypatch.setattr(history, "ENDED_MAX", 2)
    assert len(await History(database).ended("default", "generate-report")) == 2
