"""One child process as the supervisor sees it, from its start to its end."""

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import PIPE, SubprocessStreamProtocol
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from worker import frames, hearing
from worker.cgroups import Cgroup
from worker.ending import CHILD_DIED, Ending, Errored
from worker.hearing import Kind, Patience
from worker.program import Program
from worker.relay import Relay

log = structlog.get_logger()

START_SECONDS = 60.0
STOP_GRACE_SECONDS = 2.0
LAST_WORDS_SECONDS = 1.0
KILL_SECONDS = 1.5
STREAM_BYTES = 2**16


class StartFailed(Exception):
    """No child could be started; `str()` of it is one line that says why."""


@dataclass(frozen=True)
class Order:
    """One attempt as a child is told of it. `hear` takes progress, `answer` answers questions of job code.

    trace: the traceparent that job code goes on from.
    """

    key: str
    job_id: str
    number: int
    type: str
    params: str
    folder: Path
    timeout_seconds: float
    hear: Callable[[float, str], None]
    answer: Callable[[str], Awaitable[Sequence[Mapping[str, Any]]]]
    trace: str | None = None


@dataclass(frozen=True)
class Limit:
    """Memory a child may take with all it started, and how its attempts end when it takes more. 0: any amount."""

    memory_bytes: int
    ending: Ending


