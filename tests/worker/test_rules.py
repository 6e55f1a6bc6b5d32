"""The rules that need no process: what an ending means, what becomes of a hint, who counts in a batch."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

import pytest

from todoke.model.errors import Unavailable
from todoke.model.ids import new_id
from todoke.model.job import Attempt, Outcome, State
from todoke.queue.port import Message
from worker import frames
from worker.completer import Completer
from worker.ending import Errored, Failed, Final, Released, Stored, clean, outcome, seconds
from worker.held import Held
from worker.hints import Fate, Hide, Hints, fate
from worker.sweeper import Sweeper

ATTEMPT = Attempt(new_id(), "default", "double", "{}", 3, 2, 1, 3, 60.0)


@pytest.mark.parametrize(
    ("ending", "failures", "state", "is_charged"),
    [
        (Stored(()), 0, State.SUCCESS, False),
        (Failed("NO_DATA", "no"), 0, State.FAILED, True),
        (Errored("JOB_ERROR", "no"), 1, State.PROCESSING, True),
        (Errored("JOB_ERROR", "no"), 2, State.FAILED, True),
        (Released("WORKER_STOPPED", "no"), 2, State.PROCESSING, False),
    ],
)
def test_an_ending_becomes_an_outcome(ending: Final, failures: int, state: State, is_charged: bool) -> None:
    found = outcome(replace(ATTEMPT, failures=failures), ending)
    assert (found.id, found.lease, found.state, found.is_charged) == (ATTEMPT.id, 3, state, is_charged)


def test_the_delay_asked_for_is_kept_and_backoff_is_the_default() -> None:
    assert outcome(ATTEMPT, Errored("JOB_ERROR", "", after=7)).delay == 7
    assert 2 <= outcome(ATTEMPT, Errored("JOB_ERROR", "")).delay <= 6


def test_a_code_that_is_none_becomes_words() -> None:
    found = outcome(ATTEMPT, Failed("not a code", "because"))
    assert (found.error_code, found.error) == ("JOB_ERROR", "not a code: because")


def test_words_fit_into_postgresql() -> None:
    assert clean("a\x00b\ud800") == "ab?"
    assert len(clean("é" * 5000)) == 2000


@pytest.mark.parametrize(
    ("asked", "given"), [(-1, 0), (5, 5), (math.nan, 0), (math.inf, 86400), ("x", 0), (None, 0), (True, 1)]
)
def test_a_delay_asked_for_is_bounded(asked: object, given: float) -> None:
    assert seconds(asked) == given


@pytest.mark.parametrize(
    ("state", "is_held", "is_due", "type_", "expected"),
    [
        ("SUCCESS", False, True, "double", Fate.FORGET),
        ("FAILED", False, True, "unknown", Fate.FORGET),
        ("PROCESSING", True, True, "double", Fate.FORGET),
        ("PROCESSING", True, True, "unknown", Fate.FORGET),
        ("PROCESSING", False, False, "double", Fate.FORGET),
        ("PENDING", False, False, "unknown", Fate.FORGET),
        ("PENDING", False, True, "unknown", Fate.PUT_OFF),
        ("PROCESSING", False, True, "unknown", Fate.PUT_OFF),
        ("PENDING", False, True, "double", Hide()),
    ],
)
def test_the_fate_of_a_hint(state: str, is_held: bool, is_due: bool, type_: str, expected: Fate | Hide) -> None:
    row = {"state": state, "is_held": is_held, "due_seconds": 0 if is_due else 9, "type": type_}
    assert fate(row, {"double"}) == expected


async def test_the_twin_of_a_claimed_hint_is_forgotten() -> None:
    async def claim(ids: Sequence[UUID]) -> list[Attempt]:
        assert list(ids) == [ATTEMPT.id]
        return [ATTEMPT]

    async def never(_ids: Sequence[UUID]) -> dict[UUID, dict[str, object]]:
        raise AssertionError

    async def nowhere(_ids: Sequence[UUID]) -> None:
        raise AssertionError

    hints = Hints(claim, claim, never, nowhere, {"double"})
    messages = [Message("a", ATTEMPT.id, 9), Message("b", ATTEMPT.id, 9), Message("c", None, 1)]
    assert await hints.resolve(messages) == [ATTEMPT, Fate.FORGET, Fate.LEAVE]


async def test_only_the_newest_lease_of_a_job_counts_in_a_batch() -> None:
    told: list[Sequence[Outcome]] = []

    async def settle(outcomes: Sequence[Outcome]) -> list[bool]:
        told.append(outcomes)
        return [True] * len(outcomes)

    async def report(_reports: Sequence[object]) -> list[bool]:
        raise AssertionError

    completer = Completer(settle, report, lambda _receipt: None, lambda _receipt: None)
    old, new = Outcome(ATTEMPT.id, 1, State.FAILED), Outcome(ATTEMPT.id, 2, State.SUCCESS)
    from worker.completer import _newest_alone  # noqa: PLC0415

    assert await _newest_alone(settle, [new, old]) == [True, False]
    assert told == [[new]]
    assert await completer.settle(new, Held(ATTEMPT, "receipt"))


@pytest.mark.parametrize("payload", [b"[]", b"x", b"\xff", b""])
def test_a_frame_is_an_object(payload: bytes) -> None:
    with pytest.raises(frames.BrokenFrame):
        frames.decode(payload)


def test_a_frame_survives_any_text() -> None:
    frame = {"text": "\ud800\x00届"}
    assert frames.decode(frames.encode(frame)[4:]) == frame


def _standing(**changes: object) -> dict[str, object]:
    return {"state": "PENDING", "is_held": False, "due_seconds": 0.0, "type": "double", "is_limited": False} | changes


@pytest.mark.parametrize(
    ("state", "due_seconds", "expected"),
    [
        ("PENDING", 4.2, Hide(6)),
        ("PENDING", 5.1, Fate.FORGET),
        ("PROCESSING", 1.0, Fate.FORGET),
    ],
)
def test_a_job_that_is_due_soon_keeps_its_hint(state: str, due_seconds: float, expected: Fate | Hide) -> None:
    assert fate(_standing(state=state, due_seconds=due_seconds), {"double"}) == expected


async def test_hints_are_permits_while_rank_decides() -> None:
    """Whatever was taken gets a message to end with, and never more is taken than messages came."""
    named = [new_id() for _ in range(3)]
    other, limited = new_id(), named[2]
    rows = {named[0]: _standing(), named[1]: _standing(), limited: _standing(is_limited=True)}

    async def claim(ids: Sequence[UUID]) -> list[Attempt]:
        return [replace(ATTEMPT, id=other)]

    async def claim_limited(ids: Sequence[UUID]) -> list[Attempt]:
        assert list(ids) == [limited]
        return []

    async def standing(ids: Sequence[UUID]) -> dict[UUID, dict[str, object]]:
        return {id_: rows[id_] for id_ in ids}

    async def nowhere(_ids: Sequence[UUID]) -> None:
        raise AssertionError

    hints = Hints(claim, claim_limited, standing, nowhere, {"double"})
    messages = [Message(str(number), id_, 1) for number, id_ in enumerate(named)]
    assert await hints.resolve(messages) == [replace(ATTEMPT, id=other), Hide(), Fate.FORGET]


async def test_what_was_claimed_is_run_though_the_rest_cannot_be_looked_at() -> None:
    async def claim(_ids: Sequence[UUID]) -> list[Attempt]:
        return [ATTEMPT]

    async def away(_ids: Sequence[UUID]) -> dict[UUID, dict[str, object]]:
        raise Unavailable("gone")

    async def nothing(_ids: Sequence[UUID]) -> list[Attempt]:
        return []

    async def nowhere(_ids: Sequence[UUID]) -> None:
        raise AssertionError

    hints = Hints(claim, nothing, away, nowhere, {"double"})
    messages = [Message("a", new_id(), 1), Message("b", ATTEMPT.id, 1)]
    assert await hints.resolve(messages) == [Hide(), ATTEMPT]


class _Backlog:
    """A ledger with jobs nobody has come for."""

    def __init__(self, overdue: int, due: int) -> None:
        self.overdue, self.due = overdue, due
        self.asked: list[bool] = []
        self.unsent_ids: list[UUID] = []
        self.named = [new_id() for _ in range(25)]

    async def end_doomed(self, jobs_max: int) -> int:
        return 0

    async def count_overdue(self, jobs_max: int) -> int:
        return min(self.overdue, jobs_max)

    async def count_due(self, jobs_max: int) -> int:
        return min(self.due, jobs_max)

    async def redispatch(self, jobs_max: int, *, is_started_only: bool) -> list[UUID]:
        self.asked.append(is_started_only)
        return self.named

    async def unsent(self, ids: Sequence[UUID]) -> None:
        self.unsent_ids += ids


@pytest.mark.parametrize(
    ("overdue", "due", "visible", "is_started_only"),
    [(99, 1000, 1000, False), (100, 1000, 900, True), (100, 1000, 899, False), (100, 10**6, 9000, True)],
)
async def test_a_deep_backlog_is_not_made_deeper(overdue: int, due: int, visible: int, is_started_only: bool) -> None:
    sent: list[UUID] = []

    async def send(ids: Sequence[UUID]) -> list[UUID]:
        sent.extend(ids)
        return []

    async def depth() -> int:
        return visible

    backlog = _Backlog(overdue, due)
    assert not await Sweeper(backlog, send=send, depth=depth, is_queue_away=lambda: False).sweep()
    assert backlog.asked == [is_started_only]
    assert sorted(sent) == sorted(backlog.named)


async def test_what_could_not_be_sent_is_named_again_by_the_next_sweep() -> None:
    calls: list[int] = []

    async def send(ids: Sequence[UUID]) -> list[UUID]:
        calls.append(len(ids))
        await asyncio.sleep(0)
        raise Unavailable("gone")

    async def depth() -> int:
        raise AssertionError

    backlog = _Backlog(0, 0)
    await Sweeper(backlog, send=send, depth=depth, is_queue_away=lambda: False).sweep()
    assert sorted(backlog.unsent_ids) == sorted(backlog.named)
    backlog = _Backlog(0, 0)
    await Sweeper(backlog, send=send, depth=depth, is_queue_away=lambda: True).sweep()
    assert backlog.asked == []
