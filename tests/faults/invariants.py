"""The checker: invariants I1 to I20 of the failure tests over a recorded history, with the four states of the design.

| I1  | every accepted job is terminal (the test waited a stated bound for quiescence)                               |
| I2  | nothing has a row or an effect that was neither accepted nor offered                                        |
| I3  | one terminal change and one terminal event a job; a retry by hand makes a new job, so no generations         |
| I4  | a job ends under its highest lease, and the stored result names that lease                                  |
| I5  | a lease grows by one at a claim and never otherwise; a new holder always has a new lease                    |
| I6  | a claim finds the job due and unheld, or its lease expired, by the database's clock                         |
| I7  | every change is one of the transitions T0 to T13 (T14 does not exist: a terminal row never changes)         |
| I8  | failures = charged ends, losses = holders whose lease ran out; releases charge neither                       |
| I9  | at rest the queue is empty; every dead letter names a FAILED job or none                                    |
| I10 | a message is deleted only while the row needs it not: finished, held, waiting, or put off                   |
| I11 | a polling client never sees the end undone, the sequence or an attempt's progress fall                      |
| I12 | the log of a job is gapless and closed by its end; streams give it in order, without gaps                   |
| I13 | one idempotency key, one job                                                                                |
| I14 | a cancel ends the job within its bound; no claim follows it, and no success once CANCELED was seen          |
| I15 | SUCCESS has its artifacts: the bytes are there, the checksum fits, the key holds the winning lease          |
| I16 | after a kill the jobs held are claimed again (or ended) within lease + sweep + receive                      |
| I17 | a worker told to stop claims no more, and is gone within its drain                                          |
| I18 | an attempt starts at most once; extra runs are bounded by the faults made, none when only messages repeat   |
| I19 | not checked: the wait of a quiet tenant under a flood is a measurement, not a property of a history          |
| I20 | accepted = rows, no counter is negative, no job is deleted                                                  |
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from uuid import UUID

from tests.faults.history import History, Row
from tests.faults.transitions import TERMINAL, Illegal, transition

CLOSING = ("job.succeeded", "job.failed")
UNCHARGED_CODES = ("WORKER_STOPPED", "RESULT_UPLOAD_FAILED")
# Between a signal and the last claim that was on its way.
SIGNAL_SECONDS = 1.0


def check(history: History) -> None:
    """Raises AssertionError that names every invariant broken."""
    found = violations(history)
    assert not found, "\n".join(found[:20]) + (f"\nand {len(found) - 20} more" if len(found) > 20 else "")


def violations(history: History) -> list[str]:
    """One line for each breach, beginning with the name of its invariant."""
    return [f"{name}: {line}" for name, look in INVARIANTS.items() for line in look(history)]


def _i1(history: History) -> Iterator[str]:
    for job in history.accepted:
        row = history.rows.get(job)
        if row is None or row["state"] not in TERMINAL:
            yield f"{job} never ended: {_told(row)}"


def _i2(history: History) -> Iterator[str]:
    known = history.accepted.keys() | history.offered
    for job in history.rows.keys() | {effect.job for effect in history.effects}:
        if job not in known:
            yield f"{job} was never submitted"


def _i3(history: History) -> Iterator[str]:
    for job, changes in history.of().items():
        ends = [c for c in changes if c.after and c.before and c.before["state"] != c.after["state"] in TERMINAL]
        closing = [kind for _, kind in history.events[job] if kind in CLOSING]
        if len(ends) > 1 or len(closing) > 1:
            yield f"{job} ended {len(ends)} times, with {len(closing)} closing events"
        if ends and len(closing) != 1:
            yield f"{job} ended with {len(closing)} closing events"


def _i4(history: History) -> Iterator[str]:
    results = {kept.job: kept.result for kept in history.kept if isinstance(kept.result, dict)}
    for job, changes in history.of().items():
        row = history.rows.get(job)
        if row is None or row["state"] not in TERMINAL:
            continue
        highest = max(change.after["lease"] for change in changes if change.after)
        if row["lease"] != highest:
            yield f"{job} ended under lease {row['lease']}, lease {highest} was granted"
        named = results.get(job, {}).get("lease", row["lease"])
        if row["state"] == "SUCCESS" and named != row["lease"]:
            yield f"{job} keeps the result of lease {named}, and ended under {row['lease']}"


def _i5(history: History) -> Iterator[str]:
    for job, changes in history.of().items():
        for change in changes:
            before, after = change.before, change.after
            if before is None or after is None:
                continue
            step = after["lease"] - before["lease"]
            if step not in (0, 1):
                yield f"{job}: lease {before['lease']} became {after['lease']}"
            if step == 0 and after["worker_id"] not in (before["worker_id"], None):
                yield f"{job}: {after['worker_id']} holds lease {after['lease']} of {before['worker_id']}"


def _i6(history: History) -> Iterator[str]:
    for job, changes in history.of().items():
        for change in changes:
            before, after = change.before, change.after
            if before is None or after is None or after["lease"] == before["lease"]:
                continue
            if before["worker_id"] is not None and before["lease_expires_at"] > change.at:
                yield f"{job}: lease {before['lease']} was taken {before['lease_expires_at'] - change.at:.3f} s early"
            if before["worker_id"] is None and before["due_at"] > change.at:
                yield f"{job} was claimed {before['due_at'] - change.at:.3f} s before it was due"


def _i7(history: History) -> Iterator[str]:
    for job, changes in history.of().items():
        for change in changes:
            try:
                transition(change)
            except Illegal as error:
                yield f"{job}, change {change.number}: {error}"


def _i8(history: History) -> Iterator[str]:
    raised = {(effect.job, effect.lease) for effect in history.effects if effect.what == "raise"}
    is_watched = {effect.job for effect in history.effects}
    for job, changes in history.of().items():
        failures, losses = 0, 0
        for change in changes:
            before, after = change.before, change.after
            if before is None or after is None:
                continue
            is_claim = after["lease"] > before["lease"]
            charged = after["failures"] - before["failures"]
            failures += not is_claim and charged == 1
            # A holder whose lease ran out is lost when the job is claimed again, or ended over its head.
            is_orphaned = after["state"] in TERMINAL and after["worker_id"] is None
            losses += before["worker_id"] is not None and (is_claim or is_orphaned)
            if charged and (charged != 1 or is_claim or after["error_code"] in UNCHARGED_CODES):
                yield f"{job}: {after['error_code']} charged {charged}"
            is_ours = after["error_code"] == "JOB_ERROR" and job in is_watched
            if charged and is_ours and (job, after["lease"]) not in raised:
                yield f"{job}: a failure of lease {after['lease']} that job code knows nothing of"
        row = history.rows.get(job)
        if row and (row["failures"], row["losses"]) != (failures, losses):
            told = f"{row['failures']} failures and {row['losses']} losses"
            yield f"{job} counts {told}, and had {failures} and {losses}"


def _i9(history: History) -> Iterator[str]:
    left = history.left
    if left.visible or left.hidden:
        yield f"the queue holds {left.visible} messages and hides {left.hidden}"
    for job in left.dead:
        if job in history.rows and history.rows[job]["state"] != "FAILED":
            yield f"{job} is among the dead letters and {history.rows[job]['state']}"


def _i10(history: History) -> Iterator[str]:
    changes = history.of()
    received: dict[str, float] = {}
    for item in history.traffic:
        if item.action == "receive":
            received[item.message] = item.at
        if item.action != "delete" or not item.is_done or item.job not in changes:
            continue
        past = [change for change in changes[item.job] if change.at <= item.at]
        row = past[-1].after if past else None
        if row is None or row["state"] in TERMINAL or row["worker_id"] is not None:
            continue
        # Put off since it was received, or not due then: a sweep owns the job now.
        at = received.get(item.message, 0)
        is_put_off = row["redispatch_at"] is not None and (past[-1].at >= at or row["due_at"] > at)
        if not is_put_off:
            yield f"{item.job}: message {item.message} was deleted while the job was {_told(row)}"


def _i11(history: History) -> Iterator[str]:
    last: dict[UUID, tuple[str, int, int, float]] = {}
    for seen in history.seen:
        now = (seen.status, seen.sequence, seen.attempt, seen.percent or 0.0)
        before = last.get(seen.job, now)
        if before[0] != "running" and now[:2] != before[:2]:
            yield f"{seen.job} was seen {before[0]} at {before[1]}, and then {now[0]} at {now[1]}"
        if now[1] < before[1]:
            yield f"{seen.job}: the sequence fell from {before[1]} to {now[1]}"
        if now[1:3] == before[1:3] and now[3] < before[3]:
            yield f"{seen.job}: progress fell from {before[3]} to {now[3]} within attempt {now[2]}"
        last[seen.job] = now


def _i12(history: History) -> Iterator[str]:
    for job, row in history.rows.items():
        log = history.events[job]
        if [number for number, _ in log] != list(range(1, row["sequence"] + 1)):
            yield f"{job}: the log has the numbers {[number for number, _ in log]}, the row {row['sequence']}"
        elif row["state"] in TERMINAL and log[-1][1] not in CLOSING:
            yield f"{job} is {row['state']}, and its log closes with {log[-1][1]}"
        elif any(kind in CLOSING for _, kind in log[:-1]):
            yield f"{job}: something follows its end"
    for stream in history.streams:
        last: dict[UUID, int] = {}
        for job, number, _ in stream:
            if job in last and number != last[job] + 1:
                yield f"{job}: a stream gave {number} after {last[job]}"
            last[job] = number


def _i13(history: History) -> Iterator[str]:
    by_key = defaultdict(set)
    for job, key in history.accepted.items():
        by_key[key].add(job)
    for row in history.rows.values():
        by_key[row.get("idempotency_key")].add(UUID(row["id"]))
    for key, jobs in by_key.items():
        if key is not None and len(jobs) > 1:
            yield f"key {key!r} made {len(jobs)} jobs"


def _i14(history: History) -> Iterator[str]:
    canceled = {seen.job for seen in history.seen if seen.code == "CANCELED"}
    changes, bound = history.of(), history.bounds.cancel_seconds
    for job in canceled:
        if history.rows[job]["state"] != "FAILED":
            yield f"{job} was seen canceled, and is {history.rows[job]['state']}"
    for change in history.changes:
        before, after = change.before, change.after
        if before and after and after["lease"] > before["lease"] and before["cancel_requested_at"]:
            yield f"{change.job} was claimed after its cancel was asked for"
    for job, asked_at in history.cancels if bound is not None else []:
        ends = [change.at for change in changes[job] if change.after and change.after["state"] in TERMINAL]
        if not ends or ends[0] > asked_at + (bound or 0):
            yield f"{job} was not canceled within {bound} s"


def _i15(history: History) -> Iterator[str]:
    by_job = defaultdict(list)
    for kept in history.kept:
        by_job[kept.job].append(kept)
        if kept.found != kept.sha256:
            yield f"{kept.job}: the artifact {kept.key or 'in the row'} is {'gone' if not kept.found else 'another'}"
        lease = history.rows[kept.job]["lease"]
        if kept.key is not None and str(lease) not in kept.key.split("/"):
            yield f"{kept.job} ended under lease {lease}, and its artifact is {kept.key}"
    watched = {effect.job for effect in history.effects}
    for job, row in history.rows.items():
        if row["state"] == "SUCCESS" and job in watched and not by_job[job]:
            yield f"{job} succeeded without a result"


def _i16(history: History) -> Iterator[str]:
    bound = history.bounds.recovery_seconds
    if bound is None:
        return
    for deed in history.deeds:
        for job, changes in history.of().items() if deed.kind == "kill" else ():
            past = [change for change in changes if change.at <= deed.at]
            row = past[-1].after if past else None
            if row is None or row["state"] != "PROCESSING" or row["worker_id"] != deed.by:
                continue
            later = [c.at for c in changes[len(past) :] if c.after and c.after["sequence"] > row["sequence"]]
            if not later or later[0] > deed.at + bound:
                waited = f"{later[0] - deed.at:.1f} s" if later else "for ever"
                yield f"{job} waited {waited} after its worker was killed, the bound is {bound} s"


def _i17(history: History) -> Iterator[str]:
    exits = {deed.by: deed.at for deed in history.deeds if deed.kind in ("exit", "kill")}
    for deed in history.deeds:
        if deed.kind != "term":
            continue
        ended_at = exits.get(deed.by)
        if ended_at is None or ended_at > deed.at + history.bounds.drain_seconds:
            yield f"{deed.by} was not gone within {history.bounds.drain_seconds} s of SIGTERM"
        for change in history.changes:
            row = change.after
            is_claim = row and change.before and row["lease"] > change.before["lease"]
            if row and is_claim and row["worker_id"] == deed.by and change.at > deed.at + SIGNAL_SECONDS:
                yield f"{deed.by} claimed {change.job} {change.at - deed.at:.1f} s after SIGTERM"


def _i18(history: History) -> Iterator[str]:
    starts = Counter((effect.job, effect.lease) for effect in history.effects if effect.what == "start")
    for (job, lease), count in starts.items():
        if count > 1:
            yield f"{job}: lease {lease} was run {count} times"
        if job in history.rows and lease > history.rows[job]["lease"]:
            yield f"{job}: lease {lease} was run and never granted"
    runs = Counter(job for job, _ in starts)
    charged = {job: row["failures"] for job, row in history.rows.items()}
    extra = sum(max(0, count - 1 - charged.get(job, 0)) for job, count in runs.items())
    crashes = sum(deed.kind in ("kill", "stop", "term", "cut") for deed in history.deeds)
    allowed = 0 if history.bounds.is_duplicates_only else crashes * history.bounds.slots
    if extra > allowed:
        yield f"{extra} extra runs, and {crashes} faults allow {allowed}"


def _i20(history: History) -> Iterator[str]:
    missing = history.accepted.keys() - history.rows.keys()
    if missing:
        yield f"{len(missing)} accepted jobs have no row: {sorted(map(str, missing))[:3]}"
    for job, row in history.rows.items():
        low = [n for n in ("lease", "attempt", "failures", "losses", "sequence", "dispatch_count") if row[n] < 0]
        if low:
            yield f"{job}: {', '.join(low)} below zero"


def _told(row: Row | None) -> str:
    if row is None:
        return "no row"
    return f"{row['state']}, lease {row['lease']}, holder {row['worker_id']}, code {row['error_code']}"


INVARIANTS: dict[str, Callable[[History], Iterator[str]]] = {
    "I1": _i1,
    "I2": _i2,
    "I3": _i3,
    "I4": _i4,
    "I5": _i5,
    "I6": _i6,
    "I7": _i7,
    "I8": _i8,
    "I9": _i9,
    "I10": _i10,
    "I11": _i11,
    "I12": _i12,
    "I13": _i13,
    "I14": _i14,
    "I15": _i15,
    "I16": _i16,
    "I17": _i17,
    "I18": _i18,
    "I20": _i20,
}
