"""The feeds of all tenants somebody reads in this process: one reader of the log, any number of streams."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from uuid import UUID

import structlog

from service.feed_cursors import FeedCursors
from service.feed_ring import FeedRing
from service.horizon import HorizonWatch
from todoke.model.event import Hint
from todoke.model.feed import Page
from todoke.runtime import metrics
from todoke.store.feed import FeedReader

log = structlog.get_logger()

MEBIBYTE = 2**20
DEAF_SWEEP_SECONDS = 1.0
RING_ROWS = 1_000
RING_PAGE_BYTES = 256 * 1024
RING_BYTES_MAX = 4 * MEBIBYTE
# Events that wait for an open transaction: when that ends without a word, no NOTIFY tells.
HELD_BACK_SECONDS = (0.02, 1.0)
KNOWN_JOBS_MAX = 10_000


class Feed:
    """Knows no HTTP. A NOTIFY only says that it is time to look; one look reads for all tenants, one at a time.

    is_hearing: whether NOTIFY reaches this process; what it misses is found by a sweep. memory_mb: for all rings.
    """

    def __init__(
        self,
        reader: FeedReader,
        cursors: FeedCursors,
        is_hearing: Callable[[], bool],
        sweep_seconds: float,
        memory_mb: int = 32,
    ) -> None:
        self._reader, self._cursors, self._is_hearing = reader, cursors, is_hearing
        self._sweep_seconds, self._memory = sweep_seconds, memory_mb * MEBIBYTE
        self._rings: dict[str, FeedRing] = {}
        self._horizon = HorizonWatch()
        self._work = asyncio.Event()
        self._pause = HELD_BACK_SECONDS[0]
        self._again: asyncio.TimerHandle | None = None
        self._moved: set[UUID] = set()
        self._known: OrderedDict[UUID, int] = OrderedDict()

    async def run(self) -> None:
        """Read and sweep until canceled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read_forever())
            group.create_task(self._sweep_forever())

    def join(self, tenant_id: str, wake: Callable[[], None]) -> FeedRing:
        """The tenant's ring, perhaps not begun yet; `wake` is called at every change until `leave`."""
        ring = self._rings.get(tenant_id)
        if ring is None:
            ring = self._rings[tenant_id] = FeedRing(tenant_id, self._cursors)
            self._work.set()
        ring.join(wake)
        return ring

    def leave(self, ring: FeedRing, wake: Callable[[], None]) -> None:
        """Undo `join`; a ring nobody reads is dropped."""
        ring.leave(wake)
        if not ring.is_watched and self._rings.get(ring.tenant_id) is ring:
            del self._rings[ring.tenant_id]

    def look(self, tenant_id: str) -> None:
        """Read now, and have the tenant's readers called even if nothing is new."""
        if ring := self._rings.get(tenant_id):
            ring.is_asked = True
            self._work.set()

    def heard(self, hints: Iterable[Hint] | None) -> None:
        """A NOTIFY: these jobs have changed; None: any may have."""
        if not self._rings:
            return
        for hint in hints or ():
            self._note_progress(hint)
        self._work.set()

    def _note_progress(self, hint: Hint) -> None:
        if hint.progress_version <= self._known.get(hint.job_id, 0):
            return
        self._known[hint.job_id] = hint.progress_version
        self._known.move_to_end(hint.job_id)
        if len(self._known) > KNOWN_JOBS_MAX:
            self._known.popitem(last=False)
        if len(self._moved) < KNOWN_JOBS_MAX:
            self._moved.add(hint.job_id)

    async def _read_forever(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                # Progress first: an event that ends a job makes progress read before it old, never the other way round.
                await self._read_progress()
                await self._read()
            except Exception as error:
                # Whatever a server says while it goes or comes: streams stay open, and the log is read again.
                log.warning("feed.blind", reason=str(error) or repr(error))
                await asyncio.sleep(DEAF_SWEEP_SECONDS)
                self._work.set()

    async def _read(self) -> None:
        rings = dict(self._rings)
        if not rings:
            self._horizon.rest()
            return
        asked = {tenant_id: ring.end for tenant_id, ring in rings.items()}
        pages = await self._reader.pages(asked, RING_ROWS, RING_PAGE_BYTES)
        bytes_max = min(RING_BYTES_MAX, self._memory // len(rings))
        for tenant_id, page in pages.items():
            rings[tenant_id].learn(page, bytes_max)
            if page.events:
                metrics.STREAM_LAG.observe(max(0.0, page.horizon.read_at - page.events[-1].at))
        metrics.FEED_RING_BYTES.set(sum(ring.bytes for ring in rings.values()))
        self._look_again(list(pages.values()))

    def _look_again(self, pages: list[Page]) -> None:
        self._horizon.note(pages[0].horizon, time.monotonic())
        if self._again is not None:
            self._again.cancel()
        if any(page.is_more for page in pages):
            self._work.set()
        elif any(page.is_held_back for page in pages):
            self._again = asyncio.get_running_loop().call_later(self._pause, self._work.set)
            self._pause = min(self._pause * 2, HELD_BACK_SECONDS[1])
        else:
            self._pause = HELD_BACK_SECONDS[0]

    async def _read_progress(self) -> None:
        moved = list(self._moved)
        if not moved or not self._rings:
            return
        news = await self._reader.progress(moved, list(self._rings))
        self._moved.difference_update(moved)
        changed = set()
        for item in news:
            if ring := self._rings.get(item.tenant_id):
                ring.learn_progress(item)
                changed.add(ring)
        for ring in changed:
            ring.wake()

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_seconds if self._is_hearing() else DEAF_SWEEP_SECONDS)
            self._work.set()
