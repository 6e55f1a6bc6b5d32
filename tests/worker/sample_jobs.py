"""Job types of the worker's tests, written as a user would write them. Each child imports this module."""

import asyncio
import ctypes
import json
import os
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

from opentelemetry import trace
from pydantic import BaseModel, ConfigDict

from todoke.jobs.catalog import job
from todoke.jobs.context import JobContext
from todoke.model.errors import Canceled, Fail, Retry


class Nothing(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Number(BaseModel):
    number: int


class File(BaseModel):
    """A file of the test's: what a job writes there, the test can read."""

    path: str
    number: int = 0


class Words(BaseModel):
    words: str
    lease: int = 1


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


def note(params: File, words: str) -> None:
    with Path(params.path).open("a") as file:
        file.write(words + "\n")


def notes_pid(params: File, pid: int) -> None:
    """Whole at once, so that a test never reads half a number."""
    aside = Path(params.path + ".aside")
    aside.write_text(str(pid))
    aside.rename(params.path)


@job("clean-up")
def clean_up(params: File) -> None:
    note(params, "started")
    try:
        time.sleep(600)
    except Canceled:
        note(params, "cleaned")
        raise


@job("finish-anyway")
def finish_anyway(params: File) -> int:
    note(params, "started")
    try:
        time.sleep(600)
    except Canceled:
        note(params, "finished")
    return 1


@job("stubborn")
def stubborn(params: File) -> None:
    note(params, "started")
    while True:
        try:
            time.sleep(600)
        except Canceled:
            note(params, "swallowed")


@job("deaf")
def deaf(params: File) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
    note(params, "started")
    time.sleep(600)


@job("in-c")
def in_c(params: File) -> None:
    """A call that holds the GIL, so that no other thread of this process runs."""
    note(params, "started")
    ctypes.PyDLL(None).sleep(600)


@job("in-c-in-a-thread", isolation="thread")
def in_c_in_a_thread(params: File) -> None:
    in_c.function(params)


@job("in-c-async", isolation="async")
async def in_c_async(params: File) -> None:
    in_c.function(params)


@job("report-until-told")
def report_until_told(params: File, ctx: JobContext) -> None:
    """Reports without a pause: whatever breaks into that must leave it whole."""
    note(params, "started")
    try:
        while True:
            ctx.progress(1, "on")
    except Canceled:
        note(params, f"told {ctx.canceled}")
        raise


@job("ask-until-told")
def ask_until_told(params: File, ctx: JobContext) -> None:
    note(params, "started")
    try:
        while True:
            ctx.activity()
    except Canceled:
        note(params, "told")
        raise


@job("thread-until-told", isolation="thread")
def thread_until_told(params: File, ctx: JobContext) -> None:
    note(params, "started")
    while not ctx.canceled:
        time.sleep(0.01)
    note(params, "saw it")
    try:
        ctx.progress(1)
    except Canceled:
        note(params, "told")
        raise


@job("deaf-thread", isolation="thread")
def deaf_thread(params: File) -> None:
    note(params, f"{os.getpid()}")
    time.sleep(600)


@job("async-until-told", isolation="async")
async def async_until_told(params: File, ctx: JobContext) -> None:
    note(params, f"{os.getpid()}")
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        note(params, f"told {ctx.canceled}")
        raise


@job("async-deaf", isolation="async")
async def async_deaf(params: File) -> None:
    note(params, f"{os.getpid()}")
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            note(params, "swallowed")


@job("hold-the-loop", isolation="async")
async def hold_the_loop(params: File) -> None:
    note(params, "started")
    time.sleep(1)  # noqa: ASYNC251 - what it must not do


@job("own-pid")
def own_pid(params: Nothing) -> int:
    return os.getpid()


def fill(mebibytes: int) -> bytearray:
    """Memory that is really taken, because every page of it is written."""
    held = bytearray()
    for _ in range(mebibytes):
        held += b"x" * 2**20
    return held


@job("eat", memory_mb=192)
def eat(params: Number) -> int:
    held = fill(params.number)
    time.sleep(1)
    return len(held)


@job("eat-in-programs", memory_mb=192)
def eat_in_programs(params: Number) -> None:
    """Itself small; three programs, one of which has left the group and the session."""
    code = f"import time; held = bytearray(b'x' * {params.number} * 2**20); time.sleep(600)"
    programs = [
        subprocess.Popen([sys.executable, "-I", "-S", "-c", code], start_new_session=number == 0) for number in range(3)
    ]
    for program in programs:
        program.wait()


@job("share-memory", memory_mb=192)
def share_memory(params: Number) -> None:
    """Forks that share what they have do not each take it."""
    held = fill(params.number)
    children = []
    for _ in range(3):
        if (child := os.fork()) == 0:
            time.sleep(1)
            os._exit(len(held) % 2)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


@job("eat-in-a-thread", isolation="thread")
def eat_in_a_thread(params: Number) -> int:
    held = fill(params.number)
    time.sleep(1)
    return len(held)


LEAK: list[bytearray] = []


@job("leak", memory_mb=192)
def leak(params: Number) -> int:
    LEAK.append(fill(params.number))
    return os.getpid()


@job("leak-without-limit")
def leak_without_limit(params: Number) -> None:
    LEAK.append(fill(params.number))
    time.sleep(1)


@job("leak-in-a-thread", isolation="thread")
def leak_in_a_thread(params: Number) -> int:
    LEAK.append(fill(params.number))
    return os.getpid()


@job("leave-a-thread")
def leave_a_thread(params: Nothing) -> int:
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    return os.getpid()


@job("leave-a-program")
def leave_a_program(params: File) -> int:
    """Starts a program and returns without it. `number` 1: as a daemon, out of group, session and parentage."""
    if params.number == 0:
        notes_pid(params, subprocess.Popen(["sleep", "600"]).pid)
    else:
        become_daemon(params)
    return os.getpid()


@job("daemonise-and-wait")
def daemonise_and_wait(params: File) -> None:
    become_daemon(params)
    time.sleep(600)


@job("daemonise-and-die")
def daemonise_and_die(params: File) -> None:
    become_daemon(params)
    os.kill(os.getpid(), signal.SIGKILL)


@job("kill-the-warden")
def kill_the_warden(params: File) -> None:
    become_daemon(params)
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)


