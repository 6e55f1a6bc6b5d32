"""A delivery: one event owed to one callback, when it is tried again, and what an answer means."""

import random
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

# Seconds before each further attempt: twelve in all over about 76 hours, six of them in the first 43 minutes,
# where a deploy of the receiver usually ends.
RETRY_SECONDS = (5, 30, 120, 600, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
ATTEMPTS_MAX = len(RETRY_SECONDS) + 1
FORGIVEN_SECONDS = 5.0


class DeliveryState(StrEnum):
    """PENDING until a 2xx (DELIVERED) or until the attempts are used up (PARKED: kept, listed, redeliverable)."""

    PENDING = "PENDING"
    DELIVERED = "DELIVERED"
    PARKED = "PARKED"


class Reason(StrEnum):
    """Why an attempt ended as it did; stored first in a delivery's reason, for programs."""

    DELIVERED = "delivered"
    HTTP_STATUS = "http_status"
    REDIRECT = "redirect_not_followed"
    TIMEOUT = "timeout"
    DNS = "dns_failed"
    CONNECT = "connect_failed"
    TLS = "tls_failed"
    DISCONNECTED = "disconnected"
    PROTOCOL = "protocol_error"
    BLOCKED = "blocked_address"
    SENDER = "sender_fault"


@dataclass(frozen=True)
class Delivery:
    """A claimed delivery. `attempt` counts from 1; `body` is the event's stored text."""

    job_id: UUID
    sequence: int
    tenant_id: str
    url: str
    attempt: int
    lease: int
    body: str

    @property
    def webhook_id(self) -> str:
        """The same on every attempt and redelivery, so that a receiver can drop repeats."""
        return f"evt_{self.job_id.hex}_{self.sequence}"


@dataclass(frozen=True)
class Verdict:
    """What one attempt came to. `status`: HTTP status, None when no answer came. `reason`: short, for a person.

    delay: seconds until it is due again. is_charged: whether the attempt uses up one of the schedule's.
    """

    delivery: Delivery
    state: DeliveryState
    status: int | None
    reason: str
    delay: float = 0
    is_charged: bool = True


def judge(delivery: Delivery, status: int | None, reason: str) -> Verdict:
    """A 2xx is delivered; anything else is tried again on schedule until the attempts are used up."""
    if status is not None and 200 <= status < 300:
        return Verdict(delivery, DeliveryState.DELIVERED, status, reason)
    if delivery.attempt >= ATTEMPTS_MAX:
        return Verdict(delivery, DeliveryState.PARKED, status, reason)
    return Verdict(delivery, DeliveryState.PENDING, status, reason, retry_delay(delivery.attempt))


def forgive(delivery: Delivery, reason: str) -> Verdict:
    """A fault on our own side costs the delivery nothing: it is tried again soon, as the same attempt."""
    delay = FORGIVEN_SECONDS * random.uniform(1.0, 1.25)  # noqa: S311 - jitter is no secret
    return Verdict(delivery, DeliveryState.PENDING, None, reason, delay, is_charged=False)


def retry_delay(attempt: int) -> float:
    """Seconds to wait after failed attempt `attempt`. Jitter only adds: the schedule is never undercut."""
    return RETRY_SECONDS[attempt - 1] * random.uniform(1.0, 1.25)  # noqa: S311 - jitter is no secret
