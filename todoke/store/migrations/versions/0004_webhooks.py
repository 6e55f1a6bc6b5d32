"""Webhooks: fair claims, endpoints that remember how they fared, every attempt kept, and sealed signing secrets."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

# Of a (tenant, URL); so one tenant's trouble with a receiver never stops another's.
ENDPOINT_KEY = """
CREATE FUNCTION endpoint_key(tenant_id text, url text) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT left(encode(sha256(convert_to(tenant_id || E'\\n' || url, 'UTF8')), 'hex'), 32)::uuid
$$
"""

# Progress goes out as a delivery too, at its negative version: the latest wins, and nobody tries it twice.
OWE_PROGRESS = """
CREATE FUNCTION owe_progress(jobs uuid[]) RETURNS void LANGUAGE sql AS $$
    WITH superseded AS (
        DELETE FROM delivery
        WHERE delivery.job_id = ANY (jobs) AND delivery.sequence < 0 AND delivery.standing = 'ready'
    )
    INSERT INTO delivery (job_id, sequence, tenant_id, url, endpoint_id, due_at, created_at)
    SELECT
        changed.id, -changed.progress_version, changed.tenant_id, changed.callback_url,
        endpoint_key(changed.tenant_id, changed.callback_url), changed.updated_at, changed.updated_at
    FROM job AS changed
    LEFT JOIN endpoint ON endpoint.id = endpoint_key(changed.tenant_id, changed.callback_url)
    WHERE changed.id = ANY (jobs)
        AND (endpoint.id IS NULL OR (endpoint.state = 'ACTIVE' AND endpoint.blocked_until IS NULL))
    ON CONFLICT DO NOTHING
$$
"""

# Where the next delivery of a job stands from its first moment: a disabled endpoint parks it, a blocked one holds it.
OWE = """
CREATE FUNCTION owe(jobs uuid[]) RETURNS void LANGUAGE sql AS $$
    INSERT INTO delivery (
        job_id, sequence, tenant_id, url, endpoint_id, due_at, created_at, state, standing, last_reason, finished_at
    )
    SELECT
        changed.id, changed.sequence, changed.tenant_id, changed.callback_url,
        endpoint_key(changed.tenant_id, changed.callback_url), changed.updated_at, changed.updated_at,
        CASE endpoint.state WHEN 'DISABLED' THEN 'PARKED' ELSE 'PENDING' END,
        CASE WHEN endpoint.blocked_until IS NULL THEN 'ready' ELSE 'held' END,
        CASE endpoint.state WHEN 'DISABLED' THEN 'endpoint_disabled' END,
        CASE endpoint.state WHEN 'DISABLED' THEN changed.updated_at END
    FROM job AS changed
    LEFT JOIN endpoint ON endpoint.id = endpoint_key(changed.tenant_id, changed.callback_url)
    WHERE changed.id = ANY (jobs)
