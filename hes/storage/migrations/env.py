"""Alembic's way in: runs the revisions on the connection that `hes.storage.migrations` hands over."""

from alembic import context

from hes.storage.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
