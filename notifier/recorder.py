"""Writes verdicts in groups: one flush in flight, what comes meanwhile forms the next."""

import asyncio
import random
import time
from collections.abc import Callable

import structlog

from todoke.model.delivery import DeliveryState, Verdict
from todoke.runtime.batcher import Batcher
from todoke.runtime.metrics import DELIVERIES_PARKED, DELIVERY_ATTEMPTS
from todoke.store.deliveries import Deliveries

log = structlog.get_logger()

VERDICTS_MAX = 200
FIRST_PAUSE_SECONDS = 0.1
MOST_PAUSE_SECONDS = 2.0


class Recorder:
    """Stores what attempts came to, as long as it is worth storing. `put_off` is called after one that failed."""

    def __init__(self, deliveries: Deliveries, put_off: Callable[[], None]) -> None:
        self._put_off = put_off
        self._batcher: Batcher[Verdict, bool] = Batcher(deliveries.record, VERDICTS_MAX, "verdicts")

    async def record(self, verdict: Verdict, until: float) -> None:
        """Store one verdict; while that fails, try again until `until` (monotonic seconds, the end of the lease).

        After it the delivery is due again anyway, and the receiver knows the repeat by its webhook-id.
        """
        DELIVERY_ATTEMPTS.labels(str(verdict.answer.reason)).inc()
        if verdict.state is DeliveryState.PARKED and not verdict.delivery.is_progress:
            DELIVERIES_PARKED.labels(str(verdict.reason)).inc()
        pause = FIRST_PAUSE_SECONDS
        while not await self._is_settled(verdict, is_last=time.monotonic() + pause > until):
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter is no secret
            pause = min(MOST_PAUSE_SECONDS, pause * 2)
        if verdict.state is not DeliveryState.DELIVERED:
            self._put_off()

    async def _is_settled(self, verdict: Verdict, is_last: bool) -> bool:
        names = {"job_id": str(verdict.delivery.job_id), "sequence": verdict.delivery.sequence}
        try:
            is_current = await self._batcher.put(verdict)
        except Exception as error:
            if is_last:
                log.warning("verdict.dropped", **names, reason=str(error))
            return is_last
        if not is_current:
            log.info("verdict.stale", **names)
        return True
