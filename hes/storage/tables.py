"""The tables, for both databases. Times are milliseconds since 1970 (hes.model.Millis); JSON is text.

Who is hot: `deliveries` is the queue, narrow, and its partial indexes hold only what waits or is in flight, so that
they cost the same with ten or ten million finished emails. Everything else is written once, or once more.

No foreign keys: every row of an email is written in the transaction that writes the email, and erased by code that
must know each table anyway; the checks would cost a look-up per row on the accept path.
"""

import sqlalchemy as sa

metadata = sa.MetaData()

Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
"""Compared byte by byte on both databases: fast, and no matter of locales."""

IS_WAITING = "status IN ('scheduled', 'queued')"
IS_LEASED = "status = 'sending'"
HAS_CONTENT = "content IS NOT NULL"
CAN_EXPIRE = "status IN ('scheduled', 'queued', 'in_doubt')"
IS_ASIDE = "status IN ('draft', 'scheduled', 'in_doubt', 'held', 'failed', 'cancelled', 'bounced', 'complained')"
"""What people look for among millions that went well."""
IS_TEST = "is_test"
"""So that who reaches nothing else finds them among all others."""
IS_DRAFT = "status = 'draft'"
HOLDS_BYTES = "status IN ('draft', 'failed', 'cancelled') AND size_bytes > 0"
"""At rest, and its content is still there."""
IS_IN_DOUBT = "status = 'in_doubt'"
IS_WAITING_EVENT = "due_at IS NOT NULL"


_HOT = {
    "fillfactor": 80,
    "autovacuum_vacuum_scale_factor": 0.01,
    "autovacuum_vacuum_threshold": 1000,
    "autovacuum_vacuum_cost_delay": 0,
    "autovacuum_analyze_scale_factor": 0.05,
}
"""A queue's rows change several times within seconds: dead ones must go as fast (Postgres)."""
_OFTEN = {"autovacuum_vacuum_scale_factor": 0.05, "autovacuum_vacuum_cost_delay": 1}


def _partial(name: str, columns: list[str], condition: str) -> sa.Index:
    """An index over the rows that match. Queries must repeat the condition to the letter, or SQLite won't use it."""
    return sa.Index(name, *columns, sqlite_where=sa.text(condition), postgresql_where=sa.text(condition))


