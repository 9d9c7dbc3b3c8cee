"""Lanes, the retry budget's mark, what is known of providers' accounts, and their daily quotas.

A lane's text is written here as `hes.lanes` wrote it at that time; what waits is put into its lane row by row.
"""

import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

LIVE = "status IN ('draft', 'scheduled', 'queued', 'sending', 'in_doubt', 'held')"
WAITING = "status IN ('scheduled', 'queued')"


def upgrade() -> None:
    op.add_column("deliveries", sa.Column("stream", sa.Text(), nullable=False, server_default="default"))
    op.add_column("deliveries", sa.Column("sender_domain", sa.Text(), nullable=False, server_default=""))
    op.add_column("deliveries", sa.Column("is_retry", sa.Boolean(), nullable=False, server_default=sa.false()))
    _into_lanes(op.get_bind())
    _index_waiting(["lane", "due_at"])
    op.drop_table("provider_state")  # nothing ever wrote to it
    op.create_table(
        "provider_state",
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("sender_domain", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=True),
        sa.Column("changed_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("provider", "kind", "sender_domain"),
    )
    op.create_table(
        "provider_quota",
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("given", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("provider"),
    )


def downgrade() -> None:
    op.drop_table("provider_quota")
    op.drop_table("provider_state")
    op.create_table(
        "provider_state",
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=True),
        sa.Column("changed_by", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("provider", "scope"),
    )
    _index_waiting(["due_at"])
    for column in ("is_retry", "sender_domain", "stream"):
        op.drop_column("deliveries", column)


def _index_waiting(columns: list[str]) -> None:
    condition = sa.text(WAITING)
    op.drop_index("deliveries_waiting", table_name="deliveries", sqlite_where=condition, postgresql_where=condition)
    op.create_index(
        "deliveries_waiting", "deliveries", columns, unique=False, sqlite_where=condition, postgresql_where=condition
    )


def _into_lanes(connection: sa.Connection) -> None:
    """Only what can still be sent; the rest never waits again without being written anew."""
    page = sa.text(
        "SELECT d.email_id, d.project, d.own_providers, d.tried, d.declined_by, e.stream, e.from_email "  # noqa: S608 (a constant)
        f"FROM deliveries d JOIN emails e ON e.id = d.email_id WHERE {LIVE} AND d.email_id > :after "
        "ORDER BY d.email_id LIMIT 1000"
    )
    update = sa.text(
        "UPDATE deliveries SET lane = :lane, stream = :stream, sender_domain = :domain WHERE email_id = :email_id"
    )
    after = ""
    while rows := connection.execute(page, {"after": after}).all():
        connection.execute(update, [_placed(*row) for row in rows])
        after = rows[-1][0]


def _placed(
    email_id: str, project: str, own: str, tried: str, declined: str, stream: str, sender: str
) -> dict[str, str]:
    domain = sender.rpartition("@")[2].lower()
    names = [own.split(",")[:-1], sorted(set(tried.split(",")[:-1])), sorted(set(declined.split(",")[:-1]))]
    lane = json.dumps([project, stream, domain, *names, False], separators=(",", ":"), ensure_ascii=False)
    return {"email_id": email_id, "lane": lane, "stream": stream, "domain": domain}
