"""Judges what a client was told against what was committed: all of it, in order, once; or an open word about a gap."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from todoke.model.event import PROGRESS, TERMINAL, Cursor, Event
from todoke.store.database import Database
from todoke.wire.sse import Frame

LOGS = """
SELECT job_id, sequence, type, body FROM event WHERE job_id = coalesce($1, job_id) ORDER BY job_id, sequence
"""
WHOLE = ("snapshot", "reset")
ABSOLUTE = ("status", "phase", "attempt", "error", "errorCode")


async def committed(database: Database, job_id: UUID | None = None) -> dict[UUID, list[Event]]:
    """The log of every job, or of one, as PostgreSQL has it, each in order."""
    logs: dict[UUID, list[Event]] = defaultdict(list)
    for row in await database.fetch(LOGS, job_id):
        logs[row["job_id"]].append(Event(row["job_id"], row["sequence"], row["type"], row["body"]))
    return logs


def check(log: Sequence[Event], frames: Sequence[Frame], *, after: int | None = None, is_complete: bool = True) -> None:
    """Raise AssertionError with everything `judge` finds."""
    faults = judge(log, frames, after=after, is_complete=is_complete)
    assert not faults, "\n".join([*faults, *(f"  {f.event} {f.last_event_id}" for f in frames[-30:])])


def judge(
    log: Sequence[Event], frames: Sequence[Frame], *, after: int | None = None, is_complete: bool = True
) -> list[str]:
    """What is wrong with what one client of `/jobs/{id}/events` dispatched, over all its connections.

    log: the job's events 1..n. after: the sequence it began behind (0 for `earliest`), None when it had no cursor.
    is_complete: it was told to the end, and so it must know the end.
    """
    story = _Story(log, after)
    for frame in frames:
        story.hear(frame)
    if is_complete:
        story.finish()
    return story.faults


def check_feed(logs: Mapping[UUID, Sequence[Event]], frames: Sequence[Frame], *, is_complete: bool = True) -> None:
    """The same for a feed of many jobs read from its beginning: every job's own order is kept."""
    faults = judge_feed(logs, frames, is_complete=is_complete)
    assert not faults, "\n".join(faults[:30])


def judge_feed(logs: Mapping[UUID, Sequence[Event]], frames: Sequence[Frame], *, is_complete: bool = True) -> list[str]:
    """What is wrong with a feed: per job exactly 1..n in order, once. After a `reset` a job may be further on."""
    stories = {job_id: _Story(log, 0) for job_id, log in logs.items()}
    faults = []
    for frame in frames:
        if frame.event == "reset":
            for story in stories.values():
                story.may_jump = True
        if frame.event in ("reset", "snapshot", "reconnect", PROGRESS):
            continue
        job_id = UUID(json.loads(frame.data)["data"]["jobId"])
        if job_id in stories:
            stories[job_id].number(frame)
        else:
            faults.append(f"of a job that is not there: {job_id}")
    for job_id, story in stories.items():
        if is_complete and not story.may_jump:
            story.finish()
        faults += [f"{job_id}: {fault}" for fault in story.faults]
    return faults


