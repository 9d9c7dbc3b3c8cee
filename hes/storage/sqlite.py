"""SQLite: one file, one process, one writer.

Durability: WAL with `synchronous=FULL`, so a commit returns after its sync to disk (sqlite.org/pragma.html).
The writer is one connection behind a lock; every write is `BEGIN IMMEDIATE`, so that what a transaction reads is still
true when it writes. Readers have connections of their own and see the last commit.

One process: `open_sqlite` holds a lock on a file beside the database for as long as it runs. Whoever gets it knows that
the process before is dead, and turns its leases into doubt at once instead of waiting for them to run out.
"""

import contextlib
import fcntl
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Self, TypeVar, cast

import anyio
import anyio.to_thread
import sqlalchemy as sa
from alembic.util import CommandError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from hes.errors import ConfigError, StorageBroken, StorageError, StorageUnavailable
from hes.ids import NewId
from hes.model import Clock, Millis
from hes.policy import Policy
from hes.storage import migrations
from hes.storage.database import Priority, Turns, Work
from hes.storage.sql import SqlStorage
from hes.telemetry.telemetry import OFF, Telemetry

T = TypeVar("T")

OLDEST_SQLITE = (3, 40, 0)
BUSY_SECONDS = 5
"""How long a write waits for another program that holds the database, such as a shell with an open transaction."""
READERS = 3
"""Besides the one for what has priority."""
LOW_READERS = 2
"""Threads in which long lists are read."""

_log = logging.getLogger("hes.storage")


@asynccontextmanager
async def open_sqlite(
    path: Path, policy: Policy, clock: Clock, new_id: NewId, telemetry: Telemetry = OFF
) -> AsyncIterator[SqlStorage]:
    """The storage in that file, its schema brought up to date, and what the process before left in flight in doubt.

    Raises ConfigError when another process has it open or the file can't be used.
    """
    with locked(path):
        with schema(path) as connection:
            migrations.upgrade(connection)
        database = SqliteDatabase(path, clock)
        storage = SqlStorage(database, policy, new_id, telemetry=telemetry)
        async with database, anyio.create_task_group() as tasks:
            tasks.start_soon(storage.accepts.run, name="storage: accepts")
            tasks.start_soon(database.end_when_broken, name="storage: broken disk")
            if lapsed := await storage.recover():
                _log.warning("%d emails were in flight when the last process ended; they are in doubt", lapsed)
            yield storage
            tasks.cancel_scope.cancel()


@contextmanager
def schema(path: Path) -> Iterator[sa.Connection]:
    """The file, for a look at its schema or a change of it. Raises ConfigError with what was wrong."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise ConfigError(f"HES_DATABASE_URL: this Python has SQLite {sqlite3.sqlite_version}, HES needs 3.40 or newer")
    with contextlib.suppress(OSError):  # made here, so that nobody else can read it; what is wrong is told below
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    engine = sync_engine(path)
    try:
        with engine.connect() as connection:
            yield connection
    except (sa.exc.DatabaseError, CommandError) as error:
        reason = error.orig if isinstance(error, sa.exc.DatabaseError) else error
        raise ConfigError(f"HES_DATABASE_URL: {path} can't be used: {reason}. Example: sqlite:///./hes.db") from error
    finally:
        engine.dispose()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the database for this process. The lock is gone with the process, however it ends."""
    try:
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            f"HES_DATABASE_URL: {path} can't be used: {error.strerror}. Example: sqlite:///./hes.db"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            msg = (
                f"HES_DATABASE_URL: {path} is in use by another `hes` process; on SQLite there is one. "
                "Stop it, name another file, or use Postgres for several"
            )
            raise ConfigError(msg) from error
        yield
    finally:
        os.close(descriptor)


def sync_engine(path: Path) -> sa.Engine:
    """For writing: every transaction is one from its first statement on, data definitions included."""
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        # One is made for each kind of batch and number of rows in it; the driver's default of 128 is soon used up.
        connect_args={"cached_statements": 2000, "check_same_thread": False},
        hide_parameters=True,  # they are addresses and bodies, and errors are logged
    )
    _begin_with(engine, "BEGIN IMMEDIATE")
    return engine


