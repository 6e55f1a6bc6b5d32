"""Guards, limits and control: what the database itself refuses, and what it needs to know to end a job in time."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

# VOLATILE, as clock_timestamp() is, so that the planner may write both into the statement. The coalesce keeps it from
# seeing the condition of a partial index in them: a statement that names ids must never read all unfinished jobs.
DOOM = """
CREATE FUNCTION doom(job job) RETURNS text LANGUAGE sql VOLATILE AS $$
    SELECT CASE
        WHEN coalesce(job.state, '') = 'PENDING' AND job.expires_at <= clock_timestamp() THEN 'EXPIRED'
        WHEN coalesce(job.state, '') = 'PROCESSING' AND job.lease_expires_at <= clock_timestamp() THEN CASE
            WHEN job.cancel_requested_at IS NOT NULL THEN 'CANCELED'
            WHEN job.losses + 1 >= job.max_losses THEN 'WORKER_LOST'
        END
    END
$$
"""

CLAIMABLE = """
CREATE OR REPLACE FUNCTION claimable(job job) RETURNS boolean LANGUAGE sql VOLATILE AS $$
    SELECT doom(job) IS NULL AND (
        (coalesce(job.state, '') = 'PENDING' AND job.due_at <= clock_timestamp())
        OR (coalesce(job.state, '') = 'PROCESSING' AND job.worker_id IS NULL AND job.due_at <= clock_timestamp())
        OR (coalesce(job.state, '') = 'PROCESSING' AND job.lease_expires_at <= clock_timestamp())
    )
$$
"""

REFUSE = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of % % refused: a job only goes forward', TG_OP, TG_TABLE_NAME, CASE
        WHEN TG_OP = 'INSERT' THEN to_jsonb(NEW) ->> 'id'
        WHEN TG_TABLE_NAME = 'event' THEN to_jsonb(OLD) ->> 'job_id'
        ELSE to_jsonb(OLD) ->> 'id'
    END USING ERRCODE = 'check_violation';
END
$$
"""

# The conditions stand in WHEN, so that a legal change never pays for a call.
GUARDS = (
    """
    CREATE TRIGGER job_begins_pending BEFORE INSERT ON job FOR EACH ROW
    WHEN (NEW.state <> 'PENDING' OR NEW.lease <> 0 OR NEW.sequence <> 1)
    EXECUTE FUNCTION refuse_change()
    """,
    """
    CREATE TRIGGER job_goes_forward BEFORE UPDATE ON job FOR EACH ROW
    WHEN (
        (OLD.state = 'PENDING' AND NEW.state = 'SUCCESS')
        OR (OLD.state = 'PROCESSING' AND NEW.state = 'PENDING')
        OR NEW.lease NOT IN (OLD.lease, OLD.lease + 1)
        OR NEW.sequence NOT IN (OLD.sequence, OLD.sequence + 1)
        OR NEW.progress_version < OLD.progress_version
        OR (NEW.state <> OLD.state AND NEW.sequence = OLD.sequence)
        OR (NEW.worker_id IS NOT NULL AND NEW.worker_id IS DISTINCT FROM OLD.worker_id AND NEW.lease = OLD.lease)
        OR NEW.id <> OLD.id
        OR NEW.tenant_id <> OLD.tenant_id
    )
    EXECUTE FUNCTION refuse_change()
    """,
    """
    CREATE TRIGGER job_ends_once BEFORE UPDATE ON job FOR EACH ROW
    WHEN (
        OLD.state IN ('SUCCESS', 'FAILED')
        AND (
            NEW.state, NEW.lease, NEW.sequence, NEW.attempt, NEW.error_code, NEW.error, NEW.worker_id, NEW.finished_at
        ) IS DISTINCT FROM (
            OLD.state, OLD.lease, OLD.sequence, OLD.attempt, OLD.error_code, OLD.error, OLD.worker_id, OLD.finished_at
        )
    )
    EXECUTE FUNCTION refuse_change()
    """,
    """
    CREATE TRIGGER job_is_kept BEFORE DELETE ON job FOR EACH ROW
    WHEN (OLD.state NOT IN ('SUCCESS', 'FAILED'))
    EXECUTE FUNCTION refuse_change()
    """,
    """
    CREATE TRIGGER event_never_changes BEFORE UPDATE ON event FOR EACH ROW
    EXECUTE FUNCTION refuse_change()
    """,
)

