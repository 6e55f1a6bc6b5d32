"""Processor time by process, read from /proc (Linux), in seconds with a resolution of 10 ms."""

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")

Clock = Callable[[], float]


def own(pid: int) -> float:
    """What one process has used itself; 0 when it is gone."""
    times = _times(pid)
    return sum(times[:2]) / TICKS


def below(pid: int) -> float:
    """What all processes below this one have used, those that have ended included."""
    ended = sum(_times(pid)[2:])
    return (ended + sum(sum(_times(found)) for found in descendants(pid))) / TICKS


def tree(pid: int) -> float:
    """A process and all below it."""
    return own(pid) + below(pid)


def descendants(pid: int) -> set[int]:
    """Living processes below this one."""
    parents = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            parents[int(entry.name)] = int(_stat(int(entry.name))[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


class Meter:
    """What each of these clocks has counted since the meter was made."""

    def __init__(self, clocks: Mapping[str, Clock]) -> None:
        self._clocks = clocks
        self._began = self._read()

    def spent(self) -> dict[str, float]:
        """Seconds by name."""
        return {name: now - self._began[name] for name, now in self._read().items()}

    def _read(self) -> dict[str, float]:
        return {name: clock() for name, clock in self._clocks.items()}


def _times(pid: int) -> tuple[int, int, int, int]:
    """User and system ticks of the process, then those of its ended and awaited children."""
    try:
        fields = _stat(pid)
    except OSError:
        return 0, 0, 0, 0
    return int(fields[11]), int(fields[12]), int(fields[13]), int(fields[14])


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
