"""One child process as the supervisor sees it, from its start to its end."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, SubprocessStreamProtocol
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from worker import frames
from worker.ending import CHILD_DIED, JOB_ERROR, Ending, Errored, Failed, Made, Returned, clean

log = structlog.get_logger()

# All that job code finds in its environment, besides a HOME of its own: no key, no URL, no secret.
ALLOWED = ("PATH", "LANG", "LC_ALL", "TZ")
START_SECONDS = 60.0
LAST_WORDS_SECONDS = 1.0
STREAM_BYTES = 2**20
LOGGED_CHARACTERS_MAX = 2000


class StartFailed(Exception):
    """No child could be started; `str()` of it is one line that says why."""


@dataclass(frozen=True)
class Order:
    """One attempt as a child is told of it. `hear` takes progress, `answer` answers questions of job code."""

    key: str
    job_id: str
    number: int
    type: str
    params: str
    folder: Path
    timeout_seconds: float
    hear: Callable[[float, str], None]
    answer: Callable[[str], Awaitable[Sequence[Mapping[str, Any]]]]


@dataclass(frozen=True)
class Program:
    """How a child is started: the job modules it imports and the folder it may call its home."""

    jobs: tuple[str, ...]
    home: Path
    inline_bytes_max: int

    def command(self) -> list[str]:
        """The command line; it can be read by everyone on the machine."""
        options = {
            "jobs": self.jobs,
            "path": [entry or os.getcwd() for entry in sys.path],
            "parent": os.getpid(),
            "inlineBytes": self.inline_bytes_max,
        }
        return [sys.executable, "-m", "worker.child", json.dumps(options)]

    def environment(self) -> dict[str, str]:
        """Everything a child finds in its environment."""
        kept = {name: os.environ[name] for name in ALLOWED if name in os.environ}
        return {**kept, "HOME": str(self.home), "TMPDIR": str(self.home)}


class Child:
    """Runs orders in one process, several at once if asked. When it dies, each of them ends as CHILD_DIED."""

    def __init__(self, transport: asyncio.SubprocessTransport, protocol: "_Protocol") -> None:
        self._transport = transport
        self._process = asyncio.subprocess.Process(transport, protocol, asyncio.get_running_loop())
        self._exited = protocol.exited
        self._orders: dict[str, tuple[Order, asyncio.Future[Ending]]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._abandoned = False
        self._ready: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        self._listener = asyncio.create_task(self._listen())
        self._relay_task = asyncio.create_task(self._relay())
        self._ender = asyncio.create_task(self._conclude())

    @classmethod
    async def start(cls, program: Program) -> "Child":
        """Start a child and wait until it has its job types. Raises StartFailed."""
        try:
            transport, protocol = await asyncio.get_running_loop().subprocess_exec(
                _Protocol,
                *program.command(),
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                env=program.environment(),
                # A group of its own: Ctrl-C reaches the supervisor alone, a kill reaches all that job code started.
                start_new_session=True,
            )
        except OSError as error:
            raise StartFailed(f"no process for job code: {error}") from error
        child = cls(transport, protocol)
        try:
            async with asyncio.timeout(START_SECONDS):
                await asyncio.shield(child._ready)
        except TimeoutError:
            await child.end()
            raise StartFailed(f"the job modules did not load within {START_SECONDS:g} s") from None
        except BaseException:
            await child.end()
            raise
        return child

    @property
    def pid(self) -> int:
        """Process id, also of its group."""
        return self._transport.get_pid()

    @property
    def types(self) -> dict[str, str]:
        """The job types it knows, each with its isolation."""
        return self._ready.result()

    @property
    def is_usable(self) -> bool:
        """Whether it may be given another order."""
        return not self._abandoned and not self._exited.is_set()

    @property
    def is_gone(self) -> bool:
        """Whether the process has ended and everyone who waited for it knows."""
        return self._ender.done()

    @property
    def is_idle(self) -> bool:
        """Whether no order is running that somebody waits for."""
        return not self._orders

    async def run(self, order: Order) -> Ending:
        """Returned, Failed or Errored. When the caller is canceled, job code may go on: the child takes no more."""
        done: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        if self._exited.is_set():
            return self._died()
        self._orders[order.key] = (order, done)
        try:
            self._tell(
                {
                    "kind": "run",
                    "attempt": order.key,
                    "jobId": order.job_id,
                    "number": order.number,
                    "type": order.type,
                    "params": order.params,
                    "folder": str(order.folder),
                }
            )
            return await done
        except asyncio.CancelledError:
            self._abandoned = True
            raise
        finally:
            self._orders.pop(order.key, None)

    def kill(self) -> None:
        """End it and all it started, now."""
        if not self._exited.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def end(self) -> None:
        """Kill it and wait until it is gone."""
        self.kill()
        await asyncio.shield(self._ender)

    async def _listen(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        try:
            while (frame := await frames.receive(stdout)) is not None:
                self._hear(frame)
        except (frames.BrokenFrame, LookupError, TypeError, ValueError) as error:
            log.warning("child.broken", pid=self.pid, reason=repr(error))
        finally:
            self.kill()

    def _hear(self, frame: frames.Frame) -> None:
        match frame["kind"]:
            case "ready":
                _resolve(self._ready, {str(name): str(kind) for name, kind in frame["types"].items()})
            case "broken":
                _refuse(self._ready, StartFailed(str(frame["message"])))
            case "progress" if frame["attempt"] in self._orders:
                order, _ = self._orders[frame["attempt"]]
                order.hear(float(frame["percent"]), str(frame["message"]))
            case "ask" if frame["attempt"] in self._orders:
                order, _ = self._orders[frame["attempt"]]
                task = asyncio.create_task(self._answer(order, frame))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
            case "end" if frame["attempt"] in self._orders:
                order, done = self._orders[frame["attempt"]]
                _resolve(done, _ending(order, frame))

    async def _answer(self, order: Order, frame: frames.Frame) -> None:
        rows = await order.answer(frame["what"])
        self._tell({"kind": "answer", "number": frame["number"], "rows": rows})

    def _tell(self, frame: frames.Frame) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        if not stdin.is_closing():
            stdin.write(frames.encode(frame))

    async def _relay(self) -> None:
        """What job code prints goes to the worker's log, line by line."""
        stderr = self._process.stderr
        assert stderr is not None
        rest = b""
        while chunk := await stderr.read(STREAM_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > LOGGED_CHARACTERS_MAX:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._log(line)
        if rest:
            self._log(rest)

    def _log(self, line: bytes) -> None:
        jobs = [order.job_id for order, _ in self._orders.values()]
        text = clean(line.decode(errors="replace"), LOGGED_CHARACTERS_MAX)
        log.info("job.output", pid=self.pid, job_id=jobs[0] if len(jobs) == 1 else None, text=text)

    async def _conclude(self) -> None:
        await self._exited.wait()
        # Whoever left the group may hold the pipes open; what the child itself said is there by now.
        await asyncio.wait([self._listener, self._relay_task], timeout=LAST_WORDS_SECONDS)
        for task in (self._listener, self._relay_task, *self._answering):
            task.cancel()
        _refuse(self._ready, StartFailed(f"the process for job code {self._epitaph()} while starting"))
        for _, done in self._orders.values():
            _resolve(done, self._died())
        self._transport.close()

    def _died(self) -> Errored:
        return Errored(CHILD_DIED, f"the process that ran the job {self._epitaph()}")

    def _epitaph(self) -> str:
        status = self._transport.get_returncode() or 0
        if status >= 0:
            return f"ended with exit code {status}"
        name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
        return f"was killed by {name}"


class _Protocol(SubprocessStreamProtocol):
    """Says when the process itself is gone; asyncio's own wait() also waits for whoever inherited its pipes."""

    def __init__(self) -> None:
        super().__init__(limit=STREAM_BYTES, loop=asyncio.get_running_loop())
        self.exited = asyncio.Event()
        self._pid = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._pid = transport.get_pid()

    def process_exited(self) -> None:
        self.exited.set()
        # The number of a group stays taken while anything that job code started lives in it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        super().process_exited()


def _ending(order: Order, frame: frames.Frame) -> Ending:
    match frame["how"]:
        case "returned":
            return Returned(tuple(_made(order.folder, place, item) for place, item in enumerate(frame["made"])))
        case "failed":
            return Failed(str(frame["code"]), str(frame["message"]))
    after = frame["after"]
    return Errored(JOB_ERROR, str(frame["message"]), None if after is None else float(after))


def _made(folder: Path, position: int, item: Mapping[str, Any]) -> Made:
    text = item.get("text")
    content = folder / "out" / str(position) if text is None else str(text).encode()
    return Made(str(item["name"]), str(item["mediaType"]), content)


def _resolve(future: "asyncio.Future[Any]", value: object) -> None:
    if not future.done():
        future.set_result(value)


def _refuse(future: "asyncio.Future[Any]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # heard here, should nobody else ask
