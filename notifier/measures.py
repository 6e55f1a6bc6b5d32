"""Shows monitors how deliveries stand in the database, every few seconds; only where somebody may look."""

import asyncio
import math

import structlog

from todoke.runtime.metrics import ENDPOINTS, OLDEST_DUE, PARKED_ROWS
from todoke.store.deliveries import Deliveries, Measured

log = structlog.get_logger()

PAUSE_SECONDS = 5.0


async def measure(deliveries: Deliveries) -> None:
    """Measure for ever. While PostgreSQL is away, what is not known is shown as NaN rather than as it was."""
    while True:
        try:
            _show(await deliveries.measure())
        except Exception as error:
            log.warning("measure.failed", reason=str(error) or repr(error), retry_seconds=PAUSE_SECONDS)
            _show(None)
        await asyncio.sleep(PAUSE_SECONDS)


def _show(measured: Measured | None) -> None:
    for standing in ("disabled", "open", "cooling"):
        ENDPOINTS.labels(standing).set(math.nan if measured is None else getattr(measured, standing))
    PARKED_ROWS.set(math.nan if measured is None else measured.parked)
    OLDEST_DUE.set(math.nan if measured is None else measured.oldest_due_seconds)