class Child:
    """Runs orders in one process, several at once if asked. When it dies, each of them ends as CHILD_DIED."""

    def __init__(
        self,
        transport: asyncio.SubprocessTransport,
        protocol: "_Protocol",
        frame_bytes_max: int,
        cgroup: Cgroup | None,
    ) -> None:
        self._transport = transport
        self._process = asyncio.subprocess.Process(transport, protocol, asyncio.get_running_loop())
        self._exited = protocol.exited
        self._frame_bytes_max, self._cgroup = frame_bytes_max, cgroup
        self._orders: dict[str, tuple[Order, asyncio.Future[Ending]]] = {}
        self._answering: dict[str, asyncio.Task[None]] = {}
        self._patience = Patience()
        self._limit: Limit | None = None
        self._verdict: Ending | None = None
        self._is_abandoned = False
        # How many orders it was given, whether the last one left the process as it found it, and whether several
        # may run at once.
        self.jobs = 0
        self.is_clean = True
        self.is_shared = False
        self._ready: asyncio.Future[dict[str, Kind]] = asyncio.get_running_loop().create_future()
        self._listener = asyncio.create_task(self._listen())
        self._relay = asyncio.create_task(self._hear_output())
        self._ender = asyncio.create_task(self._conclude())

    @classmethod
    async def start(cls, program: Program, cgroup: Cgroup | None = None) -> "Child":
        """Start a child and wait until it has its job types. Raises StartFailed."""
        try:
            transport, protocol = await asyncio.get_running_loop().subprocess_exec(
                _Protocol,
                *program.command(cgroup.path if cgroup is not None else None),
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                env=program.environment(),
                # A session of its own: Ctrl-C reaches the supervisor alone, and what job code starts can be told.
                start_new_session=True,
            )
        except OSError as error:
            raise StartFailed(f"no process for job code: {error}") from error
        child = cls(transport, protocol, program.frame_bytes_max, cgroup)
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
        """Process id of its warden, also of its session; the process that runs job code is below it."""
        return self._transport.get_pid()

    @property
    def types(self) -> dict[str, Kind]:
        """The job types it knows."""
        return self._ready.result()

    @property
    def is_usable(self) -> bool:
        """Whether it may be given another order."""
        return not self._is_abandoned and not self._exited.is_set()

    @property
    def is_gone(self) -> bool:
        """Whether the process has ended and everyone who waited for it knows."""
        return self._ender.done()

    @property
    def is_idle(self) -> bool:
        """Whether no order is running that somebody waits for."""
        return not self._orders

    @property
    def limit(self) -> Limit | None:
        """What the watch holds it to."""
        return self._limit

    @property
    def has_met_limit(self) -> bool:
        """Whether the kernel has ended something of it because it would have grown beyond its limit."""
        return self._cgroup is not None and self._cgroup.kills() > 0

    def hold_to(self, limit: Limit) -> None:
        """Let it take this much memory from now on."""
        self._limit = limit
        if self._cgroup is not None:
            self._cgroup.limit(limit.memory_bytes)

    async def run(self, order: Order) -> Ending:
        """Returned, Failed, Errored or what its limit says. When the caller is canceled, job code is asked to stop.

        The cancelation is let through when it has, or after STOP_GRACE_SECONDS; then the child takes no more orders.
        """
        done: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        if self._exited.is_set():
            return self._died()
        self._orders[order.key] = (order, done)
        self.jobs += 1
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
                    "trace": order.trace,
                }
            )
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            self._tell({"kind": "stop", "attempt": order.key})
            await _whatever_comes(asyncio.wait({done}, timeout=STOP_GRACE_SECONDS))
            self._is_abandoned |= not done.done()
            raise
        finally:
            self._orders.pop(order.key, None)
            self._forget_question(order.key)

    def abandon(self) -> None:
        """Give it no more orders."""
        self._is_abandoned = True

    def condemn(self, verdict: Ending) -> None:
        """Kill it; its orders end so."""
        self._verdict = self._verdict or verdict
        self.kill()

    def kill(self) -> None:
        """End it and all it started, now."""
        if not self._exited.is_set():
            self._send(signal.SIGTERM)
            # Job code may have stopped its warden.
            asyncio.get_running_loop().call_later(KILL_SECONDS, self._send, signal.SIGKILL)

    async def end(self) -> None:
        """Kill it and wait until it is gone."""
        self.kill()
        await asyncio.shield(self._ender)

    async def _listen(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        why = "closed its pipe to the worker"
        try:
            while (frame := await frames.receive(stdout, self._frame_bytes_max)) is not None:
                self._hear(frame)
        except (frames.BrokenFrame, LookupError, TypeError, ValueError, AttributeError) as error:
            log.warning("child.broken", pid=self.pid, reason=repr(error))
            why = "sent what no job may send"
        # One that is dying says more by its end than by our kill.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_SECONDS if why.startswith("closed") else 0):
                await self._exited.wait()
        if not self._exited.is_set():
            self.condemn(Errored(CHILD_DIED, f"the process that ran the job {why} and was killed"))

    def _hear(self, frame: frames.Frame) -> None:
        kind, found = frame["kind"], self._orders.get(frame.get("attempt", ""))
        if kind != "end" or found is None:
            self._patience.spend(len(self._orders))
        if kind == "ready":
            _resolve(self._ready, hearing.job_types(frame))
        elif kind == "broken":
            _refuse(self._ready, StartFailed(str(frame["message"])))
        elif found is None:
            return
        elif kind == "progress":
            found[0].hear(*hearing.progress(frame))
        elif kind == "ask":
            self._take_question(found[0], frame)
        elif kind == "end":
            self.is_clean = frame.get("isClean") is not False
            _resolve(found[1], hearing.ending(found[0].folder, frame))

    def _take_question(self, order: Order, frame: frames.Frame) -> None:
        if order.key in self._answering:
            raise frames.BrokenFrame("a question before the answer to the one before")
        self._answering[order.key] = asyncio.create_task(self._answer(order, frame))

    async def _answer(self, order: Order, frame: frames.Frame) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        try:
            rows = await order.answer(str(frame["what"]))
            self._tell({"kind": "answer", "number": frame["number"], "rows": rows})
            with contextlib.suppress(ConnectionError):
                await stdin.drain()
        finally:
            self._answering.pop(order.key, None)

    def _forget_question(self, key: str) -> None:
        if task := self._answering.pop(key, None):
            task.cancel()

    def _tell(self, frame: frames.Frame) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        if not stdin.is_closing():
            stdin.write(frames.encode(frame))

    def _send(self, number: signal.Signals) -> None:
        if not self._exited.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def _hear_output(self) -> None:
        stderr = self._process.stderr
        assert stderr is not None
        await Relay(self.pid, self._only_job).run(stderr)

    def _only_job(self) -> str | None:
        jobs = [order.job_id for order, _ in self._orders.values()]
        return jobs[0] if len(jobs) == 1 else None

    async def _conclude(self) -> None:
        await self._exited.wait()
        if self._limit is not None and self.has_met_limit:
            self._verdict = self._verdict or self._limit.ending
        # Whoever left the group may hold the pipes open; what the child itself said is there by now.
        await asyncio.wait([self._listener, self._relay], timeout=LAST_WORDS_SECONDS)
        for task in (self._listener, self._relay, *self._answering.values()):
            task.cancel()
        _refuse(self._ready, StartFailed(f"the process for job code {self._epitaph()} while starting"))
        for _, done in self._orders.values():
            _resolve(done, self._died())
        self._transport.close()
        if self._cgroup is not None:
            await self._cgroup.remove()

    def _died(self) -> Ending:
        return self._verdict or Errored(CHILD_DIED, f"the process that ran the job {self._epitaph()}")

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

    def process_exited(self) -> None:
        self.exited.set()
        super().process_exited()


async def _whatever_comes(work: Awaitable[object]) -> None:
    """Wait for something bounded to its end, even when canceled meanwhile: the caller is canceled already."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})


def _resolve(future: "asyncio.Future[Any]", value: object) -> None:
    if not future.done():
        future.set_result(value)


def _refuse(future: "asyncio.Future[Any]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # heard here, should nobody else ask
