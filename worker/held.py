"""An attempt in work here: what the rooms of the supervisor know of it together."""

import asyncio
import time
from dataclasses import dataclass, field
from uuid import UUID

from todoke.model.job import Attempt
from worker.ending import Ending


@dataclass(eq=False)
class Held:
    """A claimed attempt with the message that led to it. `extended_at`: monotonic, when that was last hidden.

    receipt: None when the attempt was claimed straight from PostgreSQL.
    """

    attempt: Attempt
    receipt: str | None
    extended_at: float = field(default_factory=time.monotonic)
    started_at: float = field(default_factory=time.monotonic)
    interruption: "asyncio.Future[Ending]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def key(self) -> tuple[UUID, int]:
        """Job and lease: the same job may come again before an attempt that lost its lease is cleared away."""
        return self.attempt.id, self.attempt.lease

    def interrupt(self, ending: Ending) -> None:
        """Stop the run with this ending. Only the first interruption counts, and none that comes after the run."""
        if not self.interruption.done():
            self.interruption.set_result(ending)
