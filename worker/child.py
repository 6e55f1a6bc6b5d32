"""The program that runs job code: `python -m worker.child OPTIONS`, one for every kind of isolation.

It speaks frames over what were its standard input and output, holds no secret and no connection, and ends the moment
its supervisor does. Options: `jobs` (modules), `path` (sys.path), `parent` (process id), `inlineBytes`.
"""

import asyncio
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
from io import TextIOWrapper
from typing import Any, NoReturn

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from todoke.jobs.catalog import JobType, load_catalog
from todoke.jobs.context import Json
from todoke.model.errors import Fail, Retry
from worker import ending, frames
from worker.context import Context, Ticker

PR_SET_PDEATHSIG = 1
ERRORS_SHOWN = 3


class Program:
    """Takes orders from the supervisor and tells how each ended.

    A `process` job runs in the main thread, which some libraries insist on; a `thread` job in a thread of its own,
    an `async` one on a loop that all of them share.
    """

    def __init__(self, inbound: int, outbound: int, inline_bytes_max: int) -> None:
        self._inbound, self._outbound, self._inline_bytes_max = inbound, outbound, inline_bytes_max
        self._writing = threading.Lock()
        self._orders: queue.SimpleQueue[frames.Frame] = queue.SimpleQueue()
        self._answers: dict[int, queue.SimpleQueue[list[dict[str, Json]]]] = {}
        self._numbers = itertools.count(1)
        self._ticker = Ticker(self.send)
        self._loop: asyncio.AbstractEventLoop | None = None

    def send(self, frame: frames.Frame) -> None:
        """Say something to the supervisor; safe from any thread."""
        with self._writing:
            frames.write(self._outbound, frame)

    def listen(self) -> None:
        """Hear the supervisor until it closes, then end everything at once, running jobs included."""
        try:
            while (frame := frames.read(self._inbound)) is not None:
                if frame["kind"] == "run":
                    self._orders.put(frame)
                else:
                    self._answers.pop(frame["number"]).put(frame["rows"])
        finally:
            end_at_once()

    def work(self, catalog: Mapping[str, JobType]) -> NoReturn:
        """Carry out orders for ever."""
        while True:
            order = self._orders.get()
            job_type = catalog.get(order["type"])
            if job_type is None:
                self._end(order, _errored(f"this worker has no job type {order['type']!r}", None))
            elif job_type.isolation == "process":
                self._run(job_type, order)
            elif job_type.isolation == "thread":
                threading.Thread(target=self._run, args=(job_type, order), daemon=True).start()
            else:
                asyncio.run_coroutine_threadsafe(self._run_async(job_type, order), self._shared_loop())

    def _run(self, job_type: JobType, order: frames.Frame) -> None:
        try:
            context = Context(order, self._ticker, self._ask)
            value = job_type(*_arguments(job_type, order, context))
            said = self._returned(job_type, value, context)
        except BaseException as error:
            said = _raised(error)
        self._end(order, said)

    async def _run_async(self, job_type: JobType, order: frames.Frame) -> None:
        try:
            context = Context(order, self._ticker, self._ask)
            value = await job_type(*_arguments(job_type, order, context))
            said = self._returned(job_type, value, context)
        except BaseException as error:
            said = _raised(error)
        self._end(order, said)

    def _returned(self, job_type: JobType, value: object, context: Context) -> frames.Frame:
        try:
            result = job_type.result.dump_json(job_type.result.validate_python(value), by_alias=True, warnings="error")
        except (ValidationError, PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
            raise Fail(ending.RESULT_INVALID, f"the result cannot be kept: {_sentence(error)}") from error
        try:
            return {"how": "returned", "made": context.hand_over(result, self._inline_bytes_max)}
        except FileNotFoundError as error:
            raise Fail(ending.RESULT_INVALID, f"an attached file is not there: {error.filename}") from error

    def _end(self, order: frames.Frame, said: frames.Frame) -> None:
        self._ticker.flush(order["attempt"])
        self.send({"kind": "end", "attempt": order["attempt"], **said})

    def _ask(self, key: str, what: str) -> Sequence[Mapping[str, Json]]:
        number, box = next(self._numbers), queue.SimpleQueue[list[dict[str, Json]]]()
        self._answers[number] = box
        self.send({"kind": "ask", "attempt": key, "what": what, "number": number})
        return box.get()

    def _shared_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="async jobs", daemon=True).start()
        return self._loop


def main() -> int:
    """Get ready and work until the supervisor closes. Exit code 1: the job modules cannot be loaded."""
    options: dict[str, Any] = json.loads(sys.argv[1])
    _die_with(options["parent"])
    inbound, outbound = _take_pipes()
    sys.path[:] = options["path"]
    program = Program(inbound, outbound, options["inlineBytes"])
    threading.Thread(target=program.listen, name="supervisor", daemon=True).start()
    try:
        catalog = load_catalog(options["jobs"])
    except BaseException as error:
        traceback.print_exc()
        program.send({"kind": "broken", "message": ending.one_line(error)})
        return 1
    program.send({"kind": "ready", "types": {name: found.isolation for name, found in catalog.items()}})
    return program.work(catalog)


def end_at_once() -> NoReturn:
    """End this process and what job code started from it."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def _arguments(job_type: JobType, order: frames.Frame, context: Context) -> tuple[object, ...]:
    try:
        params: BaseModel = job_type.params.model_validate_json(order["params"], strict=True)
    except ValidationError as error:
        raise Fail(ending.PARAMS_INVALID, _sentence(error)) from error
    return (params, context) if job_type.takes_context else (params,)


def _raised(error: BaseException) -> frames.Frame:
    match error:
        case Fail():
            return {"how": "failed", "code": str(error.code), "message": ending.clean(str(error.message))}
        case Retry():
            return _errored(ending.clean(str(error.message)), ending.seconds(error.after))
    # The trace is for whoever reads the log; the job keeps one line.
    try:
        traceback.print_exception(error)
        return _errored(ending.one_line(error), None)
    except Exception:
        return _errored(type(error).__name__, None)


def _errored(message: str, after: float | None) -> frames.Frame:
    return {"how": "errored", "message": message, "after": after}


def _sentence(error: Exception) -> str:
    """What is wrong with params or result, without repeating the values."""
    if not isinstance(error, ValidationError):
        return ending.one_line(error)
    found = error.errors(include_url=False, include_input=False, include_context=False)
    shown = [f"{'.'.join(map(str, item['loc'])) or 'value'}: {item['msg']}" for item in found[:ERRORS_SHOWN]]
    more = [f"and {len(found) - ERRORS_SHOWN} more"] if len(found) > ERRORS_SHOWN else []
    return ending.clean("; ".join([*shown, *more]))


def _die_with(parent: int) -> None:
    """The closed pipe ends us too, but only when Python gets to run; the kernel asks nobody."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        end_at_once()


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
