"""Postgres alone: what its errors mean and which are tried again, twins in two processes, a server that restarts."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import asyncpg
import pytest
import sqlalchemy as sa

from hes.errors import ConfigError, KeyInUse, KeyReused, StorageUnavailable
from hes.model import EmailId, Outcome, Status
from hes.storage import migrations
from hes.storage.postgres import DEADLINES, Deadlines, PostgresUrl, open_postgres, run_schema
from hes.storage.records import Accepted, BatchItem, NewEmail
from hes.storage.sql import SqlStorage
from tests import postgres
from tests.storage.harness import SHOP, Bench, FakeClock, new_email, new_policy, next_id, postgres_without_hints, rooms

HASTY = Deadlines(lock=0.05)
"""For those who would wait for a lock."""


def opened(url: str, clock: FakeClock, deadlines: Deadlines = DEADLINES) -> Any:
    return open_postgres(PostgresUrl(url), new_policy(), next_id, clock, deadlines)


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with postgres.database() as found:
        yield found


@pytest.fixture
async def sql(url: str, clock: FakeClock) -> AsyncIterator[SqlStorage]:
    async with opened(url, clock) as storage:
        yield storage


@pytest.fixture
async def hasty(url: str, clock: FakeClock) -> AsyncIterator[SqlStorage]:
    """It waits for no lock."""
    async with opened(url, clock, HASTY) as storage:
        yield storage


@pytest.fixture
def bench(sql: SqlStorage, clock: FakeClock) -> Bench:
    return Bench(sql, clock)


@pytest.fixture
async def shell(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Somebody else at the same database."""
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


class Tries:
    """Work that is done anew each time it is tried; `do` says what, by the number of the try."""

    def __init__(self, do: Callable[[sa.Connection, int], object]) -> None:
        self._do = do
        self.count = 0

    def __call__(self, connection: sa.Connection, _now: int) -> object:
        self.count += 1
        return self._do(connection, self.count)


def raising(sqlstate: str, times: int = 99) -> Tries:
    """The server itself raises this, so many times."""

    def do(connection: sa.Connection, number: int) -> None:
        if number <= times:
            connection.exec_driver_sql(f"DO $$ BEGIN RAISE EXCEPTION 'made up' USING ERRCODE = '{sqlstate}'; END $$")

    return Tries(do)


# --- what its errors mean --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sqlstate", "tries", "sentence"),
    [
        ("40001", 4, "transactions were in each other's way again and again"),
        ("40P01", 4, "transactions were in each other's way again and again"),
        ("08006", 4, "the connection to the database was lost"),
        ("57P01", 4, "the database is shutting down or starting"),
        ("57P02", 4, "the database is shutting down or starting"),
        ("57P03", 4, "the database is shutting down or starting"),
        ("57014", 1, "the database took too long"),
        ("55P03", 1, "another transaction was in the way for too long"),
        ("25006", 1, "the database takes no writes now: it is a standby"),
        ("25P03", 1, "the database ended a transaction that took too long"),
        ("53100", 1, "the database's disk is full"),
        ("53200", 1, "the database is short of something"),
        ("53300", 1, "the database has no connection left for us"),
        ("58030", 1, "the database's machine failed it"),
        ("42P01", 1, "the database's schema does not fit this version of HES: run `hes db upgrade`"),
        ("42703", 1, "the database's schema does not fit this version of HES: run `hes db upgrade`"),
    ],
)
async def test_what_each_error_means_and_which_is_tried_again(
    sql: SqlStorage, sqlstate: str, tries: int, sentence: str
) -> None:
    work = raising(sqlstate)
    with pytest.raises(StorageUnavailable) as caught:
        await sql._database.write(work)
    assert str(caught.value) == sentence
    assert work.count == tries


@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "57P01"])
async def test_what_passes_is_not_noticed(sql: SqlStorage, sqlstate: str) -> None:
    work = raising(sqlstate, times=3)
    await sql._database.write(work)
    assert work.count == 4


@pytest.mark.parametrize("sqlstate", ["22021", "23505", "42601", "P0001"])
async def test_a_bug_of_ours_is_no_trouble_of_the_database(sql: SqlStorage, sqlstate: str) -> None:
    work = raising(sqlstate)
    with pytest.raises(sa.exc.DBAPIError, match="made up"):
        await sql._database.write(work)
    assert work.count == 1


async def test_what_a_failed_try_wrote_is_gone(bench: Bench, sql: SqlStorage) -> None:
    email_id = await bench.accept()

    def do(connection: sa.Connection, number: int) -> None:
        connection.exec_driver_sql("UPDATE deliveries SET version = version + 1")
        if number == 1:
            raising("40001")(connection, 0)

    await sql._database.write(Tries(do))
    assert (await bench.read(email_id)).delivery.version == 2


