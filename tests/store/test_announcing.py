"""Changes are announced after their commit at most, and a full NOTIFY queue keeps no job from being changed."""

import secrets
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from tests.conftest import until
from tests.make import WORKER, accept, make_job
from tests.store.test_listening import Ear, listening
from todoke.dev.postgres import Postgres
from todoke.model.event import Hint
from todoke.model.ids import new_id
from todoke.store.announcing import PENDING_MAX, InTransaction, Off, PostCommit, spelled
from todoke.store.bell import Bell
from todoke.store.database import Connection, Database
from todoke.store.ledger import Ledger
from todoke.store.migrate import migrate
from todoke.wire.notice import EVERYTHING

FILLER = 7_900


async def test_post_commit_is_heard_and_a_rollback_is_not(database: Database, database_url: str) -> None:
    ear = Ear()
    async with PostCommit(database_url) as announcer, listening(Bell(database_url, "todoke", ear.heard)):
        ledger = Ledger(database, "todoke", announcer=announcer)
        await until(lambda: ear.looks == 1, 30)

        async def fail(connection: Connection) -> None:
            ledger._announce(connection, "todoke", [Hint(new_id(), 9, 9)])
            await connection.execute("SELECT 1 / 0")

        with pytest.raises(asyncpg.DivisionByZeroError):
            await ledger._transact(fail)
        job_id = await accept(ledger)
        await until(lambda: bool(ear.hints), 30)
        assert [hint.job_id for hint in ear.hints] == [job_id]


async def test_a_transaction_run_again_after_a_deadlock_is_announced_once(database: Database) -> None:
    kept = PostCommit("")
    ledger, tries = Ledger(database, "todoke", announcer=kept), 0
    job_id = new_id()

    async def work(connection: Connection) -> None:
        nonlocal tries
        tries += 1
        ledger._announce(connection, "todoke", [Hint(job_id, tries, 0)])
        if tries < 3:
            await connection.execute("DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$")

    await ledger._transact(work)
    assert kept._pending == {"todoke": {job_id: Hint(job_id, 3, 0)}}


def test_only_the_highest_numbers_of_a_job_are_kept() -> None:
    announcer, job_id = PostCommit(""), new_id()
    announcer.committed([("a", Hint(job_id, 3, 1)), ("a", Hint(job_id, 2, 4))])
    assert announcer._pending == {"a": {job_id: Hint(job_id, 3, 4)}}


def test_too_many_jobs_become_look_at_everything() -> None:
    announcer = PostCommit("")
    announcer.committed([("a", Hint(new_id(), 1, 0)) for _ in range(PENDING_MAX + 500)])
    assert announcer._everything == {"a"}
    assert announcer._pending == {"a": {}}


async def test_what_is_left_goes_out_at_the_stop(database_url: str) -> None:
    ear, job_id = Ear(), new_id()
    async with listening(Bell(database_url, "todoke", ear.heard)):
        await until(lambda: ear.looks == 1, 30)
        async with PostCommit(database_url) as announcer:
            announcer.committed([("todoke", Hint(job_id, 1, 0))])
        await until(lambda: ear.hints == [Hint(job_id, 1, 0)], 30)


async def test_off_says_nothing(database: Database, database_url: str) -> None:
    ear = Ear()
    async with listening(Bell(database_url, "todoke", ear.heard)):
        await until(lambda: ear.looks == 1, 30)
        await accept(Ledger(database, "todoke", announcer=Off()))
        loud = await accept(Ledger(database, "todoke"))
        await until(lambda: bool(ear.hints), 30)
        assert [hint.job_id for hint in ear.hints] == [loud], "the silent one was committed first"


def test_channels_are_spelled_apart() -> None:
    job_id = UUID(int=1)
    said = [("a", Hint(job_id, 1, 0)), ("b", Hint(job_id, 1, 0))]
    assert [channel for channel, _ in spelled(said)] == ["a", "b"]
    assert EVERYTHING not in [payload for _, payload in spelled(said)]


@pytest.fixture
def small_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A PostgreSQL whose NOTIFY queue is as small as can be."""
    real = Postgres._server_command

    def command(server: Postgres) -> list[str]:
        return [*real(server), "-c", "max_notify_queue_pages=64"]

    monkeypatch.setattr(Postgres, "_server_command", command)
    with Postgres(tmp_path / "small", secrets.token_hex(), durable=False) as server:
        migrate(server.url)
        yield server.url


async def test_a_full_notify_queue_keeps_no_job_from_being_accepted(small_server: str) -> None:
    stuck, filler = await asyncpg.connect(small_server), await asyncpg.connect(small_server)
    await stuck.execute("LISTEN anything")
    await stuck.execute("BEGIN; SELECT 1")
    with pytest.raises(asyncpg.ProgramLimitExceededError):
        await _fill(filler)
    async with Database(small_server) as database:
        loud = InTransaction()
        ledger = Ledger(database, "todoke", announcer=loud)
        jobs = [make_job() for _ in range(40)]
        answers = [(await ledger.accept([job], 30))[0] for job in jobs]
        assert loud._muted_until, "the queue did refuse a commit"
        assert len(answers) == len(jobs)
        [row] = await database.fetch("SELECT count(*) AS kept FROM job")
        assert row["kept"] == len(jobs)
        assert await ledger.claim([jobs[0].id], [jobs[0].type], WORKER, 30)
    await stuck.close()
    await filler.close()


async def _fill(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    for number in range(200):
        await connection.execute("SELECT pg_notify('x', $1)", f"{number:0{FILLER}}")
