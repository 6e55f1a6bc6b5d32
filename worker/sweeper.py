"""The repair loop: finds due jobs nobody has come for, and sends their hints again."""

from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import structlog

from todoke.model.errors import Unavailable
from todoke.queue.port import BATCH_MAX
from todoke.runtime.metrics import REDISPATCHES

log = structlog.get_logger()

JOBS_MAX = 500

Redispatch = Callable[[int], Awaitable[list[UUID]]]
Send = Callable[[Sequence[UUID]], Awaitable[list[UUID]]]
Unsent = Callable[[Sequence[UUID]], Awaitable[None]]


class Sweeper:
    """`redispatch` names jobs and puts off their next naming, so that a crash before `send` repeats, never storms.

    What `send` did not take goes to `unsent`, which has the next sweep name it again.
    """

    def __init__(self, redispatch: Redispatch, send: Send, unsent: Unsent) -> None:
        self._redispatch, self._send, self._unsent = redispatch, send, unsent

    async def sweep(self) -> None:
        """Once around. Raises Unavailable when PostgreSQL is away."""
        due = await self._redispatch(JOBS_MAX)
        left = await self._send_all(due)
        REDISPATCHES.inc(len(due) - len(left))
        if due:
            log.info("sweep.redispatched", count=len(due) - len(left), unsent=len(left))
        if left:
            await self._unsent(left)

    async def _send_all(self, due: Sequence[UUID]) -> list[UUID]:
        left: list[UUID] = []
        for start in range(0, len(due), BATCH_MAX):
            try:
                left += await self._send(due[start : start + BATCH_MAX])
            except Unavailable as error:
                log.warning("sweep.unsent", reason=str(error))
                return [*left, *due[start:]]
        return left
