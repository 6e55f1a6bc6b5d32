"""A loop that does not answer is noticed while it does not."""

import threading
import time

from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from tests.conftest import until
from todoke.runtime.loop_watch import watched_loop


async def test_a_stalled_loop_is_unhealthy_until_it_answers() -> None:
    def healthy() -> float | None:
        return REGISTRY.get_sample_value("todoke_loop_healthy")

    seen: list[float | None] = []
    stalled = threading.Event()

    def look() -> None:
        """From another thread, as whoever reads the measures does."""
        deadline = time.monotonic() + 10
        while healthy() != 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        seen.append(healthy())
        stalled.set()

    with capture_logs() as lines:
        async with watched_loop(stall_seconds=0.2):
            await until(lambda: healthy() == 1)
            threading.Thread(target=look).start()
            stalled.wait(10)  # blocks the loop on purpose
            await until(lambda: healthy() == 1)
    assert seen == [0]
    assert [line["event"] for line in lines] == ["loop.stalled", "loop.recovered"]
