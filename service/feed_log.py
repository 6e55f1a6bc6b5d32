"""The feed as callers ask for it: as a stream to follow, or as a list to fetch part by part. Knows no HTTP."""

import asyncio
from dataclasses import dataclass

from service.feed import Feed
from service.feed_cursors import FeedCursors
from service.feed_filter import FeedFilter
from service.feed_source import FeedSource
from todoke.model.errors import CursorLost, InvalidInput
from todoke.model.event import EARLIEST
from todoke.model.feed import FeedCursor, Page
from todoke.store.feed import FeedReader

DAY_SECONDS = 86_400.0
# What one part looks through at most.
FILTERED_ROWS = 2_000
PART_BYTES = 2 * 2**20


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
        """At most `limit` events behind a cursor, from the beginning without one. Raises Unavailable,

        InvalidInput for what is no cursor of this tenant, and CursorLost for one that cannot be continued.
        """
        cursor = self._cursors.parse(after or EARLIEST, tenant_id)
        if cursor is None:
            raise InvalidInput("`after` is no cursor of this feed")
        page = await self._page(cursor, limit, wanted)
        if reason := await self._reader.lost(cursor, page.horizon, self._kept_seconds):
            raise CursorLost("the feed cannot be continued behind this cursor", {"reason": reason})
        bodies: list[str] = []
        has_more = page.is_more
        for item in page.events:
            if len(bodies) == limit:
                has_more = True
                break
            place, at = item.place, item.at
            if wanted.passes(item.type, item.job_type):
                bodies.append(item.body)
        else:
            place, at = max(cursor.place, page.end), page.end_at
        return Part(bodies, self._cursors.spell(tenant_id, page.horizon, place, at), has_more)

    async def _page(self, cursor: FeedCursor, limit: int, wanted: FeedFilter) -> Page:
        # Where a filter lets little pass, a part may be empty and yet not the last.
        rows_max = limit if wanted == FeedFilter() else FILTERED_ROWS
        async with self._replays:
            return await self._reader.page(cursor.tenant_id, cursor.place, rows_max, PART_BYTES)
