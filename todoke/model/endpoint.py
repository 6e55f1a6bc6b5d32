"""An endpoint: one callback URL of one tenant, how it has fared, and what that means for what is owed to it."""

from dataclasses import dataclass, replace
from enum import StrEnum
from uuid import UUID

from todoke.model.delivery import Answer, Control, Delivery, Reason

# A time-out costs a slot for its whole length, hence twice.
FAILURE_STRAIN, TIMEOUT_STRAIN, STRAIN_MAX = 1, 2, 5
BREAK_SECONDS, BREAK_SECONDS_MAX = 30.0, 3600.0
COOL_SECONDS, COOL_SECONDS_MAX = 30.0, 24 * 3600.0
# Answers of a receiver that is well: it moved, was too busy for one request, or wants fewer of them.
EASY = (408, 425, 429)
# Successes that give a lowered cap one more.
RECOVERY_SUCCESSES = 20
DENIALS_MAX = 3
LONG_SECONDS, LONG_FAILURES = 120 * 3600.0, 20
# How long an endpoint has been failing when its operator and its owner are told.
WARNINGS = ((72 * 3600.0, "failing_for_72_hours"), (24 * 3600.0, "failing_for_24_hours"))


class EndpointState(StrEnum):
    """ACTIVE, or DISABLED: nothing is sent, what is owed is parked, until someone enables it again."""

    ACTIVE = "ACTIVE"
    DISABLED = "DISABLED"


class DisabledReason(StrEnum):
    """Why nothing is sent to an endpoint any more."""

    GONE = "gone"
    RECEIVER = "asked_by_receiver"
    ADDRESS = "blocked_address"
    FAILING = "failing_too_long"
    OPERATOR = "disabled_by_api"


@dataclass(frozen=True)
class Endpoint:
    """How an endpoint stands. Times are Unix seconds of the database's clock.

    failures: since its last success, the first at `failing_since`, of the event `first_failed`; failed_several: of
    more events than that one. strain: what the breaker counts. trips: how often in a row it opened. is_open: it has;
    what is sent until the next success is one probe at a time. blocked_until: nothing is sent before, and what is
    owed is held. denials: refused addresses in a row. cap: deliveries at once, None for the usual. successes: towards
    a higher cap.
    """

    id: UUID
    tenant_id: str
    url: str
    state: EndpointState = EndpointState.ACTIVE
    disabled_reason: DisabledReason | None = None
    failures: int = 0
    failing_since: float | None = None
    first_failed: str | None = None
    failed_several: bool = False
    strain: int = 0
    trips: int = 0
    is_open: bool = False
    blocked_until: float | None = None
    denials: int = 0
    cap: int | None = None
    successes: int = 0


def after(endpoint: Endpoint, delivery: Delivery, answer: Answer, now: float, usual_cap: int) -> Endpoint:
    """The endpoint after one more attempt at it, in the order the attempts ended.

    What was under way when it was disabled changes nothing any more.
    """
    if answer.reason in (Reason.SENDER, Reason.LOST_LEASE) or endpoint.state is EndpointState.DISABLED:
        return endpoint
    if answer.is_success:
        stands = _succeeded(endpoint, now, usual_cap)
    else:
        is_blocked = endpoint.blocked_until is not None and endpoint.blocked_until > now
        stands = _counted(endpoint, delivery, answer, now)
        if answer.reason is Reason.BLOCKED:
            stands = _denied(stands, now, was_blocked=is_blocked)
        elif answer.is_throttling:
            stands = _cooled(stands, answer, now, usual_cap, was_blocked=is_blocked)
        stands = _tripped(stands, was_blocked=is_blocked, now=now)
    reason = _disabling(stands, answer, now)
    return stands if reason is None else disabled(stands, reason, now)


def warning(failing_seconds: float) -> str | None:
    """What there is to say of an endpoint that has been failing for so long."""
    return next((word for seconds, word in WARNINGS if failing_seconds >= seconds), None)


def disabled(endpoint: Endpoint, reason: DisabledReason, now: float) -> Endpoint:
    """The endpoint with nothing sent to it any more; what it held is parked at once. The first reason stays."""
    kept = endpoint.disabled_reason or reason
    return replace(endpoint, state=EndpointState.DISABLED, disabled_reason=kept, blocked_until=now, is_open=False)


