"""A job in words: its four states, where they may lead, and what one attempt carries and ends with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID


class State(StrEnum):
    """Forward only. A job that waits for another attempt stays PROCESSING, without a holder."""

    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"


TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.PENDING: frozenset({State.PROCESSING, State.FAILED}),
    State.PROCESSING: frozenset({State.PROCESSING, State.SUCCESS, State.FAILED}),
    State.SUCCESS: frozenset(),
    State.FAILED: frozenset(),
}

TERMINAL = frozenset(state for state, onward in TRANSITIONS.items() if not onward)


@dataclass(frozen=True)
class NewJob:
    """A job as submitted. `params` and `metadata` are JSON text; `request_digest` tells one body from another.

    max_losses: workers that may be lost over it. priority: -9 to 9, each step worth a minute of waiting.
    delay_seconds: before it is due. expires_seconds: how long after that it may wait for its first attempt.
    concurrency_limit: how many jobs of the same tenant and concurrency_key may run at once.
    client_ref: the caller's own name for it. batch_id: shared by jobs of one batch. trace: its W3C traceparent.
    """

    id: UUID
    tenant_id: str
    type: str
    params: str
    max_attempts: int
    timeout_seconds: float
    metadata: str | None = None
    callback_url: str | None = None
    callback_events: tuple[str, ...] = ()
    idempotency_key: str | None = None
    request_digest: bytes | None = None
    max_losses: int = 3
    priority: int = 0
    delay_seconds: float = 0
    expires_seconds: float | None = None
    concurrency_key: str | None = None
    concurrency_limit: int | None = None
    retry_of: UUID | None = None
    client_ref: str | None = None
    batch_id: UUID | None = None
    trace: str | None = None


@dataclass(frozen=True)
class Accepted:
    """What a submit led to: a new job, or the one its key already named.

    ticket_generation: how often that one's tickets were taken back.
    """

    id: UUID
    is_replay: bool
    ticket_generation: int = 0


@dataclass(frozen=True)
class Attempt:
    """One execution of a job by one worker under one lease.

    is_limited: whether a concurrency limit holds for it. queued_seconds: from due to claimed.
    recovered_seconds: from the end of a lost worker's lease to this claim; None when no worker was lost.
    trace: the W3C traceparent of its submit.
    """

    id: UUID
    tenant_id: str
    type: str
    params: str
    lease: int
    number: int
    failures: int
    max_attempts: int
    timeout_seconds: float
    is_limited: bool = False
    queued_seconds: float = 0
    recovered_seconds: float | None = None
    trace: str | None = None


@dataclass(frozen=True)
class Artifact:
    """One named file of a result: `content` holds a small one, `object_key` names a large one in S3."""

    name: str
    media_type: str
    size: int
    sha256: str
    content: bytes | None = None
    object_key: str | None = None


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    state: SUCCESS, FAILED, or PROCESSING when the job is given up for now: due again after `delay` seconds.
    is_charged: whether the attempt counts as a failed one.
    """

    id: UUID
    lease: int
    state: State
    error_code: str | None = None
    error: str | None = None
    delay: float = 0
    is_charged: bool = False
    artifacts: tuple[Artifact, ...] = field(default=())


@dataclass(frozen=True)
class Progress:
    """How far an attempt is: `percent` 0 to 100, `message` at most 200 characters."""

    id: UUID
    lease: int
    percent: float
    message: str
