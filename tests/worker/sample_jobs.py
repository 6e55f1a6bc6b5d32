"""Job types of the worker's tests, written as a user would write them. Each child imports this module."""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from todoke.jobs.catalog import job
from todoke.jobs.context import JobContext
from todoke.model.errors import Fail, Retry


class Nothing(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Number(BaseModel):
    number: int


class File(BaseModel):
    """A file of the test's: what a job writes there, the test can read."""

    path: str
    number: int = 0


class Report(BaseModel):
    number: int


@job("double")
def double(params: Number) -> Report:
    return Report(number=params.number * 2)


@job("fail", max_attempts=3)
def fail(params: Nothing) -> None:
    raise Fail("NO_DATA", "there is nothing to report")


@job("ask-again")
def ask_again(params: Nothing, ctx: JobContext) -> int:
    if ctx.attempt == 1:
        raise Retry(after=0.2, message="the source is not ready")
    return ctx.attempt


@job("break", max_attempts=2)
def break_(params: Nothing) -> None:
    raise RuntimeError("it \x00broke\n\ud800badly")


@job("wrong-result")
def wrong_result(params: Nothing) -> int:
    return "no number"  # type: ignore[return-value]


@job("sleep")
def sleep(params: Number) -> None:
    time.sleep(params.number)


@job("spawn")
def spawn(params: File) -> None:
    """Starts a program of its own, says its process id, and waits."""
    with subprocess.Popen(["sleep", "600"]) as process:
        Path(params.path).write_text(str(process.pid))


@job("sleep-in-a-thread", isolation="thread")
def sleep_in_a_thread(params: Number) -> None:
    time.sleep(params.number)


@job("sleep-async", isolation="async")
async def sleep_async(params: Number) -> int:
    await asyncio.sleep(params.number)
    return os.getpid()


@job("double-async", isolation="async")
async def double_async(params: Number) -> Report:
    return Report(number=params.number * 2)


@job("which-process", isolation="thread")
def which_process(params: Nothing) -> int:
    return os.getpid()


@job("die")
def die(params: Number) -> None:
    if params.number == 0:
        ctypes.string_at(0)
    if params.number > 0:
        os.kill(os.getpid(), params.number)
    os._exit(-params.number)


@job("leave")
def leave(params: Nothing) -> None:
    sys.exit("goodbye")


@job("spy")
def spy(params: Nothing) -> dict[str, str]:
    """Everything job code can read of its own process."""
    return {
        "environ": repr(dict(os.environ)),
        "proc": Path("/proc/self/environ").read_text(),
        "command": Path("/proc/self/cmdline").read_text(),
        "descriptors": " ".join(os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")[:-1]),
    }


@job("talk")
def talk(params: Nothing) -> str:
    print("words of a job")
    os.write(1, b"\x00\x00\x00\x05hello" * 1000 + b"\n")
    sys.stderr.write("more words\n")
    return sys.stdin.read()


@job("progress")
def progress(params: Nothing, ctx: JobContext) -> float:
    began = time.monotonic()
    for number in range(20_000):
        ctx.progress(number / 200, f"step {number}\x00")
    spent = time.monotonic() - began
    time.sleep(0.7)
    ctx.progress(30, "a step back")
    time.sleep(0.7)
    ctx.progress(400, "x" * 900)
    return spent


@job("no-number")
def no_number(params: Nothing, ctx: JobContext) -> None:
    ctx.progress(float("nan"))


@job("artifacts")
def artifacts(params: Number, ctx: JobContext) -> Report:
    ctx.attach("main.html", b"<p>hello</p>", "text/html; charset=utf-8")
    big = ctx.folder / "big file.bin"
    big.write_bytes(bytes(range(256)) * (params.number // 256))
    ctx.attach("big 届け.bin", big, "application/octet-stream")
    return Report(number=params.number)


@job("bad-names")
def bad_names(params: Nothing, ctx: JobContext) -> list[str]:
    refused = []
    for name in ("", " ", ".", "..", "a/b", "a\\b", "a\x00b", "a\nb", "x" * 201, "result.json", "\ud800"):
        try:
            ctx.attach(name, b"", "text/plain")
        except ValueError as error:
            refused.append(str(error).encode(errors="replace").decode())
    ctx.attach("twice", b"", "text/plain")
    try:
        ctx.attach("twice", b"", "text/plain")
    except ValueError as error:
        refused.append(str(error))
    return refused


@job("no-file")
def no_file(params: Nothing, ctx: JobContext) -> None:
    ctx.attach("none", ctx.folder / "none", "text/plain")


@job("activity")
def activity(params: Nothing, ctx: JobContext) -> int:
    return len(ctx.activity())


@job("mark")
def mark(params: File, ctx: JobContext) -> int:
    """Leaves a line for each time it runs, then takes its time."""
    with Path(params.path).open("a") as file:
        file.write(f"{ctx.attempt} {os.getpid()} {ctx.folder}\n")
    time.sleep(params.number if ctx.attempt == 1 else 0)
    return ctx.attempt


@job("slow", timeout=1)
def slow(params: Nothing) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
    while True:
        time.sleep(60)
