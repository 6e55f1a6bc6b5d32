"""Workers that were slow rather than dead: stopped beyond lease and visibility (13, 14), with wrong clocks (22),
with job code that is slower than every lease or lets nothing else run (23, 24), and a queue that is slow (19)."""

import signal

import pytest

from tests.faults.house import House, MakeHouse, is_alive, until

SETTLE = "todoke.store.ledger:Ledger.settle"
PUT = "todoke.blobs.s3:S3Blobs.put"


@pytest.mark.parametrize(
    "target", [pytest.param(SETTLE, marks=pytest.mark.full), PUT], ids=["before-its-finish", "before-its-upload"]
)
async def test_a_worker_stopped_before_its_finish_finds_it_refused(house: House, target: str) -> None:
    """Row 13: another finishes meanwhile."""
    sleeper = await house.start("worker", "stop", "before", target)
    job = await house.submit(size=200_000)
    await house.started(job, what="end")
    house.deed("stop", sleeper.name)
    await house.start()
    row = await house.end(job)
    assert (row["attempt"], row["lease"], row["losses"]) == (2, 2, 1)
    house.go_on(sleeper)
    await until(lambda: bool(sleeper.logged("attempt.lost")), what=lambda: sleeper.lines)
    history = await house.verdict()
    assert history.rows[job]["sequence"] == row["sequence"]
    assert {kept.key.split("/")[2] for kept in history.kept if kept.key} == {"2"}
    assert sleeper.is_alive
    # It is as good as new.
    sleeper.lines.clear()
    assert (await house.end(await house.submit()))["state"] == "SUCCESS"


async def test_a_worker_that_wakes_while_another_runs_its_job_does_not_win(house: House) -> None:
    """Row 14: the highest lease alone wins, though the older attempt is done first."""
    sleeper = await house.start("worker", "stop", "before", SETTLE)
    job = await house.submit(seconds=1.5, is_always_slow=True)
    await house.started(job, what="end")
    house.deed("stop", sleeper.name)
    await house.start()
    await house.started(job, lease=2)
    house.go_on(sleeper)
    await until(lambda: bool(sleeper.logged("attempt.lost")), what=lambda: sleeper.lines)
    assert (await house.row(job))["state"] == "PROCESSING"
    row = await house.end(job)
    await house.verdict()
    assert (row["lease"], row["losses"], row["failures"]) == (2, 1, 0)


@pytest.mark.full
async def test_a_frozen_worker_kills_what_it_lost(house: House) -> None:
    """The supervisor is stopped in the middle of an attempt that would go on for ever."""
    sleeper = await house.start()
    job = await house.submit(seconds=600, timeout_seconds=900.0)
    child = await house.started(job)
    house.stop(sleeper)
    await house.start()
    await house.end(job)
    house.go_on(sleeper)
    await until(lambda: not is_alive(child), what=lambda: sleeper.lines)
    await house.verdict()


async def test_wrong_clocks_of_workers_change_no_lease(house: House) -> None:
    """Row 22: an hour ahead, an hour behind, and jumping, while jobs outlive their first lease."""
    ahead = await house.start("worker", "clock", "3600")
    behind = await house.start("worker", "clock", "-3600")
    jobs = [await house.submit(seconds=3, timeout_seconds=30.0) for _ in range(6)]
    jobs += [await house.submit(failures=1) for _ in range(6)]
    await house.started(jobs[0])
    for worker, number in ((ahead, signal.SIGUSR2), (behind, signal.SIGUSR1), (ahead, signal.SIGUSR1)):
        worker.signal(number)
    await house.verdict(is_duplicates_only=True)
    rows = [await house.row(job) for job in jobs]
    assert [(row["state"], row["losses"]) for row in rows] == [("SUCCESS", 0)] * 12
    assert [row["attempt"] for row in rows] == [1] * 6 + [2] * 6
    assert ahead.is_alive
    assert behind.is_alive


async def test_a_skewed_clock_that_aws_refuses_is_an_outage_and_no_loss(house: House) -> None:
    """Row 22: the queue turns every call down until the clock is right again."""
    worker = await house.start()
    house.aws.refuse("*", 403, "RequestTimeTooSkewed")
    job = await house.submit(copies=0)
    await until(lambda: bool(worker.logged("queue.unreceived")), what=lambda: worker.lines)
    house.aws.calm()
    assert (await house.end(job))["attempt"] == 1
    await house.verdict(is_duplicates_only=True)


ALL = ("act", "act-in-a-thread", "act-async", "hold-the-gil", "block-the-loop")


@pytest.mark.parametrize(("kinds", "seconds"), [(ALL[3:], 4), pytest.param(ALL, 20, marks=pytest.mark.full)])
async def test_job_code_slower_than_lease_and_visibility_runs_once(
    make_house: MakeHouse, kinds: tuple[str, ...], seconds: float
) -> None:
    """Rows 19, 23 and 24: long, blocking its loop, holding the GIL; and every call to the queue takes a second."""
    async with make_house(lease_seconds=3, visibility_seconds=2, slots=8) as house:
        house.aws.delays["*"] = 1.0
        workers = [await house.start(), await house.start()]
        jobs = [await house.submit(kind, seconds=seconds) for kind in kinds]
        rows = [await house.end(job, seconds * len(kinds) + 20) for job in jobs]
        house.aws.calm()
        await house.verdict(is_duplicates_only=True)
        assert [(row["state"], row["attempt"], row["losses"]) for row in rows] == [("SUCCESS", 1, 0)] * len(kinds)
        assert not any(worker.logged("attempt.lost") for worker in workers)
