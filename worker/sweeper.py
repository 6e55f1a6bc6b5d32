"""The repair loop: ends jobs that must end, finds due jobs nobody has come for, and sends their hints again."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol
from uuid import UUID

import structlog

from todoke.model.errors import Unavailable
from todoke.queue.port import BATCH_MAX
from todoke.runtime.metrics import REDISPATCHES

log = structlog.get_logger()

JOBS_MAX = 500
SENDS_MAX = 4
# From so many unanswered hints on, the queue is asked whether they are still in it.
STORM_JOBS = 100
# Nor does it help to have more hints in the queue than this.
HINTS_MAX = 10_000
HINTS_THERE = 0.9
# Nudges closer together than this share a sweep.
NUDGE_PAUSE_SECONDS = 0.05


class Ledger(Protocol):
    """What a sweep asks of the ledger; all bounded, all may be repeated. Raises Unavailable without PostgreSQL."""

    async def end_doomed(self, jobs_max: int) -> int: ...

    async def count_overdue(self, jobs_max: int) -> int: ...

    async def count_due(self, jobs_max: int) -> int: ...

    async def redispatch(self, jobs_max: int, *, is_started_only: bool) -> list[UUID]: ...

    async def unsent(self, ids: Sequence[UUID]) -> None: ...


class Sweeper:
    """The ledger names jobs and puts off their next naming, so that a crash before `send` repeats, never storms.

    What `send` did not take goes back to the ledger, for the next sweep to name again. `depth` is how many messages
    wait in the queue; while that is away, nothing is named.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        send: Callable[[Sequence[UUID]], Awaitable[list[UUID]]],
        depth: Callable[[], Awaitable[int]],
        is_queue_away: Callable[[], bool],
    ) -> None:
        self._ledger, self._send, self._depth, self._is_queue_away = ledger, send, depth, is_queue_away
        self._nudged = asyncio.Event()

    def nudge(self) -> None:
        """Sweep soon: a job may have become due that no hint will name."""
        self._nudged.set()

    async def run(self, seconds: float, stopping: asyncio.Event) -> None:
        """Sweep every so many seconds, and when nudged, until stopping."""
        while not stopping.is_set():
            self._nudged.clear()
            is_full = False
            try:
                is_full = await self.sweep()
            except Exception as error:
                log.warning("sweep.failed", reason=str(error) or repr(error))
            if not is_full:
                await _first(seconds, stopping, self._nudged)
                await _first(NUDGE_PAUSE_SECONDS, stopping)

    async def sweep(self) -> bool:
        """Once around; says whether there is more to do at once. Raises Unavailable when PostgreSQL is away."""
        ended = await self._ledger.end_doomed(JOBS_MAX)
        named: list[UUID] = []
        left: list[UUID] = []
        if not self._is_queue_away():
            named = await self._ledger.redispatch(JOBS_MAX, is_started_only=await self._are_hints_there())
            left = await self._send_all(named)
            REDISPATCHES.inc(len(named) - len(left))
        if ended or named:
            log.info("sweep.done", ended=ended, redispatched=len(named) - len(left), unsent=len(left))
        if left:
            await self._ledger.unsent(left)
        return len(named) == JOBS_MAX and not left

    async def _are_hints_there(self) -> bool:
        """Whether the backlog is merely deep: then sending its hints again would only make it deeper."""
        if await self._ledger.count_overdue(STORM_JOBS) < STORM_JOBS:
            return False
        try:
            visible = await self._depth()
        except Unavailable as error:
            log.warning("sweep.blind", reason=str(error))
            return True
        return visible >= HINTS_THERE * await self._ledger.count_due(HINTS_MAX)

    async def _send_all(self, named: Sequence[UUID]) -> list[UUID]:
        """The jobs whose hints were not taken. After the first outage nothing more is tried."""
        batches = iter([named[start : start + BATCH_MAX] for start in range(0, len(named), BATCH_MAX)])
        left: list[UUID] = []

        async def work() -> None:
            for batch in batches:
                try:
                    left.extend(await self._send(batch))
                except Unavailable as error:
                    log.warning("sweep.unsent", reason=str(error))
                    left.extend(batch)
                    for rest in batches:
                        left.extend(rest)

        await asyncio.gather(*(work() for _ in range(min(SENDS_MAX, -(-len(named) // BATCH_MAX)))))
        return left


async def _first(seconds: float, *events: asyncio.Event) -> None:
    """Wait for any of these, at most so long."""
    tasks = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
