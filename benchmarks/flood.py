"""A flood: what a tenant that asks far more than it may costs another one, in one run.

    python -m benchmarks.flood [--quick] [--rounds N]

The other tenant submits at a steady pace; alone, and beside 32 connections of the first that ask as fast as they can
and are refused but for its budget of 600 a minute. Straight at the API process, without a gateway. About 2 minutes.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence

from benchmarks.drain_peers import Environment
from benchmarks.figures import machine, percentile, ratio, spread, table
from benchmarks.stage import Stage, stage, until
from benchmarks.submits_client import Plan
from benchmarks.submits_servers import BODY, TODOKE, Server, call, must_be
from todoke.model.access import Scope
from todoke.model.limits import TenantLimits
from todoke.store.api_keys import ApiKeys
from todoke.store.database import Database
from todoke.store.tenants import Tenants

FLOODING = "flooding"
BUDGET_A_MINUTE = 600
FLOOD_CONNECTIONS, STEADY_CONNECTIONS = 32, 4
ALONE, BESIDE = "alone", "beside a flood"


def measure(stage: Stage, seconds: float, rounds: int) -> dict[str, list[list[float]]]:
    """Latencies of the other tenant's submits, in seconds, of each round."""
    found: dict[str, list[list[float]]] = {ALONE: [], BESIDE: []}
    with TODOKE.running(stage, Environment()) as server:
        flood = _plan(server, FLOOD_CONNECTIONS, seconds + 4, asyncio.run(_flooding_key(server.database_url)))
        steady = _plan(server, STEADY_CONNECTIONS, seconds, None)
        for _ in range(rounds):
            found[ALONE].append(_asked(steady))
            flooding = stage.start([sys.executable, "-m", "benchmarks.submits_client", json.dumps(flood.__dict__)])
            found[BESIDE].append(_asked(steady))
            asyncio.run(until(flooding.ended, 60, "the flood is over"))
            told = json.loads(flooding.log.read_text())
            must_be(told, ("202", "429"))
            print(f"the flood: {told['codes']}", flush=True)
    return found


def _asked(plan: Plan) -> list[float]:
    told = call(plan)
    must_be(told, ("202",))
    return [float(each) for each in told["latencies"]]


def _plan(server: Server, connections: int, seconds: float, key: str | None) -> Plan:
    lines = server.lines if key is None else [f"Authorization: Bearer {key}", *server.lines[1:]]
    return Plan(server.port, connections, seconds, 1.0, "POST", [server.path], lines, BODY)


async def _flooding_key(url: str) -> str:
    async with Database(url) as database:
        await Tenants(database).set(FLOODING, TenantLimits(submits_per_minute=BUDGET_A_MINUTE))
        _, text = await ApiKeys(database).create(FLOODING, "benchmark", [Scope.SUBMIT])
    return text


def report(found: dict[str, list[list[float]]]) -> str:
    """The table."""
    rows = []
    p99s = {name: [percentile(each, 0.99) * 1000 for each in rounds] for name, rounds in found.items()}
    p50s = {name: [percentile(each, 0.5) * 1000 for each in rounds] for name, rounds in found.items()}
    base = sorted(p99s[ALONE])[len(p99s[ALONE]) // 2]
    for name, values in p99s.items():
        rows.append([name, spread(p50s[name]), spread(values), ratio(sorted(values)[len(values) // 2], base)])
    return table(("the other tenant's submits", "p50 ms", "p99 ms", "p99"), rows)


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a second and one round, to see that it works")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args(arguments)
    print(machine(), flush=True)
    with stage() as found:
        print(f"\n{report(measure(found, 1 if asked.quick else 8, 1 if asked.quick else asked.rounds))}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
