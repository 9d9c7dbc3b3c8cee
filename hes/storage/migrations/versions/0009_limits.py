"""Drafts by age, and what a project holds, can be counted from indexes alone.

An older HES can work with it: it drops no drafts, and what it erases or drops goes on being counted.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

CAN_EXPIRE = sa.text("status IN ('scheduled', 'queued', 'in_doubt')")
IS_DRAFT = sa.text("status = 'draft'")
HOLDS_BYTES = sa.text("status IN ('draft', 'failed', 'cancelled') AND size_bytes > 0")


def upgrade() -> None:
    op.execute(
        "UPDATE deliveries SET size_bytes = 0 WHERE status IN ('failed', 'cancelled') "
        "AND EXISTS (SELECT 1 FROM emails WHERE emails.id = deliveries.email_id AND emails.content IS NULL)"
    )
    _index_expiring(["expires_at", "status", "size_bytes", "project"])
    _create("deliveries_drafts", ["due_at", "status", "size_bytes"], IS_DRAFT)
    _create("deliveries_holding", ["project", "status", "size_bytes"], HOLDS_BYTES)


def downgrade() -> None:
    _drop("deliveries_holding", HOLDS_BYTES)
    _drop("deliveries_drafts", IS_DRAFT)
    _index_expiring(["expires_at", "status", "size_bytes"])


def _index_expiring(columns: list[str]) -> None:
    _drop("deliveries_expiring", CAN_EXPIRE)
    _create("deliveries_expiring", columns, CAN_EXPIRE)


def _create(name: str, columns: list[str], condition: sa.TextClause) -> None:
    op.create_index(name, "deliveries", columns, unique=False, sqlite_where=condition, postgresql_where=condition)


def _drop(name: str, condition: sa.TextClause) -> None:
    op.drop_index(name, table_name="deliveries", sqlite_where=condition, postgresql_where=condition)
