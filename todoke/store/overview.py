"""What operators see: jobs and workers of all tenants. Changes nothing, and no caller of the API ever gets here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, Double, Select, cast, extract, func, literal_column, select

from todoke.model.job import State
from todoke.store.database import Database
from todoke.store.tables import delivery, job, worker


@dataclass(frozen=True)
class Seen:
    """A worker as it last answered: `seen_seconds` ago, when `busy` of its `slots` were taken."""

    id: str
    host: str
    pid: int
    slots: int
    busy: int
    types: Sequence[str]
    up_seconds: float
    seen_seconds: float


class Overview:
    """Raises Unavailable when PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def jobs(
        self, rows_max: int, *, state: State | None = None, type_: str | None = None, tenant_id: str | None = None
    ) -> list[dict[str, Any]]:
        """The newest jobs that fit, newest first: each its public story, and what only operators see."""
        asked = _stories().order_by(job.c.id.desc()).limit(rows_max)
        for column, value in ((job.c.state, state), (job.c.type, type_), (job.c.tenant_id, tenant_id)):
            if value is not None:
                asked = asked.where(column == value)
        return await self._told(asked)

    async def job(self, job_id: UUID) -> dict[str, Any] | None:
        """One job in the same shape, or None."""
        found = await self._told(_stories().where(job.c.id == job_id))
        return found[0] if found else None

    async def tenant_of(self, job_id: UUID) -> str | None:
        """Whose job it is, or None when there is no such job."""
        async with self._database.read() as connection:
            return (await connection.execute(select(job.c.tenant_id).where(job.c.id == job_id))).scalar()

    async def deliveries(self, job_id: UUID) -> list[dict[str, Any]]:
        """The job's deliveries: sequence, state, attempt, lastStatus, lastReason."""
        asked = select(
            delivery.c.sequence,
            delivery.c.state,
            delivery.c.attempt,
            delivery.c.last_status.label("lastStatus"),
            delivery.c.last_reason.label("lastReason"),
        )
        async with self._database.read() as connection:
            rows = await connection.execute(asked.where(delivery.c.job_id == job_id).order_by(delivery.c.sequence))
            return [dict(row) for row in rows.mappings()]

    async def workers(self) -> list[Seen]:
        """Everyone on the roll, those who went missing included, the newest first."""
        asked = select(
            worker.c.id,
            worker.c.host,
            worker.c.pid,
            worker.c.slots,
            worker.c.busy,
            worker.c.types,
            _age(worker.c.started_at).label("up_seconds"),
            _age(worker.c.seen_at).label("seen_seconds"),
        ).order_by(worker.c.started_at.desc())
        async with self._database.read() as connection:
            return [Seen(**row) for row in (await connection.execute(asked)).mappings()]

    async def _told(self, asked: Select[Any]) -> list[dict[str, Any]]:
        async with self._database.read() as connection:
            rows = (await connection.execute(asked)).mappings().all()
        return [{**row["story"], **{key: value for key, value in row.items() if key != "story"}} for row in rows]


def _stories() -> Select[Any]:
    return select(
        literal_column("job_story(job)", JSON).label("story"),
        job.c.tenant_id.label("tenantId"),
        job.c.state,
        job.c.priority,
        job.c.worker_id.label("workerId"),
        job.c.failures,
        job.c.losses,
        func.utc(job.c.due_at).label("dueAt"),
        func.utc(job.c.expires_at).label("expiresAt"),
        func.utc(job.c.lease_expires_at).label("leaseExpiresAt"),
    )


def _age(moment: Any) -> Any:
    return cast(func.greatest(0, extract("epoch", func.clock_timestamp() - moment)), Double)
