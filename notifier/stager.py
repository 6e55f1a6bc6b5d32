"""Moves deliveries whose time has come to where claims see them: retries, lost leases, what blocked endpoints held."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from uuid import UUID

import structlog

from todoke.runtime.metrics import LOST_DELIVERIES
from todoke.store.deliveries import STAGED_MAX, Deliveries

log = structlog.get_logger()

# Rows that come due one by one are moved in groups.
PAUSE_SECONDS = 0.05
CALM_SECONDS = 0.5


class Stager:
    """A loop kept by the database's clock; any number of notifiers may run one each.

    window_seconds: what was owed longer is parked when a blocked endpoint lets go of it.
    """

    def __init__(self, deliveries: Deliveries, *, window_seconds: float, sweep_seconds: float) -> None:
        self._deliveries = deliveries
        self._window_seconds = window_seconds
        self._sweep_seconds = sweep_seconds
        self._woken = asyncio.Event()
        self._strays_after = UUID(int=0)
        self._strays_at = 0.0

    def look(self) -> None:
        """Something was put off: perhaps to a time earlier than the one this waits for."""
        self._woken.set()

    async def run(self, staged: Callable[[], None]) -> None:
        """Stage for ever, and call `staged` when there is something new to claim."""
        while True:
            self._woken.clear()
            seconds = await self._stage_or_pause(staged)
            await asyncio.sleep(PAUSE_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._woken.wait()

    async def _stage_or_pause(self, staged: Callable[[], None]) -> float:
        try:
            moved = await self._stage(staged)
            due = await self._deliveries.next_due_seconds()
        except Exception as error:
            log.warning("stage.failed", reason=str(error) or repr(error), retry_seconds=self._sweep_seconds)
            return self._sweep_seconds
        if moved >= STAGED_MAX:
            return 0
        # Due and yet not moved: somebody else has it locked, or a breaker waits for what its probe comes to.
        calm = 0 if moved else CALM_SECONDS
        return self._sweep_seconds if due is None else min(max(due, calm), self._sweep_seconds)

    async def _stage(self, staged: Callable[[], None]) -> int:
        """How much was moved; as much as fits into one statement means that there may be more."""
        await self._sweep()
        moved, lost = await self._deliveries.stage()
        released = await self._deliveries.release(self._window_seconds)
        if lost:
            LOST_DELIVERIES.inc(lost)
            log.warning("delivery.leases_lost", deliveries=lost)
        if moved or released:
            staged()
        return max(moved, released)

    async def _sweep(self) -> None:
        if time.monotonic() >= self._strays_at:
            self._strays_after = await self._deliveries.find_strays(self._strays_after)
            self._strays_at = time.monotonic() + self._sweep_seconds
