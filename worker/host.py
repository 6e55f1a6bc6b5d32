"""Where job code runs: a child for each `process` job, kept warm for the next, and one child that all others share."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog

from worker import processes
from worker.ending import MEMORY_LIMIT, TIMEOUT, WORKER_FAULT, Ending, Errored, Failed, Released
from worker.hearing import Kind
from worker.process import Child, Limit, Order, StartFailed
from worker.watch import Watch

log = structlog.get_logger()

START_AGAIN_SECONDS = 10.0


@dataclass(frozen=True)
class Bounds:
    """memory_mb: what a child may take when the job type does not say; 0: any amount. jobs_max: then it is replaced."""

    memory_mb: int
    jobs_max: int


class Host:
    """The children of this worker. The supervisor itself runs no job code and imports none of its modules."""

    def __init__(self, start: Callable[[], Awaitable[Child]], bounds: Bounds) -> None:
        self._start, self._bounds = start, bounds
        self._idle: list[Child] = []
        self._shared: asyncio.Task[Child] | None = None
        self._all: set[Child] = set()
        self._starting = 0
        self._watch = Watch(self._alive, lambda: self._starting > 0)
        self._watching: asyncio.Task[None] | None = None
        self.types: Mapping[str, Kind] = {}

    async def open(self) -> None:
        """Start a first child, warm for the first job, and learn the job types from it. Raises StartFailed."""
        self._watching = asyncio.create_task(self._watch.run())
        child = await self._new()
        self.types = child.types
        self._idle.append(child)

    async def close(self) -> None:
        """Kill every child, with all they started, and wait until they are gone."""
        if self._shared is not None:
            self._shared.cancel()
            await asyncio.wait({self._shared})
        children, self._all = self._all, set()
        self._idle.clear()
        if children:
            await asyncio.wait([asyncio.ensure_future(child.end()) for child in children])
        if self._watching is not None:
            self._watching.cancel()
        processes.end_strays([])

    async def run(self, order: Order) -> Ending:
        """Run one attempt, as its job type asks. Canceling it asks job code to stop, then stops it hard; see Child.

        A thread that does not stop cannot be ended alone: its process ends when the jobs beside it have.
        """
        try:
            child = await self._lend(order)
        except StartFailed as error:
            log.warning("child.unstartable", reason=str(error))
            return Released(WORKER_FAULT, str(error), START_AGAIN_SECONDS)
        ending = None
        try:
            async with asyncio.timeout(order.timeout_seconds):
                ending = await child.run(order)
        except TimeoutError:
            return Errored(TIMEOUT, f"the attempt ran longer than {order.timeout_seconds:g} s")
        finally:
            self._take_back(child, was_stopped=ending is None)
        return ending

    async def _lend(self, order: Order) -> Child:
        kind = self.types.get(order.type)
        if kind is None or kind.isolation != "process":
            return await self._shared_child()
        limit = self._limit(kind)
        child = self._warm()
        if child is not None and child.jobs and not _is_small(child, limit):
            # What the jobs before have left in it would count as this one's.
            child.kill()
            child = None
        child = child or await self._new()
        child.hold_to(limit)
        return child

    async def _shared_child(self) -> Child:
        while True:
            if self._shared is None:
                self._shared = asyncio.create_task(self._start_shared())
            starting = self._shared
            try:
                child = await asyncio.shield(starting)
            except StartFailed:
                self._shared = None if self._shared is starting else self._shared
                raise
            if child.is_usable:
                return child
            if self._shared is starting:
                self._shared = None

    async def _start_shared(self) -> Child:
        child = self._warm() or await self._new()
        child.hold_to(self._shared_limit())
        child.is_shared = True
        return child

    def _warm(self) -> Child | None:
        while self._idle:
            child = self._idle.pop()
            if child.is_usable:
                return child
        return None

    async def _new(self) -> Child:
        self._starting += 1
        try:
            child = await self._start()
        finally:
            self._starting -= 1
        self._all = {*self._alive(), child}
        return child

    def _alive(self) -> set[Child]:
        self._all = {known for known in self._all if not known.is_gone}
        return self._all

    def _take_back(self, child: Child, *, was_stopped: bool) -> None:
        if child.is_shared:
            self._take_back_shared(child)
        elif was_stopped or not self._is_as_new(child):
            child.kill()
        else:
            self._idle.append(child)

    def _take_back_shared(self, child: Child) -> None:
        """Spent after enough jobs, after one that did not stop, or grown large: the next jobs have a fresh one."""
        is_spent = not child.is_usable or child.jobs >= self._bounds.jobs_max
        if not is_spent and not (child.is_idle and not _is_small(child, self._shared_limit())):
            return
        child.abandon()
        if self._shared is not None and self._shared.done() and _result(self._shared) in (child, None):
            self._shared = asyncio.create_task(self._start_shared())
            self._shared.add_done_callback(_result)
        if child.is_idle:
            child.kill()

    def _is_as_new(self, child: Child) -> bool:
        """Whether the next job would find nothing of the one before, and room to grow."""
        assert child.limit is not None
        return (
            child.is_usable
            and child.is_clean
            and not child.has_met_limit
            and child.jobs < self._bounds.jobs_max
            and len(processes.below(child.pid)) <= 1
            and _is_small(child, child.limit)
        )

    def _limit(self, kind: Kind) -> Limit:
        memory_mb = self._bounds.memory_mb if kind.memory_mb is None else kind.memory_mb
        words = f"the job and what it started took more than {memory_mb} MiB of memory"
        return Limit(memory_mb * 2**20, Failed(MEMORY_LIMIT, words))

    def _shared_limit(self) -> Limit:
        # Whose memory it is cannot be told, so each of its jobs may try again.
        words = f"the process of all async and thread jobs took more than {self._bounds.memory_mb} MiB of memory"
        return Limit(self._bounds.memory_mb * 2**20, Errored(MEMORY_LIMIT, words))


def _is_small(child: Child, limit: Limit) -> bool:
    if not limit.memory_bytes:
        return True
    return sum(map(processes.resident_bytes, processes.below(child.pid))) <= limit.memory_bytes // 2


def _result(task: asyncio.Task[Child]) -> Child | None:
    """What a task that is done has brought, None for a failure, which is heard by this."""
    return None if task.cancelled() or task.exception() is not None else task.result()
