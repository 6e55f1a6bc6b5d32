"""Whether this process can do its work now, part by part: asked when somebody asks, and never for long."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from service.hub import Hub
from service.streams import Streams

# A balancer that asks ten times a second costs PostgreSQL one question.
KEEP_SECONDS = 1.0
# Below the time-out of every common health check.
PATIENCE_SECONDS = 1.0

OK, AWAY, OFF, DEAF = "ok", "away", "off", "deaf"


class Probe:
    """One part, with one question to it at a time; what does not answer in time is away. `clock` counts seconds."""

    def __init__(self, ask: Callable[[], Awaitable[object]], clock: Callable[[], float] = time.monotonic) -> None:
        self._ask, self._clock = ask, clock
        self._asked_at = self._answered_at = -float("inf")
        self._word = AWAY
        self._task: asyncio.Task[None] | None = None

    async def word(self) -> str:
        """`ok` or `away`, as of a second ago at the most."""
        now = self._clock()
        if self._task is None and now - self._answered_at >= KEEP_SECONDS:
            self._asked_at = now
            self._task = asyncio.create_task(self._look())
        if self._task is not None:
            left = self._asked_at + PATIENCE_SECONDS - now
            await asyncio.wait({self._task}, timeout=max(0.0, left))
        return self._word if self._task is None else AWAY

    def close(self) -> None:
        """Stop waiting for an answer."""
        if self._task is not None:
            self._task.cancel()

    async def _look(self) -> None:
        try:
            await self._ask()
            self._word = OK
        except Exception:
            self._word = AWAY
        finally:
            self._answered_at = self._clock()
            self._task = None


@dataclass(frozen=True)
class Standing:
    """ready, degraded (slower or on its own, and nothing is lost), draining, or not ready; and each part in a word."""

    status: str
    parts: dict[str, str]

    @property
    def is_ready(self) -> bool:
        """Whether balancers should send callers here."""
        return self.status in ("ready", "degraded")


class Readiness:
    """postgres: must take writes. listener: NOTIFY; while it is deaf, sweeps see changes within a second. queue: SQS;
    while it is away submits are accepted and workers claim straight from PostgreSQL.
    """

    def __init__(self, hub: Hub, streams: Streams, postgres: Probe, queue: Probe | None) -> None:
        self._hub, self._streams, self._postgres, self._queue = hub, streams, postgres, queue
        self._has_heard = False

    async def look(self) -> Standing:
        """How things stand. Takes PATIENCE_SECONDS at most."""
        postgres, queue = await asyncio.gather(self._postgres.word(), self._queue_word())
        parts = {"postgres": postgres, "listener": self._listener(), "queue": queue}
        return Standing(self._status(parts), parts)

    def close(self) -> None:
        """Ask nobody any more."""
        self._postgres.close()
        if self._queue is not None:
            self._queue.close()

    async def _queue_word(self) -> str:
        return await self._queue.word() if self._queue is not None else OFF

    def _listener(self) -> str:
        self._has_heard |= self._hub.is_ready
        if self._hub.is_ready:
            return OK if self._hub.listens else OFF
        # Before it was heard for the first time, nobody knows whether it ever will be.
        return DEAF if self._has_heard and self._hub.epoch is not None else AWAY

    def _status(self, parts: dict[str, str]) -> str:
        if self._streams.is_draining:
            return "draining"
        if AWAY in (parts["postgres"], parts["listener"]):
            return "not ready"
        return "degraded" if {AWAY, DEAF} & set(parts.values()) else "ready"
