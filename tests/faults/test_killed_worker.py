"""kill -9 at every step of a worker's work (rows 4 to 11): the job ends once, and is charged to nobody's failures."""

from dataclasses import dataclass

import pytest

from tests.faults.house import RECOVERY_SECONDS, House, MakeHouse, together
from tests.faults.processes import is_alive, until

CLAIM = "todoke.store.ledger:Ledger.claim"
SETTLE = "todoke.store.ledger:Ledger.settle"
RECEIVE = "todoke.queue.sqs:SqsQueue.receive"
DELETE = "todoke.queue.sqs:SqsQueue.delete"
PUT = "todoke.blobs.s3:S3Blobs.put"
RUN = "worker.host:Host.run"
SEND = "todoke.queue.sqs:SqsQueue.send"
REDISPATCH = "todoke.store.repair:Repair.redispatch"


@dataclass(frozen=True)
class Step:
    """Where a worker dies, and what the job's row and the runs of its code must come to."""

    row: str
    when: str
    target: str
    attempt: int
    losses: int
    runs: int


STEPS = [
    Step("4: received, not claimed", "after", RECEIVE, attempt=1, losses=0, runs=1),
    Step("5: claimed, not started", "after", CLAIM, attempt=2, losses=1, runs=1),
    Step("7: job code returned, nothing kept", "after", RUN, attempt=2, losses=1, runs=2),
    Step("8: object stored, not committed", "after", PUT, attempt=2, losses=1, runs=2),
    Step("8: about to commit", "before", SETTLE, attempt=2, losses=1, runs=2),
    Step("9: committed, message not deleted", "after", SETTLE, attempt=1, losses=0, runs=1),
    Step("10: message deleted", "after", DELETE, attempt=1, losses=0, runs=1),
]


async def dies_at(make_house: MakeHouse, step: Step) -> None:
    async with make_house() as house:
        doomed = await house.start("worker", "kill", step.when, step.target)
        job = await house.submit(size=200_000)
        await house.struck(doomed)
        await house.start()
        row = await house.end(job)
        history = await house.verdict(recovery_seconds=RECOVERY_SECONDS)
        found = (row["state"], row["attempt"], row["losses"], row["failures"])
        assert found == ("SUCCESS", step.attempt, step.losses, 0), step.row
        assert sum(effect.what == "start" for effect in history.effects) == step.runs, step.row


@pytest.mark.parametrize("steps", [STEPS[:3], STEPS[3:]], ids=["before-keeping", "from-keeping-on"])
async def test_a_worker_killed_at_any_step_loses_nothing(make_house: MakeHouse, steps: list[Step]) -> None:
    await together(*(dies_at(make_house, step) for step in steps))


async def test_a_worker_killed_mid_job_leaves_no_process_whatever_the_isolation(house: House) -> None:
    """Row 6."""
    doomed = await house.start()
    kinds = ("act", "act-in-a-thread", "act-async")
    jobs = [await house.submit(kind, seconds=600, timeout_seconds=900.0) for kind in kinds]
    children = [await house.started(job) for job in jobs]
    house.kill(doomed)
    await until(lambda: not any(map(is_alive, children)), seconds=1)
    await house.start()
    rows = [await house.end(job) for job in jobs]
    assert [(row["attempt"], row["losses"], row["failures"]) for row in rows] == [(2, 1, 0)] * 3
    await house.verdict(recovery_seconds=RECOVERY_SECONDS)


async def sweeper_dies(make_house: MakeHouse, when: str, target: str, jobs: int) -> None:
    async with make_house(redispatch_seconds=0.5) as house:
        doomed = await house.start("worker", "kill", when, target)
        for _ in range(jobs):
            await house.submit(copies=0)
        await house.struck(doomed)
        await house.start()
        history = await house.verdict()
        sends = [item for item in house.aws.log if item.action == "send"]
        # Each crash costs one repeat of a hint, never a storm.
        assert len(sends) <= 3 * jobs, len(sends)
        assert {row["attempt"] for row in history.rows.values()} <= {1, 2}


async def test_a_sweeper_killed_around_its_send_repeats_and_never_loses(make_house: MakeHouse) -> None:
    """Row 11."""
    await together(
        sweeper_dies(make_house, "after", REDISPATCH, 7),
        sweeper_dies(make_house, "before", SEND, 7),
        sweeper_dies(make_house, "done", SEND, 7),
    )
