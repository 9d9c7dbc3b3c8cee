"""Which key wrote an email, and an index of the test emails.

An older HES can work with it: what it writes says nothing of its key. The table of idempotency keys stays as it is: see
`hes.storage.accepting`.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
IS_TEST = sa.text("is_test")


def upgrade() -> None:
    op.add_column("emails", sa.Column("written_by", TEXT, nullable=True))
    op.create_index(
        "deliveries_test",
        "deliveries",
        ["project", "email_id"],
        unique=False,
        sqlite_where=IS_TEST,
        postgresql_where=IS_TEST,
    )


def downgrade() -> None:
    op.drop_index("deliveries_test", table_name="deliveries", sqlite_where=IS_TEST, postgresql_where=IS_TEST)
    op.drop_column("emails", "written_by")
