"""No-op jobs drained by one worker: Todoke through SQS, beside its own one-commit-per-job baseline and its peers.

    python -m benchmarks.drain [--quick] [--rounds N] [--only WORD]

Every contestant starts warm on a complete backlog; rounds are interleaved. Prints the ratio table, about 3 minutes.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from typing import Protocol

from benchmarks.drain_peers import CelerySqs, Environment, PostgresPeer
from benchmarks.drain_todoke import SLOTS, Todoke
from benchmarks.figures import Line, Round, machine, number, ratio, table
from benchmarks.stage import Stage, stage

PROCESSES = ("worker", "job processes", "PostgreSQL", "endpoint")
HEADLINE = "Todoke through SQS"
BASELINE = "… one commit per job"
DIRECT = "… straight from PostgreSQL"
GOALS = {BASELINE: 5.0, "Celery over SQS, prefork 1": 4.0}


class Contestant(Protocol):
    """Something that drains no-op jobs."""

    name: str
    counted: str
    jobs: int

    async def round(self, stage: Stage) -> Round:
        """Drain a backlog once."""


def contestants(environment: Environment, *, is_quick: bool) -> list[Contestant]:
    """Everyone who takes part, the fast ones with more jobs."""
    many, few = (1000, 300) if is_quick else (10_000, 2000)
    return [
        Todoke(HEADLINE, many),
        Todoke(BASELINE, few, module="benchmarks.per_job_worker"),
        CelerySqs(few, environment),
        PostgresPeer("procrastinate, concurrency 10", "procrastinate", few, 10, environment),
        PostgresPeer("pgqueuer, batch 10 (default)", "pgqueuer", many, 10, environment),
        PostgresPeer("pgqueuer, batch 100", "pgqueuer", many, 100, environment),
        Todoke(DIRECT, many, by_queue=False),
    ]


async def measure(stage: Stage, chosen: Sequence[Contestant], rounds: int) -> list[Line]:
    """Interleaved rounds, each beginning with another contestant. One that fails is not tried again."""
    lines = {each.name: Line(each.name, each.counted, trouble=getattr(each, "trouble", "")) for each in chosen}
    for turn in range(rounds):
        for each in [*chosen[turn % len(chosen) :], *chosen[: turn % len(chosen)]]:
            line = lines[each.name]
            if line.trouble:
                continue
            try:
                found = await each.round(stage)
            except (OSError, RuntimeError, TimeoutError) as error:
                line.trouble = f"round {turn + 1}: {error!s}"
                print(f"  {each.name}: {line.trouble}", flush=True)
                continue
            line.rounds.append(found)
            print(f"  round {turn + 1}: {each.name}: {found.rate:,.0f} jobs/s", flush=True)
    return list(lines.values())


def report(lines: Sequence[Line]) -> str:
    """The ratio table, then what is counted, then the goals."""
    by_name = {line.name: line for line in lines}
    base = by_name[HEADLINE].rate if HEADLINE in by_name else 0.0
    head = ["drained by one worker", "jobs/s", "rounds", "Todoke is", *(f"{name} us/job" for name in PROCESSES)]
    rows = [_row(line, base) for line in lines]
    counted = [f"  {line.name}: {line.counted}" for line in lines]
    troubles = [f"  {line.name}: {line.trouble}" for line in lines if line.trouble]
    return "\n".join(
        [
            table(head, rows),
            "\nCounted as finished:",
            *dict.fromkeys(counted),
            *(["\nNot measured, or cut short:", *troubles] if troubles else []),
            "\nGoals:",
            *(_goal(by_name[name], base, times) for name, times in GOALS.items() if name in by_name),
        ]
    )


def _row(line: Line, base: float) -> list[str]:
    if not line.rounds:
        return [line.name, "-", "-", "-", *["-"] * len(PROCESSES)]
    rounds = " / ".join(f"{found.rate:,.0f}" for found in line.rounds)
    times = ratio(base, line.rate)
    return [line.name, number(line.rate), rounds, times, *(number(line.cpu_us(name)) for name in PROCESSES)]


def _goal(line: Line, base: float, times: float) -> str:
    if not line.rounds or not base:
        return f"  at least {times:g}x {line.name}: not measured"
    verdict = "reached" if base >= times * line.rate else "missed"
    return f"  at least {times:g}x {line.name}: {base / line.rate:.2f}x, {verdict}"


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few jobs and one round, to see that it works")
    parser.add_argument("--rounds", type=int, help="default 3")
    parser.add_argument("--only", help="contestants whose name has this word")
    options = parser.parse_args(arguments)
    environment = Environment()
    environment.install()
    chosen = contestants(environment, is_quick=options.quick)
    if options.only:
        chosen = [each for each in chosen if options.only.lower() in each.name.lower()]
    print(f"{machine()}; slots {SLOTS}, default settings otherwise", flush=True)
    began = time.monotonic()
    with stage() as found:
        lines = asyncio.run(measure(found, chosen, options.rounds or (1 if options.quick else 3)))
    print(f"\n{report(lines)}\n\n{time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
