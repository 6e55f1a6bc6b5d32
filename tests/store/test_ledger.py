"""The ledger against a real PostgreSQL: one winner, gapless sequences, nothing half done."""

import asyncio
import random
from uuid import UUID

import asyncpg
import pytest

from tests.make import TENANT, TYPE, WORKER, accept, fail, make_job, start, succeed
from todoke.model.errors import KeyReused
from todoke.model.event import Hint
from todoke.model.ids import new_id
from todoke.model.job import Accepted, Artifact, Outcome, Progress, State
from todoke.store.bell import Bell
from todoke.store.database import Database
from todoke.store.deliveries import Deliveries
from todoke.store.ledger import Ledger
from todoke.store.reading import Reader
from todoke.store.repair import Repair


async def types(reader: Reader, job_id: object) -> list[tuple[int, str]]:
    return [(item.sequence, item.type) for item in await reader.events([(job_id, TENANT, 0)])]


async def test_a_job_passes_through_its_states_with_an_event_for_each(ledger: Ledger, reader: Reader) -> None:
    job_id = await accept(ledger)
    attempt = await start(ledger, job_id)
    assert await succeed(ledger, attempt)
    assert await types(reader, job_id) == [(1, "job.accepted"), (2, "job.started"), (3, "job.succeeded")]
    status = await reader.status(job_id, TENANT)
    assert status is not None
    assert status.state is State.SUCCESS
    assert status.story["sequence"] == 3


async def test_only_one_of_many_claims_wins(ledger: Ledger, database: Database, reader: Reader) -> None:
    job_id = await accept(ledger)
    claims = await asyncio.gather(*(ledger.claim([job_id], [TYPE], f"worker-{n}", 60) for n in range(8)))
    assert sum(len(claim) for claim in claims) == 1
    assert await types(reader, job_id) == [(1, "job.accepted"), (2, "job.started")]


async def test_a_stale_attempt_changes_nothing(ledger: Ledger, reader: Reader) -> None:
    job_id = await accept(ledger)
    stale = await start(ledger, job_id, lease_seconds=0)
    winner = await start(ledger, job_id)
    assert winner.lease == stale.lease + 1
    assert not await succeed(ledger, stale)
    assert await ledger.report([Progress(job_id, stale.lease, 50, "old")], WORKER) == [False]
    assert await ledger.renew([(job_id, stale.lease)], WORKER, 60) == {}
    assert await fail(ledger, winner)
    assert not await succeed(ledger, winner), "a terminal job never changes"
    status = await reader.status(job_id, TENANT)
    assert status is not None
    assert (status.state, status.story["error"], status.story["errorCode"]) == (State.FAILED, "it broke", "JOB_ERROR")


async def test_a_stale_outcome_beside_the_holders_in_one_batch_changes_nothing(ledger: Ledger, reader: Reader) -> None:
    job_id = await accept(ledger)
    stale = await start(ledger, job_id, lease_seconds=0)
    winner = await start(ledger, job_id)
    outcomes = [
        Outcome(job_id, stale.lease, State.FAILED, "JOB_ERROR", "stale"),
        Outcome(job_id, winner.lease, State.SUCCESS),
        Outcome(job_id, stale.lease, State.FAILED, "JOB_ERROR", "stale"),
    ]
    await ledger.settle(outcomes, WORKER)
    status = await reader.status(job_id, TENANT)
    assert status is not None
    assert status.state is State.SUCCESS


async def test_another_workers_lease_number_does_not_fit(ledger: Ledger) -> None:
    job_id = await accept(ledger)
    attempt = await start(ledger, job_id, worker_id="another worker")
    assert not await succeed(ledger, attempt)


async def test_a_job_given_up_waits_until_due_and_stays_processing(ledger: Ledger, reader: Reader) -> None:
    job_id = await accept(ledger)
    attempt = await start(ledger, job_id)
    retry = Outcome(job_id, attempt.lease, State.PROCESSING, "JOB_ERROR", "later", delay=60, is_charged=True)
    assert await ledger.settle([retry], WORKER) == [True]
    assert await ledger.claim([job_id], [TYPE], WORKER, 60) == []
    status = await reader.status(job_id, TENANT)
    assert status is not None
    assert status.story["phase"] == "waiting"
    assert status.story["status"] == "running"
    assert status.story["error"] is None
    assert status.story["waiting"]["message"] == "later"
    assert (await types(reader, job_id))[-1] == (3, "job.retrying")


