"""`hes db`: the database's schema, by hand."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import rich_click as click

from hes.cli.serve import config, database, settings_of

if TYPE_CHECKING:
    import sqlalchemy as sa


@click.group()
def db() -> None:
    """The database's schema. `hes serve` upgrades a SQLite file by itself."""


@db.command()
@config
@database
@click.argument("revision", default="head")
def upgrade(revision: str, **flags: Any) -> None:
    """Bring the schema forward, to the newest REVISION if none is named."""
    from hes.storage import migrations

    with _schema(flags) as engine:
        migrations.upgrade(engine, revision)
        click.echo(f"schema {migrations.current(engine)}")


@db.command()
@config
@database
@click.argument("revision")
def downgrade(revision: str, **flags: Any) -> None:
    """Take the schema back to REVISION (`base`: an empty database). Make a backup first."""
    from hes.storage import migrations

    with _schema(flags) as engine:
        migrations.downgrade(engine, revision)
        click.echo(f"schema {migrations.current(engine) or 'base'}")


@db.command()
@config
@database
def current(**flags: Any) -> None:
    """Tell the schema's revision, and the one that this version needs."""
    from hes.storage import migrations

    with _schema(flags, alone=False) as engine:
        click.echo(f"schema {migrations.current(engine) or 'base'}, needed {migrations.SCHEMA_VERSION}")


@contextmanager
def _schema(flags: dict[str, Any], *, alone: bool = True) -> "Iterator[sa.Engine]":
    """The database; `alone`: refused while another process has it open."""
    from hes import app
    from hes.storage import sqlite

    path = app.sqlite_path(settings_of(flags))
    with sqlite.locked(path) if alone else nullcontext(), sqlite.schema(path) as engine:
        yield engine
