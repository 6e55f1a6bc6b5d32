"""How deliveries are read for people and programs: one shape for a job's own, for lists and for operators."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, case, func, literal, null, select
from sqlalchemy.ext.asyncio import AsyncConnection

from todoke.model import event as events
from todoke.model.delivery import DeliveryState, webhook_id
from todoke.store.tables import delivery, delivery_attempt, endpoint, event

# Of one job, the newest.
ATTEMPTS_MAX = 1_000
STANDINGS = {"leased": "sending"}


@dataclass(frozen=True)
class Kept:
    """A delivery as it stands. Moments are ISO 8601 UTC; `at`: when it ended.

    attempts: public JSON of each, with `peer` for operators, the oldest first; None where they were not asked for.
    """

    job_id: UUID
    sequence: int
    tenant_id: str
    url: str
    event_type: str
    state: str
    standing: str
    attempt: int
    status: int | None
    reason: str | None
    next_attempt_at: str | None
    created_at: str
    finished_at: str | None
    at: datetime | None
    attempts: Sequence[Mapping[str, Any]] | None = None

    def public(self, *, is_for_operators: bool = False) -> dict[str, Any]:
        """The delivery object of the API; operators see whose it is and which address answered, too."""
        body = {
            "jobId": str(self.job_id),
            "sequence": self.sequence,
            "webhookId": webhook_id(self.job_id, self.sequence),
            "eventType": self.event_type,
            "callbackUrl": self.url,
            "state": self.state.lower(),
            "standing": STANDINGS.get(self.standing, self.standing) if self.state == DeliveryState.PENDING else None,
            "reason": self.reason,
            "status": self.status,
            "attempt": self.attempt,
            "nextAttemptAt": self.next_attempt_at,
            "createdAt": self.created_at,
            "finishedAt": self.finished_at,
        }
        if is_for_operators:
            body["tenantId"] = self.tenant_id
        if self.attempts is not None:
            hidden = () if is_for_operators else ("peer",)
            body["attempts"] = [
                {name: value for name, value in each.items() if name not in hidden} for each in self.attempts
            ]
        return body


def shown() -> Select[Any]:
    """Deliveries in the shape `kept` takes, to be narrowed."""
    next_attempt = case(
        (delivery.c.state != DeliveryState.PENDING, null()),
        (delivery.c.standing == "leased", null()),
        (delivery.c.standing == "held", func.greatest(delivery.c.due_at, endpoint.c.blocked_until)),
        else_=delivery.c.due_at,
    )
    return (
        select(
            delivery.c.job_id,
            delivery.c.sequence,
            delivery.c.tenant_id,
            delivery.c.url,
            func.coalesce(event.c.type, literal(events.PROGRESS)).label("event_type"),
            delivery.c.state,
            delivery.c.standing,
            delivery.c.attempt,
            delivery.c.last_status.label("status"),
            delivery.c.last_reason.label("reason"),
            func.utc(next_attempt).label("next_attempt_at"),
            func.utc(delivery.c.created_at).label("created_at"),
            func.utc(delivery.c.finished_at).label("finished_at"),
            delivery.c.finished_at.label("at"),
        )
        .select_from(delivery)
        .outerjoin(event, (event.c.job_id == delivery.c.job_id) & (event.c.sequence == delivery.c.sequence))
        .outerjoin(endpoint, endpoint.c.id == delivery.c.endpoint_id)
    )


def kept(row: Mapping[Any, Any], attempts: Sequence[Mapping[str, Any]] | None = None) -> Kept:
    """A row of `shown`."""
    return Kept(**row, attempts=attempts)


async def attempts_of(
    connection: AsyncConnection, job_id: UUID, tenant_id: str, sequences: Sequence[int]
) -> Mapping[int, list[Mapping[str, Any]]]:
    """The attempts at these deliveries of a job, by sequence, the oldest first."""
    made = delivery_attempt.c
    asked = (
        select(
            made.sequence,
            made.attempt,
            func.utc(made.started_at).label("startedAt"),
            made.seconds,
            made.status,
            made.reason,
            made.excerpt,
            made.peer,
        )
        .where(made.job_id == job_id, made.tenant_id == tenant_id, made.sequence.in_(sequences))
        .order_by(made.sequence.desc(), made.lease.desc())
        .limit(ATTEMPTS_MAX)
    )
    found: dict[int, list[Mapping[str, Any]]] = {}
    for row in reversed((await connection.execute(asked)).mappings().all()):
        each = {key: value for key, value in row.items() if key != "sequence"}
        found.setdefault(row["sequence"], []).append({**each, "seconds": round(row["seconds"], 3)})
    return found
