"""Todoke in the drain: a real worker process on a backlog of no-op jobs."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import asyncpg

from benchmarks import cpu
from benchmarks.figures import Round
from benchmarks.stage import Program, Stage, until
from todoke.dev.ports import LOOPBACK, free_port
from todoke.model.ids import new_id
from todoke.model.job import NewJob
from todoke.queue.port import BATCH_MAX
from todoke.queue.sqs import body
from todoke.store.database import Database
from todoke.store.ledger import Ledger

SLOTS = 200
ACCEPT_MAX = 1000
DRAIN_SECONDS = 60.0
# Long enough for the worker to get warm before it gives the queue up, in the line where there is none.
OUTAGE_SECONDS = 6

FINISHED = "SELECT count(*) FROM job WHERE state = 'SUCCESS'"
SUMMARY = """
    SELECT extract(epoch FROM max(finished_at) - min(started_at))::float8 AS seconds,
           count(*) FILTER (WHERE state = 'SUCCESS' AND attempt = 1 AND sequence = 3) AS clean
    FROM job
"""


class Todoke:
    """`module` is the worker program; `by_queue` False: SQS is away, and it claims straight from PostgreSQL."""

    counted = "rows committed as SUCCESS, each with its three events and its result"

    def __init__(self, name: str, jobs: int, *, module: str = "worker", by_queue: bool = True) -> None:
        self.name, self.jobs = name, jobs
        self._module, self._by_queue = module, by_queue

    async def round(self, stage: Stage) -> Round:
        """Fill, start, open, wait. Raises TimeoutError or RuntimeError when the drain is not what it should be."""
        url = await stage.new_database()
        ids = await accept(url, self.jobs)
        if self._by_queue:
            stage.hold()
            queue_url, endpoint_url = stage.new_queue(), stage.endpoint_url
            await asyncio.to_thread(send, stage, queue_url, ids)
        else:
            endpoint_url = f"http://{LOOPBACK}:{free_port()}"
            queue_url = f"{endpoint_url}/000000000000/nowhere"
        worker = stage.start_worker(
            {
                "DATABASE_URL": url,
                "SQS_QUEUE_URL": queue_url,
                "AWS_ENDPOINT_URL": endpoint_url,
                "TODOKE_SLOTS": str(SLOTS),
                **({} if self._by_queue else {"TODOKE_QUEUE_OUTAGE_SECONDS": str(OUTAGE_SECONDS)}),
            },
            self._module,
        )
        try:
            return await self._drained(stage, worker, url, queue_url)
        finally:
            await asyncio.to_thread(worker.kill)

    async def _drained(self, stage: Stage, worker: Program, url: str, queue_url: str) -> Round:
        await until(lambda: worker.says("worker.started"), 60, "worker started")
        await quiet(lambda: cpu.tree(worker.pid))
        connection = await asyncpg.connect(url)
        try:
            if await connection.fetchval("SELECT count(*) FROM job WHERE state <> 'PENDING'"):
                raise RuntimeError("jobs ran before the clock was started")
            meter = stage.meter(worker)
            stage.open()
            await finished(connection, FINISHED, self.jobs, worker)
            if self._by_queue:
                # Deleting the messages belongs to the work, though not to the time until a job is finished.
                await until(lambda: stage.waiting(queue_url) == 0, DRAIN_SECONDS, "all messages deleted")
            spent = meter.spent()
            row = await connection.fetchrow(SUMMARY)
        finally:
            await connection.close()
        assert row is not None
        if row["clean"] != self.jobs:
            raise RuntimeError(f"only {row['clean']} of {self.jobs} jobs ran once, with three events")
        return Round(self.jobs, row["seconds"], spent)


async def accept(url: str, count: int) -> list[UUID]:
    """Put so many no-op jobs into the ledger, none of them due for a sweep soon."""
    ids: list[UUID] = []
    async with Database(url) as database:
        ledger = Ledger(database, "todoke")
        for start in range(0, count, ACCEPT_MAX):
            jobs = [_noop() for _ in range(min(ACCEPT_MAX, count - start))]
            await ledger.accept(jobs, redispatch_seconds=600)
            ids += [job.id for job in jobs]
    return ids


def send(stage: Stage, queue_url: str, ids: list[UUID]) -> None:
    """A hint for each job. Blocks."""

    def batch(start: int) -> None:
        some = enumerate(ids[start : start + BATCH_MAX])
        entries: list[Any] = [{"Id": str(number), "MessageBody": body(job_id)} for number, job_id in some]
        stage.sqs.send_message_batch(QueueUrl=queue_url, Entries=entries)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(batch, range(0, len(ids), BATCH_MAX)))


async def finished(connection: "asyncpg.Connection[asyncpg.Record]", query: str, count: int, worker: Program) -> None:
    """Wait until the query answers `count`, asking five times a second. Raises RuntimeError when the worker ends."""

    async def there() -> bool:
        await asyncio.sleep(0.15)
        worker.must_run()
        return int(await connection.fetchval(query)) >= count

    await until(there, DRAIN_SECONDS, f"all {count} jobs finished")


async def quiet(clock: cpu.Clock) -> None:
    """Wait until a process has nothing more to do: it is warm, and its start is not measured."""
    calm, before = 0, clock()
    for _ in range(60):
        await asyncio.sleep(0.2)
        now = clock()
        calm = calm + 1 if now - before <= 0.01 else 0
        before = now
        if calm == 3:
            return
    raise RuntimeError("the worker does not come to rest")


def _noop() -> NewJob:
    return NewJob(id=new_id(), tenant_id="default", type="noop", params="{}", max_attempts=5, timeout_seconds=60)
