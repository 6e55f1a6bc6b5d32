"""Progress of one attempt on its way to the ledger: the latest only, at most twice a second, never late for the end."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from todoke.model.errors import Unavailable
from todoke.model.job import Progress
from worker.ending import Lost
from worker.held import Held

log = structlog.get_logger()

PAUSE_SECONDS = 0.5

Report = Callable[[Progress], Awaitable[bool]]


class Reporter:
    """`report` stores one Progress and answers whether the lease still holds."""

    def __init__(self, held: Held, report: Report) -> None:
        self._held = held
        self._report = report
        self._latest: tuple[float, str] | None = None
        self._ending = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def hear(self, percent: float, message: str) -> None:
        """The newest word of the job; replaces one that is not stored yet."""
        self._latest = (percent, message)
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def flush(self) -> None:
        """Store what is left, so that watchers see it before the end."""
        self._ending.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        try:
            while self._latest is not None:
                latest, self._latest = self._latest, None
                await self._store(*latest)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PAUSE_SECONDS):
                        await self._ending.wait()
        finally:
            self._task = None

    async def _store(self, percent: float, message: str) -> None:
        attempt = self._held.attempt
        try:
            if not await self._report(Progress(attempt.id, attempt.lease, percent, message)):
                self._held.interrupt(Lost())
        except Unavailable as error:
            log.debug("progress.unstored", job_id=str(attempt.id), reason=str(error))
        except Exception:
            log.exception("progress.fault", job_id=str(attempt.id))
