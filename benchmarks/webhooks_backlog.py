"""What a hundred thousand deliveries owed to one dead endpoint cost a thousand tenants whose endpoints are well."""

import asyncio
from collections.abc import Mapping
from statistics import median

from benchmarks.figures import number, percentile, ratio, table
from benchmarks.stage import Stage
from benchmarks.webhooks_hanging import SLOTS, delays, flow
from benchmarks.webhooks_stage import FULL, Receivers, Spot, backlog, standing_by

TENANTS = 1_000
ALONE = "nothing else owed"
CASES = {"owed to one that hangs": "hang", "owed to one that refuses to connect": "refuse"}


def measure(stage: Stage, owed: int, rate: float, seconds: float) -> dict[str, list[float]]:
    """Start delays of the healthy tenants' deliveries, in seconds, by case; one round."""
    found: dict[str, list[float]] = {}

    async def run() -> None:
        receivers = Receivers(stage)
        await receivers.listening()
        found[ALONE] = await _delays(stage, receivers, None, rate, seconds)
        for name, kind in CASES.items():
            template = await backlog(stage, [_dead(receivers, kind)] * owed)
            found[f"{owed:,} {name}"] = await _delays(stage, receivers, template, rate, seconds)

    asyncio.run(run())
    return found


def report(found: Mapping[str, list[float]], rate: float, seconds: float) -> str:
    """The table."""
    base = found[ALONE]
    head = ["1,000 healthy tenants, an endpoint each", "delay p50 ms", "p99 ms", "max ms", "p50 to base", "p99 to base"]
    rows = [
        [
            name,
            *(number(value * 1000) for value in (median(each), percentile(each, 0.99), max(each))),
            ratio(median(each), median(base)),
            ratio(percentile(each, 0.99), percentile(base, 0.99)),
        ]
        for name, each in found.items()
    ]
    return f"{table(head, rows)}\n\nDelays while {number(rate)} a second come due for {number(seconds)} s."


def _dead(receivers: Receivers, kind: str) -> Spot:
    port = receivers.dead_port if kind == "refuse" else receivers.ports[0]
    # `hang` in its path also keeps it out of the healthy ones' figures.
    return Spot("dead", f"http://127.0.0.1:{port}/hang/{kind}")


async def _delays(stage: Stage, receivers: Receivers, template: str | None, rate: float, seconds: float) -> list[float]:
    url = await stage.new_database(template) if template else await stage.new_database()
    async with standing_by(stage, receivers, url, FULL, SLOTS) as waiting:
        await waiting.go()
        await flow(waiting, receivers.spots(TENANTS, TENANTS), url, rate, seconds)
        return await delays(waiting)