@job("program-in-c")
def program_in_c(params: File) -> None:
    """A program beside it, then a call that lets no Python run."""
    program = subprocess.Popen(["sleep", "600"])
    notes_pid(params, program.pid)
    ctypes.PyDLL(None).sleep(600)


def become_daemon(params: File) -> None:
    """Double fork and setsid, with every descriptor closed, as daemons do."""
    first = os.fork()
    if first == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 256)
            notes_pid(params, os.getpid())
            os.execvp("sleep", ["sleep", "600"])
        os._exit(0)
    os.waitpid(first, 0)
    while not Path(params.path).exists():
        time.sleep(0.01)


@job("fork-and-return")
def fork_and_return(params: Nothing) -> str:
    """Both copies return: only one of them may be heard."""
    return "copy" if os.fork() == 0 else "original"


@job("misbehave", max_attempts=1)
def misbehave(params: Words, ctx: JobContext) -> None:  # noqa: C901 - a list of sins
    """Speaks to the supervisor behind the back of its child, over whatever descriptors there are."""
    pipes = [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2 and _is_pipe(fd)]
    _, outbound = sorted(pipes)[:2]
    said: dict[str, object] = {"attempt": f"{ctx.job_id}:{params.lease}"}
    match params.words:
        case "close":
            os.close(outbound)
        case "garbage":
            os.write(outbound, b"\xff" * 4096)
        case "huge-frame":
            os.write(outbound, struct.pack(">I", 2**27))
            while True:
                os.write(outbound, b"x" * 65536)
        case "deep":
            _say(outbound, b"[" * 100_000)
        case "flood":
            while True:
                _say(outbound, json.dumps({"kind": "progress", **said, "percent": 1, "message": "m"}).encode())
        case "flood-of-questions":
            while True:
                _say(outbound, json.dumps({"kind": "ask", **said, "what": "activity", "number": 1}).encode())
        case "nan":
            _say(outbound, json.dumps({"kind": "progress", **said, "percent": float("nan"), "message": "m"}).encode())
        case "escape":
            made = [{"name": "../../other", "mediaType": "text/plain", "text": "x"}]
            _say(outbound, json.dumps({"kind": "end", **said, "how": "returned", "made": made}).encode())
        case "empty":
            _say(outbound, json.dumps({"kind": "end", **said, "how": "returned", "made": []}).encode())
    time.sleep(600)


