"""Messages that repeat, come late, or are taken only in part (rows 15 to 17)."""

from tests.faults.house import PATIENT, House

SETTINGS = PATIENT


async def test_every_message_several_times_at_once_runs_each_job_once(house: House) -> None:
    """Row 15: two to five messages a job, each of them received two to five times, by three workers."""
    house.aws.send_copies = house.aws.receive_copies = (1, 4)
    for _ in range(3):
        await house.start()
    kinds = ("act", "act-async", "act-in-a-thread")
    jobs = [await house.submit(kinds[number % 3], seconds=0.05 * (number % 4)) for number in range(24)]
    for job in jobs:
        await house.end(job)
    # What is left of the copies of receives names messages that are gone.
    house.aws.calm()
    history = await house.verdict(is_duplicates_only=True)
    assert {(row["state"], row["attempt"]) for row in history.rows.values()} == {("SUCCESS", 1)}
    received = [item for item in history.traffic if item.action == "receive"]
    assert len(received) >= 4 * len(jobs)


async def test_a_message_that_comes_again_after_it_was_deleted_is_ignored(house: House) -> None:
    """Row 16."""
    house.aws.receive_copies, house.aws.is_repeating_deleted = (2, 4), True
    await house.start()
    jobs = [await house.submit(failures=number % 2) for number in range(10)]
    for job in jobs:
        await house.end(job)
    history = await house.verdict(is_duplicates_only=True)
    assert [history.rows[job]["attempt"] for job in jobs] == [1, 2] * 5
    gone: set[str] = set()
    late = 0
    for item in history.traffic:
        gone |= {item.message} if item.action == "delete" else set()
        late += item.action == "receive" and item.message in gone
    assert late >= 10


async def test_batches_taken_only_in_part_are_made_good_entry_by_entry(house: House) -> None:
    """Row 17: of every batch sent, deleted or hidden, the queue refuses every other entry for a while."""
    for action in ("SendMessageBatch", "DeleteMessageBatch", "ChangeMessageVisibilityBatch"):
        house.aws.fail_entries(action, lambda position: position % 2 == 0, times=6)
    jobs = [await house.submit(copies=0) for _ in range(15)]
    for start in range(0, 15, 5):
        await house.queue.send(jobs[start : start + 5])
    await house.start()
    history = await house.verdict()
    assert {(row["state"], row["attempt"]) for row in history.rows.values()} == {("SUCCESS", 1)}
    refused = [item for item in history.traffic if not item.is_done]
    assert {item.action for item in refused} >= {"send", "delete"}
