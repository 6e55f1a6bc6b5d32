"""Which jobs a tenant has, the newest first, page by page. Changes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, literal_column, select, true

from todoke.model.ids import first_id
from todoke.model.job import State
from todoke.store.database import Database
from todoke.store.tables import job

# So many of a tenant's jobs are looked at for one page, however few of them are wanted.
LOOKED_AT_MAX = 2_000
# Ids are made by the clocks of API processes, creation times by the database's: so far apart they may be.
CLOCKS_APART = timedelta(hours=1)


@dataclass(frozen=True)
class Wanted:
    """Which jobs. None: any. `created_after` is included, `created_before` is not; both know their zone."""

    states: Sequence[State] | None = None
    type: str | None = None
    client_ref: str | None = None
    batch_id: UUID | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


@dataclass(frozen=True)
class Page:
    """ids: newest first. end: where the next page begins, None when there is none."""

    ids: Sequence[UUID]
    end: UUID | None


class Listing:
    """Raises Unavailable when PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, tenant_id: str, wanted: Wanted, before: UUID | None, jobs_max: int) -> Page:
        """The next jobs below the id `before`; perhaps fewer than `jobs_max`, even none, though there are more."""
        looked_at = _looked_at(tenant_id, wanted, before)
        async with self._database.read() as connection:
            rows = (await connection.execute(looked_at)).all()
        ids = [row.id for row in rows if row.is_wanted]
        if len(ids) > jobs_max:
            return Page(ids[:jobs_max], ids[jobs_max - 1])
        return Page(ids, rows[-1].id if len(rows) == LOOKED_AT_MAX else None)


def _looked_at(tenant_id: str, wanted: Wanted, before: UUID | None) -> Select[tuple[UUID, bool]]:
    """The newest ids an index leads to, each with whether it is wanted."""
    bounds = [job.c.tenant_id == tenant_id]
    if before is not None:
        bounds.append(job.c.id < before)
    if wanted.created_before is not None:
        bounds.append(job.c.id < first_id(wanted.created_before + CLOCKS_APART))
    if wanted.created_after is not None:
        bounds.append(job.c.id >= first_id(wanted.created_after - CLOCKS_APART))
    if wanted.batch_id is not None:
        bounds.append(job.c.batch_id == wanted.batch_id)
    if wanted.states == (State.FAILED,):
        # In words the partial index knows.
        bounds.append(job.c.state == literal_column("'FAILED'"))
    is_wanted = and_(true(), *_conditions(wanted)).label("is_wanted")
    return select(job.c.id, is_wanted).where(*bounds).order_by(job.c.id.desc()).limit(LOOKED_AT_MAX)


def _conditions(wanted: Wanted) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.states is not None:
        found.append(job.c.state.in_(wanted.states))
    if wanted.type is not None:
        found.append(job.c.type == wanted.type)
    if wanted.client_ref is not None:
        found.append(job.c.client_ref == wanted.client_ref)
    if wanted.created_after is not None:
        found.append(job.c.created_at >= wanted.created_after)
    if wanted.created_before is not None:
        found.append(job.c.created_at < wanted.created_before)
    return found
