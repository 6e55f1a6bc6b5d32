"""What one reader of `/jobs/{id}/events` gets to see, frame by frame. Knows no HTTP."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

from service.hub import Hub
from service.topic import Topic
from todoke.model.errors import Unavailable
from todoke.model.event import Cursor
from todoke.store.reading import Status
from todoke.wire import sse

EARLIEST = "earliest"


@dataclass(frozen=True)
class Start:
    """Where a reader begins: the frames it gets first, and the place in the log behind them.

    `progress_version`: the newest progress those frames already show.
    """

    frames: tuple[bytes, ...]
    sequence: int
    progress_version: int = 0


def start_at(last_event_id: str | None, status: Status) -> Start:
    """Continue after the reader's cursor; begin with a snapshot without one, with a reset when it cannot continue."""
    if not last_event_id:
        return _show(status, "snapshot", status.snapshot)
    if last_event_id == EARLIEST:
        return Start((), 0)
    cursor = Cursor.parse(last_event_id)
    reason = _unusable(cursor, status)
    if cursor is None or reason:
        return _show(status, "reset", _reset(status, reason))
    return Start((), cursor.sequence)


def is_at_end(last_event_id: str | None, status: Status) -> bool:
    """Whether the reader has seen the terminal event: it may stop for good."""
    return status.is_terminal and last_event_id == str(Cursor(status.epoch, status.sequence))


async def follow(hub: Hub, topic: Topic, start: Start, heartbeat_seconds: float) -> AsyncIterator[bytes]:
    """Opening, first frames, then the log as it grows; ends behind the terminal event, or when the hub drains."""
    yield sse.comment("todoke") + sse.retry()
    for frame in start.frames:
        yield frame
    sequence, progress_version = start.sequence, start.progress_version
    while True:
        while sequence < topic.last:
            sequence += 1
            yield topic.frame(sequence)
        if topic.is_terminal:
            return
        progress = topic.progress_after(progress_version)
        if progress is not None:
            progress_version = topic.progress_version
            yield progress
            continue
        if hub.is_draining:
            yield sse.retry() + sse.frame("reconnect", '{"reason":"draining"}')
            return
        if sequence > topic.last and topic.is_loaded:
            return  # the epoch changed under us: the reader comes back and is given a reset
        if not await topic.changed(heartbeat_seconds):
            yield sse.comment("heartbeat")


async def apology() -> AsyncIterator[bytes]:
    """For a reader that comes while PostgreSQL is away: come back. An error status would stop a browser for good."""
    yield sse.comment("unavailable, come back") + sse.retry()


async def watched(
    hub: Hub, status: Status, last_event_id: str | None, heartbeat_seconds: float
) -> AsyncIterator[bytes]:
    """One whole stream of a job, PostgreSQL's absence included."""
    try:
        async with hub.watch(status.job_id, status.tenant_id) as topic:
            start = start_at(last_event_id, status)
            async for chunk in follow(hub, topic, start, heartbeat_seconds):
                yield chunk
    except Unavailable:
        async for chunk in apology():
            yield chunk


def _show(status: Status, event: str, body: str) -> Start:
    """A whole picture of the job; a finished one also gets its terminal event, so that every reader sees an end."""
    frame = sse.frame(event, body, str(Cursor(status.epoch, status.sequence)))
    behind = status.sequence - 1 if status.is_terminal else status.sequence
    return Start((frame,), behind, status.progress_version)


def _unusable(cursor: Cursor | None, status: Status) -> str | None:
    if cursor is None:
        return "malformed"
    if cursor.epoch != status.epoch:
        return "epoch"
    return "ahead" if cursor.sequence > status.sequence else None


def _reset(status: Status, reason: str | None) -> str:
    snapshot = json.loads(status.snapshot)
    return json.dumps({**snapshot, "type": "reset", "reason": reason}, ensure_ascii=False, separators=(",", ":"))
