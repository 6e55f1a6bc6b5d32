"""When a running job will probably end, and when to ask again: arithmetic on how long its kind took lately."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from todoke.store.history import Ended
from todoke.store.reading import Status

SECONDS_MIN, SECONDS_MAX = 2.0, 5.0
# A job that outlasts all we know of is asked for more and more seldom.
OVERDUE_SHARE = 0.1
# Less says nothing about the rest.
PERCENT_MIN = 1.0
HALF, MOST = 0.5, 0.9


class Past:
    """How long jobs of one type and tenant waited and ran lately, seconds."""

    def __init__(self, ended: Sequence[Ended]) -> None:
        self.basis = len(ended)
        self.waits = sorted(item.waited for item in ended)
        self.runs = sorted(item.ran for item in ended)


@dataclass(frozen=True)
class Estimate:
    """Seconds until the end: half of `basis` comparable jobs took no longer, nine of ten no longer than `upper`.

    None: the job has outlasted every one of them.
    """

    remaining: float | None
    upper: float | None
    basis: int

    def public(self) -> dict[str, object]:
        """As a status shows it."""
        return {
            "remainingSeconds": None if self.remaining is None else round(self.remaining, 1),
            "upperSeconds": None if self.upper is None else round(self.upper, 1),
            "basis": self.basis,
        }


@dataclass(frozen=True)
class Pace:
    """How a caller is asked to go on. milliseconds: until its next poll, 2,000 to 5,000."""

    milliseconds: int = 2_000
    estimate: Estimate | None = None

    @property
    def retry_after(self) -> str:
        """The same in whole seconds, never sooner."""
        return str(math.ceil(self.milliseconds / 1000))


def pace(past: Past | None, status: Status) -> Pace:
    """The pace for a job that has not ended; without a past, that of always."""
    if past is None or not past.basis:
        return Pace()
    estimate = _estimate(past, status)
    age = max(status.due_age, status.start_age or 0.0)
    seconds = age * OVERDUE_SHARE if estimate.remaining is None else estimate.remaining
    return Pace(math.ceil(min(max(seconds, SECONDS_MIN), SECONDS_MAX) * 1000), estimate)


def _estimate(past: Past, status: Status) -> Estimate:
    remaining, upper = (_remaining(past, status, share) for share in (HALF, MOST))
    if remaining is not None and upper is not None:
        upper = max(remaining, upper)
    return Estimate(remaining, upper, past.basis)


def _remaining(past: Past, status: Status, share: float) -> float | None:
    run = _quantile(past.runs, share)
    if status.start_age is None:
        if status.due_age < 0:
            return -status.due_age + _quantile(past.waits, share) + run
        wait = _left(past.waits, status.due_age, share)
        return None if wait is None else wait + run
    left = _left(past.runs, status.start_age, share)
    if status.story["phase"] == "waiting":
        # It starts over: what it has spent so far brings the end no nearer.
        return max(left or 0.0, max(0.0, -status.due_age) + run)
    return _sharpened(left, status)


def _sharpened(left: float | None, status: Status) -> float | None:
    """The more of the job is done, the more its own progress weighs against what others took."""
    progress = status.story["progress"]
    # A later attempt has not run since the job's start.
    percent = 0.0 if progress is None else min(float(progress["percent"]), 100.0)
    if status.start_age is None or status.story["attempt"] != 1 or percent < PERCENT_MIN:
        return left
    done = percent / 100
    own = max(0.0, status.start_age) * (1 - done) / done
    return own if left is None else own * done + left * (1 - done)


def _left(past: Sequence[float], age: float, share: float) -> float | None:
    """Of those that lasted longer than `age`: how much longer. None when none did."""
    longer = [seconds - age for seconds in past if seconds > age]
    return _quantile(longer, share) if longer else None


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[math.ceil(share * len(ordered)) - 1]
