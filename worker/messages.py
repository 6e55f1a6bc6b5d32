"""Letting go of messages, in batches and without making anybody wait; what fails here only costs a repeat."""

import asyncio
from collections.abc import Awaitable, Sequence

import structlog

from todoke.model.errors import Unavailable
from todoke.queue.port import BATCH_MAX, Queue
from todoke.runtime.batcher import Batcher

log = structlog.get_logger()


class Messages:
    """A message that is not let go of is shown again when its visibility ends."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._deleting: Batcher[str, None] = Batcher(self._delete, BATCH_MAX)
        self._showing: Batcher[str, None] = Batcher(self._show, BATCH_MAX)
        self._tasks: set[asyncio.Task[None]] = set()

    def forget(self, receipt: str) -> None:
        """Delete it: the row says everything."""
        self._begin(self._deleting.put(receipt), "delete")

    def show(self, receipt: str) -> None:
        """Let another worker have it at once."""
        self._begin(self._showing.put(receipt), "show")

    def hide(self, receipt: str, seconds: int) -> None:
        """Let it come again in `seconds`."""
        self._begin(self._queue.defer([receipt], seconds), "hide")

    async def drain(self, seconds: float) -> None:
        """Wait for what is under way, at most `seconds`."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=seconds)

    def _begin(self, work: Awaitable[None], what: str) -> None:
        task = asyncio.create_task(_tried(work, what))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _delete(self, receipts: Sequence[str]) -> list[None]:
        await self._queue.delete(receipts)
        return [None] * len(receipts)

    async def _show(self, receipts: Sequence[str]) -> list[None]:
        await self._queue.defer(receipts, 0)
        return [None] * len(receipts)


async def _tried(work: Awaitable[None], what: str) -> None:
    try:
        await work
    except Unavailable as error:
        log.warning("message.kept", wanted=what, reason=str(error))
    except Exception:
        log.exception("message.fault", wanted=what)
