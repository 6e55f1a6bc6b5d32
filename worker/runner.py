"""One attempt as a value through named steps: run, keep the result, tell the last progress, settle, clear away."""

import asyncio
import logging
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from todoke.model.errors import Unavailable
from todoke.model.job import Attempt, Outcome
from todoke.queue.port import Message
from todoke.wire import traceparent
from worker import measures
from worker.ending import WORKER_FAULT, Ending, Errored, Lost, Made, Returned, Stored, outcome
from worker.held import Held
from worker.process import Order
from worker.progress import Report, Reporter

log = structlog.get_logger()

ACTIVITY_ROWS_MAX = 10_000
ANSWER_AGAIN_SECONDS = 1.0

Run = Callable[[Order], Awaitable[Ending]]
Keep = Callable[[Attempt, tuple[Made, ...]], Awaitable[Ending]]
Settle = Callable[[Outcome, Held], Awaitable[bool]]
Recorded = Callable[[Attempt, Outcome, bool], None]
Activity = Callable[[str, int], Awaitable[Sequence[Mapping[str, Any]]]]


class Runner:
    """Carries attempts from claim to outcome, each in a task of its own. `freed` is told when a slot is free again."""

    def __init__(
        self,
        *,
        run: Run,
        keep: Keep,
        report: Report,
        settle: Settle,
        recorded: Recorded,
        activity: Activity,
        freed: Callable[[], None],
        scratch: Path,
    ) -> None:
        self._run, self._keep, self._report, self._settle = run, keep, report, settle
        self._recorded = recorded
        self._activity, self._freed, self._scratch = activity, freed, scratch
        self._held: dict[tuple[object, int], Held] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def held(self) -> list[Held]:
        """The attempts in work, settled ones not."""
        return list(self._held.values())

    def start(self, attempt: Attempt, message: Message | None) -> None:
        """Begin an attempt that has a slot, and a message unless it was claimed without; it ends by itself."""
        held = Held(attempt, message.receipt if message else None)
        self._held[held.key] = held
        measures.started(attempt)
        task = asyncio.create_task(self._attempt(held))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finished(self, seconds: float) -> bool:
        """Wait until no attempt is in work, at most `seconds`; says whether that came true."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=seconds)
        return not self._tasks

    async def _attempt(self, held: Held) -> None:
        attempt = held.attempt
        reporter = Reporter(held, self._report)
        folder = self._scratch / f"{attempt.id}-{attempt.lease}"
        try:
            ending = await self._work(held, reporter, folder)
            await reporter.flush()
            await self._record(held, ending)
        except Exception:
            # Nothing is recorded: the lease ends, and the sweep brings the job back.
            log.exception("attempt.fault", job_id=str(attempt.id), lease=attempt.lease)
        finally:
            del self._held[held.key]
            self._freed()
            if folder.exists():
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _work(self, held: Held, reporter: Reporter, folder: Path) -> Ending:
        try:
            ending = await _unless_interrupted(held, self._run(self._order(held, reporter, folder)))
            if isinstance(ending, Returned):
                ending = await _unless_interrupted(held, self._keep(held.attempt, ending.made))
        except Exception:
            log.exception("attempt.fault", job_id=str(held.attempt.id), lease=held.attempt.lease)
            return Errored(WORKER_FAULT, "the worker could not run this attempt or keep its result; its log says why")
        return ending

    async def _record(self, held: Held, ending: Ending) -> None:
        attempt = held.attempt
        assert not isinstance(ending, Returned)
        is_ours = not isinstance(ending, Lost) and await self._settled(held, outcome(attempt, ending))
        measures.ended(attempt, ending, time.monotonic() - held.started_at, is_ours=is_ours)
        told = {"job_id": str(attempt.id), "type": attempt.type, "attempt": attempt.number, "lease": attempt.lease}
        told |= traceparent.told(attempt.trace)
        if not is_ours:
            log.warning("attempt.lost", **told, ending=type(ending).__name__)
            return
        # What went well is in the ledger and the measures; written out for every job it would cost throughput.
        level = logging.DEBUG if isinstance(ending, Stored) else logging.INFO
        log.log(level, "attempt.settled", **told, ending=type(ending).__name__, code=getattr(ending, "code", None))

    async def _settled(self, held: Held, outcome: Outcome) -> bool:
        is_ours = await self._settle(outcome, held)
        self._recorded(held.attempt, outcome, is_ours)
        return is_ours

    def _order(self, held: Held, reporter: Reporter, folder: Path) -> Order:
        attempt = held.attempt
        return Order(
            key=f"{attempt.id}:{attempt.lease}",
            job_id=str(attempt.id),
            number=attempt.number,
            type=attempt.type,
            params=attempt.params,
            folder=folder,
            timeout_seconds=attempt.timeout_seconds,
            hear=reporter.hear,
            answer=lambda what: self._answer(attempt, what),
            trace=attempt.trace,
        )

    async def _answer(self, attempt: Attempt, what: str) -> Sequence[Mapping[str, Any]]:
        """Job code waits, bounded by its own timeout, rather than fail because PostgreSQL is away."""
        assert what == "activity"
        while True:
            try:
                return await self._activity(attempt.tenant_id, ACTIVITY_ROWS_MAX)
            except Unavailable:
                await asyncio.sleep(ANSWER_AGAIN_SECONDS)


async def _unless_interrupted(held: Held, work: Awaitable[Ending]) -> Ending:
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task, held.interruption}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else held.interruption.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
