"""The recent past of each job type and tenant, kept at hand so that no poll ever waits for it."""

import asyncio
import time
from collections import OrderedDict

import structlog

from service.pace import Pace, Past, pace
from todoke.store.history import History
from todoke.store.reading import Status

log = structlog.get_logger()

FRESH_SECONDS = 10.0
READ_SECONDS = 5.0
KINDS_MAX = 1_000
# Reading for guesses takes at most a tenth of one connection, however many tenants poll.
REST_FACTOR = 9

Kind = tuple[str, str]


class Paces:
    """Answers from memory; `run` reads, one kind at a time, whatever has been asked for and is not fresh.

    The least asked for is forgotten first. When PostgreSQL is away the last known past serves on.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._kept: OrderedDict[Kind, tuple[float, Past | None]] = OrderedDict()
        self._wanted: dict[Kind, None] = {}
        self._work = asyncio.Event()

    def pace(self, status: Status) -> Pace:
        """The pace for a job that has not ended. Never waits, never fails."""
        return pace(self.past(status.tenant_id, status.story["jobType"]), status)

    def past(self, tenant_id: str, job_type: str) -> Past | None:
        """What is known now; asks for more when it is old."""
        kind = (tenant_id, job_type)
        read_at, past = self._kept.get(kind, (None, None))
        if read_at is None or time.monotonic() - read_at > FRESH_SECONDS:
            self._want(kind)
        else:
            self._kept.move_to_end(kind)
        return past

    async def run(self) -> None:
        """Read until canceled."""
        while True:
            await self._work.wait()
            self._work.clear()
            while self._wanted:
                began, kind = time.monotonic(), next(iter(self._wanted))
                await self._read(kind)
                del self._wanted[kind]
                await asyncio.sleep((time.monotonic() - began) * REST_FACTOR)

    def _want(self, kind: Kind) -> None:
        if len(self._wanted) < KINDS_MAX:
            self._wanted[kind] = None
            self._work.set()

    async def _read(self, kind: Kind) -> None:
        _, past = self._kept.get(kind, (0.0, None))
        try:
            async with asyncio.timeout(READ_SECONDS):
                found = Past(await self._history.ended(*kind))
        except Exception as error:
            # A guess that cannot be made is no reason to fail anything.
            log.info("history.unread", reason=str(error) or type(error).__name__)
        else:
            # In a burst all of the newest jobs still wait: what was known before it is better than nothing.
            past = found if found.basis else past
        self._kept[kind] = (time.monotonic(), past)
        self._kept.move_to_end(kind)
        if len(self._kept) > KINDS_MAX:
            self._kept.popitem(last=False)
