"""Natural batching: alone at once, together when busy, and one bad item hurts nobody else."""

import asyncio
from collections.abc import Sequence

import pytest

from todoke.model.errors import Unavailable
from todoke.runtime.batcher import Batcher


class Flush:
    """Doubles numbers; refuses negative ones; waits at `gate`."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.outage: Exception | None = None

    async def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        await self.gate.wait()
        if self.outage:
            raise self.outage
        if min(items) < 0:
            raise ValueError("negative")
        return [2 * item for item in items]


async def test_an_idle_batcher_flushes_at_once() -> None:
    flush = Flush()
    assert await Batcher(flush, 10).put(1) == 2
    assert flush.batches == [[1]]


async def test_what_arrives_during_a_flush_forms_the_next_batch() -> None:
    flush = Flush()
    flush.gate.clear()
    batcher = Batcher(flush, 4)
    puts = [asyncio.create_task(batcher.put(0))]
    while not flush.batches:
        await asyncio.sleep(0)
    puts += [asyncio.create_task(batcher.put(number)) for number in range(1, 8)]
    await asyncio.sleep(0)
    flush.gate.set()
    assert await asyncio.gather(*puts) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert flush.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]


async def test_one_bad_item_fails_alone() -> None:
    flush = Flush()
    flush.gate.clear()
    batcher = Batcher(flush, 10)
    first = asyncio.create_task(batcher.put(0))
    while not flush.batches:
        await asyncio.sleep(0)
    puts = [asyncio.create_task(batcher.put(number)) for number in (1, 2, -3, 4, 5)]
    await asyncio.sleep(0)
    flush.gate.set()
    answers = await asyncio.gather(first, *puts, return_exceptions=True)
    assert [answer for answer in answers if not isinstance(answer, Exception)] == [0, 2, 4, 8, 10]
    assert isinstance(answers[3], ValueError)


async def test_an_outage_is_everyones_and_is_not_tried_by_halves() -> None:
    flush = Flush()
    flush.outage = Unavailable("away")
    batcher = Batcher(flush, 10)
    answers = await asyncio.gather(*(batcher.put(number) for number in range(4)), return_exceptions=True)
    assert all(isinstance(answer, Unavailable) for answer in answers)
    assert len(flush.batches) == 1


async def test_a_caller_that_gives_up_disturbs_nobody() -> None:
    flush = Flush()
    flush.gate.clear()
    batcher = Batcher(flush, 10)
    impatient, patient = asyncio.create_task(batcher.put(1)), asyncio.create_task(batcher.put(2))
    while not flush.batches:
        await asyncio.sleep(0)
    impatient.cancel()
    flush.gate.set()
    assert await patient == 4
    with pytest.raises(asyncio.CancelledError):
        await impatient
    await batcher.drain()