class SqliteDatabase:
    """`hes.storage.database.Database` over one file; use it as an async context manager."""

    name = "sqlite"

    def __init__(self, path: Path, clock: Clock) -> None:
        url = sa.URL.create("sqlite+aiosqlite", database=str(path))
        self._clock = clock
        self._path = path
        self._inode = path.stat().st_ino
        self._writer = sync_engine(path)
        self._reader = create_async_engine(url, pool_size=READERS, max_overflow=0, hide_parameters=True)
        self._first_reader = create_async_engine(url, pool_size=1, max_overflow=0, hide_parameters=True)
        for engine in (self._reader, self._first_reader):
            _begin_with(engine.sync_engine, "BEGIN")
        self._low_reader = sa.create_engine(
            sa.URL.create("sqlite", database=str(path)),
            pool_size=LOW_READERS,
            max_overflow=0,
            connect_args={"check_same_thread": False},
            hide_parameters=True,
        )
        _begin_with(self._low_reader, "BEGIN")
        self._low_turns = Turns(LOW_READERS)
        self._one_writer = anyio.CapacityLimiter(1)
        self._broken: StorageBroken | None = None
        self._broke = anyio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            self._writer.dispose()
            self._low_reader.dispose()
            await self._reader.dispose()
            await self._first_reader.dispose()

    def connections(self) -> tuple[int, int, int]:
        pools = [cast("QueuePool", e.pool) for e in (self._reader, self._first_reader, self._low_reader)]
        writing = int(self._one_writer.borrowed_tokens)
        used = sum(pool.checkedout() for pool in pools) + writing
        idle = sum(pool.checkedin() for pool in pools) + 1 - writing
        return used, idle, sum(pool.size() for pool in pools) + 1

    def started_at(self, connection: sa.Connection) -> Millis:
        """It is where its one process is: there is nobody else whose outcomes could be waited for."""
        del connection
        return 0

    async def write(self, work: Work[T]) -> T:
        # A whole transaction in one go in a thread: through aiosqlite it would be some forty hops between two threads,
        # which cost more than SQLite itself does.
        with self._watched():
            return await anyio.to_thread.run_sync(self._write, work, limiter=self._one_writer)

    def _write(self, work: Work[T]) -> T:
        self._check_file()
        with _translated(), self._writer.begin() as connection:
            return work(connection, self._clock())

    def _check_file(self) -> None:
        """A file that was removed or replaced takes every commit, and none of them is seen again."""
        try:
            is_ours = self._path.stat().st_ino == self._inode
        except FileNotFoundError:
            is_ours = False
        if not is_ours:
            raise StorageBroken(f"{self._path} was removed or replaced while HES was using it")

    async def read(self, work: Work[T], priority: Priority = Priority.NORMAL) -> T:
        if priority is Priority.LOW:
            async with self._low_turns.one():
                with self._watched(), anyio.CancelScope(shield=True):
                    return await anyio.to_thread.run_sync(self._read_low, work)
        result: T
        with self._watched(), _translated(), anyio.CancelScope(shield=True):
            reader = self._first_reader if priority is Priority.HIGH else self._reader
            async with reader.begin() as connection:
                result = await connection.run_sync(work, self._clock())
        return result

    def _read_low(self, work: Work[T]) -> T:
        with _translated(), self._low_reader.begin() as connection:
            return work(connection, self._clock())

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except StorageBroken as error:
            self._broken = error
            self._broke.set()
            raise

    async def end_when_broken(self) -> None:
        """Raises StorageBroken once the disk failed anybody, whoever that was and whatever became of its error."""
        await self._broke.wait()
        raise self._broken or StorageBroken("the disk failed the database")


@contextmanager
def _translated() -> Iterator[None]:
    """The database's errors as ours."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        if (meaning := _meaning(error)) is None:
            raise
        raise meaning from error
    except sa.exc.TimeoutError as error:
        raise StorageUnavailable("all connections to the database are busy") from error


def _meaning(error: sa.exc.DBAPIError) -> StorageError | None:
    """What an error of SQLite means for us (sqlite.org/rescode.html)."""
    name: str = getattr(error.orig, "sqlite_errorname", "")
    if name.startswith(("SQLITE_IOERR", "SQLITE_CORRUPT", "SQLITE_NOTADB")):
        # After a failed sync nobody knows what is on disk. Only a restart on the file as it is finds out.
        msg = f"the disk failed the database ({name})"
        return StorageBroken(msg)
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL", "SQLITE_CANTOPEN", "SQLITE_READONLY")):
        meaning = {"SQLITE_FULL": "the disk is full", "SQLITE_BUSY": "another program holds the database"}
        return StorageUnavailable(meaning.get(name, f"the database can't be used now ({name})"))
    if isinstance(error, sa.exc.OperationalError) and name != "SQLITE_ERROR":
        return StorageUnavailable(f"the database can't be used now ({name or 'no reason given'})")
    return None  # a wrong statement or row: a bug of ours


def _begin_with(engine: sa.Engine, statement: str) -> None:
    """Let every transaction begin with this. By itself the driver opens none before a SELECT, and two would mix."""

    @sa.event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
        connection.isolation_level = None
        with contextlib.closing(connection.cursor()) as cursor:
            cursor.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
            cursor.execute("PRAGMA journal_mode = WAL")
            cursor.execute("PRAGMA synchronous = FULL")
            cursor.execute("PRAGMA journal_size_limit = 67108864")
            cursor.execute("PRAGMA cache_size = -32768")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(statement)
