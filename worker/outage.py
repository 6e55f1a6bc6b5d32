"""Whether the queue is away, as its polls tell: it has answered none of them for some time."""

import asyncio
import time

import structlog

from todoke.runtime.metrics import STRAIGHT_CLAIMING

log = structlog.get_logger()


class Outage:
    """`away` is set while the queue is, `present` while it is not. An outage begins after `seconds` without answer."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: float | None = None
        self.away, self.present = asyncio.Event(), asyncio.Event()
        self.present.set()

    @property
    def is_away(self) -> bool:
        """Whether work goes on without the queue."""
        return self.away.is_set()

    def failed(self, began: float) -> None:
        """A call was not answered; `began`: the monotonic time of its start."""
        if self._since is None:
            self._since = began
        lasted = time.monotonic() - self._since
        if lasted >= self._seconds and not self.is_away:
            self.present.clear()
            self.away.set()
            STRAIGHT_CLAIMING.set(1)
            log.error("queue.away", seconds=round(lasted, 1), then="jobs are claimed straight from PostgreSQL")

    def answered(self) -> None:
        """A call was answered, were it with an error."""
        if self.is_away and self._since is not None:
            log.info("queue.back", seconds=round(time.monotonic() - self._since, 1))
        self._since = None
        self.away.clear()
        STRAIGHT_CLAIMING.set(0)
        self.present.set()
