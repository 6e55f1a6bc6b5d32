"""How long a job waits after `kill -9` of its worker until it runs again, at the default lease, heartbeat and sweep.

    python -m benchmarks.recovery [--quick] [--rounds N] [--workers N]

Each round starts workers with one slot, gives each a job that stays, starts one more worker with free slots, and kills
the holders one after another at random moments. That one survivor alone sweeps once the others are gone. Prints the
distribution over all kills, about 2 minutes.
"""

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import UUID

from benchmarks.figures import machine, percentile, table
from benchmarks.stage import Program, Stage, stage, until
from todoke.model.ids import new_id
from todoke.model.job import NewJob
from todoke.queue.sqs import body
from todoke.runtime.settings import load_settings
from todoke.store.database import Database
from todoke.store.ledger import Ledger

GOAL_SECONDS = 25.0
GIVE_UP_SECONDS = 60.0
# The kills of a round fall into this window, longer than heartbeat and sweep, so that they hit every phase of both.
WINDOW_SECONDS = 6.0


async def measure(stage: Stage, rounds: int, workers: int) -> list[float]:
    """Seconds from each kill to the beginning of the job's next run."""
    waits: list[float] = []
    for turn in range(rounds):
        found = await one_round(stage, workers)
        waits += found
        print(f"  round {turn + 1}: " + " ".join(f"{seconds:.1f}" for seconds in sorted(found)), flush=True)
    return waits


async def one_round(
    stage: Stage, workers: int, *, window_seconds: float = WINDOW_SECONDS, settings: Mapping[str, str] | None = None
) -> list[float]:
    """Kill so many workers in the middle of a job each. `settings`: environment variables, for tests alone."""
    url, queue_url = await stage.new_database(), stage.new_queue()
    notes = stage.new_folder()
    places = {"DATABASE_URL": url, "SQS_QUEUE_URL": queue_url, "AWS_ENDPOINT_URL": stage.endpoint_url}
    settings = {**places, **(settings or {})}
    holders = [stage.start_worker({**settings, "TODOKE_SLOTS": "1"}) for _ in range(workers)]
    jobs = await submit(stage, url, queue_url, notes, workers)
    await until(lambda: all(_began(notes, job, 1) for job in jobs), GIVE_UP_SECONDS, "every holder has a job")
    by_holder = await holders_of(url, jobs, holders)
    survivor = stage.start_worker({**settings, "TODOKE_SLOTS": str(workers)})
    try:
        await until(lambda: survivor.says("worker.started"), GIVE_UP_SECONDS, "survivor started")
        kills = await kill_all(by_holder, window_seconds)
        await until(lambda: all(_began(notes, job, 2) for job in jobs), GIVE_UP_SECONDS, "every job runs again")
    finally:
        for program in (*holders, survivor):
            await asyncio.to_thread(program.kill)
    return [_began(notes, job, 2) - kills[job] for job in jobs]


async def submit(stage: Stage, url: str, queue_url: str, notes: Path, count: int) -> list[UUID]:
    """Jobs that stay in work, with their hints."""
    params = f'{{"folder": "{notes}"}}'
    jobs = [
        NewJob(id=new_id(), tenant_id="default", type="stay", params=params, max_attempts=5, timeout_seconds=900)
        for _ in range(count)
    ]
    async with Database(url) as database:
        await Ledger(database, "todoke").accept(jobs, load_settings().redispatch_seconds)
    for job in jobs:
        stage.sqs.send_message(QueueUrl=queue_url, MessageBody=body(job.id))
    return [job.id for job in jobs]


async def holders_of(url: str, jobs: Sequence[UUID], holders: Sequence[Program]) -> dict[UUID, Program]:
    """Which worker holds which job. What a worker logs at its start tells its id."""
    async with Database(url) as database:
        rows = await database.fetch("SELECT id, worker_id FROM job WHERE worker_id IS NOT NULL")
    by_job = {row["id"]: row["worker_id"] for row in rows}
    by_id = {by_job[job]: holder for job in jobs for holder in holders if holder.has_said(by_job[job])}
    return {job: by_id[by_job[job]] for job in jobs}


async def kill_all(by_job: Mapping[UUID, Program], window_seconds: float) -> dict[UUID, float]:
    """Kill each holder at a moment of its own; the answer is when, in seconds since 1970."""
    kills: dict[UUID, float] = {}

    async def kill(job: UUID, holder: Program) -> None:
        await asyncio.sleep(random.uniform(0, window_seconds))
        kills[job] = time.time()
        holder.kill()

    await asyncio.gather(*(kill(job, holder) for job, holder in by_job.items()))
    return kills


def report(waits: Sequence[float]) -> str:
    """The distribution, and whether the goal was reached."""
    late = sum(1 for seconds in waits if seconds > GOAL_SECONDS)
    row = [
        str(len(waits)),
        *(f"{seconds:.1f}" for seconds in (min(waits), statistics.median(waits), percentile(waits, 0.9), max(waits))),
        f"{len(waits) - late} of {len(waits)}",
    ]
    head = ["kills", "min s", "median s", "p90 s", "max s", f"within {GOAL_SECONDS:g} s"]
    verdict = "reached" if not late else "missed"
    return f"{table(head, [row])}\n\nGoal: every job runs again within {GOAL_SECONDS:g} s: {verdict}"


def _began(notes: Path, job: UUID, attempt: int) -> float:
    """When this attempt began, in seconds since 1970; 0 before it has."""
    note = notes / f"{job}.{attempt}.began"
    return float(note.read_text()) if note.exists() else 0.0


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round with 3 workers, to see that it works")
    parser.add_argument("--rounds", type=int, help="default 3")
    parser.add_argument("--workers", type=int, help="killed in each round; default 8")
    options = parser.parse_args(arguments)
    settings = load_settings()
    print(
        f"{machine()}; lease {settings.lease_seconds:g} s, heartbeat {settings.heartbeat_seconds:g} s,"
        f" sweep {settings.sweep_seconds:g} s",
        flush=True,
    )
    began = time.monotonic()
    rounds, workers = (1, 3) if options.quick else (3, 8)
    with stage() as found:
        waits = asyncio.run(measure(found, options.rounds or rounds, options.workers or workers))
    print(f"\n{report(waits)}\n\n{time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
