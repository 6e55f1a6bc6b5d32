"""How long the oldest open transaction has kept the feeds from going on, told from the ids seen over time."""

import structlog

from todoke.model.feed import Horizon
from todoke.runtime import metrics

log = structlog.get_logger()

ALARM_SECONDS = 10.0
ALARM_PAUSE_SECONDS = 60.0
SAMPLE_SECONDS = 0.5
SAMPLES_MAX = 1_000


class HorizonWatch:
    """Knows since when each transaction id has been taken. Needs no right to see other sessions."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, int]] = []
        self._warned_at = -ALARM_PAUSE_SECONDS
        self.age = 0.0

    def note(self, horizon: Horizon, now: float) -> None:
        """A look at the database, at `now` of a steady clock, in seconds."""
        if not self._samples or now - self._samples[-1][0] >= SAMPLE_SECONDS:
            self._samples.append((now, horizon.next_xid))
        while self._samples and self._samples[0][1] <= horizon.xid:
            del self._samples[0]
        if len(self._samples) > SAMPLES_MAX:
            del self._samples[1::2]
        is_open = horizon.xid < horizon.next_xid
        self.age = now - self._samples[0][0] if is_open and self._samples else 0.0
        metrics.FEED_HORIZON_AGE.set(self.age)
        if self.age >= ALARM_SECONDS and now - self._warned_at >= ALARM_PAUSE_SECONDS:
            self._warned_at = now
            log.warning("feed.held_back", seconds=round(self.age), oldest_transaction=horizon.xid)

    def rest(self) -> None:
        """Nobody reads."""
        self._samples.clear()
        self.age = 0.0
        metrics.FEED_HORIZON_AGE.set(0.0)
