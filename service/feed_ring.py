"""The newest frames of one tenant's feed inside one API process, ready-made, shared by all who read it."""

from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from uuid import UUID

from service.feed_cursors import FeedCursors
from service.feed_filter import FeedFilter
from service.watched import Watched
from todoke.model import event
from todoke.model.feed import END, FeedCursor, Horizon, Page, Place
from todoke.store.feed import ProgressNews
from todoke.wire import sse

PROGRESS_JOBS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Item:
    """One frame of the ring, and what filters ask about it."""

    type: str
    job_type: str | None
    frame: bytes


@dataclass(frozen=True, slots=True)
class Progress:
    """The latest progress of a job. `tick` tells which of two came later, whatever their jobs."""

    tick: int
    sequence: int
    item: Item


class FeedRing(Watched):
    """All events behind `start` up to `end`, in order. Readers hold places, not queues.

    What the ring does not hold any more, or did not hold yet, is read from the log.
    """

    def __init__(self, tenant_id: str, cursors: FeedCursors) -> None:
        super().__init__()
        self.tenant_id = tenant_id
        self.horizon: Horizon | None = None
        self.start = self.end = END
        self.bytes = 0
        self.tick = 0
        self.is_asked = False
        self._cursors = cursors
        self._places: list[Place] = []
        self._items: list[Item] = []
        self._progress: OrderedDict[UUID, Progress] = OrderedDict()
        self._checkpoint: tuple[Horizon | None, bytes] = (None, b"")
        self._end_at = 0.0

    @property
    def epoch(self) -> str | None:
        """That of all its places; None until the first look."""
        return None if self.horizon is None else self.horizon.epoch

    def covers(self, place: Place) -> bool:
        """Whether a reader that has got to `place` can go on here."""
        return place >= self.start

    def holds(self, cursor: FeedCursor) -> bool:
        """Whether all there is behind a cursor is here."""
        return cursor.epoch == self.epoch and self.start <= cursor.place <= self.end

    def after(self, place: Place, wanted: FeedFilter) -> tuple[bytes, Place]:
        """The next wanted frames, about 32 KiB at most, and the place they lead to."""
        chosen: list[bytes] = []
        size = 0
        for index in range(bisect_right(self._places, place), len(self._places)):
            item = self._items[index]
            if wanted.passes(item.type, item.job_type):
                if chosen and size + len(item.frame) > sse.CHUNK_BYTES_MAX:
                    return b"".join(chosen), place
                chosen.append(item.frame)
                size += len(item.frame)
            place = self._places[index]
        return b"".join(chosen), max(place, self.end)

    def progress_after(self, tick: int, wanted: FeedFilter) -> tuple[bytes, int]:
        """What has become of running jobs since `tick`, about 32 KiB at most, and the tick that leads to."""
        news = []
        for progress in reversed(self._progress.values()):
            if progress.tick <= tick:
                break
            news.append(progress)
        chunk = b""
        for progress in reversed(news):
            if wanted.passes(progress.item.type, progress.item.job_type):
                if chunk and len(chunk) + len(progress.item.frame) > sse.CHUNK_BYTES_MAX:
                    break
                chunk += progress.item.frame
            tick = progress.tick
        return chunk, tick

    def checkpoint(self) -> bytes:
        """Moves the cursor of whoever has got to `end`."""
        if self.horizon is not None and self._checkpoint[0] is not self.horizon:
            text = self._cursors.spell(self.tenant_id, self.horizon, self.end, self._end_at)
            self._checkpoint = (self.horizon, sse.checkpoint(text))
        return self._checkpoint[1]

    def learn(self, page: Page, bytes_max: int) -> None:
        """Take in what was read behind `end`, keep about `bytes_max` of it, and call the readers."""
        if self.epoch != page.horizon.epoch:
            self._begin(page.horizon)
            return
        self.horizon = page.horizon
        for item in page.events:
            cursor = self._cursors.spell(self.tenant_id, page.horizon, item.place, item.at)
            frame = sse.frame(item.type, item.body, cursor)
            self._places.append(item.place)
            self._items.append(Item(item.type, item.job_type, frame))
            self.bytes += len(frame)
            progress = self._progress.get(item.job_id)
            if progress is not None and progress.sequence < item.sequence:
                del self._progress[item.job_id]
        self.end, self._end_at = max(self.end, page.end), page.end_at
        self._trim(bytes_max)
        if page.events or self.is_asked:
            self.is_asked = False
            self.wake()

    def learn_progress(self, news: ProgressNews) -> None:
        """Keep the latest progress of a job; nobody is called yet."""
        self.tick += 1
        frame = sse.frame(event.PROGRESS, news.body)
        item = Item(event.PROGRESS, news.job_type, frame)
        self._progress[news.job_id] = Progress(self.tick, news.sequence, item)
        self._progress.move_to_end(news.job_id)
        if len(self._progress) > PROGRESS_JOBS_MAX:
            self._progress.popitem(last=False)

    def _begin(self, horizon: Horizon) -> None:
        """The first look in this epoch: readers that are behind it come from the log."""
        self._places.clear()
        self._items.clear()
        self._progress.clear()
        self.bytes = 0
        self.horizon, self._end_at = horizon, horizon.read_at
        self.start = self.end = horizon.place
        self.wake()

    def _trim(self, bytes_max: int) -> None:
        if self.bytes <= bytes_max:
            return
        # A quarter at once: taking from the front of a list moves all that is behind.
        count = 0
        while self.bytes > bytes_max * 3 // 4:
            self.bytes -= len(self._items[count].frame)
            count += 1
        self.start = self._places[count - 1]
        del self._places[:count], self._items[:count]
