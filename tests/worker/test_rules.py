"""The rules that need no process: what an ending means, what becomes of a hint, who counts in a batch."""

import math
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

import pytest

from todoke.model.ids import new_id
from todoke.model.job import Attempt, Outcome, State
from todoke.queue.port import Message
from worker import frames
from worker.completer import Completer
from worker.ending import Errored, Failed, Final, Released, Stored, clean, outcome, seconds
from worker.hints import Fate, Hints, fate

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
        ("PENDING", False, True, "double", Fate.HIDE),
    ],
)
def test_the_fate_of_a_hint(state: str, is_held: bool, is_due: bool, type_: str, expected: Fate) -> None:
    row = {"state": state, "is_held": is_held, "due_seconds": 0 if is_due else 9, "type": type_}
    assert fate(row, {"double"}) is expected


async def test_the_twin_of_a_claimed_hint_is_forgotten() -> None:
    async def claim(ids: Sequence[UUID]) -> list[Attempt]:
        assert list(ids) == [ATTEMPT.id]
        return [ATTEMPT]

    async def never(_ids: Sequence[UUID]) -> dict[UUID, dict[str, object]]:
        raise AssertionError

    async def nowhere(_ids: Sequence[UUID]) -> None:
        raise AssertionError

    hints = Hints(claim, never, nowhere, {"double"})
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
    assert await completer.settle(new, "receipt")


@pytest.mark.parametrize("payload", [b"[]", b"x", b"\xff", b""])
def test_a_frame_is_an_object(payload: bytes) -> None:
    with pytest.raises(frames.BrokenFrame):
        frames.decode(payload)


def test_a_frame_survives_any_text() -> None:
    frame = {"text": "\ud800\x00届"}
    assert frames.decode(frames.encode(frame)[4:]) == frame
