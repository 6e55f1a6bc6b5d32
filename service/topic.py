"""One watched job inside one API process: its log as ready-made frames, shared by all who watch it."""

import asyncio
from collections.abc import Iterable
from uuid import UUID

from todoke.model import event
from todoke.model.event import Cursor, Event, Head, job_epoch
from todoke.wire import sse


class Topic:
    """Frames 1..n of a job without a gap, the latest progress, and a signal when either changes.

    Watchers hold positions, not queues: a slow one can neither lose, repeat nor pile up anything.
    """

    def __init__(self, job_id: UUID, tenant_id: str) -> None:
        self.job_id = job_id
        self.tenant_id = tenant_id
        self.watchers = 0
        self.is_loaded = False
        self.is_terminal = False
        self.progress_version = 0
        self._frames: list[bytes] = []
        self._progress: tuple[int, bytes] = (0, b"")
        self._changed: asyncio.Future[None] | None = None

    @property
    def last(self) -> int:
        """The sequence of the newest frame."""
        return len(self._frames)

    def frame(self, sequence: int) -> bytes:
        """The numbered frame `sequence`, from 1 to `last`."""
        return self._frames[sequence - 1]

    def progress_after(self, version: int) -> bytes | None:
        """The latest progress frame if it is newer than `version` and no numbered event has passed it."""
        sequence, frame = self._progress
        return frame if self.progress_version > version and sequence == self.last and not self.is_terminal else None

    def learn(self, epoch: str, events: Iterable[Event], head: Head | None) -> None:
        """Take in what was read from the log, and wake the watchers."""
        for item in events:
            if item.sequence == self.last + 1:
                self._frames.append(
                    sse.frame(item.type, item.body, str(Cursor(job_epoch(epoch, self.job_id), item.sequence)))
                )
                self.is_terminal = item.type in event.TERMINAL
        if head is not None and head.progress_version > self.progress_version:
            self.progress_version = head.progress_version
            self._progress = (head.sequence, sse.frame(event.PROGRESS, head.progress))
        self.is_loaded = True
        self.wake()

    def forget(self) -> None:
        """Drop every frame: the epoch they were numbered in is over."""
        self._frames.clear()
        self.progress_version = 0
        self.is_loaded = False

    def wake(self) -> None:
        """Let every waiting watcher look again."""
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)
        self._changed = None

    async def changed(self, seconds: float) -> bool:
        """Wait for the next change; False when none came in time."""
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        done, _ = await asyncio.wait([self._changed], timeout=seconds)
        return bool(done)
