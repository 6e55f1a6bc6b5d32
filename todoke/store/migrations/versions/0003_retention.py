"""Retention: finding what is old without a scan, and objects that nothing refers to any more."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    # Beside job_results_kept: every finished job stands in exactly one of the two.
    op.create_index(
        "job_finished",
        "job",
        ["finished_at"],
        postgresql_where=sa.text("state = 'FAILED' OR results_expired_at IS NOT NULL"),
    )
    op.create_table(
        "orphan",
        sa.Column("prefix", sa.Text, primary_key=True),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
    )
    op.execute(
        "ALTER TABLE orphan"
        " SET (fillfactor = 75, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000)"
    )
    op.create_index("orphan_due", "orphan", ["due_at"])