class _Story:
    """One job as a client has heard it so far. `told`: the last sequence it knows of, None before anything."""

    def __init__(self, log: Sequence[Event], after: int | None) -> None:
        assert [item.sequence for item in log] == list(range(1, len(log) + 1)), "the log itself has a gap"
        self.faults: list[str] = []
        self.told = after
        self.may_jump = False
        self._log = log
        self._epoch: str | None = None
        self._last: dict[str, Any] | None = None
        self._ends = 0
        self._versions = 0

    def hear(self, frame: Frame) -> None:
        if frame.event == "reconnect":
            return
        if frame.event in WHOLE:
            self._whole(frame)
        elif frame.event == PROGRESS:
            self._progress(frame)
        else:
            self.number(frame)
            self._cursor(frame)

    def number(self, frame: Frame) -> None:
        """A numbered event: it must be the next one, word for word."""
        sequence = json.loads(frame.data)["data"]["sequence"]
        expected = None if self.told is None else self.told + 1
        if not 1 <= sequence <= len(self._log):
            self._fault(f"{frame.event} {sequence} was never committed")
            return
        if expected is None:
            self._fault(f"began with {sequence}, neither a snapshot nor a cursor before it")
        elif sequence < expected:
            self._fault(f"{sequence} again or late, {expected} is next")
        elif sequence > expected and not self.may_jump:
            self._fault(f"{sequence} although {expected} is next: a silent gap")
        item = self._log[sequence - 1]
        if (frame.event, frame.data) != (item.type, item.body):
            self._fault(
                f"{sequence} is not what was committed: {frame.event} {frame.data!r}, {item.type} {item.body!r}"
            )
        self.told, self.may_jump = max(sequence, self.told or 0), False
        self._ends += frame.event in TERMINAL
        self._last = json.loads(frame.data)["data"]

    def finish(self) -> None:
        """It is over: everything must have been told."""
        if self.told != len(self._log):
            self._fault(f"told up to {self.told} of {len(self._log)}")
            return
        is_ended = bool(self._log) and self._log[-1].type in TERMINAL
        if self._ends != is_ended:
            self._fault(f"{self._ends} ends")
        if self._log and self._last is not None:
            self._compare(self._last, self._log[-1])

    def _whole(self, frame: Frame) -> None:
        """The job as one picture. It may go forward over what was missed; back only into another epoch."""
        data = json.loads(frame.data)["data"]
        sequence, cursor = data["sequence"], Cursor.parse(frame.last_event_id)
        if not 1 <= sequence <= len(self._log):
            self._fault(f"{frame.event} of {sequence}, which was never committed")
            return
        if frame.event == "snapshot" and self.told is not None:
            self._fault(f"a snapshot for a client that had a place, {self.told}")
        if frame.event == "reset" and not json.loads(frame.data).get("reason"):
            self._fault("a reset without a reason")
        # Whoever comes after the end is shown the end too: an event, as every page waits for it.
        is_ended = self._log[sequence - 1].type in TERMINAL
        if cursor is None or cursor.sequence != sequence - is_ended:
            self._fault(f"{frame.event} of {sequence} with the id {frame.last_event_id!r}")
        is_new = cursor is not None and self._epoch not in (None, cursor.epoch)
        if self.told is not None and sequence < self.told and not is_new:
            self._fault(f"{frame.event} goes back from {self.told} to {sequence}")
        item = self._log[sequence - 1]
        self._compare(data, item)
        self.told = sequence - is_ended
        self._epoch, self._last, self._ends = cursor.epoch if cursor else None, data, 0

    def _progress(self, frame: Frame) -> None:
        if self.told is None:
            self._fault("progress before anything else")
        if self._ends:
            self._fault("progress after the end")
        version = json.loads(frame.data)["data"].get("progressVersion")
        if version is not None:
            if version < self._versions:
                self._fault(f"progress {version} after {self._versions}")
            self._versions = max(version, self._versions)
        self._cursor(frame)

    def _cursor(self, frame: Frame) -> None:
        cursor = Cursor.parse(frame.last_event_id)
        if cursor is None:
            if frame.event == PROGRESS and not frame.last_event_id and not self.told:
                return  # nothing numbered has come yet
            self._fault(f"{frame.event} with the id {frame.last_event_id!r}")
            return
        if cursor.sequence != self.told:
            self._fault(f"{frame.event}: the cursor says {cursor.sequence}, told is {self.told}")
        if self._epoch not in (None, cursor.epoch):
            self._fault(f"the epoch went from {self._epoch} to {cursor.epoch} without a reset")
        self._epoch = cursor.epoch

    def _compare(self, data: Mapping[str, Any], item: Event) -> None:
        """Where a picture and the event of the same number differ."""
        there = json.loads(item.body)["data"]
        wrong = [name for name in ABSOLUTE if name in there and data.get(name) != there[name]]
        if wrong:
            self._fault(f"at {item.sequence} it shows other {wrong}: {data} instead of {there}")

    def _fault(self, text: str) -> None:
        self.faults.append(text)
