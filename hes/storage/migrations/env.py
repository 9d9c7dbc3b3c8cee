"""Alembic's way in: runs the revisions on the connection that `hes.storage.migrations` hands over.

On SQLite each revision is a transaction. On Postgres all of them are one, which holds a lock, so that of many that
begin at once one does the work and the others find it done; and it waits for no other lock for long, since all who
come after it would wait with it.
"""

import sqlalchemy as sa
from alembic import context

from hes.storage.tables import metadata

LOCK = 0x4845530A
"""Any number that nobody else takes in this database."""

connection = context.config.attributes["connection"]
is_postgres = connection.dialect.name == "postgresql"
context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=not is_postgres)
with context.begin_transaction():
    if is_postgres:
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        connection.execute(sa.text("SET LOCAL lock_timeout = '10s'"))
    context.run_migrations()
