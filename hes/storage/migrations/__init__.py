"""The schema's history, forward and back, for both databases. `upgrade` and `downgrade` are what `hes db` calls."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext

SCHEMA_VERSION = "0004"
"""The revision that this version of HES needs: the newest in `versions`."""


def upgrade(engine: sa.Engine, revision: str = "head") -> None:
    """Bring the schema forward. The engine is a synchronous one; its connection is held for the whole change."""
    with engine.connect() as connection:
        command.upgrade(_config(connection), revision)


def downgrade(engine: sa.Engine, revision: str) -> None:
    """Take the schema back. Data that the older schema has no place for is lost."""
    with engine.connect() as connection:
        command.downgrade(_config(connection), revision)


def current(engine: sa.Engine) -> str | None:
    """The schema's revision; None for an empty database."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def _config(connection: sa.Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
