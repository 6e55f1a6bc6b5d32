"""The loop that lets go of what is old: results, jobs and tombstones by age, and objects nothing refers to any more."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from todoke.blobs.port import Blobs
from todoke.model.errors import Unavailable
from todoke.runtime.metrics import PRUNED_ROWS
from todoke.store.retention import Retention

log = structlog.get_logger()

ROWS_MAX = 200
ORPHANS_MAX = 20
CLEARS_MAX = 4
SHORTEST_PAUSE_SECONDS = 0.02


@dataclass(frozen=True)
class Ages:
    """How many days results, finished jobs and tombstones are kept. 0: for ever."""

    results: float
    jobs: float
    tombstones: float

    @property
    def results_at_most(self) -> float:
        """Results never outlive their job."""
        return min((days for days in (self.results, self.jobs) if days), default=0)


class Pruner:
    """`blobs` None: there is no object store, and orphans wait for a worker that has one."""

    def __init__(self, retention: Retention, blobs: Blobs | None, ages: Ages) -> None:
        self._retention, self._blobs, self._ages = retention, blobs, ages

    async def prune(self) -> None:
        """Once around, in small steps with pauses between. Raises Unavailable when PostgreSQL is away."""
        retention, ages = self._retention, self._ages
        counts = {
            "results": await _paced(self._expire_results, ages.results_at_most),
            "jobs": await _paced(retention.erase_jobs, ages.jobs),
            "tombstones": await _paced(retention.drop_tombstones, ages.tombstones),
            "callback_tests": await _paced(retention.drop_callback_tests, ages.jobs),
            "orphans": await self._clear_orphans(),
        }
        for kind, count in counts.items():
            PRUNED_ROWS.labels(kind).inc(count)
        if any(counts.values()):
            log.info("prune.done", **counts)

    async def _expire_results(self, days: float, rows_max: int) -> int:
        # Without a store nobody would ever take such rows away.
        return await self._retention.expire_results(days, rows_max, is_store_known=self._blobs is not None)

    async def _clear_orphans(self) -> int:
        """Objects first, then the row that names them: what is cut short is done again. Says how many prefixes."""
        count = 0
        room = asyncio.Semaphore(CLEARS_MAX)
        while self._blobs is not None and (prefixes := await self._retention.take_orphans(ORPHANS_MAX)):
            cleared = await asyncio.gather(*(_cleared(self._blobs, prefix, room) for prefix in prefixes))
            done = [prefix for prefix, is_clear in zip(prefixes, cleared, strict=True) if is_clear]
            await self._retention.drop_orphans(done)
            count += len(done)
            if len(done) < len(prefixes):
                break
        return count


async def _paced(step: Callable[[float, int], Awaitable[int]], days: float) -> int:
    """Half of the time is left to the work that is new."""
    total = 0
    while days:
        began = time.monotonic()
        count = await step(days, ROWS_MAX)
        total += count
        if count < ROWS_MAX:
            break
        await asyncio.sleep(max(SHORTEST_PAUSE_SECONDS, time.monotonic() - began))
    return total


async def _cleared(blobs: Blobs, prefix: str, room: asyncio.Semaphore) -> bool:
    async with room:
        try:
            await blobs.clear(prefix)
        except Unavailable as error:
            log.warning("prune.orphan_kept", prefix=prefix, reason=str(error))
            return False
        except Exception:
            log.exception("prune.fault", prefix=prefix)
            return False
        return True
