"""The command line: `hes serve` and `hes db`.

What a command needs is imported inside it, so that `hes --help` does not load a web framework.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from hes import __version__
from hes.errors import ConfigError, HesError

if TYPE_CHECKING:
    import sqlalchemy as sa

    from hes.settings import Settings

FAILED = 1
USAGE = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hes")
def cli() -> None:
    """HES takes email over a REST API, keeps it safe, and gets it out through whichever provider works."""


def _settings(flags: dict[str, Any]) -> "Settings":
    from hes import log, settings

    loaded = settings.load(flags, os.environ, Path.cwd())
    log.configure(loaded.log_level, loaded.log_format)
    return loaded


_config = click.option("--config", metavar="FILE", help="Settings file; HES_CONFIG. Default: ./hes.toml if there.")
_database = click.option("--database-url", metavar="URL", help="HES_DATABASE_URL. Default: sqlite:///./hes.db")


@cli.command()
@_config
@_database
@click.option("--role", type=click.Choice(["all", "api", "mailer"]), help="HES_ROLE: what this process does.")
@click.option("--host", help="HES_HOST: where to listen. Default: 127.0.0.1")
@click.option("--port", type=int, help="HES_PORT. Default: 8025; 0: any free port.")
@click.option("--log-level", help="HES_LOG_LEVEL: debug, info, warning, error, critical.")
@click.option("--log-format", type=click.Choice(["console", "json"]), help="HES_LOG_FORMAT.")
def serve(**flags: Any) -> None:
    """Serve until SIGTERM. Settings: flags, then HES_ variables, then the file, then defaults."""
    import anyio

    from hes import serving

    settings = _settings(flags)
    anyio.run(serving.serve, settings, backend_options={"use_uvloop": True})


@cli.group()
def db() -> None:
    """The database's schema. `hes serve` upgrades a SQLite file by itself."""


@db.command()
@_config
@_database
@click.argument("revision", default="head")
def upgrade(revision: str, **flags: Any) -> None:
    """Bring the schema forward, to the newest REVISION if none is named."""
    from hes.storage import migrations

    with _schema(flags) as engine:
        migrations.upgrade(engine, revision)
        click.echo(f"schema {migrations.current(engine)}")


@db.command()
@_config
@_database
@click.argument("revision")
def downgrade(revision: str, **flags: Any) -> None:
    """Take the schema back to REVISION (`base`: an empty database). Make a backup first."""
    from hes.storage import migrations

    with _schema(flags) as engine:
        migrations.downgrade(engine, revision)
        click.echo(f"schema {migrations.current(engine) or 'base'}")


@db.command()
@_config
@_database
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

    path = app.sqlite_path(_settings(flags))
    with sqlite.locked(path) if alone else nullcontext(), sqlite.schema(path) as engine:
        yield engine


def main() -> None:
    """The way in. Exit codes: 0 fine, 1 failed, 2 usage."""
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(USAGE)
    except click.Abort:
        sys.exit(FAILED)
    except ConfigError as error:
        click.echo(f"hes: {error}", err=True)
        sys.exit(USAGE)
    except HesError as error:
        click.echo(f"hes: {error}", err=True)
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
