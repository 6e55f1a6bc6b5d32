"""The bare reference: asyncpg NOTIFY round trips on a channel of its own, and when Todoke's own NOTIFYs are heard.

    python -m benchmarks.streams_probe FOLDER COUNT RATE     (DATABASE_URL in the environment)

Each SIGUSR1 begins COUNT round trips, RATE a second: from sending `NOTIFY` until a listener on another connection has
it. Their end is said as `pass N done`, and FOLDER/trips.N then has their seconds, one a line; FOLDER/heard.N has a line
for each hint heard on Todoke's channel meanwhile: monotonic seconds, job id, sequence.
"""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import asyncpg

from todoke.wire.notice import parse_payload

CHANNEL = "streams_probe"


class Probe:
    """Three connections: one speaks, one listens to it, one listens to Todoke's channel."""

    def __init__(self) -> None:
        self.heard: list[tuple[float, str]] = []
        self._back = asyncio.Event()
        self._back_at = 0.0

    async def connect(self, url: str) -> None:
        """Begin to listen."""
        self._speaker, self._listener, self._watcher = [await asyncpg.connect(url) for _ in range(3)]
        await self._listener.add_listener(CHANNEL, self._on_probe)
        await self._watcher.add_listener("todoke", self._on_hint)

    async def round_trips(self, count: int, rate: float) -> list[float]:
        """Seconds of each, from sending the statement to the listener's callback."""
        seconds, began = [], time.monotonic()
        for number in range(count):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            self._back.clear()
            asked = time.monotonic()
            await self._speaker.execute(f"NOTIFY {CHANNEL}, '{number}'")
            async with asyncio.timeout(10):
                await self._back.wait()
            seconds.append(self._back_at - asked)
        return seconds

    def _on_probe(self, *_: object) -> None:
        self._back_at = time.monotonic()
        self._back.set()

    def _on_hint(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self.heard.append((time.monotonic(), str(payload)))


async def work(folder: Path, count: int, rate: float) -> None:
    """Until killed."""
    begin, turn = asyncio.Event(), 0
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, begin.set)
    probe = Probe()
    await probe.connect(os.environ["DATABASE_URL"])
    print("ready", flush=True)
    while await begin.wait():
        begin.clear()
        probe.heard.clear()
        turn += 1
        trips = await probe.round_trips(count, rate)
        (folder / f"trips.{turn}").write_text("\n".join(map(repr, trips)))
        hints = [(at, hint) for at, text in probe.heard for hint in parse_payload(text) or []]
        (folder / f"heard.{turn}").write_text("\n".join(f"{at!r} {hint.job_id} {hint.sequence}" for at, hint in hints))
        print(f"pass {turn} done", flush=True)


if __name__ == "__main__":
    asyncio.run(work(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
