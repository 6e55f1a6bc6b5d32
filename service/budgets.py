"""What each tenant and each key may still ask of this process, by the minute."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from service.identity import Identity
from service.problems import Problem, ProblemError
from todoke.model.codes import Code
from todoke.model.limits import Bucket, in_force
from todoke.runtime import metrics
from todoke.runtime.settings import Settings

# A bucket forgotten is full when it is made anew, so many more are kept than there are callers at one time.
BUCKETS_MAX = 50_000
SAFE_METHODS = frozenset({"GET", "HEAD"})


class Budget(StrEnum):
    """What is counted apart."""

    SUBMITS = "submits"
    READS = "reads"


@dataclass(frozen=True)
class Held:
    """One budget of a caller, by the name that headers give it."""

    name: str
    bucket: Bucket


def budget_of(method: str) -> Budget:
    """What a request with this method counts as: whatever may write is a submit."""
    return Budget.READS if method in SAFE_METHODS else Budget.SUBMITS


class Budgets:
    """Of a request, all budgets are charged or none. `clock` counts seconds and never goes back."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._settings = {
            Budget.SUBMITS: settings.tenant_submits_per_minute,
            Budget.READS: settings.tenant_reads_per_minute,
        }
        self._buckets: OrderedDict[tuple[str, str], Bucket] = OrderedDict()

    def charge(self, identity: Identity, budget: Budget, cost: int = 1, *, paid: int = 0) -> None:
        """Take `cost` from what the caller has. Raises ProblemError 429 and takes nothing when it is not there.

        paid: what this request was charged before, as a part of it; given back first.
        """
        now, held = self._clock(), list(self.held(identity, budget))
        for each in held:
            each.bucket.spend(-paid, now)
        wait = max((each.bucket.wait(cost, now) for each in held), default=0.0)
        if wait:
            metrics.REQUESTS_LIMITED.labels(budget).inc()
            tightest = max(held, key=lambda each: each.bucket.wait(cost, now))
            told = {name.decode(): value.decode() for name, value in self.headers(identity, budget)}
            raise ProblemError(_refusal(tightest, budget, cost, wait, told))
        for each in held:
            each.bucket.spend(cost, now)

    def headers(self, identity: Identity, budget: Budget) -> list[tuple[bytes, bytes]]:
        """`RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10); none without a limit."""
        now, held = self._clock(), list(self.held(identity, budget))
        if not held:
            return []
        policies = ", ".join(f'"{each.name}";q={each.bucket.per_minute};w=60' for each in held)
        limits = ", ".join(
            f'"{each.name}";r={each.bucket.remaining(now)};t={math.ceil(each.bucket.full_in(now))}' for each in held
        )
        return [(b"ratelimit-policy", policies.encode()), (b"ratelimit", limits.encode())]

    def holds(self, identity: Identity, budget: Budget) -> bool:
        """Whether this caller has a limit at all."""
        return next(self.held(identity, budget), None) is not None

    def held(self, identity: Identity, budget: Budget) -> Iterator[Held]:
        """The budgets that hold for this caller: its tenant's, and its key's if that has one of its own."""
        is_read = budget is Budget.READS
        tenant, key = identity.limits, identity.key_limits
        own = tenant.reads_per_minute if is_read else tenant.submits_per_minute
        if per_minute := in_force(own, self._settings[budget]):
            yield Held(budget, self._bucket(budget, f"tenant {identity.tenant_id}", per_minute))
        of_key = key.reads_per_minute if is_read else key.submits_per_minute
        if of_key:
            yield Held(f"key-{budget}", self._bucket(budget, f"key {identity.right.key_id}", of_key))

    def _bucket(self, budget: Budget, whose: str, per_minute: int) -> Bucket:
        place = (budget, whose)
        bucket = self._buckets.get(place)
        if bucket is None:
            bucket = self._buckets[place] = Bucket(per_minute, self._clock())
            if len(self._buckets) > BUCKETS_MAX:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(place)
            if bucket.per_minute != per_minute:
                bucket.adjust(per_minute)
        return bucket


def _refusal(held: Held, budget: Budget, cost: int, wait: float, told: Mapping[str, str]) -> Problem:
    words = f"{held.bucket.per_minute} {budget} a minute are allowed"
    if math.isinf(wait):
        return Problem(
            429, Code.RATE_LIMITED, f"{words}, so {cost} at once never are; send fewer at once", headers={**told}
        )
    seconds = max(1, math.ceil(wait))
    headers = {**told, "Retry-After": str(seconds)}
    return Problem(429, Code.RATE_LIMITED, f"{words}; send this again in {seconds} seconds", headers=headers)
