"""Reading the feeds of tenants in their one order. Changes nothing; docs/feed.md has why the order holds."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from todoke.model.feed import LATE_SECONDS, FeedCursor, FeedEvent, Horizon, Page, Place
from todoke.store.database import Database, queries

SQL = queries("feed")

ROWS_MAX = 200
PAGE_BYTES = 64 * 1024
SNAPSHOT_JOBS = 100
# A filter that little passes must not read all of a tenant's jobs.
SNAPSHOT_LOOKS = 2_000


@dataclass(frozen=True)
class Picture:
    """A tenant's newest jobs. `jobs`: their stories as JSON, comma-separated. `taken_at`: ISO 8601 UTC."""

    horizon: Horizon
    jobs: str
    taken_at: str


@dataclass(frozen=True)
class ProgressNews:
    """The latest progress of a job that runs, as the body of its job.progress event."""

    job_id: UUID
    tenant_id: str
    job_type: str
    sequence: int
    version: int
    body: str


class FeedReader:
    """Every read names the tenants it is for. Raises Unavailable when PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def pages(
        self, asked: Mapping[str, Place], rows_max: int = ROWS_MAX, bytes_max: int = PAGE_BYTES
    ) -> dict[str, Page]:
        """What each tenant's feed has behind a place, all from one look at the database.

        A page has at most `rows_max` events, and ends early with the one that reaches `bytes_max`.
        """
        places = list(asked.values())
        xids, positions = [place.xid for place in places], [place.position for place in places]
        rows = await self._database.fetch(SQL["pages"], list(asked), xids, positions, rows_max, bytes_max)
        by_tenant: dict[str, list[asyncpg.Record]] = defaultdict(list)
        for row in rows:
            by_tenant[row["tenant_id"]].append(row)
        return {tenant_id: _page(own, rows_max) for tenant_id, own in by_tenant.items()}

    async def page(self, tenant_id: str, place: Place, rows_max: int = ROWS_MAX, bytes_max: int = PAGE_BYTES) -> Page:
        """What one tenant's feed has behind a place."""
        return (await self.pages({tenant_id: place}, rows_max, bytes_max))[tenant_id]

    async def lost(self, cursor: FeedCursor, horizon: Horizon, kept_seconds: float) -> str | None:
        """Why a reader cannot go on behind its cursor without missing anything, or None: ask after reading the page.

        kept_seconds: how long finished jobs are kept; 0: always.
        """
        if reason := cursor.lost_by(horizon):
            return reason
        if not cursor.may_be_outdated(horizon, kept_seconds):
            return None
        if not cursor.is_fresh(horizon):
            return "expired"
        unseen_since = cursor.at - LATE_SECONDS
        [row] = await self._database.fetch(SQL["erased"], cursor.tenant_id, cursor.read_at, unseen_since)
        return "expired" if row["is_any"] else None

    async def picture(
        self, tenant_id: str, types: Collection[str] | None, job_types: Collection[str] | None
    ) -> Picture:
        """The newest 100 of a tenant's latest 2,000 jobs, those the filters pass. None passes all."""
        types, job_types = types and list(types), job_types and list(job_types)
        [row] = await self._database.fetch(SQL["snapshot"], tenant_id, types, job_types, SNAPSHOT_JOBS, SNAPSHOT_LOOKS)
        return Picture(_horizon(row), row["jobs"], row["taken_at"])

    async def progress(self, job_ids: Sequence[UUID], tenant_ids: Sequence[str]) -> list[ProgressNews]:
        """The latest progress of those of these jobs that run and belong to these tenants."""
        rows = await self._database.fetch(SQL["progress"], job_ids, tenant_ids)
        return [
            ProgressNews(
                row["id"], row["tenant_id"], row["type"], row["sequence"], row["progress_version"], row["body"]
            )
            for row in rows
        ]


def _page(rows: Sequence[asyncpg.Record], rows_max: int) -> Page:
    first = rows[0]
    events = tuple(
        FeedEvent(
            place=Place(row["xid"], row["position"]),
            job_id=row["job_id"],
            sequence=row["sequence"],
            type=row["type"],
            job_type=row["job_type"],
            at=row["at"],
            body=row["body"],
        )
        for row in rows
        if row["xid"] is not None
    )
    is_more = bool(events) and (first["found"] == rows_max or first["found"] > len(events))
    return Page(_horizon(first), events, is_more, first["is_held_back"])


def _horizon(row: asyncpg.Record) -> Horizon:
    return Horizon(row["epoch"], row["horizon"], row["next_xid"], row["read_at"], row["reached"])
