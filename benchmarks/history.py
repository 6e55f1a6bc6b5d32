"""What a million finished jobs cost the next one: submit, claim and finish beside the same calls on an empty table.

    python -m benchmarks.history [--quick] [--jobs N] [--samples N]

Two databases of one server, one empty and one full of finished jobs with their events and results. Every sample does
the same on both, in random order, so that whatever else the machine does hits both alike; what the samples leave in the
empty one is removed every 50 samples. Prints p50, p99 and their
ratios, under 2 minutes.
"""

import argparse
import asyncio
import contextlib
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from benchmarks.figures import machine, percentile, table
from benchmarks.stage import Stage, stage
from todoke.model.ids import new_id
from todoke.model.job import Artifact, Attempt, NewJob, Outcome, State
from todoke.store.database import Database
from todoke.store.ledger import Ledger
from todoke.store.repair import Repair

GOAL = 1.2
BATCH = 10
CHUNK = 100_000
BLOCK = 50
# After the empty table was emptied again, its statements are planned anew: PostgreSQL needs five runs to settle.
WARM_UP = 6
TYPE = "noop"
WORKER = "benchmark"
RESULT = Artifact("result.json", "application/json", 4, "0" * 64, content=b"null")

# Triggers rest meanwhile: a finished job cannot be inserted otherwise. Ids are versions 7 of the last 30 days, in order
# of time, as real ones are.
JOBS = """
    INSERT INTO job (
        id, tenant_id, type, state, params, sequence, attempt, max_attempts, timeout_seconds, lease, worker_id, due_at,
        created_at, started_at, finished_at, updated_at
    )
    SELECT
        encode(
            substr(int8send((extract(epoch FROM at) * 1000)::bigint), 3, 6) || '\\x7000'::bytea
            || substr(sha256(int8send(number)), 1, 8), 'hex'
        )::uuid,
        'default', 'noop', CASE WHEN number % 50 = 0 THEN 'FAILED' ELSE 'SUCCESS' END, '{}', 3, 1, 5, 60, 1,
        'worker-of-the-past', at, at, at + interval '1 second', at + interval '2 seconds', at + interval '2 seconds'
    FROM generate_series($1::bigint, $2::bigint) AS number,
        LATERAL (SELECT now() - interval '30 days' * (1 - number::float8 / $3)) AS moment (at)
"""
EVENTS = """
    INSERT INTO event (job_id, sequence, tenant_id, type, at, body)
    SELECT
        job.id, event.sequence, job.tenant_id, event.type, job.created_at,
        json_build_object('type', event.type, 'timestamp', job.created_at, 'data', job_story(job))::text
    FROM job, (VALUES (1, 'job.accepted'), (2, 'job.started'), (3, 'job.succeeded')) AS event (sequence, type)
"""
ARTIFACTS = """
    INSERT INTO artifact (job_id, position, tenant_id, name, media_type, bytes, sha256, content)
    SELECT id, 0, tenant_id, 'result.json', 'application/json', 4, repeat('0', 64), 'null' FROM job
"""
TABLES = ("job", "event", "artifact")
EMPTY = f"TRUNCATE {', '.join(TABLES)}"


@dataclass(frozen=True)
class House:
    """One database with the calls that are timed on it."""

    name: str
    ledger: Ledger
    repair: Repair

    async def steps(self) -> AsyncIterator[tuple[str, Callable[[], Awaitable[object]]]]:
        """The timed calls of one sample, in order; each leaves behind what the next one needs."""
        one, ten = [_job()], [_job() for _ in range(BATCH)]
        yield "submit 1", lambda: self.ledger.accept(one, 600)
        yield "claim 1", lambda: self.ledger.claim([one[0].id], [TYPE], WORKER, 60)
        yield "finish 1", lambda: self._finish([one[0].id])
        yield "submit 10", lambda: self.ledger.accept(ten, 600)
        yield "claim 10", lambda: self.ledger.claim([job.id for job in ten], [TYPE], WORKER, 60)
        yield "finish 10", lambda: self._finish([job.id for job in ten])
        due = [_job() for _ in range(BATCH)]
        await self.ledger.accept(due, 600)
        claimed: list[Attempt] = []

        async def claim_due() -> None:
            claimed.extend(await self.ledger.claim_due(BATCH, [TYPE], WORKER, 60))

        yield "claim 10 unnamed", claim_due
        assert len(claimed) == BATCH
        await self._finish([job.id for job in due])
        yield "sweep", lambda: self.repair.redispatch(500, 30)

    async def _finish(self, ids: Sequence[UUID]) -> None:
        outcomes = [Outcome(id_, 1, State.SUCCESS, artifacts=(RESULT,)) for id_ in ids]
        assert all(await self.ledger.settle(outcomes, WORKER))


