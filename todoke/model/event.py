"""The log of a job: its event types, and the cursor that says how far a reader has got."""

import hashlib
import re
from dataclasses import dataclass
from typing import Final
from uuid import UUID

ACCEPTED: Final = "job.accepted"
STARTED: Final = "job.started"
RETRYING: Final = "job.retrying"
SUCCEEDED: Final = "job.succeeded"
FAILED: Final = "job.failed"
PROGRESS: Final = "job.progress"

TERMINAL: Final = (SUCCEEDED, FAILED)

# Where a cursor may stand: the whole log.
EARLIEST: Final = "earliest"

EPOCH_LETTERS = 8
CURSOR = re.compile(r"([0-9a-f]{1,32})\.([0-9]{1,10})")


@dataclass(frozen=True)
class Event:
    """A fact about a job. `body` is the JSON text every channel sends, byte for byte."""

    job_id: UUID
    sequence: int
    type: str
    body: str


@dataclass(frozen=True)
class Head:
    """Where a job stands; `progress` is the body of its latest job.progress event."""

    job_id: UUID
    sequence: int
    progress_version: int
    is_terminal: bool
    progress: str


@dataclass(frozen=True)
class News:
    """What has become of one job since a known sequence and progress version, from one snapshot.

    events: at most the newest few, in order. age: seconds from the newest of them to the read.
    """

    head: Head
    events: list[Event]
    age: float | None


@dataclass(frozen=True)
class Cursor:
    """A place in one job's log. `epoch` is that of the job, as `job_epoch` spells it."""

    epoch: str
    sequence: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.sequence}"

    @classmethod
    def parse(cls, text: str) -> "Cursor | None":
        """The cursor spelled `text`, or None when it is none."""
        match = CURSOR.fullmatch(text)
        return cls(match[1], int(match[2])) if match else None

    def is_of_epoch(self, epoch: str) -> bool:
        """Whether it was given while the database's epoch was that of `epoch`, for whichever job."""
        return self.epoch[:EPOCH_LETTERS] == epoch[:EPOCH_LETTERS]


def job_epoch(epoch: str, job_id: UUID) -> str:
    """What a job's cursors and ETags begin with: the database's epoch, and a mark that no other job's cursor has.

    The database's epoch changes when numbers may have been given twice: a promotion, a restore.
    """
    return epoch + hashlib.blake2s(job_id.bytes, digest_size=3).hexdigest()


@dataclass(frozen=True)
class Hint:
    """One entry of a NOTIFY: this job has reached this sequence and progress version. It may be lost."""

    job_id: UUID
    sequence: int
    progress_version: int
