"""What one reader of `/jobs/{id}/events` gets to see, chunk by chunk. Knows no HTTP."""

import asyncio
import json
from collections.abc import Callable

from service.hub import Hub
from service.topic import Topic
from todoke.model import event
from todoke.model.event import Cursor
from todoke.model.job import State
from todoke.runtime import metrics
from todoke.store.reading import Reader, Status
from todoke.wire import sse

PAGE_ROWS = 100


class JobSource:
    """The log of one job behind a reader's cursor, then the job as it changes, to its end.

    replays: bounds how many readers read the log at once. is_brief: the end comes with the first news, so that the
    answer can be read whole: a long poll in frames.
    """

    __slots__ = (
        "_epoch",
        "_has_news",
        "_hub",
        "_is_brief",
        "_job_id",
        "_pending",
        "_progress_version",
        "_reader",
        "_replays",
        "_sequence",
        "_tenant_id",
        "_topic",
        "_wake",
    )

    def __init__(
        self,
        hub: Hub,
        reader: Reader,
        replays: asyncio.Semaphore,
        status: Status,
        last_event_id: str | None,
        *,
        is_brief: bool = False,
    ) -> None:
        self._hub, self._reader, self._replays = hub, reader, replays
        self._job_id, self._tenant_id, self._epoch = status.job_id, status.tenant_id, status.epoch
        self._is_brief = is_brief
        self._has_news = False
        self._pending: list[bytes] = []
        self._sequence = self._progress_version = 0
        self._topic: Topic | None = None
        self._wake: Callable[[], None] | None = None
        self._begin(status, last_event_id)

    def attach(self, wake: Callable[[], None]) -> None:
        """From now on `wake` is called when there may be more to pull."""
        self._wake = wake
        self._topic = self._hub.join(self._job_id, self._tenant_id, wake)

    def detach(self) -> None:
        """Undo `attach`."""
        if self._topic is not None and self._wake is not None:
            self._hub.leave(self._topic, self._wake)

    def checkpoint(self) -> bytes:
        """Nothing: a job's cursor moves with its frames."""
        return b""

    async def pull(self) -> bytes | None:
        """The next frames, about 32 KiB at most; b"" when there is nothing new, None at the end."""
        topic = self._topic
        assert topic is not None
        if self._pending:
            return sse.next_chunk(self._pending)
        if topic.is_gone or (self._is_brief and self._has_news):
            return None
        return await self._follow(topic) if topic.is_loaded else b""

    async def _follow(self, topic: Topic) -> bytes | None:
        if topic.epoch != self._epoch:
            # Numbers may have been given twice: what this reader knows is void, and it is told so in the stream.
            return await self._reset("epoch")
        if self._sequence < topic.last:
            return await self._log(topic)
        return None if topic.is_terminal else self._progress(topic)

    async def _log(self, topic: Topic) -> bytes | None:
        self._has_news = True
        found = topic.frames_after(self._sequence)
        if found is None:
            return await self._replay()
        chunk, reached = found
        metrics.STREAM_REPLAYS.labels("ring").inc(reached - self._sequence)
        self._sequence = reached
        return chunk

    async def _replay(self) -> bytes | None:
        """A page of the log that the ring does not hold any more."""
        async with self._replays:
            page = await self._reader.page(self._job_id, self._tenant_id, self._sequence, PAGE_ROWS)
        if not page or page[0].sequence != self._sequence + 1:
            return await self._reset("gap")
        metrics.STREAM_REPLAYS.labels("log").inc(len(page))
        self._sequence = page[-1].sequence
        self._pending = [
            sse.frame(item.type, item.body, str(Cursor(self._epoch, item.sequence))) for item in reversed(page)
        ]
        return sse.next_chunk(self._pending)

    def _progress(self, topic: Topic) -> bytes:
        frame = topic.progress_after(self._progress_version)
        if frame is None:
            return b""
        # What a brief reader is told first it may know already: it carries no progress in its cursor.
        self._has_news = self._has_news or self._progress_version > 0
        self._progress_version = topic.progress_version
        return frame

    async def _reset(self, reason: str) -> bytes | None:
        status = await self._reader.status(self._job_id, self._tenant_id)
        if status is None:
            return None
        self._epoch = status.epoch
        self._show(status, "reset", _picture(status, "reset", reason))
        if reason == "gap" and status.is_terminal:
            # The log may lack this one too, and without it a browser would come back for ever.
            self._sequence = status.sequence
            kind = event.SUCCEEDED if status.state is State.SUCCESS else event.FAILED
            self._pending.insert(0, sse.frame(kind, _picture(status, kind), str(Cursor(self._epoch, self._sequence))))
        metrics.STREAM_RESETS.labels(reason).inc()
        return sse.next_chunk(self._pending)

    def _begin(self, status: Status, last_event_id: str | None) -> None:
        """Continue after the cursor; begin with a snapshot without one, with a reset when it cannot be continued."""
        if not last_event_id:
            self._show(status, "snapshot", status.snapshot)
            return
        if last_event_id == event.EARLIEST:
            return
        cursor = Cursor.parse(last_event_id)
        reason = unusable(cursor, status)
        if cursor is None or reason is not None:
            metrics.STREAM_RESETS.labels(reason).inc()
            self._show(status, "reset", _picture(status, "reset", reason))
            return
        self._sequence = cursor.sequence
        # Without data it is no event. It gives the cursor back to readers that forgot it with the last connection.
        self._pending = [f"id: {cursor}\n\n".encode()]

    def _show(self, status: Status, kind: str, body: str) -> None:
        """A whole picture of the job; a finished one also gets its terminal event, so that every reader sees an end.

        The picture's id stands before that event: a reader cut off between the two comes back for it.
        """
        self._sequence = status.sequence - 1 if status.is_terminal else status.sequence
        self._pending = [sse.frame(kind, body, str(Cursor(status.epoch, self._sequence)))]
        self._progress_version = status.progress_version
        self._has_news = True


def is_at_end(last_event_id: str | None, status: Status) -> bool:
    """Whether the reader has seen the terminal event: it may stop for good."""
    return status.is_terminal and Cursor.parse(last_event_id or "") == Cursor(status.epoch, status.sequence)


def unusable(cursor: Cursor | None, status: Status) -> str | None:
    """Why a log cannot be continued behind `cursor`: malformed, epoch, job or ahead; None: it can."""
    if cursor is None:
        return "malformed"
    if cursor.epoch != status.epoch:
        return "job" if cursor.is_of_epoch(status.epoch) else "epoch"
    return "ahead" if cursor.sequence > status.sequence else None


def _picture(status: Status, kind: str, reason: str | None = None) -> str:
    picture = {**json.loads(status.snapshot), "type": kind}
    if reason is not None:
        picture["reason"] = reason
    return json.dumps(picture, ensure_ascii=False, separators=(",", ":"))
