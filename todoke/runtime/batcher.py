"""Natural batching: one flush in flight, and whatever arrives meanwhile forms the next batch. No timer."""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from todoke.model.errors import Unavailable
from todoke.runtime.metrics import BATCH_SIZE

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batcher(Generic[Item, Answer]):
    """Collects single items into calls of `flush`, which answers each item in order.

    An idle batcher flushes at once, a busy one in batches of at most `items_max`. When a flush raises, its
    batch is halved until the item at fault stands alone and gets the error; Unavailable is given to all.
    `name` is what the sizes of its batches are measured under.
    """

    def __init__(
        self, flush: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]], items_max: int, name: str = "other"
    ) -> None:
        self._flush = flush
        self._items_max = items_max
        self._sizes = BATCH_SIZE.labels(name)
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._flusher: asyncio.Task[None] | None = None
        # What a flush logs is of no one caller, least of all the one that happened to start it.
        self._context = contextvars.copy_context()

    async def put(self, item: Item) -> Answer:
        """Hand in one item and wait for its answer. The work goes on even when the caller is canceled."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._run(), context=self._context)
        return await future

    async def drain(self) -> None:
        """Wait until nothing is waiting or in flight."""
        while self._flusher is not None:
            await asyncio.wait([self._flusher])

    async def _run(self) -> None:
        try:
            while self._waiting:
                size = min(len(self._waiting), self._items_max)
                self._sizes.observe(size)
                await self._answer([self._waiting.popleft() for _ in range(size)])
        finally:
            self._flusher = None

    async def _answer(self, batch: Sequence[tuple[Item, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._flush([item for item, _ in batch])
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, Unavailable):
                middle = len(batch) // 2
                await self._answer(batch[:middle])
                await self._answer(batch[middle:])
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