# STABLE, as to_char() is, so that the planner may write it into the statement.
UTC = """
CREATE OR REPLACE FUNCTION utc(moment timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$
"""

EVENT_TYPE = """
CREATE FUNCTION event_type(job job) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN job.state = 'PENDING' THEN 'job.accepted'
        WHEN job.state = 'SUCCESS' THEN 'job.succeeded'
        WHEN job.state = 'FAILED' THEN 'job.failed'
        WHEN job.worker_id IS NULL THEN 'job.retrying'
        ELSE 'job.started'
    END
$$
"""

# The database writes the log itself: whoever gives a job its next sequence, hand-written SQL included, the event and
# the delivery it owes are part of the same statement.
LOG_JOBS = """
CREATE FUNCTION log_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO event (job_id, sequence, tenant_id, type, at, body)
        SELECT
            id, sequence, tenant_id, event_type(changed::job), updated_at,
            event_body(changed::job, event_type(changed::job))
        FROM new_jobs AS changed;
        INSERT INTO delivery (job_id, sequence, tenant_id, url, due_at, created_at)
        SELECT id, sequence, tenant_id, callback_url, updated_at, updated_at
        FROM new_jobs AS changed
        WHERE event_type(changed::job) = ANY (callback_events);
    ELSE
        INSERT INTO event (job_id, sequence, tenant_id, type, at, body)
        SELECT
            changed.id, changed.sequence, changed.tenant_id, event_type(changed::job), changed.updated_at,
            event_body(changed::job, event_type(changed::job))
        FROM new_jobs AS changed
        JOIN old_jobs AS past ON past.id = changed.id AND past.sequence <> changed.sequence;
        INSERT INTO delivery (job_id, sequence, tenant_id, url, due_at, created_at)
        SELECT
            changed.id, changed.sequence, changed.tenant_id, changed.callback_url,
            changed.updated_at, changed.updated_at
        FROM new_jobs AS changed
        JOIN old_jobs AS past ON past.id = changed.id AND past.sequence <> changed.sequence
        WHERE event_type(changed::job) = ANY (changed.callback_events);
    END IF;
    RETURN NULL;
END
$$
"""

LOGGING = (
    """
    CREATE TRIGGER job_is_logged AFTER INSERT ON job
    REFERENCING NEW TABLE AS new_jobs
    FOR EACH STATEMENT EXECUTE FUNCTION log_jobs()
    """,
    """
    CREATE TRIGGER job_change_is_logged AFTER UPDATE ON job
    REFERENCING OLD TABLE AS old_jobs NEW TABLE AS new_jobs
    FOR EACH STATEMENT EXECUTE FUNCTION log_jobs()
    """,
)

# The version before this one still calls it from its statements; the triggers do its work now.
APPEND_EVENT = """
CREATE OR REPLACE FUNCTION append_event(job job, event_type text) RETURNS void LANGUAGE sql AS $$
    SELECT
$$
"""

JOB_STORY = """
CREATE OR REPLACE FUNCTION job_story(job job) RETURNS json LANGUAGE sql STABLE AS $$
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
        'waiting', CASE
            WHEN (job.state = 'PROCESSING' AND job.worker_id IS NULL)
                OR (job.state = 'PENDING' AND job.due_at > job.updated_at)
            THEN json_build_object('until', utc(job.due_at), 'code', job.error_code, 'message', job.error)
        END,
        'cancelRequested', job.cancel_requested_at IS NOT NULL,
        'retryOf', job.retry_of,
        'createdAt', utc(job.created_at),
        'startedAt', utc(job.started_at),
        'finishedAt', utc(job.finished_at),
        'metadata', job.metadata
    )
$$
"""


