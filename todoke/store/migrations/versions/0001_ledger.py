"""The ledger: jobs, their events, the deliveries owed, the artifacts kept, and the one public story of a job."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# Rows of the hot tables are updated several times within seconds: room on the page keeps updates in place,
# and an early vacuum keeps the indexes short.
HOT = "fillfactor = 75, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000"

UTC = """
CREATE FUNCTION utc(moment timestamptz) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$
"""

CLAIMABLE = """
CREATE FUNCTION claimable(job job) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT (job.state = 'PENDING' AND job.due_at <= clock_timestamp())
        OR (job.state = 'PROCESSING' AND job.worker_id IS NULL AND job.due_at <= clock_timestamp())
        OR (job.state = 'PROCESSING' AND job.lease_expires_at <= clock_timestamp())
$$
"""

JOB_STORY = """
CREATE FUNCTION job_story(job job) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object(
        'jobId', job.id,
        'jobType', job.type,
        'status', CASE job.state WHEN 'SUCCESS' THEN 'success' WHEN 'FAILED' THEN 'failed' ELSE 'running' END,
        'downloadUrl', CASE job.state WHEN 'SUCCESS' THEN '/jobs/' || job.id || '/result' END,
        'error', CASE job.state WHEN 'FAILED' THEN job.error END,
        'errorCode', CASE job.state WHEN 'FAILED' THEN job.error_code END,
        'phase', CASE
            WHEN job.state = 'PENDING' THEN 'queued'
            WHEN job.state = 'PROCESSING' AND job.worker_id IS NULL THEN 'waiting'
            WHEN job.state = 'PROCESSING' THEN 'processing'
        END,
        'sequence', job.sequence,
        'progress', CASE WHEN job.progress_percent IS NOT NULL THEN
            json_build_object('percent', job.progress_percent, 'message', job.progress_message)
        END,
        'attempt', job.attempt,
        'waiting', CASE WHEN job.state = 'PROCESSING' AND job.worker_id IS NULL THEN
            json_build_object('until', utc(job.due_at), 'code', job.error_code, 'message', job.error)
        END,
        'createdAt', utc(job.created_at),
        'startedAt', utc(job.started_at),
        'finishedAt', utc(job.finished_at),
        'metadata', job.metadata
    )
$$
"""

EVENT_BODY = """
CREATE FUNCTION event_body(job job, event_type text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT json_build_object('type', event_type, 'timestamp', utc(job.updated_at), 'data', job_story(job))::text
$$
"""

APPEND_EVENT = """
CREATE FUNCTION append_event(job job, event_type text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO event (job_id, sequence, tenant_id, type, at, body)
    VALUES (job.id, job.sequence, job.tenant_id, event_type, job.updated_at, event_body(job, event_type));
    IF event_type = ANY (job.callback_events) THEN
        INSERT INTO delivery (job_id, sequence, tenant_id, url, due_at, created_at)
        VALUES (job.id, job.sequence, job.tenant_id, job.callback_url, job.updated_at, job.updated_at);
    END IF;
END
$$
"""


def upgrade() -> None:
    _jobs()
    _events()
    _deliveries()
    _artifacts()
    _epoch()
    for function in (UTC, CLAIMABLE, JOB_STORY, EVENT_BODY, APPEND_EVENT):
        op.execute(function)


def _moment(name: str, *, nullable: bool = True) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _jobs() -> None:
    op.create_table(
        "job",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False, server_default="PENDING"),
        sa.Column("params", sa.JSON, nullable=False),
        sa.Column("metadata", sa.JSON),
        sa.Column("callback_url", sa.Text),
        sa.Column("callback_events", sa.ARRAY(sa.Text), nullable=False, server_default="{}"),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("request_digest", sa.LargeBinary),
        sa.Column("sequence", sa.Integer, nullable=False, server_default="1"),
        sa.Column("progress_version", sa.Integer, nullable=False, server_default="0"),
        sa.Column("progress_percent", sa.Double),
        sa.Column("progress_message", sa.Text),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
        sa.Column("losses", sa.Integer, nullable=False, server_default="0"),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("timeout_seconds", sa.Double, nullable=False),
        sa.Column("lease", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("worker_id", sa.Text),
        _moment("lease_expires_at"),
        _moment("due_at", nullable=False),
        _moment("redispatch_at"),
        sa.Column("dispatch_count", sa.Integer, nullable=False, server_default="0"),
        sa.Column("error_code", sa.Text),
        sa.Column("error", sa.Text),
        _moment("created_at", nullable=False),
        _moment("started_at"),
        _moment("finished_at"),
        _moment("updated_at", nullable=False),
        sa.CheckConstraint("state IN ('PENDING', 'PROCESSING', 'SUCCESS', 'FAILED')", name="job_state_known"),
        sa.CheckConstraint(
            "(state IN ('SUCCESS', 'FAILED')) = (finished_at IS NOT NULL)", name="job_finished_when_terminal"
        ),
        sa.CheckConstraint(
            "(lease_expires_at IS NOT NULL) = (state = 'PROCESSING' AND worker_id IS NOT NULL)",
            name="job_lease_only_while_held",
        ),
    )
    op.execute(f"ALTER TABLE job SET ({HOT})")
    op.create_index(
        "job_idempotency",
        "job",
        ["tenant_id", "type", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_index(
        "job_redispatch",
        "job",
        ["redispatch_at"],
        postgresql_where=sa.text("state IN ('PENDING', 'PROCESSING')"),
    )
    op.create_index("job_newest", "job", ["tenant_id", "id"])


def _events() -> None:
    op.create_table(
        "event",
        sa.Column("job_id", sa.Uuid, primary_key=True),
        sa.Column("sequence", sa.Integer, primary_key=True),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        _moment("at", nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )


def _deliveries() -> None:
    op.create_table(
        "delivery",
        sa.Column("job_id", sa.Uuid, primary_key=True),
        sa.Column("sequence", sa.Integer, primary_key=True),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False, server_default="PENDING"),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Column("lease", sa.BigInteger, nullable=False, server_default="0"),
        _moment("due_at", nullable=False),
        sa.Column("last_status", sa.SmallInteger),
        sa.Column("last_reason", sa.Text),
        _moment("created_at", nullable=False),
        _moment("finished_at"),
        sa.CheckConstraint("state IN ('PENDING', 'DELIVERED', 'PARKED')", name="delivery_state_known"),
    )
    op.execute(f"ALTER TABLE delivery SET ({HOT})")
    op.create_index("delivery_due", "delivery", ["due_at"], postgresql_where=sa.text("state = 'PENDING'"))


def _artifacts() -> None:
    op.create_table(
        "artifact",
        sa.Column("job_id", sa.Uuid, primary_key=True),
        sa.Column("position", sa.SmallInteger, primary_key=True),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("media_type", sa.Text, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("content", sa.LargeBinary),
        sa.Column("object_key", sa.Text),
        sa.CheckConstraint("(content IS NULL) <> (object_key IS NULL)", name="artifact_in_one_place"),
    )


def _epoch() -> None:
    op.create_table("epoch", sa.Column("value", sa.Text, primary_key=True))
    # Random, so that a database made anew never continues the cursors of the one before.
    op.execute("INSERT INTO epoch (value) VALUES (left(replace(gen_random_uuid()::text, '-', ''), 8))")
