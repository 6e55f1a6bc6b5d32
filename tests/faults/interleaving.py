"""Several actors at one job, their transactions interleaved step by step in an order drawn from a seed.

Before each BEGIN and each COMMIT an actor waits at a gate; a conductor opens one gate at a time. Who waits for a row
that another has locked cannot reach its gate, so the conductor goes on without it after a moment.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

import asyncpg

from tests.make import TENANT, TYPE, make_job
from todoke.model.dead_letter import DeadLetter
from todoke.model.job import Artifact, Attempt, Outcome, Progress, State
from todoke.store.database import Connection, Database
from todoke.store.ledger import Ledger
from todoke.store.repair import Repair

# Long enough for a statement that waits for nobody, on a busy machine.
MOMENT_SECONDS = 0.004
CHANNEL = "todoke"

Gate = Callable[[], Awaitable[None]]
ENDINGS = (State.SUCCESS, State.SUCCESS, State.FAILED, State.PROCESSING, State.PROCESSING)


class Stepped:
    """A Database that waits at a gate before each transaction begins and before it commits."""

    def __init__(self, database: Database, gate: Gate) -> None:
        self._database, self._gate = database, gate

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        await self._gate()
        async with self._database.transaction() as connection:
            yield connection
            await self._gate()

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        await self._gate()
        return await self._database.fetch(query, *arguments)


class Conductor:
    """Opens one gate at a time, in an order of its own; `is_free` opens each at once, and only chance decides."""

    def __init__(self, rng: random.Random, *, is_free: bool) -> None:
        self._rng, self._is_free = rng, is_free
        self._waiting: list[asyncio.Future[None]] = []
        self._arrived = asyncio.Event()

    async def gate(self) -> None:
        if self._is_free:
            await asyncio.sleep(self._rng.random() * 0.002)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._arrived.set()
        await future

    async def conduct(self, actors: list[Coroutine[Any, Any, None]]) -> None:
        tasks = [asyncio.create_task(actor) for actor in actors]
        for task in tasks:
            task.add_done_callback(lambda _: self._arrived.set())
        while running := [task for task in tasks if not task.done()]:
            # Everybody but those who wait for a lock is at a gate now.
            while len(self._waiting) < len(running):
                self._arrived.clear()
                try:
                    async with asyncio.timeout(MOMENT_SECONDS if self._waiting else 30):
                        await self._arrived.wait()
                except TimeoutError:
                    break
                running = [task for task in tasks if not task.done()]
            if self._waiting:
                self._waiting.pop(self._rng.randrange(len(self._waiting))).set_result(None)
                await asyncio.sleep(0)
        for task in tasks:
            task.result()


@dataclass(frozen=True)
class Answer:
    """What a worker was told when it settled an attempt."""

    worker: str
    lease: int
    state: State
    is_taken: bool


@dataclass
class Race:
    """One job and its actors. `answers`: by job, because a job of higher priority is claimed before the one named."""

    database: Database
    rng: random.Random
    is_free: bool
    job: UUID
    answers: dict[UUID, list[Answer]]

    async def run(self) -> None:
        """Let the actors at the job, then bring it to an end as a healthy worker and the sweep would."""
        conductor = Conductor(self.rng, is_free=self.is_free)
        stepped = cast(Database, Stepped(self.database, conductor.gate))
        ledger, repair = Ledger(stepped, CHANNEL), Repair(stepped, CHANNEL)
        makers = [
            lambda: self._worker(ledger, "worker-1"),
            lambda: self._worker(ledger, "worker-2"),
            lambda: self._canceler(ledger),
            lambda: self._sweeper(repair),
            lambda: self._burier(repair),
        ]
        weights = (6, 6, 3, 3, 1)
        chosen = {0, *self.rng.choices(range(5), weights, k=3)}
        await conductor.conduct([makers[number]() for number in sorted(chosen)])
        await self._finish()

    async def _worker(self, ledger: Ledger, name: str) -> None:
        for _ in range(self.rng.choice((1, 1, 2))):
            # A lease that is over at once stands for a worker that was slow, stopped or cut off.
            seconds = self.rng.choice((0, 0, 60))
            for attempt in await ledger.claim([self.job], [TYPE], name, seconds):
                await self._attempt(ledger, name, attempt, is_held=seconds > 0)

    async def _attempt(self, ledger: Ledger, name: str, attempt: Attempt, *, is_held: bool) -> None:
        if self.rng.random() < 0.2:
            await ledger.renew([(attempt.id, attempt.lease)], name, 0)
        if self.rng.random() < 0.2:
            await ledger.report([Progress(attempt.id, attempt.lease, self.rng.random() * 100, "on")], name)
        if not is_held and self.rng.random() < 0.25:
            return  # killed
        end = self._outcome(attempt)
        # Twice, as after a commit whose answer was lost.
        for _ in range(self.rng.choice((1, 1, 1, 2))):
            [is_taken] = await ledger.settle([end], name)
            self.answers[attempt.id].append(Answer(name, attempt.lease, end.state, is_taken))

    def _outcome(self, attempt: Attempt) -> Outcome:
        state = self.rng.choice(ENDINGS)
        if state is State.SUCCESS:
            made = Artifact("result.json", "application/json", 1, "00", content=str(attempt.lease).encode())
            return Outcome(attempt.id, attempt.lease, state, artifacts=(made,))
        is_charged = state is State.FAILED or self.rng.random() < 0.5
        code = "JOB_ERROR" if is_charged else "WORKER_STOPPED"
        return Outcome(attempt.id, attempt.lease, state, code, "told by the test", is_charged=is_charged)

    async def _canceler(self, ledger: Ledger) -> None:
        for _ in range(self.rng.choice((1, 1, 2))):
            assert await ledger.cancel(self.job, TENANT)

    async def _sweeper(self, repair: Repair) -> None:
        for _ in range(2):
            await repair.end_doomed(50)
            await repair.redispatch(50, 0)

    async def _burier(self, repair: Repair) -> None:
        for _ in range(3):
            await repair.redispatch(50, 0)
        await repair.bury([DeadLetter(str(self.job), "{}", self.job, 10, None)])

    async def _finish(self) -> None:
        ledger, repair = Ledger(self.database, CHANNEL), Repair(self.database, CHANNEL)
        async with asyncio.timeout(20):
            while True:
                for attempt in await ledger.claim([self.job], [TYPE], "finisher", 60):
                    await self._attempt_end(ledger, attempt)
                [row] = await self.database.fetch("SELECT state FROM job WHERE id = $1", self.job)
                if row["state"] in ("SUCCESS", "FAILED"):
                    return
                await repair.end_doomed(50)

    async def _attempt_end(self, ledger: Ledger, attempt: Attempt) -> None:
        [is_taken] = await ledger.settle([Outcome(attempt.id, attempt.lease, State.SUCCESS)], "finisher")
        self.answers[attempt.id].append(Answer("finisher", attempt.lease, State.SUCCESS, is_taken))


async def race(database: Database, seed: int, answers: dict[UUID, list[Answer]]) -> UUID:
    """Accept a job drawn from `seed` and run one race over it; the job."""
    rng = random.Random(seed)
    job = make_job(
        max_losses=rng.choice((1, 2, 3, 100)),
        expires_seconds=rng.choice((None, None, None, 0.004)),
        priority=rng.choice((0, 0, 0, 5)),
    )
    await Ledger(database, CHANNEL).accept([job], rng.choice((0, 30)))
    await Race(database, rng, rng.random() < 0.4, job.id, answers).run()
    return job.id
