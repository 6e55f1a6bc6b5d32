"""A real worker process per test, on the test's own database and queue."""

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.environment import environment_of
from tests.make import TENANT, make_job
from todoke.model.job import Artifact
from todoke.queue.sqs import SqsQueue
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.ledger import Ledger
from todoke.store.reading import Reader, Status

HERE = Path(__file__).resolve().parent
QUICK = {"lease_seconds": 2.0, "sweep_seconds": 0.3, "redispatch_seconds": 1.0, "receive_wait_seconds": 1, "slots": 4}


@dataclass
class Worker:
    """A worker process and what it logs."""

    process: asyncio.subprocess.Process
    lines: list[dict[str, Any]]
    reading: "asyncio.Task[None]"
    scratch: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line.get("event") == event]

    def children(self) -> set[int]:
        """Processes it started, and those they started."""
        return descendants(self.pid)

    def leftovers(self) -> list[Path]:
        """Files of attempts that are still there."""
        return [path for path in self.scratch.rglob("*") if path.is_file() and path.name != "lock"]

    async def ended(self, seconds: float = 15) -> int:
        async with asyncio.timeout(seconds):
            await self.reading
            return await self.process.wait()


StartWorker = Callable[..., Awaitable[Worker]]


def environment(settings: Settings) -> dict[str, str]:
    """The variables that make these settings."""
    return environment_of(settings) | {"PYTHONPATH": str(HERE), "SECRET_OF_THE_WORKER": "hunter2"}


@pytest.fixture
async def start_worker(settings: Settings, tmp_path: Path) -> AsyncIterator[StartWorker]:
    workers: list[Worker] = []

    async def start(*, is_ready: bool = True, scratch: Path | None = None, **overrides: Any) -> Worker:
        chosen = settings.model_copy(update={"jobs": ("sample_jobs",), "log_level": "INFO"} | QUICK | overrides)
        chosen = chosen.model_copy(update={"heartbeat_seconds": chosen.lease_seconds / 3})
        scratch = scratch or tmp_path / f"scratch{len(workers)}"
        scratch.mkdir(exist_ok=True)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "worker",
            env=environment(chosen) | {"TMPDIR": str(scratch)},
            stderr=asyncio.subprocess.PIPE,
            limit=2**20,
        )
        lines: list[dict[str, Any]] = []
        worker = Worker(process, lines, asyncio.create_task(_read(process, lines)), scratch)
        workers.append(worker)
        if is_ready:
            await until(lambda: bool(worker.logged("worker.started")), what=lambda: lines)
        return worker

    yield start
    for worker in workers:
        with contextlib.suppress(ProcessLookupError):
            worker.process.kill()
        await worker.ended()


@dataclass
class Office:
    """Submits jobs as the API does, and reads what became of them."""

    ledger: Ledger
    reader: Reader
    database: Database
    queue: SqsQueue

    async def submit(self, type_: str, params: object = None, *, is_hinted: bool = True, **changes: Any) -> UUID:
        text = params if isinstance(params, str) else json.dumps(params or {})
        job = make_job(type=type_, params=text, **{"timeout_seconds": 30.0} | changes)
        await self.ledger.accept([job], 1)
        if is_hinted:
            await self.queue.send([job.id])
        return job.id

    async def row(self, job_id: UUID) -> dict[str, Any]:
        [row] = await self.database.fetch("SELECT * FROM job WHERE id = $1", job_id)
        return dict(row)

    async def when(self, job_id: UUID, condition: Callable[[dict[str, Any]], bool], seconds: float = 20) -> Any:
        """The row as soon as the condition holds for it."""
        deadline = time.monotonic() + seconds
        while not condition(row := await self.row(job_id)):
            assert time.monotonic() < deadline, row
            await asyncio.sleep(0.02)
        return row

    async def end(self, job_id: UUID, seconds: float = 20) -> Any:
        return await self.when(job_id, lambda row: row["state"] in ("SUCCESS", "FAILED"), seconds)

    async def result(self, job_id: UUID) -> Any:
        row = await self.end(job_id)
        assert row["state"] == "SUCCESS", row
        return json.loads((await self.artifacts(job_id))[-1].content or b"")

    async def artifacts(self, job_id: UUID) -> list[Artifact]:
        return await self.reader.artifacts(job_id, TENANT)

    async def status(self, job_id: UUID) -> Status:
        status = await self.reader.status(job_id, TENANT)
        assert status is not None
        return status

    async def until_queue_is_empty(self, seconds: float = 15) -> None:
        """No message waits, and none is hidden."""
        names: list[Any] = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        deadline = time.monotonic() + seconds
        while True:
            found = self.queue._sqs.get_queue_attributes(QueueUrl=self.queue._url, AttributeNames=names)["Attributes"]
            if not any(int(found[name]) for name in names):
                return
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.05)

    async def events(self, job_id: UUID) -> list[str]:
        return [event.type for event in await self.reader.events([(job_id, TENANT, 0)])]


@pytest.fixture
async def office(ledger: Ledger, reader: Reader, database: Database, settings: Settings) -> AsyncIterator[Office]:
    queue = SqsQueue.from_settings(settings)
    yield Office(ledger, reader, database, queue)
    queue.close()


async def until(condition: Callable[[], bool], seconds: float = 15, what: Callable[[], object] = lambda: None) -> None:
    """Wait for a condition, bounded."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        await asyncio.sleep(0.02)


def descendants(pid: int) -> set[int]:
    """Living processes below this one."""
    parents = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[0] not in "ZX":
                parents[int(entry.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def terminate(worker: Worker) -> None:
    worker.process.send_signal(signal.SIGTERM)


async def _read(process: asyncio.subprocess.Process, lines: list[dict[str, Any]]) -> None:
    assert process.stderr is not None
    async for line in process.stderr:
        try:
            lines.append(json.loads(line))
        except ValueError:
            lines.append({"event": "not json", "text": line.decode(errors="replace")})
