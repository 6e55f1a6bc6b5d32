"""What a test of faults records: every committed change of a job, and all that clients, job code and the queue saw.

The log of changes is written by a trigger of the test's own inside the transaction that makes the change, with the
database's clock. Everything else is told by the test. Moments are Unix seconds; one machine, so one clock.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import asyncpg

TRIGGER = """
CREATE TABLE fault_change (
    number bigserial PRIMARY KEY,
    job uuid NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    before jsonb,
    after jsonb
);
CREATE INDEX ON fault_change (job);
CREATE FUNCTION fault_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO fault_change (job, before, after) VALUES (
        coalesce(NEW.id, OLD.id),
        CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) - 'params' - 'metadata' END,
        CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) - 'params' - 'metadata' END
    );
    RETURN NULL;
END
$$;
CREATE TRIGGER zz_fault_change AFTER INSERT OR UPDATE OR DELETE ON job
FOR EACH ROW EXECUTE FUNCTION fault_change();
CREATE FUNCTION fault_keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the log of changes is append-only';
END
$$;
CREATE TRIGGER fault_keep BEFORE UPDATE OR DELETE ON fault_change FOR EACH ROW EXECUTE FUNCTION fault_keep();
"""

Row = Mapping[str, Any]
MOMENTS = ("lease_expires_at", "due_at", "redispatch_at", "finished_at", "cancel_requested_at", "started_at")


@dataclass(frozen=True)
class Change:
    """One committed change of a job's row. `before` None: it was inserted; `after` None: it was deleted."""

    number: int
    at: float
    before: Row | None
    after: Row | None

    @property
    def job(self) -> UUID:
        return UUID((self.after or self.before or {})["id"])


@dataclass(frozen=True)
class Effect:
    """What job code did: `what` is start, end or raise. `lease`: its attempt, which grows with the lease."""

    job: UUID
    lease: int
    what: str
    pid: int
    at: float


@dataclass(frozen=True)
class Seen:
    """What a polling client was told. `status`: running, success or failed."""

    job: UUID
    status: str
    sequence: int
    attempt: int = 0
    percent: float | None = None
    code: str | None = None


@dataclass(frozen=True)
class Deed:
    """A fault as the test made it: kill, stop, continue, term, exit, cut. `by`: the worker's id, or what was cut."""

    kind: str
    by: str
    at: float


@dataclass(frozen=True)
class Traffic:
    """One message in one call to the queue: send, receive, delete or defer. `is_done`: the queue took it."""

    at: float
    action: str
    message: str
    job: UUID | None
    is_done: bool = True
    seconds: int = 0


@dataclass(frozen=True)
class Kept:
    """One artifact as stored. `found`: SHA-256 of what is really there, None when nothing is."""

    job: UUID
    key: str | None
    sha256: str
    found: str | None
    result: Any = None


@dataclass(frozen=True)
class Left:
    """What the queues hold at rest. `dead`: the jobs that dead letters name, None for what is no hint."""

    visible: int = 0
    hidden: int = 0
    dead: tuple[UUID | None, ...] = ()


@dataclass(frozen=True)
class Bounds:
    """What the test promises of its faults, for the invariants that depend on it.

    recovery_seconds: lease + sweep + receive after a kill; None when something needed for it was away.
    is_duplicates_only: no crash, pause or outage was injected, so nothing may run twice.
    """

    recovery_seconds: float | None = None
    drain_seconds: float = 25
    cancel_seconds: float | None = None
    slots: int = 4
    is_duplicates_only: bool = False


@dataclass
class History:
    """Everything recorded of one test. `offered`: ids whose submit was never answered; they may exist or not."""

    accepted: dict[UUID, str | None] = field(default_factory=dict)
    offered: set[UUID] = field(default_factory=set)
    cancels: list[tuple[UUID, float]] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    rows: dict[UUID, Row] = field(default_factory=dict)
    events: dict[UUID, list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))
    streams: list[list[tuple[UUID, int, str]]] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    deeds: list[Deed] = field(default_factory=list)
    traffic: list[Traffic] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    left: Left = field(default_factory=Left)
    bounds: Bounds = field(default_factory=Bounds)

    def of(self) -> dict[UUID, list[Change]]:
        """The changes of each job, in order."""
        found: dict[UUID, list[Change]] = defaultdict(list)
        for change in sorted(self.changes, key=lambda change: change.number):
            found[change.job].append(change)
        return found

    def read_effects(self, path: Path) -> Self:
        """Add what job code wrote; a line cut short by a kill is dropped."""
        for line in path.read_text().splitlines() if path.exists() else []:
            words = line.split()
            if len(words) == 5:
                self.effects.append(Effect(UUID(words[0]), int(words[1]), words[2], int(words[3]), float(words[4])))
        return self

    async def read_database(
        self, connection: "asyncpg.Connection[asyncpg.Record]", jobs: Collection[UUID] | None = None
    ) -> Self:
        """Add the log of changes, the rows and the events as they stand; of all jobs, or of these alone."""
        ids = None if jobs is None else list(jobs)
        for row in await connection.fetch(
            "SELECT number, at, before, after FROM fault_change"
            " WHERE $1::uuid[] IS NULL OR job = ANY ($1::uuid[]) ORDER BY number",
            ids,
        ):
            before, after = _row(row["before"]), _row(row["after"])
            self.changes.append(Change(row["number"], row["at"].timestamp(), before, after))
        for row in await connection.fetch(
            "SELECT id, to_jsonb(job) - 'params' AS row FROM job WHERE $1::uuid[] IS NULL OR id = ANY ($1::uuid[])", ids
        ):
            self.rows[row["id"]] = _row(row["row"]) or {}
        for row in await connection.fetch(
            "SELECT job_id, sequence, type FROM event WHERE $1::uuid[] IS NULL OR job_id = ANY ($1::uuid[])"
            " ORDER BY job_id, sequence",
            ids,
        ):
            self.events[row["job_id"]].append((row["sequence"], row["type"]))
        return self


async def install(url: str) -> None:
    """Give a database of the test's own the log of changes."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(TRIGGER)
    finally:
        await connection.close()


def _row(text: str | None) -> Row | None:
    if text is None:
        return None
    row = json.loads(text)
    for name in MOMENTS:
        if row.get(name):
            row[name] = datetime.fromisoformat(row[name]).timestamp()
    return row
