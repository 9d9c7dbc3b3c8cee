"""Nodes, who may probe, what has content, what is aside; on Postgres: plain text order, and vacuum for the queue.

Text is compared byte by byte there (COLLATE "C"): it is as fast as can be, and no upgrade of the system's locales can
spoil an index.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

HOT = {
    "fillfactor": 80,
    "autovacuum_vacuum_scale_factor": 0.01,
    "autovacuum_vacuum_threshold": 1000,
    "autovacuum_vacuum_cost_delay": 0,
    "autovacuum_analyze_scale_factor": 0.05,
}
OFTEN = {"autovacuum_vacuum_scale_factor": 0.05, "autovacuum_vacuum_cost_delay": 1}
STORAGE = {"deliveries": HOT, "attempts": OFTEN, "emails": OFTEN, "recipients": OFTEN, "idempotency": OFTEN}


HAS_CONTENT = sa.text("content IS NOT NULL")
IS_ASIDE = sa.text(
    "status IN ('draft', 'scheduled', 'in_doubt', 'held', 'failed', 'cancelled', 'bounced', 'complained')"
)


def upgrade() -> None:
    op.create_index(
        "emails_content", "emails", ["id"], unique=False, sqlite_where=HAS_CONTENT, postgresql_where=HAS_CONTENT
    )
    op.create_index(
        "deliveries_aside",
        "deliveries",
        ["project", "status", "email_id"],
        unique=False,
        sqlite_where=IS_ASIDE,
        postgresql_where=IS_ASIDE,
    )
    op.add_column("nodes", sa.Column("gates", sa.Text(), nullable=False, server_default="[]"))
    op.create_table(
        "provider_probes",
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("sender_domain", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("taken_at", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("provider", "sender_domain"),
    )
    op.create_table(
        "schema_readers",
        sa.Column("oldest", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("oldest"),
    )
    op.execute("INSERT INTO schema_readers (oldest) VALUES ('0005')")
    if op.get_bind().dialect.name == "postgresql":
        _collate('"C"')
        for table, options in STORAGE.items():
            op.execute(f"ALTER TABLE {table} SET ({', '.join(f'{name} = {value}' for name, value in options.items())})")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table, options in STORAGE.items():
            op.execute(f"ALTER TABLE {table} RESET ({', '.join(options)})")
        _collate('"default"')
    op.drop_index("deliveries_aside", table_name="deliveries", sqlite_where=IS_ASIDE, postgresql_where=IS_ASIDE)
    op.drop_index("emails_content", table_name="emails", sqlite_where=HAS_CONTENT, postgresql_where=HAS_CONTENT)
    op.drop_table("schema_readers")
    op.drop_table("provider_probes")
    op.drop_column("nodes", "gates")


def _collate(collation: str) -> None:
    """Every column that holds text."""
    inspector = sa.inspect(op.get_bind())
    for table in inspector.get_table_names():
        names = [c["name"] for c in inspector.get_columns(table) if isinstance(c["type"], sa.Text)]
        if names and table != "alembic_version":
            changes = ", ".join(f"ALTER COLUMN {name} TYPE text COLLATE {collation}" for name in names)
            op.execute(f"ALTER TABLE {table} {changes}")
