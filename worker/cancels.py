"""Hearing that running jobs are to be canceled, and stopping their attempts at once."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from uuid import UUID

import structlog

from todoke.model.event import Hint
from worker.ending import CANCELED, Failed
from worker.held import Held

log = structlog.get_logger()

# A request may be heard before the answer of the claim it is about.
LOOK_AGAIN_SECONDS = (0.2, 1.0)


class Cancels:
    """`held` are the attempts in work. `renew` asks the rows themselves; what was missed while deaf is learnt from it.

    A request that is lost costs one heartbeat.
    """

    def __init__(self, held: Callable[[], Sequence[Held]], renew: Callable[[], Awaitable[None]]) -> None:
        self._held, self._renew = held, renew
        self._missed = asyncio.Event()

    def heard(self, hints: Iterable[Hint] | None) -> None:
        """The bell of the cancel channel: these jobs, or None for "look yourself"."""
        if hints is None:
            self._missed.set()
            return
        missing = self._stop({hint.job_id for hint in hints})
        if missing:
            loop = asyncio.get_running_loop()
            for seconds in LOOK_AGAIN_SECONDS:
                loop.call_later(seconds, self._stop, missing)

    async def run(self) -> None:
        """Ask the rows after every (re)connect of the bell, until canceled."""
        while True:
            await self._missed.wait()
            self._missed.clear()
            try:
                await self._renew()
            except Exception:
                log.exception("cancels.fault")

    def _stop(self, ids: Collection[UUID]) -> set[UUID]:
        """Stop what is held of these jobs; the answer names the others."""
        found = [held for held in self._held() if held.attempt.id in ids]
        for held in found:
            cancel(held)
        return set(ids) - {held.attempt.id for held in found}


def cancel(held: Held) -> None:
    """Stop one attempt; its job ends."""
    held.interrupt(Failed(CANCELED, "the job was canceled"))
