"""Cancel while things go wrong (rows 25 and 30 with real processes): one end, seen in time, and no success after it."""

import httpx
import pytest

from tests.faults.house import House
from tests.faults.processes import until

SETTLE = "todoke.store.ledger:Ledger.settle"


async def cancel(house: House, url: str, job: object) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=10) as client:
        answer = await client.post(f"/jobs/{job}/cancel")
        assert answer.status_code in (200, 202), answer.text
        await house.seen(client, job)  # type: ignore[arg-type]


async def test_a_cancel_ends_what_waits_runs_or_lost_its_worker(house: House) -> None:
    api = await house.start("api")
    waiting = await house.submit(copies=0, delay_seconds=600.0)
    await cancel(house, api.url, waiting)
    assert (await house.end(waiting, 1))["error_code"] == "CANCELED"
    worker = await house.start()
    kinds = ("act", "act-in-a-thread", "act-async")
    running = [await house.submit(kind, seconds=600, timeout_seconds=900.0) for kind in kinds]
    for job in running:
        await house.started(job)
    # A thread is asked; only when it does not hear is its child ended with it.
    for job in running:
        await cancel(house, api.url, job)
    rows = [await house.end(job, 10) for job in running]
    assert {(row["state"], row["error_code"], row["attempt"]) for row in rows} == {("FAILED", "CANCELED", 1)}
    lost = await house.submit(seconds=600, timeout_seconds=900.0)
    await house.started(lost)
    house.kill(worker)
    await cancel(house, api.url, lost)
    await house.start()
    row = await house.end(lost, 10)
    assert (row["error_code"], row["attempt"], row["losses"]) == ("CANCELED", 1, 1)
    history = await house.verdict()
    assert len(history.rows) == 5


@pytest.mark.full
async def test_a_cancel_that_meets_a_finish_of_a_stopped_worker(house: House) -> None:
    """The holder is stopped with its success in hand; canceled meanwhile, the job ends once, as whoever came first."""
    api, sleeper = await house.start("api"), await house.start("worker", "stop", "before", SETTLE)
    job = await house.submit()
    await house.started(job, what="end")
    house.deed("stop", sleeper.name)
    await cancel(house, api.url, job)
    await house.start()
    row = await house.end(job, 10)
    assert row["error_code"] == "CANCELED"
    house.go_on(sleeper)
    await until(lambda: bool(sleeper.logged("attempt.lost")), what=lambda: sleeper.lines)
    history = await house.verdict()
    assert history.rows[job]["sequence"] == row["sequence"]
