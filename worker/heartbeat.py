"""Keeping what is in work ours: its lease in PostgreSQL and its message in the queue."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from uuid import UUID

import structlog

from todoke.model.errors import Unavailable
from todoke.queue.port import BATCH_MAX
from todoke.runtime.metrics import LOST_LEASES
from worker.cancels import cancel
from worker.ending import Lost
from worker.held import Held

log = structlog.get_logger()

Renew = Callable[[Sequence[tuple[UUID, int]]], Awaitable[Mapping[UUID, bool]]]
Defer = Callable[[Sequence[str], int], Awaitable[None]]


class Heartbeat:
    """`renew` answers the jobs whose lease is still ours, and whether each is to be canceled.

    `defer` hides messages for `visibility_seconds` more.
    """

    def __init__(self, held: Callable[[], Sequence[Held]], renew: Renew, defer: Defer, visibility_seconds: int) -> None:
        self._held, self._renew, self._defer = held, renew, defer
        self._visibility_seconds = visibility_seconds

    async def beat(self) -> None:
        """Once around; an outage of one side does not keep the other from being told."""
        await asyncio.gather(self.renew(), self._extend_messages())

    async def renew(self) -> None:
        """Prolong every lease; stop what is lost or to be canceled. An outage is logged: the next beat tries again."""
        asked = self._held()
        if not asked:
            return
        try:
            ours = await self._renew([held.key for held in asked])
        except Unavailable as error:
            log.warning("lease.unrenewed", count=len(asked), reason=str(error))
            return
        newest = {held.attempt.id: held for held in sorted(asked, key=lambda held: held.attempt.lease)}
        current = {held.key for held in self._held()}
        for held in asked:
            if held.attempt.id not in ours or newest[held.attempt.id] is not held:
                # One that was settled meanwhile has no lease to lose.
                if held.key in current and not held.interruption.done():
                    LOST_LEASES.inc()
                held.interrupt(Lost())
            elif ours[held.attempt.id]:
                cancel(held)

    async def _extend_messages(self) -> None:
        now = time.monotonic()
        due = [held for held in self._held() if held.receipt and now - held.extended_at >= self._visibility_seconds / 2]
        for start in range(0, len(due), BATCH_MAX):
            some = due[start : start + BATCH_MAX]
            try:
                await self._defer([held.receipt for held in some if held.receipt], self._visibility_seconds)
            except Unavailable as error:
                log.warning("message.unextended", count=len(some), reason=str(error))
                continue
            for held in some:
                held.extended_at = now
