"""The front door: tenants with limits of their own, keys that say when they were used, jobs in batches and by name."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

# As in 0002, with the caller's own name for the job.
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
        'clientRef', job.client_ref,
        'createdAt', utc(job.created_at),
        'startedAt', utc(job.started_at),
        'finishedAt', utc(job.finished_at),
        'metadata', job.metadata
    )
$$
"""


def upgrade() -> None:
    _jobs()
    _tenants()
    op.execute(JOB_STORY)


def _moment(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True))


def _jobs() -> None:
    # None of them has to be given: the version before this one goes on inserting while it is replaced.
    op.add_column("job", sa.Column("client_ref", sa.Text))
    op.add_column("job", sa.Column("batch_id", sa.Uuid))
    op.add_column("job", sa.Column("trace", sa.Text))
    op.create_index(
        "job_batch", "job", ["tenant_id", "batch_id", "id"], postgresql_where=sa.text("batch_id IS NOT NULL")
    )
    op.create_index("job_failed", "job", ["tenant_id", "id"], postgresql_where=sa.text("state = 'FAILED'"))


def _tenants() -> None:
    # No row: the limits of the settings hold. Of a limit, NULL means the same and 0 none.
    op.create_table(
        "tenant",
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("submits_per_minute", sa.Integer),
        sa.Column("reads_per_minute", sa.Integer),
        sa.Column("queue_depth_max", sa.Integer),
        sa.Column("streams_max", sa.Integer),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")
        ),
        _moment("suspended_at"),
    )
    op.add_column("api_key", _moment("last_used_at"))
    op.add_column("api_key", sa.Column("submits_per_minute", sa.Integer))
    op.add_column("api_key", sa.Column("reads_per_minute", sa.Integer))
