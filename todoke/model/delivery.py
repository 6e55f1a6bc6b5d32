"""A delivery: one event owed to one callback, when it is tried again, and what an answer means for it."""

import random
from dataclasses import dataclass, replace
from enum import StrEnum
from uuid import UUID

# Seconds before each further attempt: twelve in all over about 76 hours, six of them in the first 43 minutes,
# where a deploy of the receiver usually ends.
RETRY_SECONDS = (5, 30, 120, 600, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
ATTEMPTS_MAX = len(RETRY_SECONDS) + 1
# After a fault of our own: soon, and less often the longer it lasts.
FORGIVEN_SECONDS, FORGIVEN_SECONDS_MAX, FORGIVEN_SHARE = 5.0, 300.0, 0.1
RETRY_AFTER_SECONDS_MAX = 24 * 3600.0
# What says "not now" rather than "not so".
THROTTLING = (429, 502, 503, 504)


class DeliveryState(StrEnum):
    """PENDING until a 2xx (DELIVERED) or until nobody will try any more (PARKED: kept, listed, redeliverable)."""

    PENDING = "PENDING"
    DELIVERED = "DELIVERED"
    PARKED = "PARKED"


class Reason(StrEnum):
    """Why an attempt ended as it did, or why a delivery is parked; stored, for programs."""

    DELIVERED = "delivered"
    HTTP_STATUS = "http_status"
    REDIRECT = "redirect_not_followed"
    TIMEOUT = "timeout"
    DNS = "dns_failed"
    CONNECT = "connect_failed"
    TLS = "tls_failed"
    DISCONNECTED = "disconnected"
    PROTOCOL = "protocol_error"
    TOO_LARGE = "answer_too_large"
    BLOCKED = "blocked_address"
    SENDER = "sender_fault"
    LOST_LEASE = "lost_lease"
    # Of parked deliveries only.
    GONE = "gone"
    ABORTED = "aborted_by_receiver"
    DISABLED = "endpoint_disabled"
    WINDOW = "window_over"


class Control(StrEnum):
    """What a receiver may ask for by the header `webhook-delivery`; it counts over verified TLS only."""

    ABORT = "abort-message"
    DISABLE = "disable"


@dataclass(frozen=True)
class Delivery:
    """A claimed delivery. `attempt` counts from 1; `body` is the event's stored text, `owed_seconds` its age,
    `trace` the traceparent of its job's submit.

    Progress has negative sequences, its version with a minus: it is sent once or never.
    """

    job_id: UUID
    sequence: int
    tenant_id: str
    endpoint_id: UUID
    url: str
    attempt: int
    lease: int
    body: str
    owed_seconds: float = 0
    trace: str | None = None

    @property
    def webhook_id(self) -> str:
        """See `webhook_id`."""
        return webhook_id(self.job_id, self.sequence)

    @property
    def is_progress(self) -> bool:
        return self.sequence < 0


@dataclass(frozen=True)
class Answer:
    """What came of one attempt. `status`: None when no answer came.

    retry_after: seconds the receiver asks to wait, None when it does not or not in words we know.
    started_at: Unix seconds of this machine's clock, shown to people only. excerpt: escaped, at most 1 KiB.
    """

    reason: Reason
    status: int | None = None
    retry_after: float | None = None
    control: Control | None = None
    peer: str | None = None
    excerpt: str | None = None
    started_at: float = 0
    seconds: float = 0

    @property
    def is_success(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def is_throttling(self) -> bool:
        return self.status in THROTTLING


@dataclass(frozen=True)
class Verdict:
    """What an attempt means for its delivery. `reason`: as stored on it.

    delay: seconds until it is due again. is_charged: whether the attempt uses up one of the schedule's.
    """

    delivery: Delivery
    answer: Answer
    state: DeliveryState
    reason: Reason
    delay: float = 0
    is_charged: bool = True


def webhook_id(job_id: UUID, sequence: int) -> str:
    """The same on every attempt and redelivery, so that a receiver can drop repeats."""
    return f"evt_{job_id.hex}_{sequence if sequence > 0 else f'p{-sequence}'}"


def judge(delivery: Delivery, answer: Answer, window_seconds: float) -> Verdict:
    """A 2xx is delivered; most else is tried again on schedule, until attempts or window are used up."""
    if answer.is_success:
        return Verdict(delivery, answer, DeliveryState.DELIVERED, answer.reason)
    failed = Verdict(
        delivery, answer, DeliveryState.PARKED, answer.reason, is_charged=answer.reason is not Reason.SENDER
    )
    if (ending := _ending(delivery, answer)) is not None:
        return replace(failed, reason=ending)
    left = window_seconds - delivery.owed_seconds - answer.seconds
    delay = _pause(delivery, answer)
    if delay > left:
        return replace(failed, reason=Reason.WINDOW)
    # A receiver may ask for more, but not beyond the last moment it can be tried at all.
    asked = min(answer.retry_after or 0, RETRY_AFTER_SECONDS_MAX, left)
    return replace(failed, state=DeliveryState.PENDING, delay=max(delay, asked))


def _ending(delivery: Delivery, answer: Answer) -> Reason | None:
    """Why nobody tries again after this failure, or None when somebody does."""
    if answer.status == 410 or answer.control is Control.DISABLE:
        return Reason.GONE
    if answer.control is Control.ABORT:
        return Reason.ABORTED
    is_last = delivery.attempt >= ATTEMPTS_MAX and answer.reason is not Reason.SENDER
    return answer.reason if delivery.is_progress or is_last else None


def _pause(delivery: Delivery, answer: Answer) -> float:
    """Seconds to the next attempt if the receiver asks for nothing; after a fault of our own, which is no attempt."""
    if answer.reason is Reason.SENDER:
        seconds = delivery.owed_seconds * FORGIVEN_SHARE
        return min(max(seconds, FORGIVEN_SECONDS), FORGIVEN_SECONDS_MAX) * _jitter()
    return RETRY_SECONDS[delivery.attempt - 1] * _jitter()


def _jitter() -> float:
    """Jitter only adds: neither the schedule nor a Retry-After is ever undercut."""
    return random.uniform(1.0, 1.25)  # noqa: S311 - jitter is no secret