async def fill(url: str, jobs: int) -> None:
    """Finished jobs with three events and a result each, vacuumed and analyzed as autovacuum would in time."""
    connection = await asyncpg.connect(url)
    began = time.monotonic()
    await connection.execute("SET session_replication_role = replica")
    await connection.execute("SET synchronous_commit = off")
    for start in range(1, jobs + 1, CHUNK):
        await connection.execute(JOBS, start, min(jobs, start + CHUNK - 1), float(jobs), timeout=120)
    for statement in (EVENTS, ARTIFACTS):
        await connection.execute(statement, timeout=300)
    for name in TABLES:
        await connection.execute(f"VACUUM (ANALYZE) {name}", timeout=300)
    await connection.execute("CHECKPOINT", timeout=300)
    size = await connection.fetchval("SELECT pg_size_pretty(pg_database_size(current_database()))")
    await connection.close()
    print(
        f"  {jobs:,} finished jobs, {3 * jobs:,} events, {size}: made in {time.monotonic() - began:.0f} s", flush=True
    )


async def measure(stage: Stage, jobs: int, samples: int, warm_up: int = WARM_UP) -> dict[str, dict[str, list[float]]]:
    """Seconds of every call, by what it does and where."""
    empty, full = await stage.new_database(), await stage.new_database()
    await fill(full, jobs)
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    async with contextlib.AsyncExitStack() as stack:
        houses = [await _open(stack, name, url) for name, url in (("empty", empty), ("full", full))]
        for number in range(samples):
            if number % BLOCK == 0:
                await _empty(empty)
                for _ in range(warm_up):
                    await _sample(houses, defaultdict(lambda: defaultdict(list)))
            await _sample(houses, found)
    return found


def report(found: dict[str, dict[str, list[float]]], jobs: int) -> str:
    """p50 and p99 beside each other, their ratios, and whether the goal was reached."""
    rows, worst = [], 0.0
    for what, by_house in found.items():
        empty, full = by_house["empty"], by_house["full"]
        middle = statistics.median(full) / statistics.median(empty)
        tail = percentile(full, 0.99) / percentile(empty, 0.99)
        if what.startswith(("submit", "claim")):
            worst = max(worst, middle)
        times = [statistics.median(empty), statistics.median(full), percentile(empty, 0.99), percentile(full, 0.99)]
        p50s, p99s = [f"{1000 * seconds:.2f}" for seconds in times[:2]], [f"{1000 * x:.2f}" for x in times[2:]]
        rows.append([what, *p50s, f"{middle:.2f}x", *p99s, f"{tail:.2f}x", str(len(empty))])
    head = ["call", "p50 empty ms", "p50 full ms", "ratio", "p99 empty ms", "p99 full ms", "ratio", "samples"]
    verdict = "reached" if worst <= GOAL else "missed"
    goal = (
        f"Goal: submit and claim at most {GOAL:g}x beside {jobs:,} finished jobs: p50 {worst:.2f}x at worst, {verdict}"
    )
    return f"{table(head, rows)}\n\n{goal}"


async def _sample(houses: Sequence[House], found: dict[str, dict[str, list[float]]]) -> None:
    """Every call once in each house, side by side."""
    together = [house.steps() for house in houses]
    with contextlib.suppress(StopAsyncIteration):
        while True:
            for place in random.sample(range(len(houses)), len(houses)):
                what, call = await anext(together[place])
                began = time.perf_counter()
                await call()
                found[what][houses[place].name].append(time.perf_counter() - began)


async def _empty(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(EMPTY)
    await connection.close()


async def _open(stack: contextlib.AsyncExitStack, name: str, url: str) -> House:
    database = await stack.enter_async_context(Database(url, connections_max=1))
    return House(name, Ledger(database, "todoke"), Repair(database, "todoke"))


def _job() -> NewJob:
    return NewJob(id=new_id(), tenant_id="default", type=TYPE, params="{}", max_attempts=5, timeout_seconds=60)


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20,000 jobs and 100 samples, to see that it works")
    parser.add_argument("--jobs", type=int, help="finished jobs in the full table; default 1,000,000")
    parser.add_argument("--samples", type=int, help="default 1,000")
    options = parser.parse_args(arguments)
    jobs = options.jobs or (20_000 if options.quick else 1_000_000)
    print(machine(), flush=True)
    began = time.monotonic()
    with stage() as here:
        found = asyncio.run(measure(here, jobs, options.samples or (100 if options.quick else 1000)))
    print(f"\n{report(found, jobs)}\n\n{time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