$$
"""

# As in 0003; what is owed to callbacks is said in two functions of its own, by ids: rows may carry large params.
LOG_JOBS = """
CREATE OR REPLACE FUNCTION log_jobs() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    owing uuid[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO event (job_id, sequence, tenant_id, type, at, body, xid)
        SELECT
            id, sequence, tenant_id, event_type(changed::job), updated_at,
            event_body(changed::job, event_type(changed::job)),
            (SELECT xid_base FROM epoch) + pg_current_xact_id()::text::bigint
        FROM new_jobs AS changed;
        SELECT array_agg(changed.id) INTO owing
        FROM new_jobs AS changed
        WHERE event_type(changed::job) = ANY (callback_events);
    ELSE
        INSERT INTO event (job_id, sequence, tenant_id, type, at, body, xid)
        SELECT
            changed.id, changed.sequence, changed.tenant_id, event_type(changed::job), changed.updated_at,
            event_body(changed::job, event_type(changed::job)),
            greatest(
                (SELECT xid_base FROM epoch) + pg_current_xact_id()::text::bigint,
                (SELECT last.xid FROM event AS last WHERE last.job_id = past.id AND last.sequence = past.sequence)
            )
        FROM new_jobs AS changed
        JOIN old_jobs AS past ON past.id = changed.id AND past.sequence <> changed.sequence;
        SELECT array_agg(changed.id) INTO owing
        FROM new_jobs AS changed
        JOIN old_jobs AS past ON past.id = changed.id AND past.progress_version <> changed.progress_version
        WHERE changed.state = 'PROCESSING' AND 'job.progress' = ANY (changed.callback_events);
        IF owing IS NOT NULL THEN
            PERFORM owe_progress(owing);
        END IF;
        SELECT array_agg(changed.id) INTO owing
        FROM new_jobs AS changed
        JOIN old_jobs AS past ON past.id = changed.id AND past.sequence <> changed.sequence
        WHERE event_type(changed::job) = ANY (changed.callback_events);
    END IF;
    IF owing IS NOT NULL THEN
        PERFORM owe(owing);
    END IF;
    RETURN NULL;
END
$$
"""

# A plan made while a table was short must not read all of it later.
CAREFUL = "SET enable_seqscan = off"


def upgrade() -> None:
    op.execute(ENDPOINT_KEY)
    _endpoints()
    _deliveries()
    _attempts()
    _secrets()
    _tests()
    for statement in (OWE_PROGRESS, OWE, LOG_JOBS):
        op.execute(statement)
    for function in ("owe(uuid[])", "owe_progress(uuid[])"):
        op.execute(f"ALTER FUNCTION {function} {CAREFUL}")


def _moment(name: str, *, nullable: bool = True) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _now(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()"))


def _endpoints() -> None:
    # No row: it never failed. A success writes only where there is something to mend.
    op.create_table(
        "endpoint",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False, server_default="ACTIVE"),
        sa.Column("disabled_reason", sa.Text),
        _moment("disabled_at"),
        sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
        sa.Column("failing_since", sa.DateTime(timezone=True)),
        sa.Column("first_failed", sa.Text),
        sa.Column("failed_several", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("strain", sa.Integer, nullable=False, server_default="0"),
        sa.Column("trips", sa.Integer, nullable=False, server_default="0"),
        sa.Column("is_open", sa.Boolean, nullable=False, server_default="false"),
        _moment("blocked_until"),
        sa.Column("denials", sa.Integer, nullable=False, server_default="0"),
        sa.Column("cap", sa.Integer),
        sa.Column("successes", sa.Integer, nullable=False, server_default="0"),
        _moment("updated_at", nullable=False),
        sa.CheckConstraint("state IN ('ACTIVE', 'DISABLED')", name="endpoint_state_known"),
    )
    op.create_index("endpoint_tenant", "endpoint", ["tenant_id", "id"])
    op.create_index(
        "endpoint_blocked", "endpoint", ["blocked_until"], postgresql_where=sa.text("blocked_until IS NOT NULL")
    )
    op.create_index(
        "endpoint_troubled", "endpoint", ["state"], postgresql_where=sa.text("state = 'DISABLED' OR is_open")
    )


def _deliveries() -> None:
    op.add_column("delivery", sa.Column("endpoint_id", sa.Uuid))
    op.add_column("delivery", sa.Column("standing", sa.Text, nullable=False, server_default="ready"))
    op.add_column(
        "delivery",
        sa.Column("owed_since", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
    )
    op.execute(
        "UPDATE delivery SET endpoint_id = endpoint_key(tenant_id, url), owed_since = created_at, standing = 'waiting'"
        " WHERE state = 'PENDING'"
    )
    op.execute("UPDATE delivery SET endpoint_id = endpoint_key(tenant_id, url) WHERE state = 'PARKED'")
    op.create_check_constraint(
        "delivery_standing_known", "delivery", "standing IN ('ready', 'waiting', 'leased', 'held')"
    )
    ready, waiting, leased, held = (
        sa.text(f"state = 'PENDING' AND {standing}")
        for standing in (
            "standing = 'ready'",
            "standing IN ('waiting', 'leased')",
            "standing = 'leased'",
            "standing = 'held'",
        )
    )
    op.create_index("delivery_ready", "delivery", ["tenant_id", "endpoint_id", "due_at"], postgresql_where=ready)
    op.create_index("delivery_waiting", "delivery", ["due_at"], postgresql_where=waiting)
    op.create_index("delivery_leased", "delivery", ["endpoint_id"], postgresql_where=leased)
    op.create_index("delivery_held", "delivery", ["endpoint_id", "due_at"], postgresql_where=held)
    op.create_index(
        "delivery_parked",
        "delivery",
        ["tenant_id", "finished_at", "job_id", "sequence"],
        postgresql_where=sa.text("state = 'PARKED'"),
    )
    op.create_index(
        "delivery_parked_endpoint",
        "delivery",
        ["endpoint_id", "finished_at", "job_id", "sequence"],
        postgresql_where=sa.text("state = 'PARKED'"),
    )
    # The version before this one claims along it; without it that takes longer, for as long as a deploy lasts.
    op.drop_index("delivery_due", "delivery")


def _attempts() -> None:
    op.create_table(
        "delivery_attempt",
        sa.Column("job_id", sa.Uuid, primary_key=True),
        sa.Column("sequence", sa.Integer, primary_key=True),
        sa.Column("lease", sa.BigInteger, primary_key=True),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        _moment("started_at", nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("status", sa.SmallInteger),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("peer", sa.Text),
        sa.Column("excerpt", sa.Text),
    )


def _secrets() -> None:
    op.create_table(
        "signing_secret",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant_id", sa.Text, nullable=False),
        # Of one callback, or of all that have none of their own.
        sa.Column("url", sa.Text),
        sa.Column("sealed", sa.Text, nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")
        ),
        _moment("expires_at"),
    )
    op.create_index("signing_secret_tenant", "signing_secret", ["tenant_id", "url", "created_at"])
    op.create_table(
        "signing_key",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("public_key", sa.Text, nullable=False),
        sa.Column("sealed", sa.Text, nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")
        ),
        _moment("expires_at"),
    )


def _tests() -> None:
    op.create_table(
        "callback_test",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False, server_default="PENDING"),
        sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
        _now("due_at"),
        sa.Column("report", sa.JSON),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")
        ),
        _moment("finished_at"),
        sa.CheckConstraint("kind IN ('ping', 'self_test')", name="callback_test_kind_known"),
        sa.CheckConstraint("state IN ('PENDING', 'DONE')", name="callback_test_state_known"),
    )
    op.create_index("callback_test_due", "callback_test", ["due_at"], postgresql_where=sa.text("state = 'PENDING'"))
    op.create_index("callback_test_tenant", "callback_test", ["tenant_id", "created_at"])