async def test_a_job_released_is_claimable_at_once_and_not_charged(ledger: Ledger) -> None:
    job_id = await accept(ledger)
    attempt = await start(ledger, job_id)
    assert await ledger.settle([Outcome(job_id, attempt.lease, State.PROCESSING)], WORKER) == [True]
    again = await start(ledger, job_id)
    assert (again.failures, again.number) == (0, 2)


async def test_progress_only_grows_within_an_attempt(ledger: Ledger, reader: Reader) -> None:
    job_id = await accept(ledger)
    attempt = await start(ledger, job_id)
    for percent in (40, 20, 60):
        await ledger.report([Progress(job_id, attempt.lease, percent, f"at {percent}")], WORKER)
    status = await reader.status(job_id, TENANT)
    assert status is not None
    assert status.story["progress"] == {"percent": 60, "message": "at 60"}
    assert status.progress_version == 3
    assert await types(reader, job_id) == [(1, "job.accepted"), (2, "job.started")]


async def test_the_same_key_and_body_is_the_same_job_and_another_body_is_refused(ledger: Ledger) -> None:
    first = make_job(idempotency_key="k", request_digest=b"a")
    same = make_job(idempotency_key="k", request_digest=b"a")
    other = make_job(idempotency_key="k", request_digest=b"b")
    elsewhere = make_job(idempotency_key="k", request_digest=b"b", tenant_id="another")
    answers = await ledger.accept([first, same, other, elsewhere], 30)
    assert answers[:2] == [Accepted(first.id, is_replay=False), Accepted(first.id, is_replay=True)]
    assert isinstance(answers[2], KeyReused)
    assert answers[3] == Accepted(elsewhere.id, is_replay=False)


async def test_a_hundred_concurrent_submits_with_one_key_make_one_job(ledger: Ledger, database: Database) -> None:
    jobs = [make_job(idempotency_key=f"k{n % 5}", request_digest=b"a") for n in range(100)]
    batches = [random.sample(jobs[n : n + 10], 10) for n in range(0, 100, 10)]
    answers = await asyncio.gather(*(ledger.accept(batch, 30) for batch in batches))
    ids = {answer.id for batch in answers for answer in batch if isinstance(answer, Accepted)}
    assert len(ids) == 5
    assert (await database.fetch("SELECT count(*) FROM job"))[0]["count"] == 5


async def test_a_delivery_is_owed_exactly_where_the_callback_wants_one(ledger: Ledger, database: Database) -> None:
    wanted = ("job.started", "job.succeeded")
    with_callback = await accept(ledger, callback_url="https://example.com/", callback_events=wanted)
    without = await accept(ledger)
    for job_id in (with_callback, without):
        await succeed(ledger, await start(ledger, job_id))
    rows = await database.fetch("SELECT job_id, sequence FROM delivery ORDER BY sequence")
    assert [(row["job_id"], row["sequence"]) for row in rows] == [(with_callback, 2), (with_callback, 3)]
    deliveries = Deliveries(database, 4)
    [due] = await deliveries.look("", UUID(int=0), 10)
    claimed = await deliveries.claim({(due.tenant_id, due.endpoint_id): 4}, 60)
    log = {item.sequence: item.body for item in await Reader(database).events([(with_callback, TENANT, 0)])}
    assert {item.sequence: item.body for item in claimed} == {n: log[n] for n in (2, 3)}


async def test_a_batch_with_one_broken_row_leaves_nothing_half_written(ledger: Ledger, database: Database) -> None:
    good, bad = make_job(), make_job(params="not json")
    with pytest.raises(asyncpg.PostgresError):
        await ledger.accept([good, bad], 30)
    assert (await database.fetch("SELECT count(*) FROM job"))[0]["count"] == 0
    assert (await database.fetch("SELECT count(*) FROM event"))[0]["count"] == 0