async def test_a_deadlock_is_lost_by_one_and_mended_by_trying_again(
    bench: Bench, sql: SqlStorage, shell: asyncpg.Connection
) -> None:
    """Two sessions lock the same two rows, crosswise."""
    one, two = [await bench.accept() for _ in range(2)]
    lock = "UPDATE deliveries SET version = version + 1 WHERE email_id = "
    await shell.execute("SET deadlock_timeout = '60s'")  # so that it is not the one who notices
    transaction = shell.transaction()
    await transaction.start()
    await shell.execute(f"{lock} '{one}'")
    others: list[asyncio.Task[object]] = []

    async def cross() -> None:
        await shell.execute(f"{lock} '{two}'")
        await transaction.commit()

    def do(connection: sa.Connection, number: int) -> None:
        connection.exec_driver_sql("SET LOCAL deadlock_timeout = '10ms'")
        connection.exec_driver_sql(f"{lock} '{two}'")
        if number == 1:
            others.append(asyncio.get_running_loop().create_task(cross()))
            waits = "SELECT count(*) FROM pg_locks WHERE pid = $1 AND NOT granted"
            while not connection.exec_driver_sql(waits, (shell.get_server_pid(),)).scalar_one():
                connection.exec_driver_sql("SELECT pg_sleep(0.01)")
        connection.exec_driver_sql(f"{lock} '{one}'")

    work = Tries(do)
    await sql._database.write(work)
    await others[0]
    assert work.count == 2
    assert [(await bench.read(email_id)).delivery.version for email_id in (one, two)] == [3, 3]


async def test_a_statement_has_a_deadline_by_the_servers_clock(url: str, clock: FakeClock) -> None:
    async with opened(url, clock, Deadlines(statement=0.05)) as storage:
        with pytest.raises(StorageUnavailable, match="the database took too long"):
            await storage._database.write(lambda connection, _: connection.exec_driver_sql("SELECT pg_sleep(60)"))


async def test_a_row_that_others_hold_is_waited_for_and_no_longer(
    hasty: SqlStorage, clock: FakeClock, shell: asyncpg.Connection
) -> None:
    bench = Bench(hasty, clock)
    email_id = await bench.accept()
    async with shell.transaction():
        await shell.execute("SELECT 1 FROM deliveries FOR UPDATE")
        with pytest.raises(StorageUnavailable, match="another transaction was in the way for too long"):
            await hasty.cancel(SHOP, email_id)
        assert (await bench.give_out(rooms(a=1))).items == (), "a claim passes over what others hold"
    await hasty.cancel(SHOP, email_id)


async def test_a_session_that_was_ended_in_the_middle_begins_anew(bench: Bench, sql: SqlStorage) -> None:
    """As when the server shuts down at once, or an operator ends it."""
    await bench.accept()

    def do(connection: sa.Connection, number: int) -> object:
        connection.exec_driver_sql("UPDATE deliveries SET version = version + 1")
        if number == 1:
            connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")
        return connection.exec_driver_sql("SELECT max(version) FROM deliveries").scalar_one()

    work = Tries(do)
    assert await sql._database.write(work) == 2
    assert work.count == 2


async def test_statements_are_prepared_once_for_each_connection(url: str, clock: FakeClock) -> None:
    counts: list[int] = []

    def count(connection: sa.Connection, _now: int) -> None:
        counts.append(connection.exec_driver_sql("SELECT count(*) FROM pg_prepared_statements").scalar_one())

    async with postgres_without_hints(url, clock) as storage:
        bench = Bench(storage, clock)
        for _ in range(3):
            await bench.settle(await bench.leased(), Outcome.ACCEPTED)
            await storage._database.write(count)
    assert counts[0] > 10
    assert counts[2] == counts[1], "the same ones again"


async def test_a_schema_that_changes_meanwhile_is_not_noticed(
    url: str, clock: FakeClock, shell: asyncpg.Connection
) -> None:
    """What was prepared before it is not valid any more."""
    async with postgres_without_hints(url, clock) as storage:
        bench = Bench(storage, clock)
        await bench.settle(await bench.leased(), Outcome.ACCEPTED)
        await shell.execute("ALTER TABLE deliveries ALTER COLUMN reason TYPE varchar")
        await bench.settle(await bench.leased(), Outcome.ACCEPTED)
    await shell.execute('ALTER TABLE deliveries ALTER COLUMN reason TYPE text COLLATE "C"')