def _say(outbound: int, payload: bytes) -> None:
    whole = struct.pack(">I", len(payload)) + payload
    while whole:
        whole = whole[os.write(outbound, whole) :]


def _is_pipe(descriptor: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode) or stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:
        return False


@job("huge-result")
def huge_result(params: Number) -> str:
    return "x" * params.number


@job("huge-file")
def huge_file(params: Number, ctx: JobContext) -> None:
    path = ctx.folder / "huge"
    with path.open("wb") as file:
        file.truncate(params.number)
    ctx.attach("huge", path, "application/octet-stream")


@job("print-a-lot")
def print_a_lot(params: Number) -> None:
    line = b"word\n" * 10_000
    for _ in range(params.number):
        os.write(1, line)


@job("unpicklable")
def unpicklable(params: Number) -> object:
    """Two values that cannot travel: one the annotation lets through, one that refuses to be written down."""
    return threading.Lock() if params.number == 0 else (lambda: None)


@job("raise-unpicklable", max_attempts=1)
def raise_unpicklable(params: Nothing) -> None:
    class Odd(Exception):
        lock = threading.Lock()

        def __str__(self) -> str:
            raise RuntimeError("not even a name")

    raise Odd


@job("read-environment")
def read_environment(params: Number) -> dict[str, str]:
    """What job code gets to see of the process `number` of the same user."""
    seen = {}
    for name in ("environ", "mem", "maps", "fd"):
        path = f"/proc/{params.number}/{name}"
        try:
            seen[name] = repr(os.listdir(path) if name == "fd" else _first_bytes(path))
        except OSError as error:
            seen[name] = type(error).__name__
    return seen


def _first_bytes(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(5000)


@job("hostile-progress")
def hostile_progress(params: Number, ctx: JobContext) -> float:
    began = time.monotonic()
    for number in range(params.number):
        ctx.progress(number % 101, "on")
    ctx.progress(float("inf"), "\x00\ud800" + "y" * 50_000_000)
    ctx.progress(-float("inf"))
    for odd in (float("nan"), "x", None):
        try:
            ctx.progress(odd)  # type: ignore[arg-type]
        except (ValueError, TypeError):
            continue
        raise AssertionError(odd)
    return time.monotonic() - began


@job("trace-process")
def trace_process(params: Nothing, ctx: JobContext) -> str | None:
    return _traced(ctx)


@job("trace-thread", isolation="thread")
def trace_thread(params: Nothing, ctx: JobContext) -> str | None:
    return _traced(ctx)


@job("trace-async", isolation="async")
async def trace_async(params: Nothing, ctx: JobContext) -> str | None:
    await asyncio.sleep(0)
    return _traced(ctx)


def _traced(ctx: JobContext) -> str | None:
    """Uses OpenTelemetry's interface alone, as a library that knows nothing of Todoke."""
    with trace.get_tracer("a-library").start_as_current_span("inner"):
        return ctx.trace
