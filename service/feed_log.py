"""The feed as callers ask for it: as a stream to follow, or as a list to fetch part by part. Knows no HTTP."""

import asyncio
from dataclasses import dataclass

from service.feed import Feed
from service.feed_cursors import EARLIEST, FeedCursors
from service.feed_filter import FeedFilter
from service.feed_source import FeedSource
from todoke.model.errors import CursorLost, InvalidInput
from todoke.model.feed import FeedCursor
from todoke.store.feed import PAGE_BYTES, FeedReader

DAY_SECONDS = 86_400.0
# Pages one list looks through where a filter lets little pass; the caller goes on behind them.
PAGES_MAX = 10
PART_ROWS = 1_000
PART_BYTES = 16 * PAGE_BYTES


@dataclass(frozen=True)
class Part:
    """Bodies of wanted events in order, and the cursor of who has read them. has_more: the next part is there now."""

    bodies: list[str]
    cursor: str
    has_more: bool


class FeedLog:
    """replays: bounds how many readers read the log at once. job_days: how long finished jobs are kept; 0: always."""

    def __init__(
        self, feed: Feed, reader: FeedReader, cursors: FeedCursors, replays: asyncio.Semaphore, job_days: float
    ) -> None:
        self._feed, self._reader, self._cursors, self._replays = feed, reader, cursors, replays
        self._kept_seconds = job_days * DAY_SECONDS

    def source(self, tenant_id: str, last_event_id: str | None, wanted: FeedFilter) -> FeedSource:
        """The feed as a stream."""
        return FeedSource(
            self._feed,
            self._reader,
            self._cursors,
            self._replays,
            tenant_id,
            last_event_id,
            wanted,
            self._kept_seconds,
        )

    async def part(self, tenant_id: str, after: str | None, limit: int, wanted: FeedFilter) -> Part:
        """At most `limit` events behind a cursor, from the beginning without one.

        Raises InvalidInput for what is no cursor of this tenant, CursorLost for one that cannot be continued, Unavailable.
        """
        cursor = self._cursors.parse(after or EARLIEST, tenant_id)
        if cursor is None:
            raise InvalidInput("`after` is no cursor of this feed")
        bodies: list[str] = []
        for _ in range(PAGES_MAX):
            async with self._replays:
                page = await self._reader.page(tenant_id, cursor.place, min(PART_ROWS, limit - len(bodies)), PART_BYTES)
            if reason := cursor.lost_by(page.horizon, self._kept_seconds):
                raise CursorLost("the feed cannot be continued behind this cursor", {"reason": reason})
            bodies += [item.body for item in page.events if wanted.passes(item.type, item.job_type)]
            cursor = FeedCursor(tenant_id, page.horizon.epoch, page.end, page.end_at)
            if not page.is_more or len(bodies) >= limit:
                break
        spelled = self._cursors.spell(tenant_id, cursor.epoch, cursor.place, cursor.at)
        return Part(bodies, spelled, page.is_more)
