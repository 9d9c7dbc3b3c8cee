"""Searches of what became of doubts, and what providers told.

An older HES can work with it: it searches nothing and takes no events in.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
IN_DOUBT = sa.text("status = 'in_doubt'")
WAITING = sa.text("due_at IS NOT NULL")
OFTEN = {"autovacuum_vacuum_scale_factor": 0.05, "autovacuum_vacuum_cost_delay": 1}


def upgrade() -> None:
    op.create_table(
        "searches",
        sa.Column("attempt_id", TEXT, nullable=False),
        sa.Column("email_id", TEXT, nullable=False),
        sa.Column("provider", TEXT, nullable=False),
        sa.Column("next_at", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.Column("lease", TEXT, nullable=True),
        sa.Column("asked", sa.Integer(), nullable=False),
        sa.Column("lost", sa.Integer(), nullable=False),
        sa.Column("told", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("attempt_id"),
        sqlite_with_rowid=False,
        postgresql_with=OFTEN,
    )
    op.create_index("searches_due", "searches", ["provider", "next_at"], unique=False)
    op.create_index("searches_until", "searches", ["until"], unique=False)
    op.create_index(
        "deliveries_in_doubt",
        "deliveries",
        ["due_at"],
        unique=False,
        sqlite_where=IN_DOUBT,
        postgresql_where=IN_DOUBT,
    )
    op.create_table(
        "provider_events",
        sa.Column("provider", TEXT, nullable=False),
        sa.Column("dedup_id", TEXT, nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("vendor_type", TEXT, nullable=False),
        sa.Column("event", TEXT, nullable=True),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("provider", "dedup_id"),
        sqlite_with_rowid=False,
        postgresql_with=OFTEN,
    )
    op.create_index("provider_events_received_at", "provider_events", ["received_at"], unique=False)
    op.create_index(
        "provider_events_waiting",
        "provider_events",
        ["due_at"],
        unique=False,
        sqlite_where=WAITING,
        postgresql_where=WAITING,
    )


def downgrade() -> None:
    op.drop_table("provider_events")
    op.drop_index("deliveries_in_doubt", table_name="deliveries", sqlite_where=IN_DOUBT, postgresql_where=IN_DOUBT)
    op.drop_table("searches")
