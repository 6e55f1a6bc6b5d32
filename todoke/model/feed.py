"""The feed of a tenant: the events of all its jobs in one order, and the cursor that says how far a reader has got."""

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple
from uuid import UUID

from todoke.model.event import ACCEPTED, FAILED, PROGRESS, RETRYING, STARTED, SUCCEEDED

TYPES: Final = (ACCEPTED, STARTED, RETRYING, SUCCEEDED, FAILED, PROGRESS)

# A transaction that began before this long may still add events that bear its time.
LATE_SECONDS = 300.0
# Behind a cursor this fresh, what has been erased meanwhile can be told from tombstones.
FRESH_SECONDS = 3600.0
PACKED = struct.Struct("!8sqqdd")


class Place(NamedTuple):
    """Where an event stands in the feed, and how far a reader has got. Compares as the feed is ordered."""

    xid: int
    position: int


BEGINNING: Final = Place(0, 0)
# Behind every event there will ever be.
END: Final = Place(2**62, 0)


@dataclass(frozen=True)
class FeedEvent:
    """An event in its place. `at`: Unix seconds. `job_type`: None when the job is being erased."""

    place: Place
    job_id: UUID
    sequence: int
    type: str
    job_type: str | None
    at: float
    body: str


@dataclass(frozen=True)
class Horizon:
    """What the feed knew at one look: every event before `xid` is there, and none will come before it any more.

    next_xid: no transaction had this id yet; above `xid` while some are open. read_at: Unix seconds of the database.
    reached: right behind the tenant's last event before `xid`. The ids from there to `xid` may be given again when the
    server crashes, to transactions that bring events.
    """

    epoch: str
    xid: int
    next_xid: int
    read_at: float
    reached: int

    @property
    def place(self) -> Place:
        """Behind everything that was to be seen, and before everything that will ever come."""
        return Place(self.reached, 0)


@dataclass(frozen=True)
class Page:
    """Events of one tenant behind a place, in order.

    is_more: there are more before the horizon. is_held_back: events wait behind it for open transactions.
    """

    horizon: Horizon
    events: tuple[FeedEvent, ...]
    is_more: bool
    is_held_back: bool

    @property
    def end(self) -> Place:
        """How far a reader of this page has got; it may have been further already, when what was there is erased."""
        return self.events[-1].place if self.is_more else self.horizon.place

    @property
    def end_at(self) -> float:
        """Events behind `end` are no older than this, Unix seconds."""
        return self.events[-1].at if self.is_more else self.horizon.read_at


@dataclass(frozen=True)
class FeedCursor:
    """A place in one tenant's feed.

    epoch: empty for the beginning, which every epoch has. at: what the reader has not seen is no older. read_at: when
    the reader could have seen all there was. Both are Unix seconds of the database.
    """

    tenant_id: str
    epoch: str
    place: Place
    at: float
    read_at: float

    @classmethod
    def earliest(cls, tenant_id: str) -> "FeedCursor":
        """Before all that is kept."""
        return cls(tenant_id, "", BEGINNING, 0.0, 0.0)

    def pack(self) -> bytes:
        """As bytes, to be sealed: the numbers would tell a tenant how busy the others are."""
        return PACKED.pack(self.epoch.encode(), *self.place, self.at, self.read_at) + self.tenant_id.encode()

    @classmethod
    def unpack(cls, packed: bytes) -> "FeedCursor":
        """What was packed."""
        epoch, xid, position, at, read_at = PACKED.unpack_from(packed)
        return cls(packed[PACKED.size :].decode(), epoch.decode(), Place(xid, position), at, read_at)

    def lost_by(self, horizon: Horizon) -> str | None:
        """Why this is no place in the feed of today, or None."""
        if not self.epoch:
            return None
        if self.epoch != horizon.epoch:
            return "epoch"
        return "ahead" if self.place > Place(horizon.xid, 0) else None

    def may_be_outdated(self, horizon: Horizon, kept_seconds: float) -> bool:
        """Whether events behind it may have been erased by age; finished jobs are kept for so long, 0: always."""
        sure_seconds = max(kept_seconds / 2, kept_seconds - LATE_SECONDS)
        return bool(self.epoch) and 0 < sure_seconds < horizon.read_at - self.at

    def is_fresh(self, horizon: Horizon) -> bool:
        """Whether it was given lately: that of a reader who is reading what is old."""
        return horizon.read_at - self.read_at < FRESH_SECONDS
