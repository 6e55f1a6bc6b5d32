"""Letting go of messages, in batches and without making anybody wait; what fails here only costs a repeat."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import structlog

from todoke.model.errors import Unavailable
from todoke.queue.port import BATCH_MAX, Queue

log = structlog.get_logger()

# More at once would only make smaller batches.
FLUSHES_MAX = 2


class Messages:
    """A message that is not let go of is shown again when its visibility ends."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._tasks: set[asyncio.Task[None]] = set()
        self._deleting = _Flow(queue.delete, "delete", self._begin)
        self._showing = _Flow(lambda receipts: queue.defer(receipts, 0), "show", self._begin)

    def forget(self, receipt: str) -> None:
        """Delete it: the row says everything."""
        self._deleting.put(receipt)

    def show(self, receipt: str) -> None:
        """Let another worker have it at once."""
        self._showing.put(receipt)

    def hide(self, receipts: Sequence[str], seconds: int) -> None:
        """Let at most ten come again in `seconds`."""
        self._begin(_tried(self._queue.defer(receipts, seconds), "hide", len(receipts)))

    async def drain(self, seconds: float) -> None:
        """Wait for what is under way, at most `seconds`."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=seconds)

    def _begin(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Flow:
    """Receipts on their way to one call, in natural batches: what arrives during a flush goes with the next."""

    def __init__(
        self, flush: Callable[[Sequence[str]], Awaitable[None]], what: str, begin: Callable[[Awaitable[None]], None]
    ) -> None:
        self._flush, self._what, self._begin = flush, what, begin
        self._waiting: deque[str] = deque()
        self._flushes = 0

    def put(self, receipt: str) -> None:
        self._waiting.append(receipt)
        # A second flush only for a full batch.
        if not self._flushes or (self._flushes < FLUSHES_MAX and len(self._waiting) >= BATCH_MAX):
            self._flushes += 1
            self._begin(self._run())

    async def _run(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH_MAX))]
            await _tried(self._flush(batch), self._what, len(batch))
        self._flushes -= 1


async def _tried(work: Awaitable[None], what: str, count: int) -> None:
    try:
        await work
    except Unavailable as error:
        log.warning("message.kept", wanted=what, count=count, reason=str(error))
    except Exception:
        log.exception("message.fault", wanted=what, count=count)
