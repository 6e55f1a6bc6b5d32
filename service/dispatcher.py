"""The fast path of a hint: right after the commit, batched by ten. What is lost here the sweep sends again."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

import structlog

from todoke.model.errors import Unavailable
from todoke.queue.port import BATCH_MAX, Queue
from todoke.runtime.batcher import Batcher

log = structlog.get_logger()


class Dispatcher:
    """Sends hints without making the submit wait: the job is kept already."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._batcher: Batcher[UUID, bool] = Batcher(self._send, BATCH_MAX, "hints")
        self._sending: set[asyncio.Task[None]] = set()

    def hint(self, job_id: UUID) -> None:
        """Send a hint soon."""
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
        except Unavailable:
            is_sent = False
        except Exception:
            log.exception("hint.fault", job_id=str(job_id))
            return
        if not is_sent:
            log.warning("hint.unsent", job_id=str(job_id), then="the sweep sends it")

    async def _send(self, job_ids: Sequence[UUID]) -> list[bool]:
        unsent = set(await self._queue.send(job_ids))
        return [job_id not in unsent for job_id in job_ids]
