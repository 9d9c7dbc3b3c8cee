"""What waits can be counted from an index alone."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

CAN_EXPIRE = sa.text("status IN ('scheduled', 'queued', 'in_doubt')")


def upgrade() -> None:
    _index(["expires_at", "status", "size_bytes"])


def downgrade() -> None:
    _index(["expires_at"])


def _index(columns: list[str]) -> None:
    op.drop_index("deliveries_expiring", table_name="deliveries", sqlite_where=CAN_EXPIRE, postgresql_where=CAN_EXPIRE)
    op.create_index(
        "deliveries_expiring",
        "deliveries",
        columns,
        unique=False,
        sqlite_where=CAN_EXPIRE,
        postgresql_where=CAN_EXPIRE,
    )
