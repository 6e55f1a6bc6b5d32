"""The fast path of a hint: right after the commit, batched by ten. What is lost here the sweep sends again."""

import asyncio
import contextvars
import math
import time
from collections import deque
from collections.abc import Sequence
from uuid import UUID

import structlog

from todoke.model.errors import Unavailable
from todoke.queue.port import BATCH_MAX, Queue
from todoke.runtime.metrics import BATCH_SIZE

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
        self._sizes = BATCH_SIZE.labels("hints")
        self._waiting: deque[UUID] = deque()
        self._sender: asyncio.Task[None] | None = None

    def hint(self, job_id: UUID) -> None:
        """Send a hint soon, unless the queue is behind or away: then the sweep does it."""
        if len(self._waiting) >= WAITING_MAX:
            self._dropped += 1
            return
        self._waiting.append(job_id)
        if self._sender is None:
            # Not in the context of the request that happens to be the first.
            self._sender = asyncio.create_task(self._send_all(), context=contextvars.Context())

    async def drain(self) -> None:
        """Wait for the hints on their way."""
        while self._sender is not None:
            await asyncio.wait([self._sender])

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH_MAX))]
                self._sizes.observe(len(batch))
                try:
                    self._dropped += (await self._send(batch)).count(False)
                except Exception:
                    log.exception("hint.fault", jobs=len(batch))
        finally:
            self._sender = None

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
