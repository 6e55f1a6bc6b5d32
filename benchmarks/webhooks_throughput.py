"""How fast one notifier delivers what is due, and what the same posts cost without a ledger behind them."""

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from benchmarks import cpu
from benchmarks.figures import Line, Round, number, ratio, table
from benchmarks.stage import Stage, until
from benchmarks.webhooks_stage import FULL, Receivers, Spot, Waiting, backlog, standing_by

PROCESSES = ("sender", "PostgreSQL", "sink")
ENDPOINTS, TENANTS = 200, 50
TODOKE = "Todoke, one notifier"
NAIVE = "… one transaction per delivery"
TRANSPORT = "… its transport alone"
GOAL = 5_000
DRAIN_SECONDS = 90.0

LEFT = "SELECT NOT EXISTS (SELECT FROM delivery WHERE state = 'PENDING')"
SUMMARY = """
    SELECT
        extract(epoch FROM
            (SELECT max(finished_at) FROM delivery) - (SELECT min(started_at) FROM delivery_attempt)
        )::float8 AS seconds,
        (SELECT count(*) FROM delivery WHERE state = 'DELIVERED' AND attempt = 1) AS delivered,
        (SELECT count(*) FROM delivery_attempt WHERE status = 200) AS attempts
"""


class Contestant(Protocol):
    """Something that posts."""

    name: str
    counted: str
    jobs: int

    async def round(self, stage: Stage, receivers: Receivers, spots: Sequence[Spot]) -> Round:
        """Post so many once."""


class Notifier:
    """A real notifier on a backlog; `module`: the program."""

    counted = "deliveries committed as DELIVERED, each attempt kept"

    def __init__(self, name: str, jobs: int, module: Sequence[str] = FULL) -> None:
        self.name, self.jobs, self._module = name, jobs, module
        self._template = ""

    async def round(self, stage: Stage, receivers: Receivers, spots: Sequence[Spot]) -> Round:
        """Fill (once), start, let go, wait. Raises RuntimeError when not everything was delivered at once."""
        if not self._template:
            self._template = await backlog(stage, [spots[number % len(spots)] for number in range(self.jobs)])
        url = await stage.new_database(self._template)
        async with standing_by(stage, receivers, url, self._module) as waiting:
            return await self._drained(stage, receivers, waiting)

    async def _drained(self, stage: Stage, receivers: Receivers, waiting: Waiting) -> Round:
        postgres = stage.postgres.child.pid
        assert postgres is not None
        before = await asyncio.to_thread(receivers.answered)

        async def all_answered() -> bool:
            await asyncio.sleep(0.1)
            waiting.notifier.must_run()
            return await asyncio.to_thread(receivers.answered) - before >= self.jobs

        meter = cpu.Meter(clocks(waiting.notifier.pid, receivers.program.pid) | {"PostgreSQL": _tree(postgres)})
        await waiting.go()
        # While it goes on only the sink is asked: questions to PostgreSQL would be in its figure.
        await until(all_answered, DRAIN_SECONDS, f"{self.jobs} posts answered")
        await waiting.settled(LEFT, 10, "every delivery recorded")
        spent = meter.spent()
        row = await waiting.connection.fetchrow(SUMMARY)
        assert row is not None
        if row["delivered"] != self.jobs or row["attempts"] != self.jobs:
            words = f"of {self.jobs} {row['delivered']} were delivered, {row['attempts']} attempts kept"
            raise RuntimeError(words)
        return Round(self.jobs, row["seconds"], spent)


class Client:
    """A program that only posts; see `webhooks_client`."""

    counted = "posts answered with 200, 64 in flight"

    def __init__(self, name: str, jobs: int, kind: str) -> None:
        self.name, self.jobs, self._kind = name, jobs, kind

    async def round(self, stage: Stage, receivers: Receivers, spots: Sequence[Spot]) -> Round:
        """Run it once."""
        module = [sys.executable, "-m", "benchmarks.webhooks_client"]
        arguments = [self._kind, str(self.jobs), str(receivers.program.pid), *(spot.url for spot in spots)]
        program = stage.start([*module, *arguments])
        await until(program.ended, DRAIN_SECONDS, f"{self.name} ended")
        return Round(**json.loads(program.log.read_text()))


def contestants(*, is_quick: bool) -> list[Contestant]:
    """Everyone who takes part, the slow ones with less to do."""
    many, some, few = (300, 300, 100) if is_quick else (20_000, 2_000, 200)
    return [
        Notifier(TODOKE, many),
        Notifier(NAIVE, some, ["-m", "benchmarks.webhooks_notifiers", "per_delivery"]),
        Client(TRANSPORT, many, "transport"),
        Client("raw asyncio protocol", many, "raw"),
        Client("aiohttp", many, "aiohttp"),
        Client("httpx", few, "httpx"),
    ]


def measure(stage: Stage, chosen: Sequence[Contestant], rounds: int) -> list[Line]:
    """Interleaved rounds, each beginning with another contestant."""
    lines = {each.name: Line(each.name, each.counted) for each in chosen}

    async def run() -> None:
        receivers = Receivers(stage)
        await receivers.listening()
        spots = receivers.spots(ENDPOINTS, TENANTS)
        for turn in range(rounds):
            for each in [*chosen[turn % len(chosen) :], *chosen[: turn % len(chosen)]]:
                found = await each.round(stage, receivers, spots)
                lines[each.name].rounds.append(found)
                print(f"  round {turn + 1}: {each.name}: {found.rate:,.0f}/s", flush=True)

    asyncio.run(run())
    return list(lines.values())


def report(lines: Sequence[Line]) -> str:
    """The table, what is counted, the goal."""
    by_name = {line.name: line for line in lines}
    base = by_name[TODOKE].rate if TODOKE in by_name else 0.0
    head = ["to 200 endpoints", "a second", "rounds", "Todoke is", *(f"{each} us each" for each in PROCESSES)]
    rows = [_row(line, base) for line in lines]
    goal = f"Goal: {GOAL:,} deliveries/s from one notifier: {base:,.0f}, {'reached' if base >= GOAL else 'missed'}"
    counted = dict.fromkeys(f"  {line.name}: {line.counted}" for line in lines)
    return "\n".join([table(head, rows), "\nCounted:", *counted, "", *([goal] if base else [])])


def clocks(sender: int, sink: int) -> dict[str, Callable[[], float]]:
    """Of the process that posts and of the one that answers."""
    return {"sender": _tree(sender), "sink": _tree(sink)}


def _tree(pid: int) -> Callable[[], float]:
    return lambda: cpu.tree(pid)


def _row(line: Line, base: float) -> list[str]:
    rounds = " / ".join(f"{found.rate:,.0f}" for found in line.rounds)
    each = [number(line.cpu_us(name)) for name in PROCESSES]
    return [line.name, number(line.rate), rounds, ratio(base, line.rate), *each]
