"""Saying that this worker lives, so that operators see who is there, who is busy and who went missing."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from todoke.model.errors import Unavailable
from todoke.runtime.metrics import BUSY_SLOTS, SLOTS

log = structlog.get_logger()

RETIRE_SECONDS = 2.0

Enroll = Callable[[int], Awaitable[None]]
Retire = Callable[[], Awaitable[None]]


class RollCall:
    """`enroll` is told how many of `slots` are busy; `retire` strikes the worker out."""

    def __init__(self, enroll: Enroll, retire: Retire, busy: Callable[[], int], slots: int) -> None:
        self._enroll, self._retire, self._busy = enroll, retire, busy
        SLOTS.set(slots)
        # Read whenever somebody looks, so that it is never old.
        BUSY_SLOTS.set_function(busy)

    async def answer(self) -> None:
        """Once, with each heartbeat. Raises Unavailable when PostgreSQL is away."""
        await self._enroll(self._busy())

    async def leave(self) -> None:
        """At a clean stop; without PostgreSQL the row is seen as lost, and struck out by another worker later."""
        try:
            async with asyncio.timeout(RETIRE_SECONDS):
                await self._retire()
        except (Unavailable, TimeoutError) as error:
            log.warning("worker.unretired", reason=str(error) or type(error).__name__)
