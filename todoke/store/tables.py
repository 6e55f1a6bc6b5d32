"""The tables as SQLAlchemy knows them; the migrations make them, and a test holds the two against each other."""

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)

metadata = MetaData()


def _moment(name: str, *, nullable: bool = True) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


job = Table(
    "job",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("state", Text, nullable=False, server_default="PENDING"),
    Column("params", JSON, nullable=False),
    Column("metadata", JSON),
    Column("callback_url", Text),
    Column("callback_events", ARRAY(Text), nullable=False, server_default="{}"),
    Column("idempotency_key", Text),
    Column("request_digest", LargeBinary),
    Column("sequence", Integer, nullable=False, server_default="1"),
    Column("progress_version", Integer, nullable=False, server_default="0"),
    Column("progress_percent", Double),
    Column("progress_message", Text),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("losses", Integer, nullable=False, server_default="0"),
    Column("max_attempts", Integer, nullable=False),
    Column("timeout_seconds", Double, nullable=False),
    Column("lease", BigInteger, nullable=False, server_default="0"),
    Column("worker_id", Text),
    _moment("lease_expires_at"),
    _moment("due_at", nullable=False),
    _moment("redispatch_at"),
    Column("dispatch_count", Integer, nullable=False, server_default="0"),
    Column("error_code", Text),
    Column("error", Text),
    _moment("created_at", nullable=False),
    _moment("started_at"),
    _moment("finished_at"),
    _moment("updated_at", nullable=False),
    Column("priority", SmallInteger, nullable=False, server_default="0"),
    Column("rank_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    _moment("expires_at"),
    _moment("deadline_at"),
    _moment("cancel_requested_at"),
    Column("max_losses", Integer, nullable=False, server_default="3"),
    Column("concurrency_key", Text),
    Column("concurrency_limit", Integer),
    Column("retry_of", Uuid),
    _moment("results_expired_at"),
    Column("ticket_generation", Integer, nullable=False, server_default="0"),
    CheckConstraint("state IN ('PENDING', 'PROCESSING', 'SUCCESS', 'FAILED')", name="job_state_known"),
    CheckConstraint("(state IN ('SUCCESS', 'FAILED')) = (finished_at IS NOT NULL)", name="job_finished_when_terminal"),
    CheckConstraint(
        "(lease_expires_at IS NOT NULL) = (state = 'PROCESSING' AND worker_id IS NOT NULL)",
        name="job_lease_only_while_held",
    ),
    Index(
        "job_idempotency",
        "tenant_id",
        "type",
        "idempotency_key",
        unique=True,
        postgresql_where=text("idempotency_key IS NOT NULL"),
    ),
    Index(
        "job_redispatch",
        "redispatch_at",
        postgresql_where=text("state IN ('PENDING', 'PROCESSING')"),
    ),
    Index("job_newest", "tenant_id", "id"),
    Index("job_rank", "rank_at", postgresql_where=text("state = 'PENDING'")),
    Index("job_tenant_rank", "tenant_id", "rank_at", postgresql_where=text("state = 'PENDING'")),
    Index("job_prioritized", "due_at", postgresql_where=text("state = 'PENDING' AND priority <> 0")),
    Index(
        "job_keyed",
        "tenant_id",
        "concurrency_key",
        "rank_at",
        postgresql_where=text("state IN ('PENDING', 'PROCESSING') AND concurrency_key IS NOT NULL"),
    ),
    Index("job_started", "redispatch_at", postgresql_where=text("state = 'PROCESSING'")),
    Index("job_expiring", "expires_at", postgresql_where=text("state = 'PENDING' AND expires_at IS NOT NULL")),
    Index(
        "job_results_age",
        "finished_at",
        postgresql_where=text("finished_at IS NOT NULL AND results_expired_at IS NULL"),
    ),
    Index("job_age", "finished_at", postgresql_where=text("results_expired_at IS NOT NULL")),
)

event = Table(
    "event",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    _moment("at", nullable=False),
    Column("body", Text, nullable=False),
    Column("xid", BigInteger),
    Column("position", BigInteger, server_default=text("nextval('event_position')")),
    Index("event_feed", "tenant_id", "xid", "position", postgresql_where=text("xid IS NOT NULL")),
)

delivery = Table(
    "delivery",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("state", Text, nullable=False, server_default="PENDING"),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("lease", BigInteger, nullable=False, server_default="0"),
    _moment("due_at", nullable=False),
    Column("last_status", SmallInteger),
    Column("last_reason", Text),
    _moment("created_at", nullable=False),
    _moment("finished_at"),
    CheckConstraint("state IN ('PENDING', 'DELIVERED', 'PARKED')", name="delivery_state_known"),
    Index("delivery_due", "due_at", postgresql_where=text("state = 'PENDING'")),
)

artifact = Table(
    "artifact",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("position", SmallInteger, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("content", LargeBinary),
    Column("object_key", Text),
    CheckConstraint("(content IS NULL) <> (object_key IS NULL)", name="artifact_in_one_place"),
)

epoch = Table(
    "epoch",
    metadata,
    Column("value", Text, primary_key=True),
    Column("system_identifier", Text),
    Column("xid_base", BigInteger, nullable=False, server_default="0"),
)

api_key = Table(
    "api_key",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    _moment("expires_at"),
    _moment("revoked_at"),
    Index("api_key_tenant", "tenant_id", "created_at"),
)

worker = Table(
    "worker",
    metadata,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("busy", Integer, nullable=False),
    Column("types", ARRAY(Text), nullable=False),
    _moment("started_at", nullable=False),
    _moment("seen_at", nullable=False),
)

dead_letter = Table(
    "dead_letter",
    metadata,
    Column("id", Text, primary_key=True),
    Column("body", Text, nullable=False),
    Column("job_id", Uuid),
    Column("verdict", Text, nullable=False),
    Column("receive_count", Integer, nullable=False),
    _moment("sent_at"),
    _moment("arrived_at", nullable=False),
    _moment("redriven_at"),
    CheckConstraint("verdict IN ('unparseable', 'failed', 'dropped')", name="dead_letter_verdict_known"),
)

tombstone = Table(
    "tombstone",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("state", Text, nullable=False),
    _moment("finished_at", nullable=False),
    _moment("erased_at", nullable=False),
    Column("reason", Text, nullable=False),
    Index("tombstone_age", "erased_at"),
)

orphan = Table(
    "orphan",
    metadata,
    Column("prefix", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    _moment("due_at", nullable=False),
    Column("tries", Integer, nullable=False, server_default="0"),
    Index("orphan_due", "due_at"),
)
