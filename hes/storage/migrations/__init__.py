"""The schema's history, forward and back, for both databases. `upgrade` and `downgrade` are what `hes db` calls."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext

SCHEMA_VERSION = "0009"
"""The revision that this version of HES needs: the newest in `versions`."""


def upgrade(connection: sa.Connection, revision: str = "head") -> None:
    """Bring the schema forward. On Postgres many may do it at once: they wait for each other."""
    command.upgrade(_config(connection), revision)


def downgrade(connection: sa.Connection, revision: str) -> None:
    """Take the schema back. Data that the older schema has no place for is lost."""
    command.downgrade(_config(connection), revision)


def current(connection: sa.Connection) -> str | None:
    """The schema's revision; None for an empty database."""
    return MigrationContext.configure(connection).get_current_revision()


def _config(connection: sa.Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
