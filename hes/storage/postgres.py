"""Postgres: one database, any number of processes.

Every verb is one short transaction, and each has a deadline: a statement by the server's clock, the whole by ours, so
that a link that went silent ends as StorageUnavailable and not as an actor that hangs. What surely was not written
(a deadlock, a serialization failure, a connection that was lost before COMMIT) is done again here, and nowhere else.

A COMMIT without an answer is asked about: a write transaction knows its number, and the server knows for long what
became of that number (postgresql.org/docs/current/functions-info.html, `pg_xact_status`). Only if the server stays
away does nobody know; then it is CommitUnknown.

Time is the database's (`clock_timestamp`), which all processes share.
"""

import itertools
import logging
import random
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Self, TypeVar, cast

import anyio
import asyncpg
import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import QueuePool

from hes.errors import CommitUnknown, ConfigError, StorageUnavailable
from hes.ids import NewId
from hes.model import Millis
from hes.policy import Policy
from hes.storage.database import Priority, Turns, Work
from hes.storage.hints import PostgresHints
from hes.storage.postgres_tls import BadUrl, bad_url
from hes.storage.sql import SqlStorage
from hes.telemetry.telemetry import OFF, Telemetry

T = TypeVar("T")

CONNECTIONS = 10
"""Of one process at most, besides the one that listens. One of them is for what has priority."""
LOW_AT_ONCE = 3
"""Long lists that are being read."""
TRIES = 4
OLDEST_POSTGRES = 15

_log = logging.getLogger("hes.storage")

_NOW = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
_started_at = sa.text("SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000)::bigint")
_fate = sa.text("SELECT pg_xact_status(CAST(:xid AS text)::xid8)")

