"""What Todoke asks of a queue: to carry hints, which may come late, twice or never."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

BATCH_MAX = 10


@dataclass(frozen=True)
class Message:
    """A received hint. `job_id` is None when the body is not one of ours; `receipt` deletes or extends it.

    `id`: the queue's own name for it, the same at every receive. `sent_at`: when it was first sent, if it is known.
    """

    receipt: str
    job_id: UUID | None
    receive_count: int
    id: str = ""
    body: str = ""
    sent_at: datetime | None = None


class Queue(Protocol):
    """At least once, in no order. Every call raises Unavailable when the queue cannot be reached.

    Of a batch that was taken in part, the rest is asked for again, a bounded number of times.
    """

    async def send(self, job_ids: Sequence[UUID]) -> list[UUID]:
        """Send a hint for each of at most ten jobs; the answer names those the queue did not take."""

    async def send_bodies(self, bodies: Sequence[str]) -> list[bool]:
        """Send at most ten messages as they are; for each, whether the queue took it."""

    async def receive(self, messages_max: int, wait_seconds: int) -> list[Message]:
        """At most ten messages, waiting up to `wait_seconds` for the first."""

    async def delete(self, receipts: Sequence[str]) -> None:
        """Forget at most ten messages; one that is gone already is no error."""

    async def defer(self, receipts: Sequence[str], seconds: int) -> None:
        """Hide at most ten messages for `seconds` from now; 0 shows them at once."""

    async def depth(self) -> int:
        """How many messages wait to be received, approximately."""
