"""How the run of an attempt can end, and what each ending means for its job."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from todoke.model.job import Artifact, Attempt, Outcome, State
from todoke.model.retry import backoff

TEXT_CHARACTERS_MAX = 2000
MESSAGE_CHARACTERS_MAX = 200
RETRY_SECONDS_MAX = 24 * 3600.0
CODE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")

JOB_ERROR = "JOB_ERROR"
TIMEOUT = "TIMEOUT"
CHILD_DIED = "CHILD_DIED"
MEMORY_LIMIT = "MEMORY_LIMIT"
CANCELED = "CANCELED"
PARAMS_INVALID = "PARAMS_INVALID"
RESULT_INVALID = "RESULT_INVALID"
RESULT_TOO_LARGE = "RESULT_TOO_LARGE"
RESULT_UPLOAD_FAILED = "RESULT_UPLOAD_FAILED"
WORKER_STOPPED = "WORKER_STOPPED"
WORKER_FAULT = "WORKER_FAULT"


@dataclass(frozen=True)
class Made:
    """One named file of a result as the child left it: in a file of the attempt's folder, or small enough inline."""

    name: str
    media_type: str
    content: bytes | Path


@dataclass(frozen=True)
class Returned:
    """The job function returned; what it made is not stored yet."""

    made: tuple[Made, ...]


@dataclass(frozen=True)
class Stored:
    """What the job function made is kept."""

    artifacts: tuple[Artifact, ...]


@dataclass(frozen=True)
class Failed:
    """The job ends here: another attempt would not help."""

    code: str
    message: str


@dataclass(frozen=True)
class Errored:
    """The attempt failed and is charged. `after`: seconds until the next one, None for the usual backoff."""

    code: str
    message: str
    after: float | None = None


@dataclass(frozen=True)
class Released:
    """The attempt is given back and charged to nobody; due again in `delay` seconds."""

    code: str
    message: str
    delay: float = 0


@dataclass(frozen=True)
class Lost:
    """The lease is no longer ours: nothing is recorded."""


Ending = Returned | Stored | Failed | Errored | Released | Lost
Final = Stored | Failed | Errored | Released


def outcome(attempt: Attempt, ending: Final) -> Outcome:
    """What the ledger is told."""
    match ending:
        case Stored(artifacts):
            return Outcome(attempt.id, attempt.lease, State.SUCCESS, artifacts=artifacts)
        case Failed(code, message):
            return _ended(attempt, State.FAILED, code, message, is_charged=code != CANCELED)
        case Errored(code, message, after):
            failures = attempt.failures + 1
            if failures >= attempt.max_attempts:
                return _ended(attempt, State.FAILED, code, message, is_charged=True)
            delay = backoff(failures) if after is None else after
            return _ended(attempt, State.PROCESSING, code, message, delay=delay, is_charged=True)
        case Released(code, message, delay):
            return _ended(attempt, State.PROCESSING, code, message, delay=delay)
    assert_never(ending)


def clean(text: str, characters_max: int = TEXT_CHARACTERS_MAX) -> str:
    """Text PostgreSQL takes: no NUL, no lone surrogate, not too long."""
    # What is far too long is cut first, so that a huge text costs no more than a long one.
    text = text[: 2 * characters_max].replace("\x00", "").encode("utf-8", "replace").decode()
    return text if len(text) <= characters_max else text[: characters_max - 1] + "…"


def one_line(error: BaseException) -> str:
    """Type and words of an error, without its trace."""
    return clean(" ".join(f"{type(error).__name__}: {error}".removesuffix(": ").split()))


def seconds(value: object) -> float:
    """A delay asked for by job code: 0 to a day, and 0 for what is no number."""
    if not isinstance(value, int | float) or math.isnan(value):
        return 0.0
    return min(max(float(value), 0.0), RETRY_SECONDS_MAX)


def _ended(
    attempt: Attempt, state: State, code: str, message: str, *, delay: float = 0, is_charged: bool = False
) -> Outcome:
    if not CODE.fullmatch(code):
        code, message = JOB_ERROR, f"{code}: {message}"
    return Outcome(attempt.id, attempt.lease, state, code, clean(message), delay, is_charged)
