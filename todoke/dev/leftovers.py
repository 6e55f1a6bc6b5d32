"""Find and end what a killed run left behind, never a stranger that was given an old process id.

A process is ours when it carries our mark in its environment, or when it is a PostgreSQL that stands in our data
folder. Both are read from /proc; where that is missing (macOS) nothing is found and nothing is killed.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

from todoke.dev.child import wait_until

MARK = "DESK_STATE_DIR"
PROC = Path("/proc")


def marked(state_dir: Path) -> set[int]:
    """Processes started by any `todoke dev` on this state folder."""
    word = f"{MARK}={state_dir}".encode()
    return {pid for pid in _others() if word in _read(pid, "environ").split(b"\0")}


def standing_in(folder: Path, program: str) -> set[int]:
    """Processes of this program whose working directory is `folder`."""
    return {
        pid
        for pid in _others()
        if _link(pid, "cwd") == str(folder) and Path(_link(pid, "exe").removesuffix(" (deleted)")).name == program
    }


def is_running(pid: int) -> bool:
    """Whether the process lives; a zombie does not."""
    stat = _read(pid, "stat").rpartition(b")")[2].split()
    return bool(stat) and stat[0] not in (b"Z", b"X")


def end(pids: set[int], first: signal.Signals, patience: float) -> None:
    """Ask with `first`, kill what stays after `patience` seconds, return when all are gone. Blocks."""
    for number, seconds in ((first, patience), (signal.SIGKILL, 5.0)):
        alive = {pid for pid in pids if is_running(pid)}
        for pid in alive:
            _signal(pid, number)
        if wait_until(lambda: not any(is_running(pid) for pid in pids), seconds):
            return


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _others() -> Iterator[int]:
    try:
        names = os.listdir(PROC)
    except FileNotFoundError:
        return
    own = {os.getpid(), os.getppid()}
    yield from (int(name) for name in names if name.isdigit() and int(name) not in own)


def _read(pid: int, name: str) -> bytes:
    try:
        return (PROC / str(pid) / name).read_bytes()
    except OSError:
        return b""


def _link(pid: int, name: str) -> str:
    try:
        return str((PROC / str(pid) / name).readlink())
    except OSError:
        return ""
