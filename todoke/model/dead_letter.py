"""A dead letter: a message the queue set aside because it was received too often, and what became of it."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID


class LetterVerdict(StrEnum):
    """What a dead letter meant for its job.

    FAILED: nobody ever claimed the job, it ended as DEAD_LETTERED. DROPPED: the job needs no message or gets a new
    one. UNPARSEABLE: the message names no job; it is kept for a person.
    """

    FAILED = "failed"
    DROPPED = "dropped"
    UNPARSEABLE = "unparseable"


@dataclass(frozen=True)
class DeadLetter:
    """One message as it arrived. `id`: SQS's own. `sent_at`: when it was first sent, if the queue said so."""

    id: str
    body: str
    job_id: UUID | None
    receive_count: int
    sent_at: datetime | None = None
