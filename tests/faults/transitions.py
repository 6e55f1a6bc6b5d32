"""Which of the transitions T0 to T13 a change of a job is, or none of them."""

from tests.faults.history import Change, Row

TERMINAL = ("SUCCESS", "FAILED")
# Codes that end a job nobody runs, or one whose holder is gone.
UNHELD_CODES = ("CANCELED", "EXPIRED", "DEAD_LETTERED", "WORKER_LOST")
# What a terminal row may still have changed.
HOUSEKEEPING = ("results_expired_at", "updated_at", "redispatch_at", "idempotency_key")


class Illegal(Exception):
    """A change that is none of the transitions."""


def transition(change: Change) -> str:
    """The name of the transition a change is. Raises Illegal."""
    before, after = change.before, change.after
    if after is None:
        if before is None or before["state"] not in TERMINAL:
            raise Illegal("a job that was not finished was deleted")
        return "erase"
    if before is None:
        if (after["state"], after["lease"], after["worker_id"]) != ("PENDING", 0, None):
            raise Illegal("a job was born other than PENDING and unheld")
        return "T0"
    if before["state"] in TERMINAL:
        return _housekeeping(before, after)
    if after["lease"] != before["lease"]:
        return _claim(before, after)
    if after["state"] == before["state"]:
        return _within(before, after)
    return _end(before, after, change.at)


def _housekeeping(before: Row, after: Row) -> str:
    changed = sorted(name for name in after if after[name] != before[name] and name not in HOUSEKEEPING)
    if changed:
        raise Illegal(f"a finished job changed: {', '.join(changed)}")
    return "housekeeping"


def _claim(before: Row, after: Row) -> str:
    if after["state"] != "PROCESSING" or after["worker_id"] is None:
        raise Illegal("the lease changed without a claim")
    if after["sequence"] != before["sequence"] + 1 or after["attempt"] != before["attempt"] + 1:
        raise Illegal("a claim without its event or its attempt")
    return "T1" if before["state"] == "PENDING" else "T2"


def _within(before: Row, after: Row) -> str:
    if after["worker_id"] == before["worker_id"]:
        if after["sequence"] != before["sequence"]:
            raise Illegal("the sequence moved without a change of state")
        return "T3-T4"
    if after["worker_id"] is not None or before["state"] != "PROCESSING":
        raise Illegal("another holder under the same lease")
    if after["sequence"] != before["sequence"] + 1:
        raise Illegal("a job was given up without its event")
    if after["lease_expires_at"] is not None:
        raise Illegal("a job was given up and kept its expiry")
    return "T6" if after["failures"] > before["failures"] else "T11"


def _end(before: Row, after: Row, at: float) -> str:
    if after["state"] not in TERMINAL:
        raise Illegal(f"{before['state']} became {after['state']}")
    if after["sequence"] != before["sequence"] + 1:
        raise Illegal("a job ended without its event")
    is_held = before["worker_id"] is not None
    if after["state"] == "SUCCESS":
        if before["state"] != "PROCESSING" or not is_held or after["worker_id"] != before["worker_id"]:
            raise Illegal("success of a job nobody held")
        return "T5"
    if not is_held:
        if after["error_code"] not in UNHELD_CODES:
            raise Illegal(f"a job nobody held failed with {after['error_code']}")
        return "T9" if after["error_code"] == "CANCELED" else "T13"
    if after["worker_id"] not in (before["worker_id"], None):
        raise Illegal("a job was ended by another than its holder")
    is_by_holder = after["worker_id"] is not None
    if before["lease_expires_at"] > at and (not is_by_holder or after["error_code"] in UNHELD_CODES[1:]):
        raise Illegal(f"{after['error_code']} under a live lease")
    if not is_by_holder and after["error_code"] not in UNHELD_CODES:
        raise Illegal(f"a job whose holder was lost failed with {after['error_code']}")
    return "T8" if after["error_code"] == "WORKER_LOST" else "T7"
