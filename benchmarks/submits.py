"""Submits: how many one API process takes with keys, limits and idempotency on, and what reads cost beside them.

    python -m benchmarks.submits [--quick] [--rounds N] [--only WORD]

Rounds are interleaved with the references; about 5 minutes.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.drain_peers import Environment
from benchmarks.figures import machine, number, percentile, ratio, spread, table
from benchmarks.stage import Stage, stage
from benchmarks.submits_client import Plan
from benchmarks.submits_servers import ASYNCPG, BARE, BODY, ORIGINAL, TODOKE, Contestant, Server, call, must_be

CONTESTANTS = (TODOKE, ORIGINAL, ASYNCPG, BARE)
POLLED_JOBS = 200
TIMES_THE_ORIGINAL, SHARE_OF_ITS_PAUSE = 20, 0.25


@dataclass(frozen=True)
class Size:
    """How long each measurement lasts, in seconds, and how many callers there are at once."""

    seconds: float = 8
    warm_seconds: float = 2
    connections: int = 64


@dataclass
class Figures:
    """One entry a round: answers a second, latencies at p50 and p99 and processor time a request of the API process."""

    rates: list[float] = field(default_factory=list)
    p50s: list[float] = field(default_factory=list)
    p99s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)


Found = dict[tuple[str, str], Figures]


def measure(stage: Stage, contestants: Sequence[Contestant], size: Size, rounds: int) -> Found:
    """All rounds of all lines, interleaved."""
    environment = Environment()
    environment.install("original")
    found: Found = {}
    for turn in range(rounds):
        for contestant in contestants:
            if contestant.kind == "original" and environment.missing:
                continue
            with contestant.running(stage, environment) as server:
                for line, plan, codes in plans(server, contestant, size):
                    _note(found.setdefault((contestant.name, line), Figures()), server, plan, codes)
            print(f"round {turn + 1} of {rounds}: {contestant.name}", flush=True)
    return found


def plans(server: Server, contestant: Contestant, size: Size) -> list[tuple[str, Plan, tuple[str, ...]]]:
    """What is asked of a server, with the codes that answers may have."""

    def plan(connections: int, method: str, paths: list[str], *more: str, body: str = "") -> Plan:
        lines = [*server.lines, *more]
        return Plan(server.port, connections, size.seconds, size.warm_seconds, method, paths, lines, body)

    asked: list[tuple[str, Plan, tuple[str, ...]]] = [
        (f"submit, {size.connections} at once", plan(size.connections, "POST", [server.path], body=BODY), ("202",)),
        ("submit, one idle client", plan(1, "POST", [server.path], body=BODY), ("202",)),
    ]
    if contestant is TODOKE:
        paths = [server.ask("POST", server.path, BODY)["statusUrl"] for _ in range(POLLED_JOBS)]
        asked += [
            (f"status, {size.connections} at once", plan(size.connections, "GET", paths), ("202",)),
            ("long poll that is full", plan(size.connections, "GET", paths, "Prefer: wait=1"), ("202",)),
        ]
    return asked


def _note(figures: Figures, server: Server, plan: Plan, codes: tuple[str, ...]) -> None:
    before = server.cpu_seconds()
    told = call(plan)
    spent = server.cpu_seconds() - before
    must_be(told, codes)
    latencies = told["latencies"]
    if not latencies:
        return
    figures.rates.append(len(latencies) / told["seconds"])
    figures.p50s.append(percentile(latencies, 0.5) * 1000)
    figures.p99s.append(percentile(latencies, 0.99) * 1000)
    figures.cpu_us.append(spent / sum(told["codes"].values()) * 1e6)


def report(found: Found, size: Size) -> str:
    """The table, and whether the goals were reached."""
    rows = []
    for (name, line), figures in found.items():
        if figures.rates:
            rows.append(
                [
                    line,
                    name,
                    spread(figures.rates),
                    spread(figures.p50s),
                    spread(figures.p99s),
                    number(sorted(figures.cpu_us)[len(figures.cpu_us) // 2]),
                ]
            )
    rows.sort(key=lambda row: row[0])
    head = ("asked", "of", "answers/s", "p50 ms", "p99 ms", "API us/request")
    return "\n\n".join([table(head, rows), *_goals(found, size)])


def _goals(found: Found, size: Size) -> list[str]:
    def middle(contestant: Contestant, line: str, what: str) -> float:
        values = sorted(getattr(found.get((contestant.name, line), Figures()), what))
        return values[len(values) // 2] if values else 0.0

    many, one = f"submit, {size.connections} at once", "submit, one idle client"
    ours = middle(TODOKE, many, "rates")
    lines = []
    if original := middle(ORIGINAL, many, "rates"):
        is_reached = ours >= TIMES_THE_ORIGINAL * original
        told = "reached" if is_reached else "not reached"
        lines.append(f"At least {TIMES_THE_ORIGINAL}x (a): {ratio(ours, original)}, {told}.")
        pause, ours_pause = middle(ORIGINAL, one, "p50s"), middle(TODOKE, one, "p50s")
        is_reached = ours_pause <= SHARE_OF_ITS_PAUSE * pause
        lines.append(
            f"One idle client's p50 at most a quarter of (a): {ratio(ours_pause, pause)}, "
            f"{'reached' if is_reached else 'not reached'}."
        )
    if other := middle(ASYNCPG, many, "rates"):
        lines.append(f"Above (b): {ratio(ours, other)}, {'reached' if ours > other else 'not reached'}.")
    if other := middle(BARE, many, "rates"):
        lines.append(f"Of (c): {ratio(ours, other)}.")
    return lines


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="half a second and one round, to see that it works")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="contestants whose name has this word")
    asked = parser.parse_args(arguments)
    size = Size(0.5, 0.3, 8) if asked.quick else Size()
    chosen = [each for each in CONTESTANTS if asked.only.lower() in each.name.lower()]
    print(machine(), flush=True)
    began = time.monotonic()
    with stage() as found:
        text = report(measure(found, chosen, size, 1 if asked.quick else asked.rounds), size)
    print(f"\n{text}\n\n{time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
