"""Taking jobs straight from PostgreSQL while the queue is away, and no longer."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog

from todoke.model.errors import Unavailable
from todoke.model.job import Attempt
from worker.outage import Outage
from worker.slots import Slots

log = structlog.get_logger()

CLAIM_BATCH_MAX = 100
PAUSE_SECONDS = 1.0
PROBE_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 5.0


class Straight:
    """`claim` takes up to so many due jobs, `probe` asks the queue anything, `start` begins an attempt without message.

    At most one claim a second, unless the one before brought as much as there was room for.
    """

    def __init__(
        self,
        *,
        outage: Outage,
        claim: Callable[[int], Awaitable[Sequence[Attempt]]],
        probe: Callable[[], Awaitable[object]],
        slots: Slots,
        start: Callable[[Attempt, None], None],
    ) -> None:
        self._outage, self._claim, self._probe = outage, claim, probe
        self._slots, self._start = slots, start
        self._open: asyncio.Task[bool] | None = None

    async def run(self) -> None:
        """Stand in for the queue whenever it is away, until canceled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._claim_on())
            group.create_task(self._probe_on())

    async def stop(self, seconds: float) -> None:
        """After `run` was canceled: let a claim under way come to its end, waiting at most `seconds`.

        What it brings is started, to be given back with everything else.
        """
        if self._open is not None and not self._open.done():
            await asyncio.wait({self._open}, timeout=seconds)

    async def _claim_on(self) -> None:
        pause = PAUSE_SECONDS
        while True:
            await self._outage.away.wait()
            room = await self._slots.take(CLAIM_BATCH_MAX)
            # A claim cannot be called back: when we are canceled it goes on, and what it takes is started.
            self._open = asyncio.create_task(self._take(room))
            try:
                is_full = await asyncio.shield(self._open)
                pause = PAUSE_SECONDS
            except Unavailable as error:
                log.warning("straight.unclaimed", reason=str(error), retry_seconds=pause)
                is_full, pause = False, min(LONGEST_PAUSE_SECONDS, pause * 2)
            except Exception:
                log.exception("straight.fault")
                is_full, pause = False, LONGEST_PAUSE_SECONDS
            if not is_full:
                await asyncio.sleep(pause)

    async def _take(self, room: int) -> bool:
        """Says whether there were as many jobs as slots."""
        attempts: Sequence[Attempt] = ()
        try:
            if self._outage.is_away:
                attempts = await self._claim(room)
        finally:
            self._slots.give(room - len(attempts))
        for attempt in attempts:
            self._start(attempt, None)
        if attempts:
            log.debug("straight.claimed", count=len(attempts))
        return len(attempts) == room

    async def _probe_on(self) -> None:
        while True:
            await self._outage.away.wait()
            began = time.monotonic()
            try:
                await self._probe()
            except Unavailable:
                self._outage.failed(began)
                await asyncio.sleep(PROBE_SECONDS)
            except Exception as error:
                log.warning("queue.refused", reason=str(error))
                self._outage.answered()
            else:
                self._outage.answered()
