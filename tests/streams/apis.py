"""API processes of a test's own, and what the kernel knows of them."""

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

from tests.faults.processes import Process, answers, launch
from todoke.runtime.settings import Settings

LISTENING = "0A"


@contextlib.asynccontextmanager
async def api_process(settings: Settings, folder: Path, *program: str) -> AsyncIterator[Process]:
    """`python -m service`, or `python -m program…` in its place; killed at the end of the block."""
    process = await launch("api", (), settings, folder, program)
    try:
        await answers(process)
        yield process
    finally:
        process.signal(signal.SIGKILL)
        await process.ended()


def memory_mib(process: Process) -> float:
    """What it occupies in memory."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def connections(process: Process) -> int:
    """How many connections of clients it holds, whatever state the kernel has them in."""
    inodes = set()
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            inodes.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
    port = f":{int(process.url.rpartition(':')[2]):04X}"
    rows = [row.split() for row in Path(f"/proc/{process.pid}/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(port) and row[3] != LISTENING and row[9] in inodes for row in rows)
