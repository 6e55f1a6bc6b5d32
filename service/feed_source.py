"""What one reader of `/events` gets to see, chunk by chunk. Knows no HTTP."""

import asyncio
import json
from collections.abc import Callable

from service.feed import Feed
from service.feed_cursors import FeedCursors
from service.feed_filter import FeedFilter
from service.feed_ring import FeedRing
from todoke.model.feed import BEGINNING, Horizon, Page, Place
from todoke.runtime import metrics
from todoke.store.feed import FeedReader, Picture
from todoke.wire import sse


class FeedSource:
    """A tenant's feed behind a reader's cursor: from the log until the ring begins, then from the ring.

    replays: bounds how many readers read the log at once. kept_seconds: see FeedReader.lost.
    """

    __slots__ = (
        "_asked",
        "_at",
        "_cursors",
        "_doubted",
        "_feed",
        "_horizon",
        "_kept_seconds",
        "_pending",
        "_place",
        "_reader",
        "_replays",
        "_ring",
        "_tenant_id",
        "_tick",
        "_wake",
        "_wanted",
    )

    def __init__(
        self,
        feed: Feed,
        reader: FeedReader,
        cursors: FeedCursors,
        replays: asyncio.Semaphore,
        tenant_id: str,
        last_event_id: str | None,
        wanted: FeedFilter,
        kept_seconds: float,
    ) -> None:
        self._feed, self._reader, self._cursors, self._replays = feed, reader, cursors, replays
        self._tenant_id, self._wanted, self._kept_seconds = tenant_id, wanted, kept_seconds
        self._asked = last_event_id or ""
        self._horizon: Horizon | None = None
        self._doubted: Horizon | None = None
        self._place, self._at = BEGINNING, 0.0
        self._tick = 0
        self._pending: list[bytes] = []
        self._ring: FeedRing | None = None
        self._wake: Callable[[], None] | None = None

    def attach(self, wake: Callable[[], None]) -> None:
        """From now on `wake` is called when there may be more to pull."""
        self._wake = wake
        self._ring = self._feed.join(self._tenant_id, wake)
        self._tick = self._ring.tick

    def detach(self) -> None:
        """Undo `attach`."""
        if self._ring is not None and self._wake is not None:
            self._feed.leave(self._ring, self._wake)

    def checkpoint(self) -> bytes:
        """Moves the reader's cursor past what was not for it. Asked for only when there is nothing to pull."""
        ring = self._ring
        if self._horizon is None or ring is None:
            return b""
        if ring.epoch == self._horizon.epoch and ring.covers(self._place):
            chunk, end = ring.after(self._place, self._wanted)
            if not chunk:
                self._place = end
            if self._place == ring.end:
                return ring.checkpoint()
        return sse.checkpoint(self._cursors.spell(self._tenant_id, self._horizon, self._place, self._at))

    async def pull(self) -> bytes | None:
        """The next frames, about 32 KiB at most; b"" when there is nothing new. A feed has no end."""
        ring = self._ring
        assert ring is not None
        if self._pending:
            return sse.next_chunk(self._pending)
        if self._horizon is None:
            return await self._begin()
        if ring.horizon is not None and ring.epoch != self._horizon.epoch:
            return await self._doubt(ring.horizon)
        return self._follow(ring) if ring.covers(self._place) else await self._replay(self._horizon.epoch)

    def _follow(self, ring: FeedRing) -> bytes:
        chunk, self._place = ring.after(self._place, self._wanted)
        if chunk:
            metrics.STREAM_REPLAYS.labels("ring").inc(chunk.count(b"\n\n"))
            return chunk
        chunk, self._tick = ring.progress_after(self._tick, self._wanted)
        return chunk

    async def _begin(self) -> bytes:
        if not self._asked:
            picture = await self._picture()
            self._show(picture, "snapshot")
            return sse.next_chunk(self._pending)
        cursor = self._cursors.parse(self._asked, self._tenant_id)
        if cursor is None:
            return await self._reset("malformed")
        ring = self._ring
        if ring is not None and ring.horizon is not None and ring.holds(cursor):
            # Readers that were cut together come back without a look at the database.
            self._horizon, self._place, self._at = ring.horizon, cursor.place, cursor.at
            return self._follow(ring)
        page = await self._page(cursor.place)
        if reason := await self._reader.lost(cursor, page.horizon, self._kept_seconds):
            return await self._reset(reason)
        return self._take(page)

    async def _doubt(self, horizon: Horizon) -> bytes:
        """One of the two, reader and ring, is of an epoch that has ended: another look of the ring will show which."""
        if self._doubted is None or self._doubted is horizon:
            self._doubted = horizon
            self._feed.look(self._tenant_id)
            return b""
        # Places may have been given twice: what this reader knows is void, and it is told so in the stream.
        return await self._reset("epoch")

    async def _replay(self, epoch: str) -> bytes:
        page = await self._page(self._place)
        if page.horizon.epoch != epoch:
            return await self._reset("epoch")
        return self._take(page)

    async def _page(self, place: Place) -> Page:
        async with self._replays:
            return await self._reader.page(self._tenant_id, place)

    async def _picture(self) -> Picture:
        async with self._replays:
            return await self._reader.picture(self._tenant_id, self._wanted.types, self._wanted.job_types)

    def _take(self, page: Page) -> bytes:
        """Frames of a page; where none is wanted, a checkpoint, so that the reader has got on whatever happens next."""
        self._horizon = page.horizon
        chosen = [item for item in page.events if self._wanted.passes(item.type, item.job_type)]
        self._pending = [
            sse.frame(item.type, item.body, self._cursors.spell(self._tenant_id, page.horizon, item.place, item.at))
            for item in reversed(chosen)
        ]
        metrics.STREAM_REPLAYS.labels("log").inc(len(chosen))
        self._place, self._at = max(self._place, page.end), page.end_at
        if self._pending:
            return sse.next_chunk(self._pending)
        return self.checkpoint() if page.events else b""

    async def _reset(self, reason: str) -> bytes:
        self._show(await self._picture(), "reset", reason)
        metrics.STREAM_RESETS.labels(reason).inc()
        return sse.next_chunk(self._pending)

    def _show(self, picture: Picture, event: str, reason: str | None = None) -> None:
        self._horizon = horizon = picture.horizon
        self._doubted = None
        self._place, self._at = horizon.place, horizon.read_at
        cursor = self._cursors.spell(self._tenant_id, horizon, self._place, self._at)
        head = {"type": event, "timestamp": picture.taken_at} | ({} if reason is None else {"reason": reason})
        body = json.dumps(head)[:-1] + f', "data": {{"jobs": [{picture.jobs}]}}}}'
        self._pending = [sse.frame(event, body, cursor)]
