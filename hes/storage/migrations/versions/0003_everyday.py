"""When an email is to be sent, whether it is a test, and indexes for lists."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

REFERRED = sa.text("reference IS NOT NULL")


def upgrade() -> None:
    op.add_column("deliveries", sa.Column("is_test", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("deliveries", sa.Column("send_at", sa.BigInteger(), nullable=True))
    op.create_index("emails_project", "emails", ["project", "id"], unique=False)
    op.create_index(
        "emails_reference",
        "emails",
        ["project", "reference", "id"],
        unique=False,
        sqlite_where=REFERRED,
        postgresql_where=REFERRED,
    )
    op.create_index("recipients_email", "recipients", ["email", "email_id"], unique=False)


def downgrade() -> None:
    op.drop_index("recipients_email", table_name="recipients")
    op.drop_index("emails_reference", table_name="emails", sqlite_where=REFERRED, postgresql_where=REFERRED)
    op.drop_index("emails_project", table_name="emails")
    op.drop_column("deliveries", "send_at")
    op.drop_column("deliveries", "is_test")
