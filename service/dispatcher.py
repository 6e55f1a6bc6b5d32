"""The fast path of a hint: right after the commit, batched by ten. What is lost here the sweep sends again."""

import asyncio
import math
import time
from collections.abc import Sequence
from uuid import UUID

import structlog

from todoke.model.errors import Unavailable
from todoke.queue.port import BATCH_MAX, Queue
from todoke.runtime.batcher import Batcher

log = structlog.get_logger()

# What waits to be sent, and how long the queue is not asked after it failed to answer.
WAITING_MAX = 10_000
AWAY_SECONDS = 5.0


class Dispatcher:
    """Sends hints without making the submit wait: the job is kept already."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._away_until = -math.inf
        self._dropped = 0
        self._batcher: Batcher[UUID, bool] = Batcher(self._send, BATCH_MAX, "hints")
        self._sending: set[asyncio.Task[None]] = set()

    def hint(self, job_id: UUID) -> None:
        """Send a hint soon, unless the queue is behind or away: then the sweep does it."""
        if len(self._sending) >= WAITING_MAX:
            self._dropped += 1
            return
        task = asyncio.create_task(self._hint(job_id))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def drain(self) -> None:
        """Wait for the hints on their way."""
        if self._sending:
            await asyncio.wait(self._sending)

    async def _hint(self, job_id: UUID) -> None:
        try:
            is_sent = await self._batcher.put(job_id)
        except Exception:
            log.exception("hint.fault", job_id=str(job_id))
            return
        self._dropped += not is_sent

    async def _send(self, job_ids: Sequence[UUID]) -> list[bool]:
        if time.monotonic() < self._away_until:
            return [False] * len(job_ids)
        try:
            unsent = set(await self._queue.send(job_ids))
        except Unavailable as error:
            # Trying each batch in turn would only pile up the next ones.
            self._away_until = time.monotonic() + AWAY_SECONDS
            log.warning("hint.unsent", reason=str(error), then="the sweep sends it", retry_seconds=AWAY_SECONDS)
            return [False] * len(job_ids)
        if self._dropped:
            log.info("hint.dropped", count=self._dropped, then="the sweep sends them")
            self._dropped = 0
        return [job_id not in unsent for job_id in job_ids]
