"""What receivers that never answer cost those that do: 20 % of the endpoints accept every post and stay silent."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks.figures import number, percentile, ratio, spread, table
from benchmarks.stage import Stage
from benchmarks.webhooks_stage import FULL, Owing, Receivers, Spot, Waiting, backlog, standing_by

ENDPOINTS, TENANTS, HANGING_EVERY = 200, 50, 5
SLOTS = {"TODOKE_WEBHOOK_SLOTS": "256"}
GOAL = 0.85
DRAIN_SECONDS = 120.0

HEALTHY = "url NOT LIKE '%/hang/%'"
LEFT = f"SELECT NOT EXISTS (SELECT FROM delivery WHERE state = 'PENDING' AND {HEALTHY})"
RATE = f"""
    SELECT
        count(*) / extract(epoch FROM max(finished_at) - to_timestamp((
            SELECT min(extract(epoch FROM started_at)) FROM delivery_attempt
        )))::float8 AS rate
    FROM delivery
    WHERE {HEALTHY} AND state = 'DELIVERED'
"""
# Our clock tells when an attempt began, PostgreSQL's when its delivery came due: one machine, one clock.
DELAYS = f"""
    SELECT extract(epoch FROM made.started_at - delivery.created_at)::float8 AS seconds
    FROM delivery JOIN delivery_attempt AS made USING (job_id, sequence)
    WHERE made.attempt = 1 AND {HEALTHY}
"""


@dataclass(frozen=True)
class Case:
    """How a notifier is run, and whether the hanging endpoints are owed anything."""

    name: str
    has_hanging: bool
    module: Sequence[str] = FULL
    settings: Mapping[str, str] = field(default_factory=dict)
    # What hangs for long need not do so in every round.
    is_once: bool = False


ALONE = "none hanging"
BESIDE = "20 % hanging"
CASES = (
    Case(ALONE, has_hanging=False),
    Case(BESIDE, has_hanging=True),
    Case(
        "20 % hanging, one shared pool",
        has_hanging=True,
        module=("-m", "benchmarks.webhooks_notifiers", "shared_pool"),
        settings={"TODOKE_WEBHOOK_ENDPOINT_SLOTS": "32"},
        is_once=True,
    ),
)


@dataclass
class Figures:
    """Of the healthy endpoints, one of each a round: deliveries a second, start delays in seconds."""

    rates: list[float] = field(default_factory=list)
    middles: list[float] = field(default_factory=list)
    worst: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Size:
    """deliveries: to all endpoints at once. Then `rate` a second for `seconds`."""

    deliveries: int
    rate: float
    seconds: float


def endpoints(receivers: Receivers, *, has_hanging: bool) -> list[Spot]:
    """All endpoints, or those that answer; the hanging ones belong to tenants that have healthy ones as well."""
    fast = receivers.spots(ENDPOINTS, TENANTS)
    hang = receivers.spots(ENDPOINTS, TENANTS, "hang")
    # Shifted from round to round of the tenants, so that they are spread.
    silent = {number for number in range(ENDPOINTS) if (number + number // TENANTS) % HANGING_EVERY == 0}
    return [
        hang[number] if number in silent else fast[number]
        for number in range(ENDPOINTS)
        if has_hanging or number not in silent
    ]


def measure(stage: Stage, size: Size, rounds: int) -> dict[str, Figures]:
    """Interleaved rounds, each a backlog and then a steady flow."""
    found = {case.name: Figures() for case in CASES}

    async def run() -> None:
        receivers = Receivers(stage)
        await receivers.listening()
        templates = {is_so: await _backlog(stage, receivers, size, has_hanging=is_so) for is_so in (False, True)}
        for turn in range(rounds):
            for case in [case for case in CASES if not (turn and case.is_once)]:
                figures = found[case.name]
                rate = await _drained(stage, receivers, case, templates[case.has_hanging])
                figures.rates.append(rate)
                delays = await _flowed(stage, receivers, case, size)
                figures.middles.append(median(delays))
                figures.worst.append(percentile(delays, 0.99))
                print(
                    f"  round {turn + 1}: {case.name}: {rate:,.0f}/s, then p99 {figures.worst[-1] * 1000:,.0f} ms",
                    flush=True,
                )

    asyncio.run(run())
    return found


def report(found: Mapping[str, Figures], size: Size) -> str:
    """The table and the goal."""
    alone, beside = found[ALONE], found[BESIDE]
    head = [
        "of the healthy endpoints",
        "deliveries/s",
        "to none hanging",
        "start delay p50 ms",
        "p99 ms",
        "p99 to none hanging",
    ]
    rows = [
        [
            name,
            spread(each.rates),
            ratio(median(each.rates), median(alone.rates)),
            spread([seconds * 1000 for seconds in each.middles]),
            spread([seconds * 1000 for seconds in each.worst]),
            ratio(median(each.worst), median(alone.worst)),
        ]
        for name, each in found.items()
    ]
    share = median(beside.rates) / median(alone.rates)
    verdict = "reached" if share >= GOAL else "missed"
    return (
        f"{table(head, rows)}\n\nDelays while {number(size.rate)} a second come due for {number(size.seconds)} s.\n"
        f"Goal: healthy endpoints keep {GOAL:.0%} of their throughput: {share:.0%}, {verdict}"
    )


async def _backlog(stage: Stage, receivers: Receivers, size: Size, *, has_hanging: bool) -> str:
    """The same number for each endpoint, whoever else there is."""
    spots = endpoints(receivers, has_hanging=has_hanging)
    count = size.deliveries * len(spots) // ENDPOINTS
    return await backlog(stage, [spots[number % len(spots)] for number in range(count)])


async def _drained(stage: Stage, receivers: Receivers, case: Case, template: str) -> float:
    url = await stage.new_database(template)
    async with standing_by(stage, receivers, url, case.module, {**SLOTS, **case.settings}) as waiting:
        await waiting.go()
        await waiting.settled(LEFT, DRAIN_SECONDS, "every healthy endpoint has its own")
        return float(await waiting.connection.fetchval(RATE))


async def _flowed(stage: Stage, receivers: Receivers, case: Case, size: Size) -> list[float]:
    """Start delays."""
    url = await stage.new_database()
    spots = endpoints(receivers, has_hanging=case.has_hanging)
    rate = size.rate * len(spots) / ENDPOINTS
    async with standing_by(stage, receivers, url, case.module, {**SLOTS, **case.settings}) as waiting:
        await waiting.go()
        await flow(waiting, spots, url, rate, size.seconds)
        return await delays(waiting)


async def flow(waiting: Waiting, spots: Sequence[Spot], url: str, rate: float, seconds: float) -> None:
    """Have deliveries come due one after the other, until the healthy endpoints have them all."""
    async with Owing(url) as owing:
        await owing.sign(spots)
        await owing.flow(spots, rate, seconds)
    await waiting.settled(LEFT, DRAIN_SECONDS, "every healthy endpoint has its own")


async def delays(waiting: Waiting) -> list[float]:
    """Of every healthy delivery's first attempt."""
    return [float(row["seconds"]) for row in await waiting.connection.fetch(DELAYS)]
