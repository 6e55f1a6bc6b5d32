"""Todoke's processes as a test starts them: the plain programs, or one with a fault at an exact step."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.environment import environment_of
from todoke.runtime.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = {"worker": "worker", "api": "service", "notifier": "notifier"}


@dataclass
class Process:
    """One of Todoke's processes and what it logs. `at`: words for tests.faults.at, none for the plain program."""

    kind: str
    process: asyncio.subprocess.Process
    lines: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""
    reading: "asyncio.Task[None] | None" = None

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_alive(self) -> bool:
        return self.process.returncode is None

    @property
    def name(self) -> str:
        """The worker's id, once it has said so."""
        started = self.logged("worker.started")
        return str(started[0]["worker_id"]) if started else f"{self.kind} {self.pid}"

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line.get("event") == event]

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    async def ended(self, seconds: float = 20) -> int:
        """Its exit code, when everything it said has been read. Raises AssertionError when it does not end."""
        assert self.reading is not None
        # Only waited for: a reader canceled here would make the next wait look like a cancellation.
        await asyncio.wait({self.reading}, timeout=seconds)
        assert self.reading.done(), f"{self.name} still runs after {seconds} s"
        return await self.process.wait()


async def launch(
    kind: str, at: Sequence[str], settings: Settings, folder: Path, program: Sequence[str] = (), *, root: Path = ROOT
) -> Process:
    """Start a process with these settings; its temporary files go to `folder`. program: a module run in its place.

    root: the folder whose code runs, another version's perhaps; coverage counts our own alone.
    """
    plain = ["-m", *(program or [PROGRAMS[kind]])]
    program = ["-m", "tests.faults.at", kind, *at] if at else plain
    environment = environment_of(settings) | {"TMPDIR": str(folder)}
    if root != ROOT:
        environment = {name: value for name, value in environment.items() if not name.startswith("COVERAGE_")}
    door = _door() if kind == "api" else None
    if door:
        environment |= {"TODOKE_LISTEN_FD": str(door.fileno())}
    process = Process(
        kind,
        await asyncio.create_subprocess_exec(
            sys.executable,
            *program,
            cwd=root,
            env=environment,
            stderr=asyncio.subprocess.PIPE,
            limit=2**20,
            pass_fds=[door.fileno()] if door else [],
        ),
    )
    if door:
        process.url = f"http://127.0.0.1:{door.getsockname()[1]}"
        door.close()
    process.reading = asyncio.create_task(_read(process))
    return process


async def until(condition: Callable[[], bool], seconds: float = 20, what: Callable[[], object] = lambda: None) -> None:
    """Wait for a condition, bounded."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        await asyncio.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _door() -> socket.socket:
    door = socket.socket()
    door.bind(("127.0.0.1", 0))
    door.listen(512)
    return door


async def answers(process: Process, seconds: float = 20) -> None:
    """Wait until an API answers, or is gone."""
    deadline = time.monotonic() + seconds
    async with httpx.AsyncClient(base_url=process.url, timeout=1) as client:
        while process.is_alive:
            with contextlib.suppress(httpx.HTTPError):
                await client.get("/healthz")
                return
            assert time.monotonic() < deadline, process.lines[-20:]
            await asyncio.sleep(0.05)


async def _read(process: Process) -> None:
    assert process.process.stderr is not None
    async for line in process.process.stderr:
        try:
            process.lines.append(json.loads(line))
        except ValueError:
            process.lines.append({"event": "not json", "text": line.decode(errors="replace")})
