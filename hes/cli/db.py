"""`hes db`: the database's schema, by hand."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click

from hes.cli.serve import config, database, settings_of

if TYPE_CHECKING:
    import sqlalchemy as sa

    from hes.model import Node
    from hes.settings import Settings
    from hes.storage.storage import Storage

LOOK_SECONDS = 0.5
"""Who runs is looked for as often."""

T = TypeVar("T")


@click.group()
def db() -> None:
    """The database's schema. `hes serve` upgrades a SQLite file by itself."""


@db.command()
@config
@database
@click.argument("revision", default="head")
def upgrade(revision: str, **flags: Any) -> None:
    """Bring the schema forward, to the newest REVISION if none is named.

    On Postgres this may run in many places at once, and while HES of the version before is serving.
    """
    from hes.storage import migrations

    def work(connection: "sa.Connection") -> str | None:
        migrations.upgrade(connection, revision)
        return migrations.current(connection)

    click.echo(f"schema {_on_schema(flags, work)}")


@db.command()
@config
@database
@click.argument("revision")
def downgrade(revision: str, **flags: Any) -> None:
    """Take the schema back to REVISION (`base`: an empty database). Make a backup first."""
    from hes.storage import migrations

    def work(connection: "sa.Connection") -> str | None:
        migrations.downgrade(connection, revision)
        return migrations.current(connection)

    click.echo(f"schema {_on_schema(flags, work, make=False) or 'base'}")


@db.command()
@config
@database
def current(**flags: Any) -> None:
    """Tell the schema's revision, and the one that this version needs."""
    from hes.storage import migrations

    found = _on_schema(flags, migrations.current, alone=False, make=False)
    click.echo(f"schema {found or 'base'}, needed {migrations.SCHEMA_VERSION}")


@db.command()
@config
@database
def restored(**flags: Any) -> None:
    """After a backup was put back: hold whatever was on its way when it was made.

    It may have gone out since, and nothing here knows. `hes emails list --status held` shows it, `hes emails resolve`
    decides. HES must not be running; run this before it is started again. A young backup looks as if HES ran: then this
    waits until it is sure, 15 seconds at most.
    """
    import anyio

    settings = settings_of(flags, with_providers=False)
    _refuse_none(settings)
    held = anyio.run(_hold_all, settings)
    if isinstance(held, str):
        raise click.ClickException(held)
    click.echo(f"{held} emails are held: decide about each with `hes emails resolve`")


async def _hold_all(settings: "Settings") -> int | str:
    """How many are held now; or why nothing was done."""
    import random

    from hes import app
    from hes.errors import StorageError
    from hes.ids import id_maker

    new_id = id_maker(app.now, random.Random())
    async with app.open_storage(settings, app.now, new_id, random.SystemRandom()) as storage:
        try:
            await storage.check()
            if not (nodes := await _running(storage)):
                return await storage.restored()
        except StorageError as error:
            return f"HES_DATABASE_URL: {error}"
        told = ", ".join(f"{node.host} ({node.role})" for node in nodes)
        return f"HES_DATABASE_URL: HES runs there: {told}. Stop it, and try again"
    raise AssertionError  # the storage swallows nothing


async def _running(storage: "Storage") -> "list[Node]":
    """Who runs says so again and again. Who ran when the backup was made is silent, and soon counts as gone."""
    import anyio

    first = {node.id: node.seen_at for node in await storage.nodes()}
    if first:
        click.echo("the backup is so young that HES looks as if it ran; looking whether it does", err=True)
    while nodes := await storage.nodes():
        if speaking := [node for node in nodes if node.seen_at != first.get(node.id)]:
            return speaking
        await anyio.sleep(LOOK_SECONDS)
    return []


def _refuse_none(settings: "Settings") -> None:
    """Raises ConfigError where there is no SQLite file: a look must not make one."""
    from hes import app
    from hes.errors import ConfigError

    if settings.is_sqlite and not (path := app.sqlite_path(settings)).exists():
        raise ConfigError(f"HES_DATABASE_URL: there is no {path}; `hes serve` and `hes db upgrade` make it")


def _on_schema(
    flags: dict[str, Any], work: "Callable[[sa.Connection], T]", *, alone: bool = True, make: bool = True
) -> T:
    """Run the work on the database.

    `alone`: a SQLite file is refused while another process has it open. `make`: it is made if it is not there.
    """
    import anyio

    from hes import app
    from hes.storage import postgres, sqlite

    settings = settings_of(flags, with_providers=False)
    if not make:
        _refuse_none(settings)
    if not settings.is_sqlite:
        return anyio.run(postgres.run_schema, app.postgres_url(settings), work)
    path = app.sqlite_path(settings)
    with sqlite.locked(path) if alone else nullcontext(), sqlite.schema(path) as connection:
        return work(connection)
