"""Keeping children to their memory while they run, and ending what they have left behind when they are gone."""

import asyncio
from collections.abc import Callable, Collection

import structlog

from worker import processes
from worker.process import Child

log = structlog.get_logger()

# A job may overshoot its limit by what it takes within one round, unless the kernel keeps the limit.
PAUSE_SECONDS = 0.2


class Watch:
    """`children` are all that are alive; `is_starting` whether one more is about to be, which is not known yet."""

    def __init__(self, children: Callable[[], Collection[Child]], is_starting: Callable[[], bool]) -> None:
        self._children, self._is_starting = children, is_starting
        self._count = 0

    async def run(self) -> None:
        """Look around until canceled."""
        while True:
            await asyncio.sleep(PAUSE_SECONDS)
            for child in [child for child in self._children() if child.limit and not child.is_idle]:
                await self._look_at(child)
            self._end_strays()

    async def _look_at(self, child: Child) -> None:
        limit = child.limit
        assert limit is not None
        if not limit.memory_bytes:
            return
        taken = await asyncio.to_thread(_memory_bytes, child.pid, limit.memory_bytes)
        if child.limit is limit and (taken > limit.memory_bytes or child.has_met_limit):
            log.warning("child.over_memory", pid=child.pid, taken_bytes=taken, limit_bytes=limit.memory_bytes)
            child.condemn(limit.ending)

    def _end_strays(self) -> None:
        """After a child has gone, what had left its group is ours."""
        children = self._children()
        if len(children) < self._count and not self._is_starting():
            processes.end_strays(child.pid for child in children)
        self._count = len(children)


def _memory_bytes(pid: int, enough: int) -> int:
    return processes.memory_bytes(processes.below(pid), enough)
