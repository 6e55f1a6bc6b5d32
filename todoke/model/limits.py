"""How much a caller may ask for: what settings say, what a tenant or a key has instead, and a bucket that counts."""

import math
from dataclasses import dataclass

MINUTE = 60.0


@dataclass(frozen=True)
class KeyLimits:
    """Of one API key, beside its tenant's. None: none of its own; 0: no limit."""

    submits_per_minute: int | None = None
    reads_per_minute: int | None = None


@dataclass(frozen=True)
class TenantLimits:
    """Of one tenant, in the place of the settings. None: as the settings say; 0: no limit."""

    submits_per_minute: int | None = None
    reads_per_minute: int | None = None
    queue_depth_max: int | None = None
    streams_max: int | None = None


NO_KEY_LIMITS, NO_TENANT_LIMITS = KeyLimits(), TenantLimits()


def in_force(own: int | None, setting: int) -> int:
    """The limit that holds; 0: none."""
    return setting if own is None else own


class Bucket:
    """A budget of so many a minute, of which a whole minute's worth may be spent at once. Times are in seconds.

    Over any span of t seconds at most a minute's worth and t/60 of one more is spent.
    """

    __slots__ = ("_at", "_left", "per_minute")

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._left, self._at = float(per_minute), now

    def adjust(self, per_minute: int) -> None:
        """Another limit holds from now on; what was spent stays spent."""
        self._left += per_minute - self.per_minute
        self.per_minute = per_minute

    def wait(self, cost: int, now: float) -> float:
        """Seconds until `cost` can be spent, 0 when it can be now; infinite when it never can."""
        self._fill(now)
        if cost > self.per_minute:
            return math.inf
        return max(0.0, (cost - self._left) * MINUTE / self.per_minute)

    def spend(self, cost: int, now: float) -> None:
        """Take `cost` out; whether it is there says `wait`."""
        self._fill(now)
        self._left -= cost

    def remaining(self, now: float) -> int:
        """What can be spent at once."""
        self._fill(now)
        return max(0, math.floor(self._left))

    def full_in(self, now: float) -> float:
        """Seconds until nothing of what was spent counts any more."""
        self._fill(now)
        return max(0.0, (self.per_minute - self._left) * MINUTE / self.per_minute)

    def _fill(self, now: float) -> None:
        # A clock that goes back gives nothing twice.
        passed = max(0.0, now - self._at)
        self._left = min(float(self.per_minute), self._left + passed * self.per_minute / MINUTE)
        self._at = max(self._at, now)
