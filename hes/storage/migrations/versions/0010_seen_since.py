"""Since when a node has been seen without a gap.

An older HES can work with it: it writes nothing there, and proves nothing by its heartbeats.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("nodes", sa.Column("seen_since", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("nodes", "seen_since")