async def test_artifacts_come_with_the_success_that_made_them(ledger: Ledger, reader: Reader) -> None:
    job_id = await accept(ledger)
    stale = await start(ledger, job_id, lease_seconds=0)
    attempt = await start(ledger, job_id)
    await succeed(ledger, stale, artifacts=(Artifact("old.txt", "text/plain", 3, "00", content=b"old"),))
    made = (
        Artifact("a.txt", "text/plain", 1, "11", content=b"a"),
        Artifact("b.txt", "text/plain", 9, "22", object_key="k"),
    )
    assert await succeed(ledger, attempt, artifacts=made)
    assert await reader.artifacts(job_id, TENANT) == list(made)
    assert await reader.artifacts(job_id, "another") == []


async def test_sweeps_name_what_hints_missed_and_then_wait_longer(ledger: Ledger, repair: Repair) -> None:
    fresh, forgotten = await accept(ledger), make_job()
    await ledger.accept([forgotten], 0)
    assert await repair.redispatch(100, 30) == [forgotten.id]
    assert await repair.redispatch(100, 30) == []
    held = await start(ledger, fresh, lease_seconds=0)
    assert await repair.redispatch(100, 30) == [fresh], "an expired lease is a job nobody has"
    assert held.lease == 1


async def test_one_commit_rings_once_for_all_its_jobs(ledger: Ledger, postgres: object, database_url: str) -> None:
    heard: list[list[Hint] | None] = []
    bell = Bell(database_url, "todoke", lambda hints: heard.append(None if hints is None else list(hints)))
    listening = asyncio.create_task(bell.listen())
    async with asyncio.timeout(10):
        while heard != [None]:
            await asyncio.sleep(0.01)
        jobs = [make_job() for _ in range(50)]
        await ledger.accept(jobs, 30)
        while len(heard) < 2:
            await asyncio.sleep(0.01)
    listening.cancel()
    assert len(heard) == 2, "fifty jobs, one NOTIFY"
    assert sorted(heard[1] or [], key=lambda hint: hint.job_id) == [
        Hint(job.id, 1, 0) for job in sorted(jobs, key=lambda job: job.id)
    ]


async def test_unknown_ids_are_nobodys(ledger: Ledger, reader: Reader) -> None:
    assert await ledger.claim([new_id()], [TYPE], WORKER, 60) == []
    assert await reader.status(new_id(), TENANT) is None


@pytest.mark.parametrize("rounds", [25, pytest.param(1000, marks=[pytest.mark.full, pytest.mark.timeout(600)])])
async def test_random_histories_keep_sequences_gapless(
    ledger: Ledger, database: Database, rounds: int, seed: int
) -> None:
    rng = random.Random(seed)
    ids = [await accept(ledger) for _ in range(max(6, rounds // 4))]

    async def work(worker_id: str) -> None:
        for _ in range(rounds):
            attempts = await ledger.claim(rng.sample(ids, 3), [TYPE], worker_id, rng.choice([0, 60]))
            for attempt in attempts:
                state = rng.choice([State.PROCESSING, State.PROCESSING, State.PROCESSING, State.SUCCESS, State.FAILED])
                error = "e" if state is State.FAILED else None
                await ledger.settle([Outcome(attempt.id, attempt.lease, state, error, error)], worker_id)

    await asyncio.gather(*(work(f"worker-{n}") for n in range(4)))
    gaps = await database.fetch(
        "SELECT job_id FROM event GROUP BY job_id HAVING max(sequence) <> count(*) OR min(sequence) <> 1"
    )
    assert gaps == []
    heads = await database.fetch(
        "SELECT job.id FROM job JOIN event ON job_id = id GROUP BY job.id HAVING max(event.sequence) <> job.sequence"
    )
    assert heads == []
    twice = await database.fetch(
        "SELECT job_id FROM event WHERE type IN ('job.succeeded', 'job.failed') GROUP BY job_id HAVING count(*) > 1"
    )
    assert twice == []
