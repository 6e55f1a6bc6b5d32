"""Ends that come from outside an attempt: canceled, expired, too many workers lost, dead-lettered."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from tests.make import TENANT, TYPE, WORKER, accept, fail, make_job, start, succeed
from todoke.model.dead_letter import DeadLetter, LetterVerdict
from todoke.model.errors import Unavailable
from todoke.model.ids import new_id
from todoke.model.job import Outcome, State
from todoke.store.bell import Bell
from todoke.store.database import Database
from todoke.store.ledger import Ledger
from todoke.store.reading import Reader
from todoke.store.repair import Repair
from todoke.wire.notice import cancel_channel


async def story(reader: Reader, job_id: UUID) -> dict[str, Any]:
    status = await reader.status(job_id, TENANT)
    assert status is not None
    return status.story


async def types(reader: Reader, job_id: UUID) -> list[str]:
    return [item.type for item in await reader.events([(job_id, TENANT, 0)])]


async def test_a_queued_job_is_canceled_at_once(ledger: Ledger, reader: Reader, database: Database) -> None:
    job_id = await accept(ledger, callback_url="https://example.com/", callback_events=("job.failed",))
    assert await ledger.cancel(job_id, TENANT)
    told = await story(reader, job_id)
    assert (told["status"], told["errorCode"], told["sequence"]) == ("failed", "CANCELED", 2)
    assert await types(reader, job_id) == ["job.accepted", "job.failed"]
    assert len(await database.fetch("SELECT 1 FROM delivery WHERE job_id = $1", job_id)) == 1
    assert await ledger.claim([job_id], [TYPE], WORKER, 60) == []


async def test_canceling_again_changes_nothing_and_a_stranger_has_no_such_job(ledger: Ledger, reader: Reader) -> None:
    job_id = await accept(ledger)
    assert not await ledger.cancel(job_id, "another")
    assert not await ledger.cancel(new_id(), TENANT)
    assert (await story(reader, job_id))["status"] == "running"
    assert await ledger.cancel(job_id, TENANT)
    assert await ledger.cancel(job_id, TENANT)
    assert await types(reader, job_id) == ["job.accepted", "job.failed"]


async def test_a_waiting_job_is_canceled_at_once(ledger: Ledger, reader: Reader) -> None:
    job_id = await accept(ledger)
    attempt = await start(ledger, job_id)
    await ledger.settle([Outcome(job_id, attempt.lease, State.PROCESSING, "JOB_ERROR", "later", delay=60)], WORKER)
    assert await ledger.cancel(job_id, TENANT)
    assert (await story(reader, job_id))["errorCode"] == "CANCELED"


async def test_a_running_job_is_asked_and_its_holder_hears_of_it(ledger: Ledger, database_url: str) -> None:
    job_id = await accept(ledger)
    attempt = await start(ledger, job_id)
    heard: asyncio.Queue[Any] = asyncio.Queue()
    bell = Bell(database_url, cancel_channel("todoke"), lambda hints: heard.put_nowait(hints and list(hints)))
    listening = asyncio.create_task(bell.listen())
    async with asyncio.timeout(10):
        assert await heard.get() is None
        assert await ledger.cancel(job_id, TENANT)
        [hint] = await heard.get()
    listening.cancel()
    assert hint.job_id == job_id
    assert await ledger.renew([(job_id, attempt.lease)], WORKER, 60) == {job_id: True}


async def test_a_result_that_comes_before_the_cancel_is_heard_stands(ledger: Ledger, reader: Reader) -> None:
    job_id = await accept(ledger)
    attempt = await start(ledger, job_id)
    assert await ledger.cancel(job_id, TENANT)
    assert (await story(reader, job_id))["cancelRequested"]
    assert await succeed(ledger, attempt)
    assert await ledger.cancel(job_id, TENANT)
    assert (await story(reader, job_id))["status"] == "success"


@pytest.mark.parametrize("is_charged", [True, False])
async def test_a_canceled_job_gets_no_further_attempt(ledger: Ledger, reader: Reader, is_charged: bool) -> None:
    job_id = await accept(ledger)
    attempt = await start(ledger, job_id)
    assert await ledger.cancel(job_id, TENANT)
    again = Outcome(job_id, attempt.lease, State.PROCESSING, "JOB_ERROR", "later", is_charged=is_charged)
    assert await ledger.settle([again], WORKER) == [True]
    assert (await story(reader, job_id))["errorCode"] == "CANCELED"
    assert await ledger.settle([again], WORKER) == [True], "asked again, the row itself is the answer"


async def test_a_canceled_job_whose_worker_is_lost_ends_by_the_sweep(
    ledger: Ledger, repair: Repair, reader: Reader, database: Database
) -> None:
    job_id = await accept(ledger)
    await start(ledger, job_id)
    assert await ledger.cancel(job_id, TENANT)
    await database.fetch("UPDATE job SET lease_expires_at = now(), redispatch_at = now() WHERE id = $1", job_id)
    assert await ledger.claim([job_id], [TYPE], WORKER, 60) == []
    assert await repair.end_doomed(10) == {job_id: "CANCELED"}
    assert await types(reader, job_id) == ["job.accepted", "job.started", "job.failed"]


async def test_the_third_lost_worker_is_the_last(ledger: Ledger, repair: Repair, reader: Reader) -> None:
    job_id = await accept(ledger, max_losses=3)
    for number in range(1, 4):
        attempt = await start(ledger, job_id, lease_seconds=0)
        assert attempt.number == number
        assert (attempt.recovered_seconds is None) == (number == 1)
    assert await ledger.claim([job_id], [TYPE], WORKER, 60) == []
    assert await repair.redispatch(10, 30) == []
    assert await repair.end_doomed(10) == {job_id: "WORKER_LOST"}
    told = await story(reader, job_id)
    assert (told["status"], told["attempt"]) == ("failed", 3)
    assert not await fail(ledger, attempt)


async def test_a_job_not_started_in_time_expires(ledger: Ledger, repair: Repair, reader: Reader) -> None:
    late = await accept(ledger, expires_seconds=0.0)
    other = await accept(ledger, expires_seconds=60.0)
    assert await ledger.claim([late], [TYPE], WORKER, 60) == []
    assert await repair.end_doomed(10) == {late: "EXPIRED"}
    assert (await story(reader, late))["errorCode"] == "EXPIRED"
    attempt = await start(ledger, other)
    assert await succeed(ledger, attempt)


async def test_a_started_job_does_not_expire_and_is_named_ever_more_rarely(
    ledger: Ledger, repair: Repair, database: Database
) -> None:
    job_id = await accept(ledger, expires_seconds=0.05)
    attempt = await start(ledger, job_id)
    async with asyncio.timeout(5):
        while not (await database.fetch("SELECT expires_at < now() AS passed FROM job"))[0]["passed"]:
            await asyncio.sleep(0.01)
    await ledger.settle([Outcome(job_id, attempt.lease, State.PROCESSING, "JOB_ERROR", "later")], WORKER)
    assert await repair.end_doomed(10) == {}
    assert await repair.redispatch(10, 30) == [job_id]
    assert await repair.redispatch(10, 30) == []
    await repair.put_off([job_id], 60)
    await ledger.claim_limited([], [TYPE], WORKER, 60)
    [row] = await database.fetch("SELECT redispatch_at - now() AS left FROM job")
    assert row["left"].total_seconds() > 50


async def test_a_delayed_job_is_not_due_yet_and_named_when_it_is(
    ledger: Ledger, repair: Repair, reader: Reader, database: Database
) -> None:
    job_id = await accept(ledger, delay_seconds=60.0)
    assert await ledger.claim([job_id], [TYPE], WORKER, 60) == []
    assert (await ledger.standing([job_id]))[job_id]["due_seconds"] > 50
    assert (await story(reader, job_id))["waiting"]["until"] > (await story(reader, job_id))["createdAt"]
    assert await repair.redispatch(10, 30) == []
    await database.fetch("UPDATE job SET due_at = now(), redispatch_at = now() WHERE id = $1", job_id)
    assert await repair.redispatch(10, 30) == [job_id]


async def test_only_one_sweep_works_at_a_time(ledger: Ledger, repair: Repair, database: Database) -> None:
    await ledger.accept([make_job()], 0)
    async with database.transaction() as connection:
        await connection.fetch("SELECT pg_advisory_xact_lock(7064654)")
        assert await repair.redispatch(10, 30) == []
        assert await repair.end_doomed(10) == {}
    assert len(await repair.redispatch(10, 30)) == 1


async def test_a_dead_letter_ends_only_a_job_nobody_came_for(
    ledger: Ledger, repair: Repair, reader: Reader, database: Database
) -> None:
    fresh, forgotten, held, finished = [await accept(ledger) for _ in range(4)]
    await database.fetch("UPDATE job SET dispatch_count = 3 WHERE id = ANY ($1)", [forgotten, held])
    await start(ledger, held)
    await succeed(ledger, await start(ledger, finished))
    letters = [
        DeadLetter(id=f"m{number}", body="{}", job_id=job_id, receive_count=11)
        for number, job_id in enumerate([fresh, forgotten, held, finished, new_id(), None])
    ]
    dropped, failed = LetterVerdict.DROPPED, LetterVerdict.FAILED
    expected = [dropped, failed, dropped, dropped, dropped, LetterVerdict.UNPARSEABLE]
    assert await repair.bury(letters) == expected
    assert (await story(reader, forgotten))["errorCode"] == "DEAD_LETTERED"
    assert (await story(reader, held))["phase"] == "processing"
    assert await repair.redispatch(10, 30) == [fresh], "it gets a new hint at once"
    # The commit may be answered and the message still come again.
    again = [LetterVerdict.DROPPED if verdict is failed else verdict for verdict in expected]
    assert await repair.bury(letters) == again
    rows = await database.fetch("SELECT id, verdict FROM dead_letter ORDER BY id")
    assert [row["verdict"] for row in rows] == expected
    assert await types(reader, forgotten) == ["job.accepted", "job.failed"]


async def test_a_submit_asked_again_after_a_lost_answer_is_the_same_job(ledger: Ledger, reader: Reader) -> None:
    job, keyed = make_job(), make_job(idempotency_key="k", request_digest=b"d")
    first = await ledger.accept([job, keyed], 30)
    assert await ledger.accept([job, keyed], 30) == first
    assert await types(reader, job.id) == ["job.accepted"]


async def test_an_outcome_asked_again_after_a_lost_answer_is_true(ledger: Ledger, reader: Reader) -> None:
    job_id = await accept(ledger)
    first = await start(ledger, job_id)
    release = Outcome(job_id, first.lease, State.PROCESSING)
    assert await ledger.settle([release], WORKER) == [True]
    assert await ledger.settle([release], WORKER) == [True]
    second = await start(ledger, job_id)
    assert await ledger.settle([release], WORKER) == [False], "somebody else holds it by now"
    assert await succeed(ledger, second)
    assert await succeed(ledger, second)
    assert not await fail(ledger, second), "another end than the one that stands"
    assert len(await types(reader, job_id)) == 5


async def test_jobs_of_a_claim_whose_answer_was_lost_are_given_back(ledger: Ledger, database: Database) -> None:
    running, stray, foreign = [await accept(ledger) for _ in range(3)]
    kept = await start(ledger, running)
    await start(ledger, stray)
    await start(ledger, foreign, worker_id="another")
    assert await ledger.give_back({(running, kept.lease)}, WORKER) == 1
    rows = await ledger.standing([running, stray, foreign])
    assert {id_: row["is_held"] for id_, row in rows.items()} == {running: True, stray: False, foreign: True}
    [row] = await database.fetch(
        "SELECT failures, losses, redispatch_at <= now() AS soon FROM job WHERE id = $1", stray
    )
    assert tuple(row) == (0, 0, True)


async def test_no_lease_outlives_the_deadline_of_its_attempt(ledger: Ledger, database: Database) -> None:
    job_id = await accept(ledger, timeout_seconds=0.001)
    attempt = await start(ledger, job_id)
    await ledger.renew([(job_id, attempt.lease)], WORKER, 100_000)
    [row] = await database.fetch("SELECT lease_expires_at - deadline_at AS over FROM job WHERE id = $1", job_id)
    assert row["over"].total_seconds() == pytest.approx(300)


async def test_a_database_that_takes_no_writes_is_away(repair: Repair, database: Database, database_url: str) -> None:
    await repair.check()
    await database.fetch(f"ALTER DATABASE {database_url.rpartition('/')[2]} SET default_transaction_read_only = on")
    async with Database(database_url) as fresh:
        with pytest.raises(Unavailable):
            await Repair(fresh, "todoke").check()
        with pytest.raises(Unavailable):
            await Ledger(fresh, "todoke").accept([make_job()], 30)


async def test_workers_are_known_while_they_live(repair: Repair, database: Database) -> None:
    await repair.enroll("w1", "host", 7, 4, 0, ["b", "a"])
    await repair.enroll("w1", "host", 7, 4, 3, ["b", "a"])
    await repair.enroll("old", "host", 8, 4, 0, [])
    await database.fetch("UPDATE worker SET seen_at = now() - interval '2 hours' WHERE id = 'old'")
    [row] = await database.fetch("SELECT busy, types FROM worker WHERE id = 'w1'")
    assert tuple(row) == (3, ["a", "b"])
    await repair.retire("w1")
    assert await database.fetch("SELECT 1 FROM worker") == []
