"""Outcomes and progress in group commits; a message goes only after the commit that makes it unnecessary."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar
from uuid import UUID

import structlog

from todoke.model.errors import Unavailable
from todoke.model.job import Attempt, Outcome, Progress, State
from todoke.runtime.batcher import Batcher
from worker.ending import WORKER_FAULT
from worker.held import Held

log = structlog.get_logger()

BATCH_MAX = 200
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 3.0

Settle = Callable[[Sequence[Outcome]], Awaitable[Sequence[bool]]]
Report = Callable[[Sequence[Progress]], Awaitable[Sequence[bool]]]
LetGo = Callable[[str], None]
Told = TypeVar("Told", Outcome, Progress)


class Completer:
    """`settle` and `report` are the ledger's, for this worker. `forget` deletes a message, `show` returns it.

    `settled` hears of every attempt whose end stands.
    """

    def __init__(
        self,
        settle: Settle,
        report: Report,
        forget: LetGo,
        show: LetGo,
        settled: Callable[[Attempt], None] = lambda _attempt: None,
    ) -> None:
        self._settling: Batcher[Outcome, bool] = Batcher(
            lambda batch: _newest_alone(settle, batch), BATCH_MAX, "outcomes"
        )
        self._reporting: Batcher[Progress, bool] = Batcher(
            lambda batch: _newest_alone(report, batch), BATCH_MAX, "progress"
        )
        self._forget, self._show, self._told = forget, show, settled

    async def report(self, progress: Progress) -> bool:
        """Store progress. False: the lease is no longer ours. Raises Unavailable."""
        return await self._reporting.put(progress)

    async def settle(self, outcome: Outcome, held: Held) -> bool:
        """Record how an attempt ended, however long PostgreSQL is away. False: the lease is no longer ours.

        An outcome that cannot be stored as it is ends the job as FAILED with WORKER_FAULT.
        """
        try:
            is_ours = await self._settled(outcome)
        except Exception:
            log.exception("outcome.refused", job_id=str(outcome.id), lease=outcome.lease)
            words = "the outcome of the job could not be recorded"
            is_ours = await self._settled(Outcome(outcome.id, outcome.lease, State.FAILED, WORKER_FAULT, words))
        if is_ours:
            if held.receipt is not None:
                self._let_go(outcome, held.receipt)
            self._told(held.attempt)
        return is_ours

    def _let_go(self, outcome: Outcome, receipt: str) -> None:
        """A job due at once keeps its message; for one due later the sweep sends a new hint when it is due."""
        if outcome.state is State.PROCESSING and outcome.delay == 0:
            self._show(receipt)
        else:
            self._forget(receipt)

    async def _settled(self, outcome: Outcome) -> bool:
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self._settling.put(outcome)
            except Unavailable as error:
                # The commit may have happened: then the ledger knows the outcome again at the next try.
                log.warning("outcome.waiting", job_id=str(outcome.id), reason=str(error))
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE_SECONDS, pause * 2)


async def _newest_alone(
    tell: Callable[[Sequence[Told]], Awaitable[Sequence[bool]]], batch: Sequence[Told]
) -> Sequence[bool]:
    """The ledger takes a job once in a batch. An older lease of a job that came again is lost anyway."""
    newest: dict[UUID, Told] = {}
    for item in batch:
        if item.id not in newest or newest[item.id].lease <= item.lease:
            newest[item.id] = item
    answers = dict(zip(newest, await tell(list(newest.values())), strict=True))
    return [newest[item.id] is item and answers[item.id] for item in batch]
