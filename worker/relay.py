"""What job code prints goes to the worker's log, line by line, and never faster than the worker can bear."""

import asyncio
import time
from collections.abc import Callable

import structlog

from worker.ending import clean

log = structlog.get_logger()

CHARACTERS_MAX = 2000
CHUNK_BYTES = 2**16
# What is printed faster than this is counted, not logged.
LINES_AT_ONCE = 500.0
LINES_PER_SECOND = 100.0


class Relay:
    """Reads one child's standard error. `job_id` names the job that speaks, None when several run."""

    def __init__(self, pid: int, job_id: Callable[[], str | None]) -> None:
        self._pid, self._job_id = pid, job_id
        self._room = LINES_AT_ONCE
        self._logged_at = time.monotonic()
        self._dropped = 0

    async def run(self, stderr: asyncio.StreamReader) -> None:
        """Until the pipe is closed."""
        rest = b""
        while chunk := await stderr.read(CHUNK_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > CHARACTERS_MAX:
                lines, rest = [*lines, rest], b""
            self._take(lines)
            # A pipe that is never empty must not keep the loop from everything else.
            await asyncio.sleep(0)
        self._take([rest] if rest else [])
        self._tell_dropped()

    def _take(self, lines: list[bytes]) -> None:
        now = time.monotonic()
        self._room = min(LINES_AT_ONCE, self._room + (now - self._logged_at) * LINES_PER_SECOND)
        self._logged_at = now
        count = min(len(lines), int(self._room))
        if count:
            self._tell_dropped()
        for line in lines[:count]:
            text = clean(line[: 4 * CHARACTERS_MAX].decode(errors="replace"), CHARACTERS_MAX)
            log.info("job.output", pid=self._pid, job_id=self._job_id(), text=text)
        self._room -= count
        self._dropped += len(lines) - count

    def _tell_dropped(self) -> None:
        if self._dropped:
            log.warning("job.output_dropped", pid=self._pid, job_id=self._job_id(), lines=self._dropped)
            self._dropped = 0
