"""Where job code runs: a child for each `process` job, kept warm for the next, and one child that all others share."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from worker.ending import TIMEOUT, WORKER_FAULT, Ending, Errored, Released
from worker.process import Child, Order, StartFailed

log = structlog.get_logger()

START_AGAIN_SECONDS = 10.0


class Host:
    """The children of this worker. The supervisor itself runs no job code and imports none of its modules."""

    def __init__(self, start: Callable[[], Awaitable[Child]]) -> None:
        self._start = start
        self._idle: list[Child] = []
        self._shared: Child | None = None
        self._sharing = asyncio.Lock()
        self._all: set[Child] = set()
        self.types: Mapping[str, str] = {}

    async def open(self) -> None:
        """Start a first child, warm for the first job, and learn the job types from it. Raises StartFailed."""
        child = await self._new()
        self.types = child.types
        self._idle.append(child)

    async def close(self) -> None:
        """Kill every child and wait until they are gone."""
        children, self._all = self._all, set()
        self._idle.clear()
        if children:
            await asyncio.wait([asyncio.ensure_future(child.end()) for child in children])

    async def run(self, order: Order) -> Ending:
        """Run one attempt, as its job type asks. Canceling stops it hard where nothing else shares its process."""
        try:
            child = await self._lend(order)
        except StartFailed as error:
            log.warning("child.unstartable", reason=str(error))
            return Released(WORKER_FAULT, str(error), START_AGAIN_SECONDS)
        try:
            async with asyncio.timeout(order.timeout_seconds):
                return await child.run(order)
        except TimeoutError:
            return Errored(TIMEOUT, f"the attempt ran longer than {order.timeout_seconds:g} s")
        finally:
            self._take_back(child)

    async def _lend(self, order: Order) -> Child:
        if self.types.get(order.type) == "process":
            return self._warm() or await self._new()
        async with self._sharing:
            if self._shared is None or not self._shared.is_usable:
                self._shared = self._warm() or await self._new()
            return self._shared

    def _warm(self) -> Child | None:
        while self._idle:
            child = self._idle.pop()
            if child.is_usable:
                return child
        return None

    async def _new(self) -> Child:
        child = await self._start()
        self._all = {known for known in self._all if not known.is_gone} | {child}
        return child

    def _take_back(self, child: Child) -> None:
        """A child with job code nobody waits for any more takes no order, and is killed once it has none."""
        if child.is_usable:
            if child is not self._shared:
                self._idle.append(child)
            return
        if child is self._shared:
            self._shared = None
        if child.is_idle:
            child.kill()
