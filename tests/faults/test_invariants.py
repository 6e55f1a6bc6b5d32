"""The checker can fail: a sound history passes, and one forged against each invariant is refused by its name."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from tests.faults.history import Bounds, Change, Deed, Effect, History, Kept, Left, Row, Seen, Traffic
from tests.faults.invariants import INVARIANTS, violations
from todoke.model.ids import new_id

JOB, OTHER = new_id(), new_id()
FIRST, SECOND = "worker-1", "worker-2"


def born(job: UUID = JOB) -> dict[str, Any]:
    return {
        "id": str(job),
        "state": "PENDING",
        "lease": 0,
        "attempt": 0,
        "sequence": 1,
        "failures": 0,
        "losses": 0,
        "worker_id": None,
        "lease_expires_at": None,
        "due_at": 100.0,
        "redispatch_at": 130.0,
        "dispatch_count": 0,
        "error_code": None,
        "cancel_requested_at": None,
        "idempotency_key": "key",
        "updated_at": "",
    }


def held(row: Row, worker: str, until: float, **more: Any) -> dict[str, Any]:
    count = {name: row[name] + 1 for name in ("lease", "attempt", "sequence")}
    return {**row, **count, "state": "PROCESSING", "worker_id": worker, "lease_expires_at": until, **more}


def ended(row: Row, state: str = "SUCCESS", **more: Any) -> dict[str, Any]:
    return {**row, "state": state, "sequence": row["sequence"] + 1, "lease_expires_at": None, **more}


def given_up(row: Row, **more: Any) -> dict[str, Any]:
    return {**ended(row, "PROCESSING"), "worker_id": None, **more}


def told(*steps: tuple[float, dict[str, Any] | None]) -> list[Change]:
    """The changes that lead through these rows."""
    rows = [None, *(row for _, row in steps)]
    return [Change(n, at, rows[n], row) for n, (at, row) in enumerate(steps)]


def sound() -> History:
    """One job: a first worker claims it at 101 and is killed, a second reclaims it at 106 and succeeds at 108."""
    row = born()
    first = held(row, FIRST, 105.0)
    second = held(first, SECOND, 110.0, losses=1)
    done = ended(second)
    log = [(1, "job.accepted"), (2, "job.started"), (3, "job.started"), (4, "job.succeeded")]
    return History(
        accepted={JOB: "key"},
        changes=told((100.0, row), (101.0, first), (106.0, second), (108.0, done)),
        rows={JOB: done},
        events={JOB: log},
        streams=[[(JOB, number, kind) for number, kind in log]],
        effects=[
            Effect(JOB, 1, "start", 7, 101.1),
            Effect(JOB, 2, "start", 8, 106.1),
            Effect(JOB, 2, "end", 8, 107.0),
        ],
        seen=[Seen(JOB, "running", 2, 1, 40.0), Seen(JOB, "running", 3, 2, 10.0), Seen(JOB, "success", 4, 2)],
        deeds=[Deed("kill", FIRST, 102.0), Deed("term", SECOND, 109.0), Deed("exit", SECOND, 110.0)],
        traffic=[
            Traffic(100.1, "send", "m1", JOB),
            Traffic(100.9, "receive", "m1", JOB),
            Traffic(108.1, "delete", "m1", JOB),
        ],
        kept=[Kept(JOB, f"default/{JOB}/2/0-result.json", "aa", "aa", {"lease": 2})],
        bounds=Bounds(recovery_seconds=6, cancel_seconds=10),
    )


def relabel(history: History, number: int, **changes: Any) -> None:
    """Put other values into what one change left behind, and into what the next one found."""
    for place, change in enumerate(history.changes):
        if place == number and change.after is not None:
            history.changes[place] = replace(change, after={**change.after, **changes})
        if place == number + 1 and change.before is not None:
            history.changes[place] = replace(change, before={**change.before, **changes})


def test_a_sound_history_passes() -> None:
    assert violations(sound()) == []


def never_ended(history: History) -> None:
    history.rows[JOB] = history.changes[2].after or {}


def nobodys_row(history: History) -> None:
    history.rows[OTHER] = {**history.rows[JOB], "id": str(OTHER), "idempotency_key": None}
    history.events[OTHER] = history.events[JOB]


def nobodys_run(history: History) -> None:
    history.effects.append(Effect(OTHER, 1, "start", 1, 1.0))


def ended_twice(history: History) -> None:
    history.changes += [replace(history.changes[3], number=4)]


def closed_twice(history: History) -> None:
    history.events[JOB].insert(2, (3, "job.failed"))


def ended_unclosed(history: History) -> None:
    history.events[JOB][-1] = (4, "job.retrying")


def ended_below_its_lease(history: History) -> None:
    history.rows[JOB] = {**history.rows[JOB], "lease": 1}


def kept_a_stale_result(history: History) -> None:
    history.kept[0] = replace(history.kept[0], result={"lease": 1})


def lease_fell(history: History) -> None:
    relabel(history, 2, lease=0)


def lease_jumped(history: History) -> None:
    relabel(history, 2, lease=3)


def lease_shared(history: History) -> None:
    relabel(history, 2, lease=1)


def reclaimed_early(history: History) -> None:
    relabel(history, 1, lease_expires_at=106.5)


def claimed_early(history: History) -> None:
    relabel(history, 0, due_at=101.5)


def went_back(history: History) -> None:
    relabel(history, 2, state="PENDING")


def changed_after_the_end(history: History) -> None:
    done = history.rows[JOB]
    history.changes.append(Change(4, 111.0, done, {**done, "error_code": "JOB_ERROR"}))


def deleted_unfinished(history: History) -> None:
    history.changes.append(Change(4, 111.0, history.changes[2].after, None))


def ended_by_a_stranger(history: History) -> None:
    relabel(history, 3, worker_id=FIRST)


def succeeded_unheld(history: History) -> None:
    relabel(history, 2, worker_id=None, lease_expires_at=None)


def failed_unheld_for_no_reason(history: History) -> None:
    row = born(OTHER)
    history.accepted[OTHER] = None
    failed = ended(row, "FAILED", error_code="JOB_ERROR", idempotency_key=None)
    history.changes += [Change(5, 100.0, None, row), Change(6, 101.0, row, failed)]
    history.rows[OTHER] = failed
    history.events[OTHER] = [(1, "job.accepted"), (2, "job.failed")]


def lost_under_a_live_lease(history: History) -> None:
    relabel(history, 3, state="FAILED", error_code="WORKER_LOST", losses=2, worker_id=None)


def sequence_moved_alone(history: History) -> None:
    row = history.changes[1].after or {}
    history.changes.insert(2, Change(1, 102.0, row, {**row, "sequence": 3}))


def given_up_and_still_expiring(history: History) -> None:
    row = history.changes[1].after or {}
    history.changes.insert(2, Change(1, 102.0, row, given_up(row, lease_expires_at=105.0)))


def release_charged(history: History) -> None:
    row = history.changes[1].after or {}
    history.changes.insert(2, Change(1, 102.0, row, given_up(row, failures=1, error_code="WORKER_STOPPED")))


def losses_miscounted(history: History) -> None:
    history.rows[JOB] = {**history.rows[JOB], "losses": 0}


def charged_without_a_failure(history: History) -> None:
    relabel(history, 3, state="FAILED", error_code="JOB_ERROR", failures=1)
    history.rows[JOB] = history.changes[3].after or {}


def queue_not_empty(history: History) -> None:
    history.left = Left(visible=0, hidden=1)


def dead_letter_of_a_success(history: History) -> None:
    history.left = Left(dead=(JOB,))


def deleted_too_soon(history: History) -> None:
    history.traffic[2] = Traffic(100.5, "delete", "m1", JOB)


def end_undone(history: History) -> None:
    history.seen.append(Seen(JOB, "running", 4, 2))


def sequence_fell(history: History) -> None:
    history.seen.insert(2, Seen(JOB, "running", 2, 2))


def progress_fell(history: History) -> None:
    history.seen.insert(1, Seen(JOB, "running", 2, 1, 39.0))


def gap_in_the_log(history: History) -> None:
    del history.events[JOB][1]


def log_goes_on(history: History) -> None:
    history.events[JOB][2] = (3, "job.failed")


def stream_skipped(history: History) -> None:
    del history.streams[0][1]


def stream_repeated(history: History) -> None:
    history.streams[0].insert(1, history.streams[0][0])


def key_made_two_jobs(history: History) -> None:
    history.accepted[OTHER] = "key"


def success_after_cancel(history: History) -> None:
    history.seen = [Seen(JOB, "failed", 4, 2, code="CANCELED")]


def canceled_late(history: History) -> None:
    history.cancels.append((JOB, 97.0))


def claimed_in_spite_of_a_cancel(history: History) -> None:
    relabel(history, 1, cancel_requested_at=103.0)


def artifact_gone(history: History) -> None:
    history.kept[0] = replace(history.kept[0], found=None)


def artifact_of_another_lease(history: History) -> None:
    history.kept[0] = replace(history.kept[0], key=f"default/{JOB}/1/0-result.json")


def success_without_a_result(history: History) -> None:
    history.kept.clear()


def recovered_late(history: History) -> None:
    history.bounds = replace(history.bounds, recovery_seconds=3)


def claimed_after_sigterm(history: History) -> None:
    history.deeds[1] = Deed("term", SECOND, 104.0)


def never_gone(history: History) -> None:
    del history.deeds[2]


def ran_twice_under_one_lease(history: History) -> None:
    history.effects.append(history.effects[1])


def ran_again_without_a_fault(history: History) -> None:
    history.bounds = replace(history.bounds, is_duplicates_only=True)


def ran_without_a_claim(history: History) -> None:
    history.effects.append(Effect(JOB, 3, "start", 9, 108.5))


def row_missing(history: History) -> None:
    history.accepted[OTHER] = None


def counter_below_zero(history: History) -> None:
    history.rows[JOB] = {**history.rows[JOB], "dispatch_count": -1}


FORGERIES: list[tuple[str, Callable[[History], None]]] = [
    ("I1", never_ended),
    ("I2", nobodys_row),
    ("I2", nobodys_run),
    ("I3", ended_twice),
    ("I3", closed_twice),
    ("I3", ended_unclosed),
    ("I4", ended_below_its_lease),
    ("I4", kept_a_stale_result),
    ("I5", lease_fell),
    ("I5", lease_jumped),
    ("I5", lease_shared),
    ("I6", reclaimed_early),
    ("I6", claimed_early),
    ("I7", went_back),
    ("I7", changed_after_the_end),
    ("I7", deleted_unfinished),
    ("I7", ended_by_a_stranger),
    ("I7", succeeded_unheld),
    ("I7", failed_unheld_for_no_reason),
    ("I7", lost_under_a_live_lease),
    ("I7", sequence_moved_alone),
    ("I7", given_up_and_still_expiring),
    ("I8", release_charged),
    ("I8", losses_miscounted),
    ("I8", charged_without_a_failure),
    ("I9", queue_not_empty),
    ("I9", dead_letter_of_a_success),
    ("I10", deleted_too_soon),
    ("I11", end_undone),
    ("I11", sequence_fell),
    ("I11", progress_fell),
    ("I12", gap_in_the_log),
    ("I12", log_goes_on),
    ("I12", stream_skipped),
    ("I12", stream_repeated),
    ("I13", key_made_two_jobs),
    ("I14", success_after_cancel),
    ("I14", canceled_late),
    ("I14", claimed_in_spite_of_a_cancel),
    ("I15", artifact_gone),
    ("I15", artifact_of_another_lease),
    ("I15", success_without_a_result),
    ("I16", recovered_late),
    ("I17", claimed_after_sigterm),
    ("I17", never_gone),
    ("I18", ran_twice_under_one_lease),
    ("I18", ran_again_without_a_fault),
    ("I18", ran_without_a_claim),
    ("I20", row_missing),
    ("I20", counter_below_zero),
]


@pytest.mark.parametrize(("name", "forge"), FORGERIES, ids=[f"{name}-{f.__name__}" for name, f in FORGERIES])
def test_a_forged_history_is_refused_by_name(name: str, forge: Callable[[History], None]) -> None:
    history = sound()
    forge(history)
    assert name in {line.partition(":")[0] for line in violations(history)}


def test_every_invariant_has_a_forgery() -> None:
    assert INVARIANTS.keys() == {name for name, _ in FORGERIES}
