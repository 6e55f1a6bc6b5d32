"""Moves deliveries whose time has come to where claims see them: retries, lost leases, what blocked endpoints held."""

import asyncio
from collections.abc import Callable

import structlog

from todoke.runtime.metrics import LOST_DELIVERIES
from todoke.store.deliveries import STAGED_MAX, Deliveries

log = structlog.get_logger()

# Rows that come due one by one are moved in groups.
PAUSE_SECONDS = 0.05


class Stager:
    """A loop kept by the database's clock; any number of notifiers may run one each.

    `staged` is called when there is something new to claim.
    """

    def __init__(
        self, deliveries: Deliveries, staged: Callable[[], None], *, window_seconds: float, sweep_seconds: float
    ) -> None:
        self._deliveries = deliveries
        self._staged = staged
        self._window_seconds = window_seconds
        self._sweep_seconds = sweep_seconds

    async def run(self) -> None:
        """Stage for ever; a look that fails is repeated after `sweep_seconds`."""
        while True:
            await asyncio.sleep(await self._stage_or_pause())

    async def _stage_or_pause(self) -> float:
        try:
            is_more = await self._stage()
            due = await self._deliveries.next_due_seconds()
        except Exception as error:
            log.warning("stage.failed", reason=str(error) or repr(error), retry_seconds=self._sweep_seconds)
            return self._sweep_seconds
        if is_more or due is None:
            return PAUSE_SECONDS if is_more else self._sweep_seconds
        return min(max(due, PAUSE_SECONDS), self._sweep_seconds)

    async def _stage(self) -> bool:
        """Whether there may be more at once."""
        staged, lost = await self._deliveries.stage()
        released = await self._deliveries.release(self._window_seconds)
        if lost:
            LOST_DELIVERIES.inc(lost)
            log.warning("delivery.leases_lost", deliveries=lost)
        if staged or released:
            self._staged()
        return staged >= STAGED_MAX or released >= STAGED_MAX
