"""Attach, read, go live: an event committed at each step in between is told, once, in its place."""

import random

import pytest

from tests.streams import oracle
from tests.streams.scheduled import BATCH, Run, World, open_world
from tests.streams.stage import gaps
from todoke.model.event import Event
from todoke.runtime.settings import Settings

RUNS = [
    pytest.param(500, marks=pytest.mark.timeout(600)),
    pytest.param(100_000, marks=[pytest.mark.full, pytest.mark.timeout(7_200)]),
]
STEPS = ("status asked", "status answered", "begun", "sent", "news asked", "news answered", "quiet")
LOGS = "SELECT job_id, sequence, type, body FROM event WHERE job_id = ANY ($1) ORDER BY job_id, sequence"


@pytest.mark.parametrize("runs", RUNS)
async def test_an_event_at_every_step_between_attach_and_live(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, seed: int, runs: int
) -> None:
    """No sweep comes in time here: what is told was heard of, or read after attaching."""
    before, seeds = gaps(), random.Random(seed)
    async with open_world(settings.model_copy(update={"sweep_seconds": 60.0}), monkeypatch) as world:
        for start in range(0, runs, BATCH):
            played = [await play(world, seeds.randrange(2**48)) for _ in range(min(BATCH, runs - start))]
            await judge(world, played)
    print(f"{runs} runs of seed {seed}; commits at: {dict(world.steps.hits)}")
    assert gaps() == before
    for step in STEPS:
        assert world.steps.hits[step] > runs / 100, f"the draw has not met {step}"


async def play(world: World, seed: int) -> Run:
    run = Run(world, await world.job(), seed)
    try:
        await run.play()
    except Exception as error:
        raise AssertionError(f"run {seed} of job {run.job}: {error!r}") from error
    return run


async def judge(world: World, runs: list[Run]) -> None:
    logs: dict[object, list[Event]] = {run.job: [] for run in runs}
    for row in await world.database.fetch(LOGS, list(logs)):
        logs[row["job_id"]].append(Event(row["job_id"], row["sequence"], row["type"], row["body"]))
    for run in runs:
        log = logs[run.job]
        for watcher in run.watchers:
            oracle.check(log, watcher.frames, after=watcher.after)
            assert set(watcher.statuses) <= {200, 204}
        for poll in run.polls:
            assert poll.seen == sorted(poll.seen)
            assert poll.seen[-1] == len(log)