emails = sa.Table(
    "emails",
    metadata,
    sa.Column("id", Text, primary_key=True),
    sa.Column("project", Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("from_email", Text, nullable=False),
    sa.Column("from_name", Text),
    sa.Column("subject", Text, nullable=False),
    sa.Column("tags", Text, nullable=False),
    sa.Column("reference", Text),
    sa.Column("stream", Text, nullable=False),
    sa.Column("message_id", Text, nullable=False),
    sa.Column("content", sa.LargeBinary),  # hes.model.Email as JSON; NULL once erased
    # The key that handed it in, or edited the draft last. NULL before HES kept it: then it is nobody's own draft, and
    # wants `emails:read` to be edited or sent. HES_BOOTSTRAP_KEY has the same name whatever it is: it may all anyway.
    sa.Column("written_by", Text),
    sa.Index("emails_project", "project", "id"),
    _partial("emails_content", ["id"], HAS_CONTENT),
    _partial("emails_reference", ["project", "reference", "id"], "reference IS NOT NULL"),
    postgresql_with=_OFTEN,
)

deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("email_id", Text, primary_key=True),
    sa.Column("project", Text, nullable=False),
    sa.Column("lane", Text, nullable=False),  # hes.lanes: follows from the other columns, written with them
    sa.Column("status", Text, nullable=False),
    sa.Column("reason", Text),
    sa.Column("due_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("expires_in", sa.Integer, nullable=False),
    sa.Column("on_doubt", Text, nullable=False),
    sa.Column("attempt_timeout", sa.Float, nullable=False),
    sa.Column("own_providers", Text, nullable=False),  # names, each followed by a comma; likewise below
    sa.Column("size_bytes", sa.Integer, nullable=False),  # of the content; 0 once what is failed or cancelled lost it
    sa.Column("attempt_id", Text),
    sa.Column("lease_ends_at", sa.BigInteger),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("provider", Text),
    sa.Column("tried", Text, nullable=False),
    sa.Column("declined_by", Text, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("lapses", sa.Integer, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("stream", Text, nullable=False, server_default="default"),
    sa.Column("sender_domain", Text, nullable=False, server_default=""),
    sa.Column("is_retry", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("is_test", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("send_at", sa.BigInteger),
    sa.Column("not_tried", sa.Integer, nullable=False, server_default="0"),
    _partial("deliveries_waiting", ["lane", "due_at"], IS_WAITING),
    _partial("deliveries_leased", ["lease_ends_at"], IS_LEASED),
    # The other columns are for counting without a look at the rows (SQLite wants the condition's column as well).
    _partial("deliveries_expiring", ["expires_at", "status", "size_bytes", "project"], CAN_EXPIRE),
    _partial("deliveries_drafts", ["due_at", "status", "size_bytes"], IS_DRAFT),
    _partial("deliveries_holding", ["project", "status", "size_bytes"], HOLDS_BYTES),
    _partial("deliveries_aside", ["project", "status", "email_id"], IS_ASIDE),
    _partial("deliveries_in_doubt", ["due_at"], IS_IN_DOUBT),
    _partial("deliveries_test", ["project", "email_id"], IS_TEST),
    sqlite_with_rowid=False,
    postgresql_with=_HOT,
)

recipients = sa.Table(
    "recipients",
    metadata,
    sa.Column("email_id", Text, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", Text, nullable=False),  # to, cc, bcc
    sa.Column("email", Text, nullable=False),
    sa.Column("name", Text),
    sa.Column("status", Text),  # NULL: as the email
    sa.Column("reason", Text),
    sa.Index("recipients_email", "email", "email_id"),
    sqlite_with_rowid=False,
    postgresql_with=_OFTEN,
)

attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("email_id", Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("id", Text, nullable=False),
    sa.Column("provider", Text, nullable=False),
    sa.Column("render_version", sa.Integer, nullable=False),
    sa.Column("started_at", sa.BigInteger, nullable=False),
    sa.Column("ended_at", sa.BigInteger),
    sa.Column("outcome", Text),  # NULL: in flight
    sa.Column("status_code", sa.Integer),
    sa.Column("provider_message_id", Text),
    sa.Column("detail", Text),
    sa.Column("resolution", Text),
    sqlite_with_rowid=False,
    postgresql_with=_OFTEN,
)

searches = sa.Table(
    "searches",
    metadata,
    sa.Column("attempt_id", Text, primary_key=True),
    sa.Column("email_id", Text, nullable=False),
    sa.Column("provider", Text, nullable=False),
    sa.Column("next_at", sa.BigInteger, nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False),
    sa.Column("lease", Text),
    sa.Column("asked", sa.Integer, nullable=False),
    sa.Column("lost", sa.Integer, nullable=False),
    sa.Column("told", Text, nullable=False),
    sa.Index("searches_due", "provider", "next_at"),
    sa.Index("searches_until", "until"),
    sqlite_with_rowid=False,
    postgresql_with=_OFTEN,
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("email_id", Text, primary_key=True),
    sa.Column("id", Text, primary_key=True),
    sa.Column("type", Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("provider", Text),
    sa.Column("recipient", Text),
    sa.Column("data", Text, nullable=False),
    sqlite_with_rowid=False,
)

provider_events = sa.Table(
    "provider_events",
    metadata,
    sa.Column("provider", Text, primary_key=True),
    sa.Column("dedup_id", Text, primary_key=True),
    sa.Column("received_at", sa.BigInteger, nullable=False),
    sa.Column("vendor_type", Text, nullable=False),
    sa.Column("event", Text),  # hes.reports.ProviderEvent as JSON; NULL once it stands in a timeline
    sa.Column("due_at", sa.BigInteger),  # when its email is looked for again; NULL: not any more
    sa.Index("provider_events_received_at", "received_at"),
    _partial("provider_events_waiting", ["due_at"], IS_WAITING_EVENT),
    sqlite_with_rowid=False,
    postgresql_with=_OFTEN,
)

idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("project", Text, primary_key=True),
    sa.Column("key", Text, primary_key=True),
    sa.Column("request_hash", sa.LargeBinary, nullable=False),
    sa.Column("answer", Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index("idempotency_created_at", "created_at"),
    sqlite_with_rowid=False,
    postgresql_with=_OFTEN,
)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("attempt_id", Text, primary_key=True),
    sa.Column("email_id", Text, nullable=False),
    sa.Column("kept_at", sa.BigInteger, nullable=False),
    sa.Column("mime", sa.LargeBinary, nullable=False),
    sa.Index("outbox_email_id", "email_id"),
)

suppressions = sa.Table(
    "suppressions",
    metadata,
    sa.Column("project", Text, primary_key=True),
    sa.Column("email", Text, primary_key=True),
    sa.Column("reason", Text, nullable=False),
    sa.Column("source", Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

templates = sa.Table(
    "templates",
    metadata,
    sa.Column("project", Text, primary_key=True),
    sa.Column("name", Text, primary_key=True),
    sa.Column("subject", Text, nullable=False),
    sa.Column("text", Text),
    sa.Column("html", Text),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
)

projects = sa.Table(
    "projects",
    metadata,
    sa.Column("id", Text, primary_key=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", Text, primary_key=True),
    sa.Column("project", Text, nullable=False),
    sa.Column("name", Text, nullable=False),
    sa.Column("secret_hash", sa.LargeBinary, nullable=False),
    sa.Column("test", sa.Boolean, nullable=False),
    sa.Column("scopes", Text, nullable=False),
    sa.Column("sender_domains", Text, nullable=False),
    sa.Column("rate_per_second", sa.Float),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("revoked_at", sa.BigInteger),
    sa.Column("last_used_at", sa.BigInteger),
    sa.Index("api_keys_project", "project"),
)

webhooks = sa.Table(
    "webhooks",
    metadata,
    sa.Column("id", Text, primary_key=True),
    sa.Column("project", Text, nullable=False),
    sa.Column("url", Text, nullable=False),
    sa.Column("event_types", Text, nullable=False),
    sa.Column("secrets", Text, nullable=False),
    sa.Column("disabled_at", sa.BigInteger),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index("webhooks_project", "project"),
)

webhook_deliveries = sa.Table(
    "webhook_deliveries",
    metadata,
    sa.Column("id", Text, primary_key=True),
    sa.Column("webhook_id", Text, nullable=False),
    sa.Column("event_id", Text, nullable=False),
    sa.Column("status", Text, nullable=False),
    sa.Column("due_at", sa.BigInteger, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("status_code", sa.Integer),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Index("webhook_deliveries_webhook", "webhook_id", "id"),
    _partial("webhook_deliveries_waiting", ["due_at"], "status = 'queued'"),
)

provider_state = sa.Table(
    "provider_state",
    metadata,
    sa.Column("provider", Text, primary_key=True),
    sa.Column("kind", Text, primary_key=True),  # hes.model.FactKind
    sa.Column("sender_domain", Text, primary_key=True),  # "" for all of them
    sa.Column("reason", Text, nullable=False),
    sa.Column("since", sa.BigInteger, nullable=False),
    sa.Column("until", sa.BigInteger),
    sa.Column("changed_by", Text, nullable=False),
)

provider_quota = sa.Table(
    "provider_quota",
    metadata,
    sa.Column("provider", Text, primary_key=True),
    sa.Column("day", sa.Integer, nullable=False),  # days since 1970, UTC
    sa.Column("given", sa.Integer, nullable=False),
)

provider_probes = sa.Table(
    "provider_probes",
    metadata,
    sa.Column("provider", Text, primary_key=True),
    sa.Column("sender_domain", Text, primary_key=True),  # "" for the provider as a whole
    sa.Column("node", Text, nullable=False),
    sa.Column("taken_at", sa.BigInteger, nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False),
)

nodes = sa.Table(
    "nodes",
    metadata,
    sa.Column("id", Text, primary_key=True),
    sa.Column("role", Text, nullable=False),
    sa.Column("host", Text, nullable=False),
    sa.Column("version", Text, nullable=False),
    sa.Column("started_at", sa.BigInteger, nullable=False),
    sa.Column("seen_at", sa.BigInteger, nullable=False),
    sa.Column("gates", Text, nullable=False, server_default="[]"),  # how it sees the providers: GateStatus as JSON
    sa.Column("seen_since", sa.BigInteger),  # without a gap; NULL: an older HES, which does not say
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", Text, primary_key=True),
    sa.Column("project", Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("actor", Text, nullable=False),
    sa.Column("action", Text, nullable=False),
    sa.Column("object", Text, nullable=False),
    sa.Column("data", Text, nullable=False),
    sa.Index("audit_project", "project", "id"),
)

schema_readers = sa.Table(
    "schema_readers",
    metadata,
    sa.Column("oldest", Text, primary_key=True),  # the revision of the oldest HES that can work with this schema
)
