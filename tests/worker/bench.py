"""A host with real children and no database or queue behind it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from tests.worker.conftest import until
from worker import processes
from worker.cgroups import Cgroups
from worker.ending import Ending, Returned
from worker.host import Bounds, Host
from worker.process import Child, Order
from worker.program import Program

HERE = Path(__file__).resolve().parent


class Bench:
    """Runs job types of sample_jobs.py as a worker would. `host` is the worker's own; `told` is the progress heard."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host, self.folder = host, folder
        self.told: list[tuple[float, str]] = []

    def order(self, type_: str, params: object = None, seconds: float = 60) -> Order:
        job_id = str(uuid4())
        text, folder = json.dumps(params or {}), self.folder / job_id
        return Order(f"{job_id}:1", job_id, 1, type_, text, folder, seconds, self._hear, self._answer)

    async def run(self, type_: str, params: object = None, seconds: float = 60) -> Ending:
        async with asyncio.timeout(30):
            return await self.host.run(self.order(type_, params, seconds))

    async def value(self, type_: str, params: object = None) -> object:
        ending = await self.run(type_, params)
        assert isinstance(ending, Returned), ending
        content = ending.made[-1].content
        return json.loads(content if isinstance(content, bytes) else content.read_bytes())

    async def stopped(self, type_: str, notes: Path) -> float:
        """Start a job, stop it once it has noted something; the seconds that took."""
        task = asyncio.create_task(self.host.run(self.order(type_, {"path": str(notes)})))
        await until(notes.exists)
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - began

    @property
    def pids(self) -> list[int]:
        """Process ids of the children, without their wardens."""
        return [pid for child in self.host._all if not child.is_gone for pid in processes.below(child.pid)]

    def _hear(self, percent: float, message: str) -> None:
        self.told.append((percent, message))

    async def _answer(self, _what: str) -> list[dict[str, object]]:
        return [{"jobType": "x"}] * 1000


StartBench = Callable[..., Awaitable[Bench]]


@asynccontextmanager
async def benches(folder: Path) -> AsyncIterator[StartBench]:
    """What starts a bench; all of them end with the block."""
    hosts: list[Host] = []

    async def start(memory_mb: int = 0, jobs_max: int = 1000, cgroups: Cgroups | None = None) -> Bench:
        program = Program(("sample_jobs",), folder, 64 * 1024)
        host = Host(
            lambda: Child.start(program, cgroups.new() if cgroups is not None else None), Bounds(memory_mb, jobs_max)
        )
        hosts.append(host)
        await host.open()
        return Bench(host, folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        yield start
    for host in hosts:
        await host.close()
