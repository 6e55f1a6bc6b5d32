"""Job types of the fault tests. Each run leaves lines `job lease what pid time` in a file the test reads."""

import asyncio
import os
import signal
import time
from pathlib import Path

from pydantic import BaseModel

from todoke.jobs.catalog import job
from todoke.jobs.context import JobContext
from todoke.model.errors import Fail, Retry


class Work(BaseModel):
    """seconds: how long the first attempt takes (every one, with `is_always_slow`). failures: how many fail first."""

    path: str
    seconds: float = 0
    is_always_slow: bool = False
    failures: int = 0
    is_doomed: bool = False
    size: int = 0


class Done(BaseModel):
    """The attempt, which grows with the lease, so that a result names the lease that made it."""

    lease: int


def tell(params: Work, ctx: JobContext, what: str) -> None:
    """One line, whole or not at all."""
    line = f"{ctx.job_id} {ctx.attempt} {what} {os.getpid()} {time.time():.6f}\n"
    descriptor = os.open(params.path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def duration(params: Work, ctx: JobContext) -> float:
    return params.seconds if ctx.attempt == 1 or params.is_always_slow else 0.0


def finish(params: Work, ctx: JobContext) -> Done:
    if params.is_doomed:
        tell(params, ctx, "raise")
        raise Fail("NO_DATA", "there is nothing to report")
    if ctx.attempt <= params.failures:
        tell(params, ctx, "raise")
        raise Retry(after=0.05, message="not yet")
    if params.size:
        ctx.attach("big.bin", bytes([ctx.attempt % 256]) * params.size, "application/octet-stream")
    tell(params, ctx, "end")
    return Done(lease=ctx.attempt)


@job("act", timeout=900)
def act(params: Work, ctx: JobContext) -> Done:
    tell(params, ctx, "start")
    until = time.monotonic() + duration(params, ctx)
    while (left := until - time.monotonic()) > 0:
        ctx.progress(100 - 100 * left / (params.seconds or 1))
        time.sleep(min(0.05, left))
    return finish(params, ctx)


@job("act-in-a-thread", timeout=900, isolation="thread")
def act_in_a_thread(params: Work, ctx: JobContext) -> Done:
    tell(params, ctx, "start")
    time.sleep(duration(params, ctx))
    return finish(params, ctx)


@job("act-async", timeout=900, isolation="async")
async def act_async(params: Work, ctx: JobContext) -> Done:
    tell(params, ctx, "start")
    await asyncio.sleep(duration(params, ctx))
    return finish(params, ctx)


def supervisor() -> int:
    """The worker above this child, whatever stands between them."""
    found, pid = os.getppid(), os.getppid()
    while pid > 1:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        found = pid if b"worker" in words else found
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found


@job("kill-the-worker", timeout=900)
def kill_the_worker(params: Work, ctx: JobContext) -> Done:
    """Poison: takes the supervisor along, every time."""
    tell(params, ctx, "start")
    os.kill(supervisor(), signal.SIGKILL)
    time.sleep(600)
    return Done(lease=ctx.attempt)


@job("hold-the-gil", timeout=900, isolation="thread")
def hold_the_gil(params: Work, ctx: JobContext) -> Done:
    """One long call into C that lets no other thread of its process run."""
    tell(params, ctx, "start")
    until = time.monotonic() + duration(params, ctx)
    while time.monotonic() < until:
        sum(range(3_000_000))
    return finish(params, ctx)


@job("block-the-loop", timeout=900, isolation="async")
async def block_the_loop(params: Work, ctx: JobContext) -> Done:
    tell(params, ctx, "start")
    time.sleep(duration(params, ctx))  # noqa: ASYNC251 - on purpose
    return finish(params, ctx)


def effects_of(path: Path) -> list[list[str]]:
    """The lines so far, split into words."""
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []
