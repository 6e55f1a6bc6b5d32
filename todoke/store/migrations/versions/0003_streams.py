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

# A dump read into another server: same rows, other machine, numbers given since the dump are lost.
RENEW_EPOCH = """
CREATE FUNCTION renew_epoch() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    here text := (SELECT system_identifier::text FROM pg_control_system());
BEGIN
    UPDATE epoch
    SET value = CASE WHEN system_identifier IS NULL THEN value ELSE left(md5(gen_random_uuid()::text), 8) END,
        system_identifier = here
    WHERE system_identifier IS DISTINCT FROM here;
EXCEPTION WHEN feature_not_supported OR insufficient_privilege OR undefined_function THEN
    NULL;
END
$$
"""


def upgrade() -> None:
    _api_keys()
    op.add_column("job", sa.Column("ticket_generation", sa.Integer, nullable=False, server_default="0"))
    _feed()
    op.add_column("epoch", sa.Column("system_identifier", sa.Text))
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
    # Both by default, so that the version before this one writes them too. What is there already has neither and is
    # not in the feed: giving it numbers would rewrite the whole log.
    op.execute("CREATE SEQUENCE event_position AS bigint CACHE 1")
    op.add_column("event", sa.Column("xid", sa.BigInteger))
    op.add_column("event", sa.Column("position", sa.BigInteger))
    op.execute("ALTER TABLE event ALTER COLUMN xid SET DEFAULT pg_current_xact_id()::text::bigint")
    op.execute("ALTER TABLE event ALTER COLUMN position SET DEFAULT nextval('event_position')")
    in_feed = sa.text("xid IS NOT NULL")
    op.create_index("event_feed", "event", ["tenant_id", "xid", "position"], postgresql_where=in_feed)
