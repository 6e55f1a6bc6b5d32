"""Takes due deliveries, never more than there are free slots, and sees each through to its record."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import structlog

from todoke.model.delivery import Delivery
from todoke.model.event import Hint
from todoke.store.deliveries import Deliveries

log = structlog.get_logger()

CLAIMED_MAX = 200
# Every change of any job rings the bell, few of them owe a delivery: empty claims keep this distance.
CALM_SECONDS = 0.02

Deliver = Callable[[Delivery, float], Coroutine[Any, Any, None]]


class Claimer:
    """The loop that claims, woken by the bell, by a freed slot, by the clock of the earliest due delivery.

    `deliver` gets a delivery and the end of its lease in monotonic seconds. What none of these wakes for is found
    after `sweep_seconds`.
    """

    def __init__(
        self, deliveries: Deliveries, deliver: Deliver, slots: int, lease_seconds: float, sweep_seconds: float
    ) -> None:
        self._deliveries = deliveries
        self._deliver = deliver
        self._slots = slots
        self._lease_seconds = lease_seconds
        self._sweep_seconds = sweep_seconds
        self._in_flight: set[asyncio.Task[None]] = set()
        self._woken = asyncio.Event()
        self._is_stopping = False
        self._ended = asyncio.Event()

    def heard(self, _hints: Iterable[Hint] | None) -> None:
        """The bell: something changed, perhaps a delivery is owed."""
        self._woken.set()

    async def run(self) -> None:
        """Claim until `drain` is called."""
        try:
            while not self._is_stopping:
                self._woken.clear()
                seconds = await self._claim_or_pause()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await self._woken.wait()
        finally:
            self._ended.set()

    async def drain(self, seconds: float) -> None:
        """Claim no more, give what is in flight at most `seconds`; what is cut then is due after its lease."""
        self._is_stopping = True
        self._woken.set()
        try:
            async with asyncio.timeout(seconds):
                # A claim under way has taken rows already: they are sent, not left to their leases.
                await self._ended.wait()
                while self._in_flight:
                    await asyncio.wait(self._in_flight)
        except TimeoutError:
            log.warning("drain.cut", deliveries=len(self._in_flight))
            for task in self._in_flight:
                task.cancel()

    async def _claim_or_pause(self) -> float:
        try:
            return await self._claim()
        except Exception as error:
            log.warning("claim.failed", reason=str(error) or repr(error), retry_seconds=self._sweep_seconds)
            return self._sweep_seconds

    async def _claim(self) -> float:
        """Fill the free slots. Returns how many seconds to wait for a call before the next look."""
        free = min(self._slots - len(self._in_flight), CLAIMED_MAX)
        if free == 0:
            return self._sweep_seconds
        # Measured before the claim, so that our end of the lease never lies behind the database's.
        until = time.monotonic() + self._lease_seconds
        claimed = await self._deliveries.claim(free, self._lease_seconds)
        for delivery in claimed:
            task = asyncio.create_task(self._deliver(delivery, until))
            self._in_flight.add(task)
            task.add_done_callback(self._freed)
        if claimed:
            return 0
        await asyncio.sleep(CALM_SECONDS)
        due = await self._deliveries.next_due_seconds()
        return self._sweep_seconds if due is None else min(due, self._sweep_seconds)

    def _freed(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("delivery.lost", reason=repr(error))
        # Only a full house has anything waiting at the door.
        if len(self._in_flight) == self._slots - 1:
            self._woken.set()
