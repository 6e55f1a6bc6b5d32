"""What the rooms of the worker count, in the words of its endings: labels stay few whatever job code invents."""

from todoke.model.job import Attempt
from todoke.runtime.metrics import ATTEMPTS, INFRA_LOSSES, QUEUE_WAIT, RECOVERY_TIME, RUN_TIME, STALE_FINISHES
from worker import ending
from worker.ending import Ending, Errored, Failed, Lost, Released, Stored

OK, OWN, LOST = "OK", "OWN", "LOST"
CODES = frozenset(
    {
        ending.JOB_ERROR,
        ending.TIMEOUT,
        ending.CHILD_DIED,
        ending.MEMORY_LIMIT,
        ending.CANCELED,
        ending.PARAMS_INVALID,
        ending.RESULT_INVALID,
        ending.RESULT_TOO_LARGE,
        ending.RESULT_UPLOAD_FAILED,
        ending.WORKER_STOPPED,
        ending.WORKER_FAULT,
    }
)
# Whose loss an attempt was that job code did not cause.
CAUSES = {ending.CHILD_DIED: "child", ending.RESULT_UPLOAD_FAILED: "object_store", ending.WORKER_FAULT: "supervisor"}


def started(attempt: Attempt) -> None:
    """A claim: how long the job waited, or how long it was nobody's."""
    if attempt.recovered_seconds is None:
        QUEUE_WAIT.labels(attempt.type).observe(attempt.queued_seconds)
    else:
        RECOVERY_TIME.observe(attempt.recovered_seconds)
        INFRA_LOSSES.labels("worker").inc()


def ended(attempt: Attempt, how: Ending, seconds: float, *, is_ours: bool) -> None:
    """An attempt, `seconds` after its claim. not is_ours: its outcome was refused, because the lease had passed on."""
    if not is_ours and not isinstance(how, Lost):
        STALE_FINISHES.inc()
        how = Lost()
    code = _code(how)
    ATTEMPTS.labels(code).inc()
    RUN_TIME.labels(attempt.type, _outcome(how)).observe(seconds)
    if code in CAUSES:
        INFRA_LOSSES.labels(CAUSES[code]).inc()


def _code(how: Ending) -> str:
    if isinstance(how, Failed | Errored | Released):
        return how.code if how.code in CODES else OWN
    return LOST if isinstance(how, Lost) else OK


def _outcome(how: Ending) -> str:
    match how:
        case Stored():
            return "succeeded"
        case Failed(ending.CANCELED):
            return "canceled"
        case Failed():
            return "failed"
        case Errored():
            return "errored"
        case Released():
            return "released"
    return "lost"
