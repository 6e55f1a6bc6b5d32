"""What Linux says of processes: who descends from whom and how much memory they take. Empty answers elsewhere."""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
PR_GET_CHILD_SUBREAPER = 37
PROC = Path("/proc")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def adopt_orphans() -> None:
    """Become the parent of every process below us whose own parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def below(pid: int) -> list[int]:
    """Everything that descends from `pid`, nearest first; what starts or ends meanwhile may be missing."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        children = list(_children(waiting.pop(0)))
        found += children
        waiting += children
    return found


def end_strays(ours: Iterable[int]) -> None:
    """End what job code started and we have adopted: children of this process in another session, except `ours`.

    What a library of our own starts stays in our session; job code cannot enter it. Does nothing without adopt_orphans.
    """
    if not _adopts_orphans():
        return
    session, known = os.getsid(0), set(ours)
    for stray in _children(os.getpid()):
        with contextlib.suppress(OSError):
            if stray in known or os.getsid(stray) == session:
                continue
            for process in [*below(stray), stray]:
                with contextlib.suppress(OSError):
                    os.kill(process, signal.SIGKILL)
            os.waitpid(stray, os.WNOHANG)


def memory_bytes(pids: Iterable[int], enough: float) -> int:
    """Memory these processes take. Above `enough` what they share is counted once, where the kernel tells how much."""
    pids = list(pids)
    total = sum(map(resident_bytes, pids))
    return total if total <= enough else sum(map(_proportional_bytes, pids))


def resident_bytes(pid: int) -> int:
    """Resident memory of one process; 0 when it is gone."""
    try:
        return int((PROC / str(pid) / "statm").read_text().split()[1]) * PAGE_BYTES
    except (OSError, IndexError):
        return 0


def _adopts_orphans() -> bool:
    answer = ctypes.c_int(0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(answer))
    return bool(answer.value)


def _proportional_bytes(pid: int) -> int:
    # Costs a walk through all its pages, and a process may hide its map from us.
    with contextlib.suppress(OSError):
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return resident_bytes(pid)


def _children(pid: int) -> Iterable[int]:
    with contextlib.suppress(OSError):
        for thread in os.listdir(PROC / str(pid) / "task"):
            with contextlib.suppress(OSError):
                yield from map(int, (PROC / str(pid) / "task" / thread / "children").read_text().split())
