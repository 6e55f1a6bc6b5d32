"""The baseline: the same worker without group commit, so that each claim and each finish commits alone.

A program of the benchmarks only. It replaces one thing: where the worker's receiver and completer would gather jobs
into batches with one flush in flight, every job is flushed by itself and at once, as many side by side as there are
database connections. Messages are still received and deleted by ten, and every other line of the worker is the same.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import worker.completer
import worker.receiver
from worker.__main__ import main

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Alone(Generic[Item, Answer]):
    """Looks like a Batcher and never batches."""

    def __init__(self, flush: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]], *_: object) -> None:
        self._flush = flush

    async def put(self, item: Item) -> Answer:
        """Flush this item and wait for its answer."""
        [answer] = await self._flush([item])
        return answer


class PollsAlone(Generic[Item, Answer]):
    """The same for the receiver, whose items are what a poll brought: up to ten messages, of which it claims each."""

    def __init__(
        self, flush: Callable[[Sequence[Sequence[Item]]], Awaitable[Sequence[list[Answer]]]], *_: object
    ) -> None:
        self._flush = flush

    async def put(self, items: Sequence[Item]) -> list[Answer]:
        """Flush each of these items by itself, side by side."""
        answers = await asyncio.gather(*(self._flush([[item]]) for item in items))
        return [answer for [[answer]] in answers]


if __name__ == "__main__":
    for module, alone in ((worker.receiver, PollsAlone), (worker.completer, Alone)):
        assert hasattr(module, "Batcher"), f"{module.__name__} no longer batches by itself; this baseline must follow"
        vars(module)["Batcher"] = alone
    sys.exit(main())