def upgrade() -> None:
    _job_columns()
    _workers()
    _dead_letters()
    _tombstones()
    _orphans()
    functions = (UTC, DOOM, CLAIMABLE, REFUSE, JOB_STORY, EVENT_TYPE, LOG_JOBS, APPEND_EVENT)
    for statement in (*functions, *GUARDS, *LOGGING):
        op.execute(statement)


def _moment(name: str, *, nullable: bool = True) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _job_columns() -> None:
    # Every column has a default: the version before this one goes on inserting while it is replaced.
    for column in (
        sa.Column("priority", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("rank_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        _moment("expires_at"),
        _moment("deadline_at"),
        _moment("cancel_requested_at"),
        sa.Column("max_losses", sa.Integer, nullable=False, server_default="3"),
        sa.Column("concurrency_key", sa.Text),
        sa.Column("concurrency_limit", sa.Integer),
        sa.Column("retry_of", sa.Uuid),
        _moment("results_expired_at"),
    ):
        op.add_column("job", column)
    op.execute("UPDATE job SET rank_at = due_at WHERE state = 'PENDING'")
    pending = sa.text("state = 'PENDING'")
    op.create_index("job_rank", "job", ["rank_at"], postgresql_where=pending)
    op.create_index("job_tenant_rank", "job", ["tenant_id", "rank_at"], postgresql_where=pending)
    op.create_index(
        "job_prioritized", "job", ["due_at"], postgresql_where=sa.text("state = 'PENDING' AND priority <> 0")
    )
    op.create_index(
        "job_keyed",
        "job",
        ["tenant_id", "concurrency_key", "rank_at"],
        postgresql_where=sa.text("state IN ('PENDING', 'PROCESSING') AND concurrency_key IS NOT NULL"),
    )
    op.create_index("job_started", "job", ["redispatch_at"], postgresql_where=sa.text("state = 'PROCESSING'"))
    op.create_index(
        "job_expiring",
        "job",
        ["expires_at"],
        postgresql_where=sa.text("state = 'PENDING' AND expires_at IS NOT NULL"),
    )
    # Every finished job stands in exactly one of these two.
    op.create_index(
        "job_results_age",
        "job",
        ["finished_at"],
        postgresql_where=sa.text("finished_at IS NOT NULL AND results_expired_at IS NULL"),
    )
    op.create_index("job_age", "job", ["finished_at"], postgresql_where=sa.text("results_expired_at IS NOT NULL"))


def _workers() -> None:
    op.create_table(
        "worker",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("slots", sa.Integer, nullable=False),
        sa.Column("busy", sa.Integer, nullable=False),
        sa.Column("types", sa.ARRAY(sa.Text), nullable=False),
        _moment("started_at", nullable=False),
        _moment("seen_at", nullable=False),
    )


def _dead_letters() -> None:
    op.create_table(
        "dead_letter",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("job_id", sa.Uuid),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.Column("receive_count", sa.Integer, nullable=False),
        _moment("sent_at"),
        _moment("arrived_at", nullable=False),
        _moment("redriven_at"),
        sa.CheckConstraint("verdict IN ('unparseable', 'failed', 'dropped')", name="dead_letter_verdict_known"),
    )


def _tombstones() -> None:
    op.create_table(
        "tombstone",
        sa.Column("job_id", sa.Uuid, primary_key=True),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        _moment("finished_at", nullable=False),
        _moment("erased_at", nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_index("tombstone_age", "tombstone", ["erased_at"])


def _orphans() -> None:
    # What the object store may still hold under a prefix that no row refers to any more.
    op.create_table(
        "orphan",
        sa.Column("prefix", sa.Text, primary_key=True),
        sa.Column("tenant_id", sa.Text, nullable=False),
        _moment("due_at", nullable=False),
        sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
    )
    op.create_index("orphan_due", "orphan", ["due_at"])
