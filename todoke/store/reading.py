"""Reading the ledger: status, results, the event log, and where jobs stand. Changes nothing."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from todoke.model.event import Event, Head
from todoke.model.job import Artifact, State
from todoke.store.database import Database, queries

SQL = queries("reading")


@dataclass(frozen=True)
class Status:
    """One job as its tenant sees it. `story` and `artifacts` are public JSON; `snapshot` is an event's text."""

    story: dict[str, Any]
    state: State
    sequence: int
    progress_version: int
    artifacts: list[dict[str, Any]]
    snapshot: str


class Reader:
    """Every read names the tenant it is for. Raises Unavailable when PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def status(self, job_id: UUID, tenant_id: str) -> Status | None:
        """The job, or None when this tenant has no such job."""
        rows = await self._database.fetch(SQL["status"], job_id, tenant_id)
        if not rows:
            return None
        row = rows[0]
        return Status(
            story=json.loads(row["story"]),
            state=State(row["state"]),
            sequence=row["sequence"],
            progress_version=row["progress_version"],
            artifacts=json.loads(row["artifacts"]),
            snapshot=row["snapshot"],
        )

    async def artifacts(self, job_id: UUID, tenant_id: str) -> list[Artifact]:
        """What the job left behind, the main artifact first."""
        return [Artifact(**dict(row)) for row in await self._database.fetch(SQL["artifacts"], job_id, tenant_id)]

    async def heads(self, asked: Sequence[tuple[UUID, str]]) -> list[Head]:
        """Where jobs (id, tenant) stand now."""
        ids, tenants = [id_ for id_, _ in asked], [tenant for _, tenant in asked]
        rows = await self._database.fetch(SQL["heads"], ids, tenants)
        return [
            Head(row["id"], row["sequence"], row["progress_version"], row["is_terminal"], row["progress"])
            for row in rows
        ]

    async def events(self, asked: Sequence[tuple[UUID, str, int]]) -> list[Event]:
        """The log of jobs (id, tenant, after), each behind its known sequence, job by job and in order."""
        columns = [list(column) for column in zip(*asked, strict=True)] or [[], [], []]
        rows = await self._database.fetch(SQL["events"], *columns)
        return [Event(row["job_id"], row["sequence"], row["type"], row["body"]) for row in rows]

    async def epoch(self) -> str:
        """The value cursors carry; another one means the numbering may have been lost."""
        return str((await self._database.fetch(SQL["epoch"]))[0]["value"])

    async def activity(self, tenant_id: str, rows_max: int) -> list[dict[str, Any]]:
        """The tenant's newest jobs, newest first, in the shape JobContext.activity promises."""
        rows = await self._database.fetch(SQL["activity"], tenant_id, rows_max)
        return [json.loads(row["row"]) for row in rows]
