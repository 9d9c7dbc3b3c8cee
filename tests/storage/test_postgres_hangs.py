"""A COMMIT that hangs, for real: the server waits for a synchronous standby that does not come.

What became of it nobody can tell, the server neither: it is under way until the standby answers, or is given up.
"""

import time
from collections.abc import AsyncIterator, Iterator

import anyio
import asyncpg
import pytest

from hes.errors import CommitUnknown, KeyInUse, StorageUnavailable
from hes.model import OnDoubt, Outcome, Status
from hes.storage import groups, migrations
from hes.storage.postgres import DEADLINES, Deadlines, PostgresDatabase, PostgresUrl, run_schema
from hes.storage.sql import SqlStorage
from tests import postgres
from tests.faults.server import eventually
from tests.faults.test_cluster import a_server_of_ones_own
from tests.storage.harness import Bench, FakeClock, new_email, new_policy, next_id, told

SOON = Deadlines(call=0.5, whole=1.0, lock=0.2)
WAITS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


class Server:
    """A Postgres whose standby is there, or not."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def lose_standby(self) -> None:
        """From now on every COMMIT of something hangs."""
        await self._set("SET synchronous_standby_names = 'nobody'")

        async def hangs() -> bool:
            writing = await asyncpg.connect(self.url)
            with anyio.move_on_after(0.05) as waiting:
                await writing.execute("CREATE TABLE IF NOT EXISTS probe (x int); DROP TABLE probe")
            writing.terminate()
            return waiting.cancelled_caught and await self.hanging() > 0

        await eventually(hangs)

    async def find_standby(self) -> None:
        """Whatever hung is committed."""
        await self._set("RESET synchronous_standby_names")

        async def nobody_waits() -> bool:
            return await self.hanging() == 0

        await eventually(nobody_waits)

    async def hanging(self) -> int:
        connection = await asyncpg.connect(self.url)
        count: int = await connection.fetchval(WAITS)
        await connection.close()
        return count

    async def _set(self, change: str) -> None:
        await postgres.execute(self.url, f"ALTER SYSTEM {change}", "SELECT pg_reload_conf()")


@pytest.fixture(scope="module")
def running() -> Iterator[str]:
    """Its settings are the whole server's, so it is not the one that all tests share."""
    with a_server_of_ones_own() as folder:
        server = postgres.start_server(folder)
        url: str = server.get_uri()
        postgres.in_thread(run_schema(PostgresUrl(url), migrations.upgrade))
        yield url
        server.cleanup()


@pytest.fixture
async def server(running: str) -> AsyncIterator[Server]:
    found = Server(running)
    await postgres.execute(running, postgres.EMPTY)
    yield found
    await found.find_standby()


@pytest.fixture
async def sql(server: Server, clock: FakeClock) -> AsyncIterator[SqlStorage]:
    async with (
        PostgresDatabase(PostgresUrl(server.url), clock, SOON) as database,
        anyio.create_task_group() as tasks,
    ):
        storage = SqlStorage(database, new_policy(), next_id)
        tasks.start_soon(storage.accepts.run)
        yield storage
        tasks.cancel_scope.cancel()


@pytest.fixture
def bench(sql: SqlStorage, clock: FakeClock) -> Bench:
    return Bench(sql, clock)


def test_an_answer_comes_within_ten_seconds() -> None:
    """Whoever waits behind a COMMIT that hangs, and then has one of its own, included."""
    assert groups.PATIENCE_SECONDS + DEADLINES.whole <= 10
    assert DEADLINES.call < DEADLINES.whole, "else nobody could be asked what became of it"


async def test_one_deadline_is_over_all_of_an_accept(bench: Bench, sql: SqlStorage, server: Server) -> None:
    await bench.accept()
    await server.lose_standby()
    new, began_at = new_email(key="order-1"), time.monotonic()
    with pytest.raises(CommitUnknown, match="in the middle of a COMMIT"):
        await sql.accept(new)
    assert time.monotonic() - began_at < 4, "half a second to commit, and half a second to ask"
    with pytest.raises((KeyInUse, StorageUnavailable)):
        await sql.accept(new_email(key="order-1"))
    await server.find_standby()
    assert (await sql.accept(new_email(key="order-1"))).id == new.email.id
    assert (await bench.status(new.email.id))[0] is Status.QUEUED


async def test_what_was_leased_meanwhile_is_given_back(bench: Bench, server: Server) -> None:
    email_id = await bench.accept(on_doubt=OnDoubt.HOLD)
    await server.lose_standby()
    with pytest.raises(CommitUnknown):
        await bench.lease()
    with pytest.raises(StorageUnavailable):
        await bench.lease()
    await server.find_standby()
    leased = await bench.lease()
    assert leased.email.id == email_id
    stored = await bench.read(email_id)
    assert [attempt.id for attempt in stored.attempts] == [leased.attempt_id], "and no doubt"
    assert told(stored) == ["created", "queued", "attempt", "not_tried"]


async def test_an_outcome_is_written_once(bench: Bench, server: Server) -> None:
    leased = await bench.leased()
    await server.lose_standby()
    for _ in range(2):
        with pytest.raises(StorageUnavailable):
            await bench.settle(leased, Outcome.ACCEPTED)
    await server.find_standby()
    await bench.settle(leased, Outcome.ACCEPTED)
    assert told(await bench.read(leased)) == ["created", "queued", "attempt", "sent"]
