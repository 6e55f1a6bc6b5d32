"""Cancel racing completion, retry, release and reclaim (row 30): exactly one end, in every interleaving."""

import asyncio
import random
from collections import Counter, defaultdict
from uuid import UUID

import asyncpg
import pytest

from tests.faults.history import History, Row, install
from tests.faults.interleaving import Answer, race
from tests.faults.invariants import check
from todoke.model.job import TERMINAL
from todoke.store.database import Database

AT_ONCE = 4
CHECKED_AT_ONCE = 250


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=[pytest.mark.full, pytest.mark.timeout(1200)])])
async def test_whatever_races_a_job_ends_once(database_url: str, seed: int, count: int) -> None:
    await install(database_url)
    rng = random.Random(seed)
    seeds = [rng.randrange(2**48) for _ in range(count)]
    found: Counter[str] = Counter()
    async with Database(database_url, connections_max=AT_ONCE * 6) as database:
        connection = await asyncpg.connect(database_url)
        try:
            for start in range(0, count, CHECKED_AT_ONCE):
                found += await _judged(connection, *await _run(database, seeds[start : start + CHECKED_AT_ONCE]))
        finally:
            await connection.close()
    print(f"{count} interleavings of seed {seed}: {dict(found)}")
    # The draw must have met what it is here for.
    assert all(found[name] > count / 100 for name in ("SUCCESS", "JOB_ERROR", "CANCELED", "lost", "released", "stale"))


async def _run(database: Database, seeds: list[int]) -> tuple[dict[UUID, int], dict[UUID, list[Answer]]]:
    """Each job with the seed of its race, and what was told of it."""
    answers: dict[UUID, list[Answer]] = defaultdict(list)
    by_job: dict[UUID, int] = {}
    left = list(reversed(seeds))

    async def one_after_another() -> None:
        while left:
            seed = left.pop()
            try:
                by_job[await race(database, seed, answers)] = seed
            except Exception as error:
                raise AssertionError(f"race {seed} broke: {error!r}") from error

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(one_after_another())
    return by_job, answers


async def _judged(
    connection: "asyncpg.Connection[asyncpg.Record]", by_job: dict[UUID, int], answers: dict[UUID, list[Answer]]
) -> "Counter[str]":
    history = await History(accepted=dict.fromkeys(by_job)).read_database(connection, by_job)
    check(history)
    changes, found = history.of(), Counter[str]()
    made = defaultdict(list)
    for item in await connection.fetch("SELECT job_id, content FROM artifact WHERE job_id = ANY ($1)", list(by_job)):
        made[item["job_id"]].append(item["content"])
    for job, seed in by_job.items():
        row = history.rows[job]
        found[row["error_code"] or row["state"]] += 1
        found["lost"] += row["losses"] > 0
        found["released"] += any(c.after and c.after["error_code"] == "WORKER_STOPPED" for c in changes[job])
        found["stale"] += any(not answer.is_taken for answer in answers[job])
        for answer in answers[job]:
            assert _agrees(row, answer), f"race {seed}, job {job}: {answer}, and the row says {row}"
        is_bare = row["state"] == "FAILED" or row["worker_id"] == "finisher"
        expected = [] if is_bare else [str(row["lease"]).encode()]
        assert made[job] == expected, f"race {seed}, job {job}: {made[job]} beside {row}"
    return found


def _agrees(row: Row, answer: Answer) -> bool:
    """Who was told "taken" finds its end in the row, and who was not does not."""
    if answer.state not in TERMINAL:
        return True
    is_there = (row["worker_id"], row["lease"], row["state"]) == (answer.worker, answer.lease, answer.state)
    return answer.is_taken == is_there