# --- at the start ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def role(url: str, options: str) -> AsyncIterator[str]:
    """The URL for somebody who is no superuser."""
    name = f"hes_test_{os.getpid()}"
    await postgres.execute(url, f"CREATE ROLE {name} LOGIN {options}")
    try:
        yield postgres.as_user(url, name)
    finally:
        await postgres.execute(url, f"DROP ROLE {name}")


async def test_a_full_server_is_told_and_waited_for(url: str, clock: FakeClock) -> None:
    async with role(url, "CONNECTION LIMIT 0") as limited, opened(limited, clock) as storage:
        with pytest.raises(StorageUnavailable, match="the database has no connection left for us"):
            await storage.check()


async def test_a_user_that_is_not_known_is_told(url: str, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    stranger = postgres.as_user(url, "nobody_here")
    async with opened(stranger, clock) as storage:
        with pytest.raises(StorageUnavailable, match="the database refuses our user or password"):
            await storage.check()
    assert "HES_DATABASE_URL: the database refuses our user or password; HES goes on asking" in caplog.text
    with pytest.raises(ConfigError, match="HES_DATABASE_URL: the database refuses our user or password"):
        await run_schema(PostgresUrl(stranger), migrations.upgrade)


async def test_a_database_that_is_not_there_is_told(url: str, clock: FakeClock) -> None:
    nowhere = postgres.database_url("hes_nowhere")
    async with opened(nowhere, clock) as storage:
        with pytest.raises(StorageUnavailable, match="there is no such database"):
            await storage.check()
    with pytest.raises(ConfigError, match="HES_DATABASE_URL: there is no such database"):
        await run_schema(PostgresUrl(nowhere), migrations.upgrade)


async def test_a_server_that_is_not_there_is_told(clock: FakeClock) -> None:
    async with opened("postgresql://postgres@127.0.0.1:1/hes", clock) as storage:
        with pytest.raises(StorageUnavailable, match="the database can't be reached"):
            await storage.check()


@pytest.mark.parametrize("value", ["off", "local"])
async def test_a_server_that_may_lose_what_it_confirmed_is_refused(url: str, clock: FakeClock, value: str) -> None:
    options = f"&options=-c%20synchronous_commit%3D{value}"
    with pytest.raises(ConfigError, match=f"synchronous_commit is {value} there, so that .* = on"):
        async with opened(url + options, clock):
            pass


@pytest.mark.parametrize("value", ["on", "remote_write", "remote_apply"])
async def test_a_server_that_waits_for_its_disk_and_its_standby_is_taken(
    url: str, clock: FakeClock, value: str
) -> None:
    async with opened(f"{url}&options=-c%20synchronous_commit%3D{value}", clock) as storage:
        await storage.check()


# --- rows that it refuses --------------------------------------------------------------------------------------------


async def accept_all(storage: SqlStorage, news: Sequence[NewEmail]) -> list[Accepted | Exception]:
    answers: dict[EmailId, Accepted | Exception] = {}

    async def accept(new: NewEmail) -> None:
        try:
            answers[new.email.id] = await storage.accept(new)
        except Exception as error:  # noqa: BLE001 (whatever it is told)
            answers[new.email.id] = error

    async with anyio.create_task_group() as callers:
        for new in news:
            callers.start_soon(accept, new)
    return [answers[new.email.id] for new in news]


@pytest.mark.parametrize("bad", ["\x00", "\ud800"])
async def test_a_bad_email_harms_no_neighbour_in_its_group(bench: Bench, sql: SqlStorage, bad: str) -> None:
    news = [new_email(), new_email(subject=bad), new_email(key="order-1")]
    first, refused, last = await accept_all(sql, news)
    assert (isinstance(first, Accepted), isinstance(last, Accepted)) == (True, True)
    assert isinstance(refused, Exception)
    assert not isinstance(refused, StorageUnavailable), "nobody is to try this again"
    assert [(await bench.status(news[n].email.id))[0] for n in (0, 2)] == [Status.QUEUED] * 2


async def test_a_bad_email_harms_no_neighbour_in_its_batch(bench: Bench, sql: SqlStorage) -> None:
    news = [new_email(), new_email(subject="\x00"), new_email()]
    first, refused, last = await sql.accept_batch(SHOP, news, None)
    assert refused.problem is not None
    assert refused.problem["status"] == 422
    for item, new in ((first, news[0]), (last, news[2])):
        assert item == BatchItem(accepted=Accepted(new.email.id, Status.QUEUED, bench.clock()))
        assert await bench.status(new.email.id) == (Status.QUEUED, None)


# --- twins -----------------------------------------------------------------------------------------------------------


async def test_the_same_key_in_two_processes_at_once_is_one_email(
    sql: SqlStorage, url: str, clock: FakeClock, shell: asyncpg.Connection
) -> None:
    keys = [f"order-{n}" for n in range(20)]
    async with opened(url, clock) as other:
        answers: dict[str, list[Accepted | Exception]] = {}

        async def hand_in(storage: SqlStorage, name: str) -> None:
            answers[name] = await accept_all(storage, [new_email(key=key) for key in keys])

        async with anyio.create_task_group() as processes:
            for name, storage in (("one", sql), ("two", other), ("one again", sql)):
                processes.start_soon(hand_in, storage, name)
    assert answers["one"] == answers["two"] == answers["one again"]
    assert all(isinstance(answer, Accepted) for answer in answers["one"])
    assert await shell.fetchval("SELECT count(*) FROM emails") == len(keys)


async def test_the_same_key_with_another_body_in_two_processes_is_one_of_them(
    sql: SqlStorage, url: str, clock: FakeClock, shell: asyncpg.Connection
) -> None:
    async with opened(url, clock) as other:
        answers: list[Accepted | Exception] = []

        async def hand_in(storage: SqlStorage, request: bytes) -> None:
            answers.extend(await accept_all(storage, [new_email(key="order-1", request=request)]))

        async with anyio.create_task_group() as processes:
            processes.start_soon(hand_in, sql, b"one")
            processes.start_soon(hand_in, other, b"two")
    assert {type(answer) for answer in answers} == {Accepted, KeyReused}
    assert await shell.fetchval("SELECT count(*) FROM emails") == 1


TWIN = "INSERT INTO idempotency (project, key, request_hash, answer, created_at) VALUES ('shop', 'order-1', '', '', 0)"


async def test_a_twin_that_takes_too_long_is_not_waited_for_for_ever(
    hasty: SqlStorage, shell: asyncpg.Connection
) -> None:
    transaction = shell.transaction()
    await transaction.start()
    await shell.execute(TWIN)
    news = [new_email(), new_email(key="order-1"), new_email(key="order-2")]
    first, twin, last = await accept_all(hasty, news)
    assert isinstance(twin, KeyInUse)
    assert (isinstance(first, Accepted), isinstance(last, Accepted)) == (True, True), "the others are written"
    await transaction.rollback()
    assert (await hasty.accept(news[1])).id == news[1].email.id


async def test_a_batch_with_a_twin_that_takes_too_long_is_written_later(
    hasty: SqlStorage, shell: asyncpg.Connection
) -> None:
    new = new_email(key="order-1")
    async with shell.transaction():
        await shell.execute(TWIN)
        with pytest.raises(KeyInUse):
            await hasty.accept_batch(SHOP, [new], new.key)
        await shell.execute("DELETE FROM idempotency")
    [item] = await hasty.accept_batch(SHOP, [new], new.key)
    assert item.accepted is not None


# --- a server that comes and goes ------------------------------------------------------------------------------------


class Server:
    """One of our own, with fsync on, that keeps its data from start to start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: Any = None

    async def start(self) -> str:
        """Its URL, the same each time."""
        self._server = await anyio.to_thread.run_sync(lambda: postgres.start_server(self._folder, keep=True))
        url: str = self._server.get_uri()
        return url

    async def stop(self) -> None:
        await anyio.to_thread.run_sync(self._server.cleanup)

    async def crash(self) -> None:
        """As if the power went: nothing is flushed, and the next start recovers from the log."""
        process = self._server.get_postmaster_info().process
        process.send_signal(signal.SIGQUIT)
        await anyio.to_thread.run_sync(process.wait)
        await self.stop()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    with tempfile.TemporaryDirectory(prefix="hes-pg-") as folder:  # its socket lives there, whose path must be short
        found = Server(Path(folder))
        await found.start()
        yield found
        await found.stop()


@pytest.mark.parametrize("how", [Server.stop, Server.crash], ids=["stopped", "crashed"])
async def test_the_storage_recovers_by_itself(server: Server, clock: FakeClock, how: Any) -> None:
    url = await server.start()
    await run_schema(PostgresUrl(url), migrations.upgrade)
    async with opened(url, clock) as storage:
        bench = Bench(storage, clock)
        await bench.accept_many(9)
        leased = await bench.lease()
        await how(server)
        with pytest.raises(StorageUnavailable, match="can't be reached"):
            await bench.settle(leased, Outcome.ACCEPTED)
        with pytest.raises(StorageUnavailable):
            await bench.accept()
        assert await server.start() == url
        assert await bench.settle(leased, Outcome.ACCEPTED) == []
        assert await bench.status(leased) == (Status.SENT, None)
        assert len((await bench.give_out(rooms(a=99))).items) == 8
