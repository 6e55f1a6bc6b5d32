"""A writer process: numbered changes of many jobs through the real ledger, at a steady rate, group-committed.

    python -m benchmarks.streams_writer FOLDER COUNT RATE     (DATABASE_URL in the environment)

FOLDER/jobs has one job id a line. Each SIGUSR1 begins a pass of COUNT changes, RATE a second; its end is said as
`pass N done`, and FOLDER/writes.N then has one line a change: job number, sequence, when its COMMIT was sent and when
it was acknowledged (monotonic seconds).
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from uuid import UUID

from todoke.model.job import Outcome, State
from todoke.store.database import Connection, Database
from todoke.store.ledger import Ledger

LEASE_SECONDS = 900.0
WORKER = "streams-writer"


class TimedDatabase(Database):
    """Notes when the COMMIT of each transaction is sent."""

    committing_at = 0.0

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """As the database's own."""
        async with super().transaction() as connection:
            yield connection
            self.committing_at = time.monotonic()


class Writer:
    """Each job in turn: started, given up for now, started again, …: every change is a numbered event."""

    def __init__(self, database: TimedDatabase, jobs: Sequence[UUID]) -> None:
        self._database, self._jobs = database, jobs
        self._ledger = Ledger(database, "todoke")
        self._made = 0
        self._leases: dict[UUID, int] = {}
        self.lines: list[str] = []

    async def make(self, count: int, rate: float) -> None:
        """So many changes, change k due k/rate seconds from now; what is due at once shares a commit."""
        began, done = time.monotonic(), 0
        while done < count:
            due = min(count, int((time.monotonic() - began) * rate) + 1)
            if due <= done:
                await asyncio.sleep(began + done / rate - time.monotonic())
                continue
            # One commit holds a job at most once, and starts or gives up, not both.
            turn, first = divmod(self._made, len(self._jobs))
            numbers = range(first, min(len(self._jobs), first + due - done))
            await self._change(turn, numbers)
            self._made += len(numbers)
            done += len(numbers)

    async def _change(self, turn: int, numbers: Sequence[int]) -> None:
        ids = [self._jobs[number] for number in numbers]
        if turn % 2 == 0:
            attempts = await self._ledger.claim(ids, ["noop"], WORKER, LEASE_SECONDS)
            self._leases.update((attempt.id, attempt.lease) for attempt in attempts)
            changed = len(attempts)
        else:
            ends = [Outcome(job, self._leases[job], State.PROCESSING, "AGAIN", "again") for job in ids]
            changed = sum(await self._ledger.settle(ends, WORKER))
        if changed != len(ids):
            raise RuntimeError(f"{changed} of {len(ids)} jobs changed")
        # The accepted event was the first.
        moments = f"{turn + 2} {self._database.committing_at!r} {time.monotonic()!r}"
        self.lines += [f"{number} {moments}" for number in numbers]


async def work(folder: Path, count: int, rate: float) -> None:
    """Until killed."""
    jobs = [UUID(line) for line in (folder / "jobs").read_text().split()]
    begin = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, begin.set)
    async with TimedDatabase(os.environ["DATABASE_URL"]) as database:
        await database.check_writable()
        writer, turn = Writer(database, jobs), 0
        print("ready", flush=True)
        while await begin.wait():
            begin.clear()
            turn += 1
            await writer.make(count, rate)
            (folder / f"writes.{turn}").write_text("\n".join(writer.lines))
            writer.lines.clear()
            print(f"pass {turn} done", flush=True)


if __name__ == "__main__":
    asyncio.run(work(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