def enabled(endpoint: Endpoint, now: float) -> Endpoint:
    """The endpoint as if it had never failed; what it held is let go at once."""
    return Endpoint(endpoint.id, endpoint.tenant_id, endpoint.url, blocked_until=now)


def _succeeded(endpoint: Endpoint, now: float, usual_cap: int) -> Endpoint:
    # Only a breaker ends at once: a receiver that asked to be left alone for a time, and has a lower cap since, is.
    until = now if endpoint.is_open and endpoint.cap is None else endpoint.blocked_until
    cap, successes = endpoint.cap, 0
    if cap is not None:
        successes = endpoint.successes + 1
        if successes >= RECOVERY_SUCCESSES:
            cap, successes = (cap + 1 if cap + 1 < usual_cap else None), 0
    fresh = Endpoint(endpoint.id, endpoint.tenant_id, endpoint.url, endpoint.state, endpoint.disabled_reason)
    return replace(fresh, blocked_until=until, cap=cap, successes=successes)


def _counted(endpoint: Endpoint, delivery: Delivery, answer: Answer, now: float) -> Endpoint:
    return replace(
        endpoint,
        failures=endpoint.failures + 1,
        failing_since=now if endpoint.failing_since is None else endpoint.failing_since,
        first_failed=endpoint.first_failed or delivery.webhook_id,
        failed_several=endpoint.failed_several or endpoint.first_failed not in (None, delivery.webhook_id),
        strain=endpoint.strain + _strain(answer),
        denials=endpoint.denials if answer.reason is Reason.BLOCKED else 0,
        successes=0,
    )


def _strain(answer: Answer) -> int:
    """What a failure adds for the breaker: nothing where the receiver is well, or was not asked at all."""
    if answer.reason is Reason.TIMEOUT:
        return TIMEOUT_STRAIN
    is_well = answer.reason is Reason.REDIRECT or answer.status in EASY or answer.control is Control.ABORT
    return 0 if is_well or answer.reason is Reason.BLOCKED else FAILURE_STRAIN


def _cooled(endpoint: Endpoint, answer: Answer, now: float, usual_cap: int, *, was_blocked: bool) -> Endpoint:
    """Leave it alone for a time; of what was in flight together, only the first answer halves the cap."""
    until = now + min(answer.retry_after or COOL_SECONDS, COOL_SECONDS_MAX)
    cap = usual_cap if endpoint.cap is None else min(endpoint.cap, usual_cap)
    return replace(
        endpoint,
        blocked_until=max(until, endpoint.blocked_until or 0),
        cap=cap if was_blocked and endpoint.cap is not None else max(1, cap // 2),
    )


def _denied(endpoint: Endpoint, now: float, *, was_blocked: bool) -> Endpoint:
    """One bad answer of a name server, shared by all that was in flight, is one refusal; it is asked again later."""
    return replace(
        endpoint,
        blocked_until=max(now + COOL_SECONDS, endpoint.blocked_until or 0),
        denials=endpoint.denials + (not was_blocked),
    )


def _tripped(endpoint: Endpoint, *, was_blocked: bool, now: float) -> Endpoint:
    """Open the breaker; what was in flight when it opened does not open it again."""
    if endpoint.strain < STRAIN_MAX or (endpoint.is_open and was_blocked):
        return endpoint
    until = now + min(BREAK_SECONDS * 2**endpoint.trips, BREAK_SECONDS_MAX)
    return replace(
        endpoint,
        is_open=True,
        trips=min(endpoint.trips + 1, 20),
        blocked_until=max(until, endpoint.blocked_until or 0),
    )


def _disabling(endpoint: Endpoint, answer: Answer, now: float) -> DisabledReason | None:
    if answer.status == 410:
        return DisabledReason.GONE
    if answer.control is Control.DISABLE:
        return DisabledReason.RECEIVER
    if endpoint.denials >= DENIALS_MAX:
        return DisabledReason.ADDRESS
    is_long = endpoint.failing_since is not None and now - endpoint.failing_since >= LONG_SECONDS
    if is_long and endpoint.failures >= LONG_FAILURES and endpoint.failed_several:
        return DisabledReason.FAILING
    return None
