"""The oracle finds what is wrong in forged histories, and nothing in true ones."""

import json
from collections.abc import Callable
from uuid import UUID

import pytest

from tests.streams.oracle import judge, judge_feed
from todoke.model.event import Event
from todoke.wire.sse import Frame

JOB, OTHER = UUID(int=7), UUID(int=8)
NAMES = {1: ("job.accepted", "running"), 2: ("job.started", "running"), 3: ("job.succeeded", "success")}

Frames = list[Frame]


def body(sequence: int, event: str, job_id: UUID = JOB, **more: object) -> str:
    data = {"jobId": str(job_id), "sequence": sequence, "status": NAMES[sequence][1]}
    return json.dumps({"type": event, "data": data | more.pop("data", {}), **more})  # type: ignore[operator]


LOG = [Event(JOB, number, name, body(number, name)) for number, (name, _) in NAMES.items()]
LOGS = {
    job_id: [Event(job_id, n, name, body(n, name, job_id)) for n, (name, _) in NAMES.items()] for job_id in (JOB, OTHER)
}


def told(sequence: int, epoch: str = "e1") -> Frame:
    return Frame(LOG[sequence - 1].type, LOG[sequence - 1].body, f"{epoch}.{sequence}")


def whole(kind: str, sequence: int, epoch: str = "e1", at: int | None = None, **more: object) -> Frame:
    """at: the number in its id, where that is another; of an ended job, the one before its terminal event."""
    reason = {"reason": "epoch"} if kind == "reset" else {}
    return Frame(kind, body(sequence, kind, **reason | more), f"{epoch}.{at or sequence}")


def progress(at: int, version: int = 1) -> Frame:
    return Frame("job.progress", body(at, "job.progress", data={"progressVersion": version}), f"e1.{at}")


RECONNECT = Frame("reconnect", '{"reason":"draining"}', "e1.1")
ALL = [told(1), told(2), told(3)]


@pytest.mark.parametrize(
    ("frames", "after"),
    [
        (ALL, 0),
        ([told(1), RECONNECT, told(2), progress(2), told(3)], 0),
        ([told(2), told(3)], 1),
        ([whole("snapshot", 1), told(2), told(3)], None),
        ([whole("snapshot", 2), progress(2), progress(2), told(3)], None),
        ([whole("snapshot", 3, at=2), told(3)], None),
        ([whole("reset", 2), told(3)], 1),
        ([told(1), whole("reset", 3, at=2), told(3)], 0),
        ([told(1), told(2), whole("reset", 1, "e2"), told(2, "e2"), told(3, "e2")], 0),
        ([], 3),
    ],
)
def test_true_histories_are_left_alone(frames: Frames, after: int | None) -> None:
    log = LOG if after != 3 else [*LOG[:2], Event(JOB, 3, "job.retrying", "{}")]
    assert judge(log, frames, after=after) == []


@pytest.mark.parametrize(
    ("frames", "after", "word"),
    [
        ([told(1), told(3)], 0, "silent gap"),
        ([told(2), told(3)], 0, "silent gap"),
        ([told(1), told(1), told(2), told(3)], 0, "again or late"),
        ([told(1), told(2), told(1), told(3)], 0, "again or late"),
        ([*ALL, told(3)], 0, "again or late"),
        ([told(1), told(2)], 0, "up to 2 of 3"),
        ([], 0, "up to 0 of 3"),
        ([], None, "up to None of 3"),
        ([told(2), told(3)], None, "neither a snapshot"),
        ([told(1), whole("snapshot", 2), told(3)], 0, "had a place"),
        ([told(1), told(2), whole("reset", 1), told(2), told(3)], 0, "goes back"),
        ([whole("snapshot", 3)], None, "up to 2 of 3"),
        ([whole("snapshot", 2, data={"status": "success"}), told(3)], None, "shows other"),
        ([*ALL[:2], Frame("job.failed", LOG[2].body, "e1.3")], 0, "not what was committed"),
        ([*ALL[:2], Frame(LOG[2].type, LOG[2].body + " ", "e1.3")], 0, "not what was committed"),
        ([told(1), Frame(LOG[1].type, LOG[1].body, "e1.1"), told(3)], 0, "the cursor says 1, told is 2"),
        ([told(1), told(2, "e2"), told(3, "e2")], 0, "without a reset"),
        ([Frame(LOG[0].type, LOG[0].body, ""), *ALL[1:]], 0, "with the id ''"),
        ([whole("reset", 2, reason=""), told(3)], 0, "without a reason"),
        ([Frame("reset", body(2, "reset", reason="x"), "e1.1"), told(3)], 0, "with the id 'e1.1'"),
        ([*ALL, progress(3)], 0, "after the end"),
        ([told(1), progress(1, 5), progress(1, 4), *ALL[1:]], 0, "progress 4 after 5"),
        ([told(1), Frame("job.progress", progress(1).data, "e1.2"), *ALL[1:]], 0, "the cursor says 2, told is 1"),
    ],
)
def test_forged_histories_are_found(frames: Frames, after: int | None, word: str) -> None:
    faults = judge(LOG, frames, after=after)
    assert any(word in fault for fault in faults), faults


def test_what_was_never_committed_is_found() -> None:
    assert "never committed" in judge(LOG[:2], [told(3)], after=2)[0]
    assert "never committed" in judge(LOG[:2], [whole("snapshot", 3)], after=None)[0]


def test_who_was_cut_off_need_not_know_the_end() -> None:
    assert judge(LOG, [told(1)], after=0, is_complete=False) == []
    assert judge(LOG, [told(1), told(3)], after=0, is_complete=False) != []


def of(job_id: UUID, sequence: int) -> Frame:
    return Frame(NAMES[sequence][0], body(sequence, NAMES[sequence][0], job_id), "sealed")


def interleaved() -> Frames:
    return [of(job_id, sequence) for sequence in NAMES for job_id in (JOB, OTHER)]


def test_a_feed_keeps_every_jobs_own_order() -> None:
    assert judge_feed(LOGS, interleaved()) == []
    assert judge_feed(LOGS, [of(j, n) for j in LOGS for n in NAMES]) == []
    reset = Frame("reset", '{"type":"reset","reason":"epoch"}', "sealed")
    assert judge_feed(LOGS, [reset, *interleaved()[2:]]) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda frames: frames[:-1],
        lambda frames: frames[1:],
        lambda frames: [*frames, frames[0]],
        lambda frames: [frames[2], frames[1], frames[0], *frames[3:]],
        lambda frames: [*frames, of(UUID(int=9), 1)],
    ],
)
def test_a_spoiled_feed_is_found(spoil: Callable[[Frames], Frames]) -> None:
    assert judge_feed(LOGS, spoil(interleaved())) != []
