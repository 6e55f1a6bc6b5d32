"""Reading the ledger: status, results, the event log, and where jobs stand. Changes no job."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import JSON, ColumnElement, Double, cast, extract, func, literal_column, select

from todoke.model.event import Event, Head, News, job_epoch
from todoke.model.job import TERMINAL, Artifact, State
from todoke.store.database import Database, queries
from todoke.store.tables import job

SQL = queries("reading")
ACTIVITY = ("jobType", "status", "phase", "attempt", "errorCode", "createdAt", "startedAt", "finishedAt")


@dataclass(frozen=True)
class Status:
    """One job as its tenant sees it. `story` and `artifacts` are public JSON; `snapshot` is an event's text.

    delivery: public JSON of the newest one, None without any; it may change while the rest stays.
    epoch: the job's own, as its cursors and ETag carry it.
    result_expired_at: ISO 8601 UTC, when a success was older than results are kept.
    due_age, start_age: seconds since it was due (negative: until it is), and since its first attempt began.
    """

    job_id: UUID
    tenant_id: str
    story: dict[str, Any]
    state: State
    sequence: int
    progress_version: int
    epoch: str
    artifacts: list[dict[str, Any]]
    snapshot: str
    delivery: dict[str, Any] | None
    result_expired_at: str | None
    due_age: float
    start_age: float | None

    @property
    def is_terminal(self) -> bool:
        """Whether the job has ended."""
        return self.state in TERMINAL


@dataclass(frozen=True)
class Original:
    """What a job was submitted with, for submitting it again. `params` and `metadata` are JSON text."""

    id: UUID
    tenant_id: str
    type: str
    state: State
    params: str
    metadata: str | None
    callback_url: str | None
    callback_events: tuple[str, ...]


class Reader:
    """Every read names the tenant it is for. Raises Unavailable when PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def status(self, job_id: UUID, tenant_id: str) -> Status | None:
        """The job, or None when this tenant has no such job."""
        return (await self.statuses([job_id], tenant_id)).get(job_id)

    async def statuses(self, job_ids: Sequence[UUID], tenant_id: str) -> dict[UUID, Status]:
        """Those of these jobs that this tenant has."""
        rows = await self._database.fetch(SQL["statuses"], job_ids, tenant_id)
        return {row["id"]: _status(row, tenant_id) for row in rows}

    async def original(self, job_id: UUID, tenant_id: str) -> Original | None:
        """What the job was submitted with, or None when this tenant has no such job."""
        rows = await self._database.fetch(SQL["original"], job_id, tenant_id)
        if not rows:
            return None
        row = dict(rows[0])
        return Original(**row | {"state": State(row["state"]), "callback_events": tuple(row["callback_events"] or ())})

    async def ticket_generation(self, job_id: UUID, tenant_id: str) -> int | None:
        """How often the job's tickets were taken back, or None when this tenant has no such job."""
        rows = await self._database.fetch(SQL["ticket_generation"], job_id, tenant_id)
        return int(rows[0]["ticket_generation"]) if rows else None

    async def tombstone(self, job_id: UUID, tenant_id: str) -> dict[str, Any] | None:
        """Public JSON of a job that was erased, or None when this tenant had no such job, or has it still."""
        rows = await self._database.fetch(SQL["tombstone"], job_id, tenant_id)
        return dict(json.loads(rows[0]["story"])) if rows else None

    async def artifacts(self, job_id: UUID, tenant_id: str) -> list[Artifact]:
        """What the job left behind, the main artifact first."""
        return [Artifact(**dict(row)) for row in await self._database.fetch(SQL["artifacts"], job_id, tenant_id)]

    async def news(self, asked: Sequence[tuple[UUID, str, int, int]], events_max: int) -> tuple[str, list[News]]:
        """The database's epoch, and what is new of jobs (id, tenant, known sequence, known progress version).

        A job that is not there is left out; without any job the epoch is read all the same.
        """
        columns = [list(column) for column in zip(*asked, strict=True)] or [[], [], [], []]
        rows = await self._database.fetch(SQL["news"], *columns, events_max)
        epoch = rows[0]["epoch"] if rows else await self.epoch()
        return epoch, [_news(row) for row in rows]

    async def page(self, job_id: UUID, tenant_id: str, after: int, rows_max: int) -> list[Event]:
        """The next of a job's log behind a sequence, in order."""
        rows = await self._database.fetch(SQL["page"], job_id, tenant_id, after, rows_max)
        return [Event(row["job_id"], row["sequence"], row["type"], row["body"]) for row in rows]

    async def events(self, asked: Sequence[tuple[UUID, str, int]]) -> list[Event]:
        """The log of jobs (id, tenant, after), each behind its known sequence, job by job and in order."""
        columns = [list(column) for column in zip(*asked, strict=True)] or [[], [], []]
        rows = await self._database.fetch(SQL["events"], *columns)
        return [Event(row["job_id"], row["sequence"], row["type"], row["body"]) for row in rows]

    async def epoch(self) -> str:
        """The value cursors carry; another one means the numbering may have been lost."""
        return str((await self._database.fetch(SQL["epoch"]))[0]["value"])

    async def renew_connections(self) -> None:
        """After a change of epoch: let nothing be read from the server before, should it still answer."""
        await self._database.renew_connections()

    async def renew_epoch(self) -> None:
        """Have cursors of another server refused: this one may be a copy of the one that gave them."""
        await self._database.fetch(SQL["renew_epoch"])

    async def begin_epoch(self) -> None:
        """Have every cursor given so far refused."""
        await self._database.fetch(SQL["begin_epoch"])

    async def activity(self, tenant_id: str, rows_max: int) -> list[dict[str, Any]]:
        """The tenant's newest jobs, newest first, in the shape JobContext.activity promises."""
        newest = (
            select(
                literal_column("job_story(job)", JSON).label("story"),
                _seconds(job.c.started_at - job.c.created_at).label("wait"),
                _seconds(job.c.finished_at - job.c.started_at).label("run"),
            )
            .where(job.c.tenant_id == tenant_id)
            .order_by(job.c.id.desc())
            .limit(rows_max)
        )
        async with self._database.read() as connection:
            rows = (await connection.execute(newest)).all()
        return [
            {**{key: row.story[key] for key in ACTIVITY}, "waitSeconds": row.wait, "runSeconds": row.run}
            for row in rows
        ]


def _status(row: asyncpg.Record, tenant_id: str) -> Status:
    return Status(
        job_id=row["id"],
        tenant_id=tenant_id,
        story=json.loads(row["snapshot"])["data"],
        state=State(row["state"]),
        sequence=row["sequence"],
        progress_version=row["progress_version"],
        epoch=job_epoch(row["epoch"], row["id"]),
        artifacts=json.loads(row["artifacts"]),
        snapshot=row["snapshot"],
        delivery=None if row["delivery"] is None else json.loads(row["delivery"]),
        result_expired_at=row["result_expired_at"],
        due_age=row["due_age"],
        start_age=row["start_age"],
    )


def _news(row: asyncpg.Record) -> News:
    head = Head(row["id"], row["sequence"], row["progress_version"], row["is_terminal"], row["progress"])
    columns = (row["sequences"] or (), row["types"] or (), row["bodies"] or ())
    events = [Event(row["id"], *values) for values in zip(*columns, strict=True)]
    return News(head, events, row["age"])


def _seconds(interval: ColumnElement[Any]) -> ColumnElement[float]:
    return cast(func.round(extract("epoch", interval), 3), Double)
