"""Memory of processes, read from /proc (Linux), in KB (1,024 bytes)."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PAUSE_SECONDS = 0.4
# A process at rest: two looks this close, as a share.
STILL = 0.001


@dataclass(frozen=True)
class Memory:
    """What processes hold in memory together; `shared` is the part of it that is shared memory (not files)."""

    resident: int
    shared: int


def read(pids: Iterable[int]) -> Memory:
    """What these hold now; those that are gone count nothing."""
    found = [_status(pid) for pid in pids]
    return Memory(sum(each.get("VmRSS", 0) for each in found), sum(each.get("RssShmem", 0) for each in found))


def at_rest(pids: Iterable[int], seconds: float = 6) -> Memory:
    """What these hold once it no longer changes, or after so many seconds. Blocks."""
    chosen, deadline = list(pids), time.monotonic() + seconds
    before = read(chosen)
    while True:
        time.sleep(PAUSE_SECONDS)
        now = read(chosen)
        if abs(now.resident - before.resident) <= STILL * before.resident or time.monotonic() > deadline:
            return now
        before = now


def _status(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines if line.startswith(("VmRSS", "RssShmem")))
    return {name.rstrip(":"): int(value) for name, value, _ in pairs}
