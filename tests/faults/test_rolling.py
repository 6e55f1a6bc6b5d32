"""SIGTERM under load, again and again (row 29): nothing is charged, nothing claimed after it, nothing run for nothing;
and two sweepers of which one is stopped (row 33)."""

import time

import pytest

from tests.faults.house import PATIENT, House, MakeHouse

SETTINGS = PATIENT

REDISPATCH = "todoke.store.repair:Repair.redispatch"


@pytest.mark.parametrize(
    ("rounds", "jobs"), [(3, 40), pytest.param(30, 600, marks=[pytest.mark.full, pytest.mark.timeout(600)])]
)
async def test_rolling_restarts_charge_nothing(house: House, rounds: int, jobs: int) -> None:
    workers = [await house.start(drain_seconds=0.5), await house.start(drain_seconds=0.5)]
    # Some outlive the drain and are given back, most end within it.
    accepted = [await house.submit(seconds=2.0 if n % 8 == 0 else 0.1, max_losses=1) for n in range(jobs)]
    for _ in range(rounds):
        oldest = workers.pop(0)
        workers.append(await house.start(drain_seconds=0.5))
        began = time.monotonic()
        assert await house.terminate(oldest) == 0
        assert time.monotonic() - began < 8
    rows = [await house.end(job, 60) for job in accepted]
    history = await house.verdict(drain_seconds=8)
    assert {(row["state"], row["failures"], row["losses"]) for row in rows} == {("SUCCESS", 0, 0)}
    released = sum(c.after is not None and c.after["error_code"] == "WORKER_STOPPED" for c in history.changes)
    starts = sum(effect.what == "start" for effect in history.effects)
    assert starts <= jobs + released
    assert not any(worker.logged("attempt.lost") for worker in house.processes)


async def test_two_sweepers_name_a_job_once(make_house: MakeHouse) -> None:
    """Row 33: jobs whose hints were never sent; two workers sweep at once, and one was stopped in its sweep."""
    async with make_house(redispatch_seconds=0.6, **PATIENT) as house:
        paused = await house.start("worker", "stop", "after", REDISPATCH)
        jobs = [await house.submit(copies=0) for _ in range(12)]
        await house.when(jobs[0], lambda row: row["dispatch_count"] > 0)
        house.deed("stop", paused.name)
        await house.start()
        await house.start()
        rows = [await house.end(job) for job in jobs]
        house.go_on(paused)
        history = await house.verdict()
        assert {(row["state"], row["attempt"]) for row in rows} == {("SUCCESS", 1)}
        sends = [item for item in history.traffic if item.action == "send"]
        # Once by those that sweep, and once more by the one that wakes with its old list.
        assert len(sends) <= 2 * len(jobs), len(sends)


async def test_a_sweeper_stopped_inside_its_transaction_does_not_stop_the_others(house: House) -> None:
    """Row 33: it holds the lock of the sweep, and its connection looks alive to the server."""
    paused = await house.start("worker", "stop", "after", "todoke.store.repair:_leads")
    job = await house.submit(copies=0)
    house.deed("stop", paused.name)
    await house.start()
    row = await house.end(job, 12)
    assert row["attempt"] == 1
    house.go_on(paused)
    await house.verdict()
    assert paused.is_alive
