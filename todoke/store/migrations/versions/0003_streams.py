"""Streams: who may watch, in which order a tenant's feed is read, and an epoch that tells servers apart."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

# A promoted or restored server goes on in another timeline, where numbers it had given before may be given again.
# Where PostgreSQL is spoken and its log is not (Aurora keeps every acknowledged commit), the value alone decides.
CURRENT_EPOCH = """
CREATE FUNCTION current_epoch() RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    kept text := (SELECT value FROM epoch);
BEGIN
    RETURN left(md5(kept || left(pg_walfile_name(pg_current_wal_lsn()), 8)), 8);
EXCEPTION WHEN feature_not_supported OR insufficient_privilege OR undefined_function THEN
    RETURN left(md5(kept), 8);
END
$$
"""

# A dump read into another server: same rows, other machine, numbers given since the dump are lost. Its transaction ids
# begin anew, so the feed counts them from behind all there were.
RENEW_EPOCH = """
CREATE FUNCTION renew_epoch() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    here text := (SELECT system_identifier::text FROM pg_control_system());
BEGIN
    IF here IS DISTINCT FROM (SELECT system_identifier FROM epoch) THEN
        -- Whoever writes events waits, and then counts from the new base.
        LOCK TABLE event IN SHARE ROW EXCLUSIVE MODE;
        -- From tenant to tenant along the index: the log may be too long to read.
        WITH RECURSIVE newest AS (
            (SELECT tenant_id, xid FROM event WHERE xid IS NOT NULL ORDER BY tenant_id DESC, xid DESC LIMIT 1)
            UNION ALL
            SELECT next.*
            FROM newest
            CROSS JOIN LATERAL (
                SELECT tenant_id, xid
                FROM event
                WHERE xid IS NOT NULL AND tenant_id < newest.tenant_id
                ORDER BY tenant_id DESC, xid DESC
                LIMIT 1
            ) AS next
        )
        UPDATE epoch
        SET value = CASE WHEN system_identifier IS NULL THEN value ELSE left(md5(gen_random_uuid()::text), 8) END,
            xid_base = coalesce((SELECT max(xid) FROM newest), xid_base),
            system_identifier = here
        WHERE system_identifier IS DISTINCT FROM here;
    END IF;
EXCEPTION WHEN feature_not_supported OR insufficient_privilege OR undefined_function THEN
    NULL;
END
$$
"""

# As in 0002, and each event gets its place in the tenant's feed: (xid, position). An id of a transaction alone may say
# the opposite of what happened, because one that has its id already can wait for the lock of another job row; so no
# event is given less than the event before it in the same job. docs/feed.md has the proof.
# A plan made while the log was short would read all of it for every event until statistics are new, hence no
# sequential scans.
LOG_JOBS = """
CREATE OR REPLACE FUNCTION log_jobs() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO event (job_id, sequence, tenant_id, type, at, body, xid)
        SELECT
            id, sequence, tenant_id, event_type(changed::job), updated_at,
            event_body(changed::job, event_type(changed::job)),
            (SELECT xid_base FROM epoch) + pg_current_xact_id()::text::bigint
        FROM new_jobs AS changed;
        INSERT INTO delivery (job_id, sequence, tenant_id, url, due_at, created_at)
        SELECT id, sequence, tenant_id, callback_url, updated_at, updated_at
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


def upgrade() -> None:
    _api_keys()
    op.add_column("job", sa.Column("ticket_generation", sa.Integer, nullable=False, server_default="0"))
    _feed()
    op.add_column("epoch", sa.Column("system_identifier", sa.Text))
    op.add_column("epoch", sa.Column("xid_base", sa.BigInteger, nullable=False, server_default="0"))
    op.execute(LOG_JOBS)
    op.execute(CURRENT_EPOCH)
    op.execute(RENEW_EPOCH)
    op.execute("SELECT renew_epoch()")


def _api_keys() -> None:
    op.create_table(
        "api_key",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("scopes", sa.ARRAY(sa.Text), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.Column("revoked_at", sa.DateTime(timezone=True)),
    )
    op.create_index("api_key_tenant", "api_key", ["tenant_id", "created_at"])


def _feed() -> None:
    # The trigger writes both, so the version before this one does too. What is there already has neither and is not in
    # the feed: giving it numbers would rewrite the whole log.
    op.execute("CREATE SEQUENCE event_position AS bigint CACHE 1")
    op.add_column("event", sa.Column("xid", sa.BigInteger))
    op.add_column("event", sa.Column("position", sa.BigInteger))
    op.execute("ALTER TABLE event ALTER COLUMN position SET DEFAULT nextval('event_position')")
    in_feed = sa.text("xid IS NOT NULL")
    op.create_index("event_feed", "event", ["tenant_id", "xid", "position"], postgresql_where=in_feed)