TROUBLE = (sa.exc.DBAPIError, sa.exc.TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
"""All that a database which is away or busy can end a call with, and bugs of ours besides."""


class Deadlines(Struct, frozen=True, kw_only=True):
    """How long what is waited for, in seconds."""

    connect: float = 3.0
    """Also for a connection that is free."""
    whole: float = 9.0
    """All of it: one transaction, its repetitions, and asking what became of a COMMIT without an answer."""
    call: float = 7.0
    """One transaction, from asking for a connection to the answer to its COMMIT."""
    statement: float = 5.0
    lock: float = 3.0
    """One waits for another, such as for the twin with the same idempotency key."""
    resolve: float = 8.0
    """It is asked what became of a COMMIT without an answer; no longer than all of it may take."""

    def as_settings(self) -> str:
        """SQL that sets them for one transaction: a pooler in between would lose what is set for a session."""
        limits = {
            "statement_timeout": self.statement,
            "lock_timeout": self.lock,
            "idle_in_transaction_session_timeout": self.call,
        }
        return ", ".join(f"set_config('{name}', '{seconds * 1000:.0f}', true)" for name, seconds in limits.items())


DEADLINES = Deadlines()


class _Connection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 (asyncpg's)
        """As asyncpg has it, but what SQLAlchemy gave up is let go at once.

        That it closes with a time-out of its own, 2 s: for each connection of a link that went silent, and all the
        while somebody else waits for a new one.
        """
        if timeout is None:
            await super().close()
        else:
            self.terminate()


class PostgresUrl:
    """What `HES_DATABASE_URL` says: a URL as libpq has it, with one parameter of our own.

    `statement_cache=off` is for a pooler in between that lends a connection for one transaction (pgbouncer): there,
    prepared statements are nobody's own.
    """

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        query = urllib.parse.parse_qsl(parts.query, keep_blank_values=True)
        self.is_pooled = ("statement_cache", "off") in query
        rest = [(name, value) for name, value in query if name != "statement_cache"]
        self.dsn = urllib.parse.urlunsplit(parts._replace(query=urllib.parse.urlencode(rest)))

    async def connect(self, timeout: float = DEADLINES.connect) -> asyncpg.Connection:  # noqa: ASYNC109 (asyncpg's)
        """Raises BadUrl for what no waiting mends, else one of `TROUBLE`."""
        try:
            return await asyncpg.connect(
                self.dsn,
                timeout=timeout,
                connection_class=_Connection,
                # SQLAlchemy keeps them; but with 0 here the driver names none, and the server plans each every time.
                statement_cache_size=0 if self.is_pooled else 100,
                server_settings={"application_name": "hes"},
            )
        except TROUBLE as error:
            if (found := bad_url(error, self.dsn)) is not None:
                raise found from error
            raise

    def engine(
        self, connections: int = CONNECTIONS, connect_seconds: Callable[[], float] = lambda: DEADLINES.connect
    ) -> AsyncEngine:
        """A pool; none of its connections is made before it is needed."""
        pooled = {"prepared_statement_cache_size": 0, "prepared_statement_name_func": lambda: ""}
        return create_async_engine(
            "postgresql+asyncpg://",
            connect_args={
                "async_creator_fn": lambda: self.connect(connect_seconds()),
                **(pooled if self.is_pooled else {}),
            },
            pool_size=connections,
            max_overflow=0,
            pool_timeout=connect_seconds(),
            hide_parameters=True,  # they are addresses and bodies, and errors are logged
        )


class PostgresDatabase:
    """`hes.storage.database.Database` over a pool of connections; use it as an async context manager.

    `clock`: instead of the database's, for tests.
    """

    name = "postgres"

    def __init__(
        self, url: PostgresUrl, clock: Callable[[], Millis] | None = None, deadlines: Deadlines = DEADLINES
    ) -> None:
        self._deadlines = deadlines
        self._begin_write = sa.text(
            f"SELECT {_NOW} AS now, pg_current_xact_id()::text AS xid, {deadlines.as_settings()}"
        )
        self._begin_read = sa.text(f"SELECT {_NOW} AS now, {deadlines.as_settings()}")
        self._engine = url.engine(CONNECTIONS - 1, connect_seconds=lambda: self._deadlines.connect)
        self._first_engine = url.engine(1, connect_seconds=lambda: self._deadlines.connect)
        for engine in (self._engine, self._first_engine):
            sa.event.listen(engine.sync_engine, "handle_error", _distrust_all)
        self._snapshots, self._first_snapshots = (
            engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            for engine in (self._engine, self._first_engine)
        )
        self._low_turns = Turns(LOW_AT_ONCE)
        self._clock = clock
        self.started_by_clock: Millis = 0
        """When the server did, where `clock` is passed in."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True), anyio.move_on_after(self._deadlines.connect):
            await self._engine.dispose()
            await self._first_engine.dispose()

    def connections(self) -> tuple[int, int, int]:
        pools = [cast("QueuePool", engine.pool) for engine in (self._engine, self._first_engine)]
        return sum(p.checkedout() for p in pools), sum(p.checkedin() for p in pools), CONNECTIONS

    def started_at(self, connection: sa.Connection) -> Millis:
        if self._clock is not None:
            return self.started_by_clock
        started_at: Millis = connection.execute(_started_at).scalar_one()
        return started_at

    async def write(self, work: Work[T]) -> T:
        return await self._tried(lambda ends_at: self._write(work, ends_at))

    async def read(self, work: Work[T], priority: Priority = Priority.NORMAL) -> T:
        if priority is Priority.LOW:
            async with self._low_turns.one():
                return await self._tried(lambda ends_at: self._read(work, self._snapshots, ends_at))
        snapshots = self._first_snapshots if priority is Priority.HIGH else self._snapshots
        return await self._tried(lambda ends_at: self._read(work, snapshots, ends_at))

    async def _tried(self, call: Callable[[float], Awaitable[T]]) -> T:
        """Again if it surely was not written and another try may help, at growing random intervals.

        The call is told when all of it must have ended, by the loop's clock.
        """
        ends_at = anyio.current_time() + self._deadlines.whole
        with anyio.CancelScope(shield=True):  # a caller that goes away leaves no transaction half done
            for attempt in itertools.count(1):
                try:
                    return await call(ends_at)
                except TROUBLE as error:
                    if (meaning := _meaning(error)) is None:
                        raise
                    pause = random.uniform(0, 0.02 * 2**attempt)
                    if attempt == TRIES or not _may_help(error) or anyio.current_time() + pause >= ends_at:
                        raise meaning from error
                await anyio.sleep(pause)
        raise AssertionError  # the loop does not end

    def _call_seconds(self, ends_at: float) -> float:
        return min(self._deadlines.call, ends_at - anyio.current_time())

    async def _write(self, work: Work[T], ends_at: float) -> T:
        xid = None
        result: T
        try:
            with anyio.fail_after(self._call_seconds(ends_at)):
                async with self._engine.connect() as connection, connection.begin() as transaction:
                    begun = (await connection.execute(self._begin_write)).one()
                    result = await connection.run_sync(work, self._clock() if self._clock else begun.now)
                    xid = begun.xid
                    await transaction.commit()
        except TROUBLE:
            # Asked whatever the error is: the driver makes up codes of its own for a connection that is lost.
            if xid is None or not await self._was_committed(xid, ends_at):
                raise
        return result

    async def _was_committed(self, xid: str, ends_at: float) -> bool:
        """What became of a COMMIT without an answer.

        Raises CommitUnknown when the server stays away, or the COMMIT hangs: it is under way then, as for a synchronous
        standby that does not answer.
        """
        _log.warning("no answer to a COMMIT; asking what became of transaction %s", xid)
        with anyio.move_on_after(min(self._deadlines.resolve, ends_at - anyio.current_time())):
            while True:
                try:
                    async with self._engine.connect() as connection:
                        fate = (await connection.execute(_fate, {"xid": xid})).scalar_one()
                except TROUBLE as error:
                    if _sqlstate(error) == "22023":  # a number that this server has not reached: it never saw it
                        return False
                else:
                    if fate in ("committed", "aborted"):
                        return bool(fate == "committed")
                await anyio.sleep(0.1)
        raise CommitUnknown("the database fell silent in the middle of a COMMIT, and nobody knows what became of it")

    async def _read(self, work: Work[T], snapshots: AsyncEngine, ends_at: float) -> T:
        result: T
        with anyio.fail_after(self._call_seconds(ends_at)):
            async with snapshots.connect() as connection:
                begun = (await connection.execute(self._begin_read)).one()
                result = await connection.run_sync(work, self._clock() if self._clock else begun.now)
        return result


def _distrust_all(context: sa.engine.ExceptionContext) -> None:
    """One connection went silent, so the others are made anew before they are used: they probably lead as nowhere.

    A cancellation here is our own deadline; the caller's does not come through.
    """
    if context.is_disconnect:
        context.invalidate_pool_on_disconnect = True


def _sqlstate(error: BaseException) -> str:
    """postgresql.org/docs/current/errcodes-appendix.html; "" if the server said nothing."""
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    # SQLAlchemy's own, for a prepared statement that is not valid any more, has none: the driver's behind it has.
    return getattr(cause, "sqlstate", None) or getattr(cause and cause.__cause__, "sqlstate", None) or ""


_MEANINGS = {
    "08": "the connection to the database was lost",
    "0A000": "the database's schema was changed just now",
    "25006": "the database takes no writes now: it is a standby",
    "25P03": "the database ended a transaction that took too long",
    "28": "the database refuses our user or password",
    "3D000": "there is no such database",
    "40": "transactions were in each other's way again and again",
    "42P01": "the database's schema does not fit this version of HES: run `hes db upgrade`",
    "42703": "the database's schema does not fit this version of HES: run `hes db upgrade`",
    "53100": "the database's disk is full",
    "53300": "the database has no connection left for us",
    "53": "the database is short of something",
    "55P03": "another transaction was in the way for too long",
    "57014": "the database took too long",
    "57": "the database is shutting down or starting",
    "58": "the database's machine failed it",
}
"""By SQLSTATE, or its class."""


def _meaning(error: BaseException) -> StorageUnavailable | None:
    """What an error means for us; None: a bug of ours, or a row that can't be written."""
    if isinstance(error, BadUrl):
        return StorageUnavailable(str(error))
    sqlstate = _sqlstate(error)
    if sqlstate:
        sentence = _MEANINGS.get(sqlstate) or _MEANINGS.get(sqlstate[:2])
        return StorageUnavailable(sentence) if sentence else None
    if isinstance(error, TimeoutError):
        return StorageUnavailable("the database did not answer in time")
    if isinstance(error, sa.exc.TimeoutError):
        return StorageUnavailable("all connections to the database are busy")
    if isinstance(error, asyncpg.InterfaceError) or (isinstance(error, sa.exc.DBAPIError) and not _is_lost(error)):
        return None
    return StorageUnavailable("the database can't be reached")


def _is_lost(error: sa.exc.DBAPIError) -> bool:
    cause = error.orig.__cause__ if error.orig is not None else None
    return error.connection_invalidated or isinstance(cause, OSError | asyncpg.ConnectionDoesNotExistError)


def _may_help(error: BaseException) -> bool:
    """Trying again at once: two that were in each other's way, a connection that was dead before we used it.

    And a statement that was prepared before the schema changed: SQLAlchemy prepares it anew.
    """
    sqlstate = _sqlstate(error)
    is_lost = isinstance(error, sa.exc.DBAPIError) and _is_lost(error)
    return (
        sqlstate[:2] in ("40", "08") or sqlstate == "0A000" or sqlstate.startswith("57P0") or (is_lost and not sqlstate)
    )


@asynccontextmanager
async def open_postgres(
    url: PostgresUrl,
    policy: Policy,
    new_id: NewId,
    clock: Callable[[], Millis] | None = None,
    deadlines: Deadlines = DEADLINES,
    telemetry: Telemetry = OFF,
) -> AsyncIterator[SqlStorage]:
    """The storage there. Its schema is left as it is: see `Storage.check`.

    Raises ConfigError for what no waiting mends. A server that is away is waited for by those who use the storage.
    """
    async with PostgresDatabase(url, clock, deadlines) as database:
        try:
            await database.read(refuse_unfit)
        except StorageUnavailable as error:
            if isinstance(error.__cause__, BadUrl):
                raise ConfigError(f"HES_DATABASE_URL: {error}") from error
            _log.warning("HES_DATABASE_URL: %s; HES goes on asking", error)
        hints = PostgresHints(url.connect, database, new_id)
        storage = SqlStorage(database, policy, new_id, hints, telemetry)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(storage.accepts.run, name="storage: accepts")
            tasks.start_soon(hints.run, name="storage: hints")
            yield storage
            tasks.cancel_scope.cancel()


LOSES = {
    "off": "a crash of the server loses accepted emails",
    "local": "a synchronous standby that takes over may not have the emails that were accepted last",
}
"""What `synchronous_commit` must not be. `remote_write` is as good as `on` unless both machines fail at once, since the
server itself has always synced; `remote_apply` waits for more."""


def refuse_unfit(connection: sa.Connection, _now: Millis) -> None:
    """Raises ConfigError if this server can't keep what HES promises."""
    show = "SELECT current_setting('server_version_num')::int / 10000, current_setting('synchronous_commit')"
    version, synchronous_commit = connection.execute(sa.text(show)).one()
    if version < OLDEST_POSTGRES:
        raise ConfigError(f"HES_DATABASE_URL: this is Postgres {version}, HES needs {OLDEST_POSTGRES} or newer")
    if synchronous_commit in LOSES:
        raise ConfigError(
            f"HES_DATABASE_URL: synchronous_commit is {synchronous_commit} there, so that {LOSES[synchronous_commit]}. "
            "Turn it on for HES: ALTER ROLE ... SET synchronous_commit = on"
        )


async def run_schema(url: PostgresUrl, work: Callable[[sa.Connection], T]) -> T:
    """Look at the schema, or change it, without the limits of the storage. Raises ConfigError with what was wrong."""
    engine = url.engine(connections=1)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(work)
    except TROUBLE as error:
        raise ConfigError(f"HES_DATABASE_URL: {_meaning(error) or error}") from error
    finally:
        await engine.dispose()
