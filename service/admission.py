"""How many jobs wait for their start, and whether more are taken: a queue that only grows helps nobody."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping

import structlog

from service.problems import Problem, ProblemError
from todoke.model.codes import Code
from todoke.model.errors import Unavailable
from todoke.model.limits import TenantLimits, in_force
from todoke.runtime import metrics
from todoke.runtime.settings import Settings
from todoke.store.tenants import Tenants

log = structlog.get_logger()

# Counting takes at most a twentieth of one connection, however many jobs there are.
REST_FACTOR = 19
# An older count says nothing of now; without one nobody is refused.
STALE_SECONDS = 120.0
AGAIN_SECONDS_MAX = 60


class Admission:
    """Counted by a sweep, and in between by what was taken here; what other processes take shows at the next count.

    `clock` counts seconds.
    """

    def __init__(self, settings: Settings, tenants: Tenants, clock: Callable[[], float] = time.monotonic) -> None:
        self._depth_max, self._tenant_depth_max = settings.queue_depth_max, settings.tenant_queue_depth_max
        self._sweep_seconds, self._tenants, self._clock = settings.sweep_seconds, tenants, clock
        self._waiting: Counter[str] = Counter()
        self._counted_at = -math.inf
        self._depth = self._taken = 0
        self._drained_per_second = 0.0

    async def run(self) -> None:
        """Count until canceled."""
        while True:
            began = self._clock()
            try:
                self.learn(await self._tenants.waiting(), began)
            except Unavailable as error:
                log.info("queue.uncounted", reason=str(error))
            await asyncio.sleep(max(self._sweep_seconds, REST_FACTOR * (self._clock() - began)))

    def learn(self, waiting: Mapping[str, int], at: float) -> None:
        """A count of jobs that wait, by tenant, taken at this time."""
        depth, passed = sum(waiting.values()), at - self._counted_at
        if passed > 0 and not math.isinf(passed):
            self._drained_per_second = max(0.0, (self._depth + self._taken - depth) / passed)
        self._waiting, self._depth, self._taken, self._counted_at = Counter(waiting), depth, 0, at
        metrics.QUEUE_DEPTH.set(depth)

    def check(self, tenant_id: str, limits: TenantLimits, jobs: int = 1) -> None:
        """Raises ProblemError 503 when the queue has no room for so many more, 429 when the tenant's share has none."""
        if self._clock() - self._counted_at > STALE_SECONDS:
            return
        whole, share = self._depth_max, in_force(limits.queue_depth_max, self._tenant_depth_max)
        if whole and self._depth + self._taken + jobs > whole:
            detail = "more jobs wait than this service takes"
            raise ProblemError(self._refusal(503, Code.QUEUE_FULL, detail, self._depth + self._taken + jobs - whole))
        waiting = self._waiting[tenant_id]
        if share and waiting + jobs > share:
            detail = f"{waiting} of your jobs wait for their start, and {share} may"
            raise ProblemError(self._refusal(429, Code.QUEUE_QUOTA, detail, waiting + jobs - share))

    def took(self, tenant_id: str, jobs: int = 1) -> None:
        """So many more wait from now on."""
        self._waiting[tenant_id] += jobs
        self._taken += jobs

    def _refusal(self, status: int, code: Code, detail: str, excess: int) -> Problem:
        """With when there is room, if jobs go on starting as they did lately."""
        pace = self._drained_per_second
        seconds = min(AGAIN_SECONDS_MAX, max(1, math.ceil(excess / pace))) if pace else AGAIN_SECONDS_MAX
        metrics.REQUESTS_LIMITED.labels("queue").inc()
        words = f"{detail}; send this again in {seconds} seconds"
        return Problem(status, code, words, headers={"Retry-After": str(seconds)})
