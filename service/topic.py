"""One watched job inside one API process: its newest frames ready-made, shared by all who watch it."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from uuid import UUID

from service.watched import Watched
from todoke.model import event
from todoke.model.event import Cursor, Event, Head, Hint, job_epoch
from todoke.runtime import metrics
from todoke.wire import sse

RING_FRAMES_MAX = 64
RING_BYTES_MAX = 64 * 1024


class Topic(Watched):
    """The newest frames of a job without a gap, the latest progress, and a call to all who wait for either.

    Watchers hold positions, not queues: a slow one can neither lose, repeat nor pile up anything. What the ring does
    not hold any more is read from the log.
    """

    __slots__ = (
        "_progress",
        "_ring",
        "epoch",
        "is_gone",
        "is_loaded",
        "is_terminal",
        "job_id",
        "last",
        "progress_version",
        "ring_bytes",
        "tenant_id",
    )

    def __init__(self, job_id: UUID, tenant_id: str) -> None:
        super().__init__()
        self.job_id = job_id
        self.tenant_id = tenant_id
        self.epoch = ""
        self.last = 0
        self.progress_version = 0
        self.is_loaded = False
        self.is_terminal = False
        self.is_gone = False
        self.ring_bytes = 0
        # A deque takes 760 bytes however few frames it holds, and most jobs have few.
        self._ring: list[bytes] = []
        self._progress: tuple[int, bytes] = (0, b"")

    def is_behind(self, place: Head | Hint) -> bool:
        """Whether the job has got further than what is known here."""
        return place.sequence > self.last or place.progress_version > self.progress_version

    def frames_after(self, sequence: int) -> tuple[bytes, int] | None:
        """The next frames as one chunk and the sequence it reaches; None: the ring does not go back that far."""
        start = self.last - len(self._ring)
        if sequence < start:
            return None
        chunk = b""
        for place in range(sequence - start, len(self._ring)):
            if chunk and len(chunk) + len(self._ring[place]) > sse.CHUNK_BYTES_MAX:
                break
            chunk += self._ring[place]
            sequence += 1
        return chunk, sequence

    def progress_after(self, version: int) -> bytes | None:
        """The latest progress frame if it is newer than `version` and no numbered event has passed it."""
        sequence, frame = self._progress
        return frame if self.progress_version > version and sequence == self.last and not self.is_terminal else None

    def learn(self, epoch: str, events: Iterable[Event], head: Head) -> None:
        """Take in what was read from the log, and call the watchers."""
        self.epoch = job_epoch(epoch, self.job_id)
        due = max(self.last, head.sequence - RING_FRAMES_MAX) + 1
        for item in events:
            if item.sequence != due:
                # No writer can leave a hole, so somebody has changed the log by hand.
                metrics.STREAM_GAPS.inc()
            due = item.sequence + 1
            self._append(item)
        if self.last < head.sequence:
            metrics.STREAM_GAPS.inc()
            self.drop_ring()
            self.last = head.sequence
        if head.progress_version > self.progress_version:
            self.progress_version = head.progress_version
            self._progress = (head.sequence, sse.frame(event.PROGRESS, head.progress))
        self.is_terminal = head.is_terminal and self.last == head.sequence
        self.is_loaded = True
        self.wake()

    def lose(self) -> None:
        """There is no such job any more."""
        self.is_gone = self.is_loaded = True
        self.wake()

    def forget(self) -> None:
        """The epoch that frames and numbers belong to is over."""
        self.drop_ring()
        self.last = self.progress_version = 0
        self.is_loaded = self.is_terminal = False

    def drop_ring(self) -> None:
        """Give the memory back: watchers behind the newest frame read the log."""
        self._ring.clear()
        self.ring_bytes = 0

    async def changed(self, seconds: float) -> bool:
        """Wait for the next change; False when none came in time."""
        call = asyncio.Event()
        self.join(call.set)
        try:
            async with asyncio.timeout(seconds):
                return await call.wait()
        except TimeoutError:
            return False
        finally:
            self.leave(call.set)

    def _append(self, item: Event) -> None:
        if item.sequence != self.last + 1:
            self.drop_ring()
        frame = sse.frame(item.type, item.body, str(Cursor(self.epoch, item.sequence)))
        self._ring.append(frame)
        self.ring_bytes += len(frame)
        self.last = item.sequence
        while len(self._ring) > RING_FRAMES_MAX or (self.ring_bytes > RING_BYTES_MAX and len(self._ring) > 1):
            self.ring_bytes -= len(self._ring.pop(0))


class RingBudget:
    """What all rings of a process may hold together; the ones that changed longest ago give way."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held: OrderedDict[Topic, int] = OrderedDict()
        self.used = 0

    def settle(self, topic: Topic) -> None:
        """Account for a ring that may have changed."""
        self.release(topic)
        self._held[topic] = topic.ring_bytes
        self.used += topic.ring_bytes
        while self.used > self._bytes_max and self._held:
            oldest, size = self._held.popitem(last=False)
            self.used -= size
            oldest.drop_ring()

    def release(self, topic: Topic) -> None:
        """Forget a ring."""
        self.used -= self._held.pop(topic, 0)
