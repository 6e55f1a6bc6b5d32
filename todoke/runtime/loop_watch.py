"""Watches, from a thread of its own, whether the event loop still answers; a loop cannot tell that of itself."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator

import structlog

from todoke.runtime import metrics

log = structlog.get_logger()

PAUSE_SECONDS = 0.5
STALL_SECONDS = 5.0


@contextlib.asynccontextmanager
async def watched_loop(stall_seconds: float = STALL_SECONDS) -> AsyncIterator[None]:
    """Measure the running loop's lag during the block; one above `stall_seconds` is logged and marks it unhealthy."""
    watch = _Watch(asyncio.get_running_loop(), stall_seconds)
    watch.start()
    try:
        yield
    finally:
        watch.end()


class _Watch(threading.Thread):
    def __init__(self, loop: asyncio.AbstractEventLoop, stall_seconds: float) -> None:
        super().__init__(name="loop watch", daemon=True)
        self._loop, self._stall_seconds = loop, stall_seconds
        self._ending, self._answered = threading.Event(), threading.Event()

    def end(self) -> None:
        """Called on the loop, so it does not wait for the thread: that one ends by itself."""
        self._ending.set()
        self._answered.set()

    def run(self) -> None:
        metrics.LOOP_HEALTHY.set(1)
        while not self._ending.wait(PAUSE_SECONDS):
            asked = time.monotonic()
            self._answered.clear()
            try:
                self._loop.call_soon_threadsafe(self._answered.set)
            except RuntimeError:
                return  # the loop is closed
            if not self._answered.wait(self._stall_seconds):
                self._wait_out(asked)
            metrics.LOOP_LAG.observe(time.monotonic() - asked)

    def _wait_out(self, asked: float) -> None:
        metrics.LOOP_HEALTHY.set(0)
        metrics.LOOP_STALLS.inc()
        log.error("loop.stalled", seconds=round(time.monotonic() - asked, 1), meaning="this process is unhealthy")
        # Ends with the loop: its close is the last thing it answers.
        while not self._answered.wait(PAUSE_SECONDS) and not self._loop.is_closed():
            pass
        metrics.LOOP_HEALTHY.set(1)
        log.warning("loop.recovered", lag_seconds=round(time.monotonic() - asked, 1))
