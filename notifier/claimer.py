"""Takes due deliveries, never more than there are free slots, fairly, and sees each through to its record."""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any
from uuid import UUID, uuid4

import structlog

from notifier.fairness import InFlight, Spot, share
from todoke.model.delivery import Delivery
from todoke.model.event import Hint
from todoke.runtime.metrics import DELIVERIES_IN_FLIGHT
from todoke.store.deliveries import TENANTS_MAX, Deliveries, Due

log = structlog.get_logger()

ENDPOINTS_MAX = 400
# Every change of any job rings the bell, few of them owe a delivery: empty claims keep this distance.
CALM_SECONDS = 0.02
# While there is more to do, slots that come free within this time are filled by one claim.
BUSY_SECONDS = 0.005

Deliver = Callable[[Delivery, float], Coroutine[Any, Any, None]]


class Claimer:
    """The loop that claims, woken by the bell, by a freed slot, by the stager.

    `deliver` gets a delivery and the end of its lease in monotonic seconds. What none of these wakes for is found
    after `sweep_seconds`.
    """

    def __init__(
        self,
        deliveries: Deliveries,
        deliver: Deliver,
        *,
        slots: int,
        endpoint_slots: int,
        lease_seconds: float,
        sweep_seconds: float,
    ) -> None:
        self._deliveries = deliveries
        self._deliver = deliver
        self._slots = slots
        self._endpoint_slots = endpoint_slots
        self._lease_seconds = lease_seconds
        self._sweep_seconds = sweep_seconds
        self._in_flight = InFlight()
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_tenant = ""
        self._is_more_due = False
        self._woken = asyncio.Event()
        self._is_stopping = False
        self._ended = asyncio.Event()

    def heard(self, _hints: Iterable[Hint] | None = None) -> None:
        """The bell, or the stager: perhaps a delivery is owed."""
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
                while self._tasks:
                    await asyncio.wait(self._tasks)
        except TimeoutError:
            log.warning("drain.cut", deliveries=len(self._tasks))
            for task in self._tasks:
                task.cancel()

    async def _claim_or_pause(self) -> float:
        try:
            return await self._claim()
        except Exception as error:
            log.warning("claim.failed", reason=str(error) or repr(error), retry_seconds=self._sweep_seconds)
            return self._sweep_seconds

    async def _claim(self) -> float:
        """Fill the free slots. Returns how many seconds to wait for a call before the next look."""
        if self._in_flight.total >= self._slots:
            self._is_more_due = True
            return self._sweep_seconds
        after = self._last_tenant
        seen = await self._deliveries.look(after, uuid4(), ENDPOINTS_MAX)
        # The next look goes on behind those seen, and begins anew when there can be nobody behind them.
        self._last_tenant = seen[-1].tenant_id if _is_cut(seen) else ""
        await self._withdraw(seen)
        amounts = share(_turned(seen), self._in_flight, self._slots, self._endpoint_slots)
        taken = await self._take(amounts, seen) if amounts else 0
        self._is_more_due = bool(seen)
        await asyncio.sleep(BUSY_SECONDS if taken else CALM_SECONDS)
        return 0 if taken or after else self._sweep_seconds

    async def _withdraw(self, seen: Sequence[Due]) -> None:
        blocked = [due.endpoint_id for due in seen if due.is_blocked]
        if blocked:
            await self._deliveries.withdraw(blocked)

    async def _take(self, amounts: dict[Spot, int], seen: Sequence[Due]) -> int:
        # Measured before the claim, so that our end of the lease never lies behind the database's.
        until = time.monotonic() + self._lease_seconds
        claimed = await self._deliveries.claim(amounts, self._lease_seconds)
        failing: set[UUID] = {due.endpoint_id for due in seen if due.is_failing}
        for delivery in claimed:
            self._begin(delivery, until, delivery.endpoint_id in failing)
        return len(claimed)

    def _begin(self, delivery: Delivery, until: float, is_failing: bool) -> None:
        task = asyncio.create_task(self._deliver(delivery, until))
        self._tasks.add(task)
        self._in_flight.add(delivery.tenant_id, is_failing)
        DELIVERIES_IN_FLIGHT.set(self._in_flight.total)
        task.add_done_callback(lambda task: self._freed(task, delivery.tenant_id, is_failing))

    def _freed(self, task: asyncio.Task[None], tenant_id: str, is_failing: bool) -> None:
        self._tasks.discard(task)
        self._in_flight.remove(tenant_id, is_failing)
        DELIVERIES_IN_FLIGHT.set(self._in_flight.total)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("delivery.lost", reason=repr(error))
        if self._is_more_due:
            self._woken.set()


def _is_cut(seen: Sequence[Due]) -> bool:
    return len(seen) >= ENDPOINTS_MAX or len({due.tenant_id for due in seen}) >= TENANTS_MAX


def _turned(seen: Sequence[Due]) -> Sequence[Due]:
    """Beginning with any tenant: where the free slots are few, those who come first get them."""
    if not seen:
        return seen
    first = random.choice(seen).tenant_id  # noqa: S311 - fairness is no secret
    return [due for due in seen if due.tenant_id >= first] + [due for due in seen if due.tenant_id < first]
