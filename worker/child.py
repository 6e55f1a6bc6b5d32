"""The program that runs job code: `python -m worker.child OPTIONS`, one for every kind of isolation.

It speaks frames over what were its standard input and output, holds no secret and no connection, and ends the moment
its supervisor does. Options: `jobs` (modules), `path` (sys.path), `inlineBytes`, `isTraced`.
"""

import asyncio
import contextlib
import ctypes
import itertools
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from io import TextIOWrapper
from typing import Any, NoReturn

from todoke.jobs.catalog import JobType, load_catalog
from todoke.jobs.context import Json
from worker import ending, frames
from worker.context import Context, Ticker
from worker.execution import Execution, Inside, errored
from worker.stopping import MainThread, Stop

PR_SET_PDEATHSIG = 1
ASK_PAUSE_SECONDS = 0.2


class Program:
    """Takes orders from the supervisor and tells how each ended.

    A `process` job runs in the main thread, which some libraries insist on; a `thread` job in a thread of its own,
    an `async` one on a loop that all of them share.
    """

    def __init__(self, inbound: int, outbound: int, inline_bytes_max: int, inside: Inside) -> None:
        self._inside = inside
        self._inbound, self._outbound, self._inline_bytes_max = inbound, outbound, inline_bytes_max
        self._pid = os.getpid()
        self._writing = threading.Lock()
        self._orders: queue.SimpleQueue[frames.Frame] = queue.SimpleQueue()
        self._answers: dict[int, queue.SimpleQueue[list[dict[str, Json]]]] = {}
        self._stops: dict[str, Stop] = {}
        self._numbers = itertools.count(1)
        self._ticker = Ticker(self.send)
        self._main_thread = MainThread()
        self._loop: asyncio.AbstractEventLoop | None = None
        # A copy of this process that job code forks must not speak for it.
        os.register_at_fork(after_in_child=self._fall_silent)

    def send(self, frame: frames.Frame) -> None:
        """Say something to the supervisor; safe from any thread."""
        with self._main_thread, self._writing:
            frames.write(self._outbound, frame)

    def listen(self) -> None:
        """Hear the supervisor until it closes, then end everything at once, running jobs included."""
        try:
            while (frame := frames.read(self._inbound)) is not None:
                self._hear(frame)
        finally:
            end_at_once()

    def work(self, catalog: Mapping[str, JobType]) -> NoReturn:
        """Carry out orders for ever."""
        while True:
            order = self._orders.get()
            job_type = catalog.get(order["type"])
            if job_type is None:
                self._end(order, errored(f"this worker has no job type {order['type']!r}"))
            elif job_type.isolation == "process":
                self._run_alone(job_type, order)
            elif job_type.isolation == "thread":
                threading.Thread(target=self._run_in_thread, args=(job_type, order), daemon=True).start()
            else:
                asyncio.run_coroutine_threadsafe(self._run_async(job_type, order), self._shared_loop())

    def _hear(self, frame: frames.Frame) -> None:
        match frame["kind"]:
            case "run":
                self._stops[frame["attempt"]] = Stop(self._main_thread)
                self._orders.put(frame)
            case "stop" if frame["attempt"] in self._stops:
                self._stops[frame["attempt"]].ask()
            case "answer":
                self._answers.pop(frame["number"]).put(frame["rows"])

    def _run_alone(self, job_type: JobType, order: frames.Frame) -> None:
        known = set(threading.enumerate())
        stop = self._stops[order["attempt"]]
        said = self._execution(job_type, order).run(lambda *call: self._main_thread.run(stop, *call))
        # A thread that goes on would run beside the next job.
        is_clean = not {thread for thread in threading.enumerate() if thread.name != "progress"} - known
        self._end(order, said | {"isClean": is_clean})

    def _run_in_thread(self, job_type: JobType, order: frames.Frame) -> None:
        self._end(order, self._execution(job_type, order).run(lambda function, *arguments: function(*arguments)))

    async def _run_async(self, job_type: JobType, order: frames.Frame) -> None:
        self._end(order, await self._execution(job_type, order).run_async())

    def _execution(self, job_type: JobType, order: frames.Frame) -> Execution:
        stop = self._stops[order["attempt"]]
        context = Context(order, self._ticker, self._ask, stop)
        return Execution(job_type, order, context, stop, self._inline_bytes_max, self._inside)

    def _end(self, order: frames.Frame, said: frames.Frame) -> None:
        if os.getpid() != self._pid:
            # A forked copy that came out of the job function: there is nothing for it to do here.
            os._exit(0)
        self._stops.pop(order["attempt"], None)
        self._ticker.flush(order["attempt"])
        self.send({"kind": "end", "attempt": order["attempt"], **said})

    def _ask(self, key: str, what: str) -> Sequence[Mapping[str, Json]]:
        number, box = next(self._numbers), queue.SimpleQueue[list[dict[str, Json]]]()
        self._answers[number] = box
        stop = self._stops[key]
        self.send({"kind": "ask", "attempt": key, "what": what, "number": number})
        while True:
            stop.check()
            with contextlib.suppress(queue.Empty):
                return box.get(timeout=ASK_PAUSE_SECONDS)

    def _shared_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="async jobs", daemon=True).start()
        return self._loop

    def _fall_silent(self) -> None:
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(nothing, self._inbound, inheritable=False)
        os.dup2(nothing, self._outbound, inheritable=False)
        os.close(nothing)


def main() -> int:
    """Get ready and work until the supervisor closes. Exit code 1: the job modules cannot be loaded."""
    options: dict[str, Any] = json.loads(sys.argv[1])
    _die_with_parent()
    inbound, outbound = _take_pipes()
    sys.path[:] = options["path"]
    program = Program(inbound, outbound, options["inlineBytes"], _tracing() if options["isTraced"] else _untraced)
    threading.Thread(target=program.listen, name="supervisor", daemon=True).start()
    try:
        catalog = load_catalog(options["jobs"])
    except BaseException as error:
        traceback.print_exc()
        program.send({"kind": "broken", "message": ending.one_line(error)})
        return 1
    types = {name: {"isolation": found.isolation, "memoryMb": found.memory_mb} for name, found in catalog.items()}
    program.send({"kind": "ready", "pid": os.getpid(), "types": types})
    return program.work(catalog)


def end_at_once() -> NoReturn:
    """End this process and what job code started in its group."""
    # Only a group of our own: without a warden above, or moved by job code, we may stand in somebody else's.
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(0)


def _tracing() -> Inside:
    # Heavy, and an extra: only where traces are asked for.
    from todoke.runtime import otlp  # noqa: PLC0415

    otlp.serve_job_code()
    return otlp.inside


def _untraced(_trace: str | None) -> AbstractContextManager[None]:
    return contextlib.nullcontext()


def _die_with_parent() -> None:
    """The closed pipe ends us too, but only when Python gets to run; the kernel asks nobody."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _take_pipes() -> tuple[int, int]:
    """Keep the pipes for frames alone: what job code prints goes to standard error, what it reads is empty."""
    inbound, outbound = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    assert isinstance(sys.stdout, TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=True)
    return inbound, outbound


if __name__ == "__main__":
    sys.exit(main())
