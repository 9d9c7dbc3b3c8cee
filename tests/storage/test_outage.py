"""After an outage nobody sweeps for one lease: others may hold outcomes that they could not write yet.

Who was not there to see the storage away finds out from the storage itself. Over Postgres, with the clock in our hand.
"""

from collections.abc import AsyncIterator, Collection

import pytest
import sqlalchemy as sa

from hes.model import Leased, Node, OnDoubt, Outcome, Status
from hes.policy import NOT_WRITTEN
from hes.storage.postgres import PostgresDatabase, PostgresUrl, open_postgres
from hes.storage.records import Swept
from hes.storage.sql import SqlStorage
from tests import postgres
from tests.storage.harness import KINDS, LEASE_SECONDS, Bench, FakeClock, new_policy, next_id, run

DAY_SECONDS = 24 * 3600


class Fleet:
    """Processes over one database that say often enough that they are there."""

    def __init__(self, storage: SqlStorage, clock: FakeClock) -> None:
        self.storage = storage
        self.clock = clock
        self.bench = Bench(storage, clock)
        self.nodes: set[str] = set()

    async def live(self, seconds: int, *nodes: str) -> None:
        await self._appear(nodes)
        for second in range(0, seconds, 4):
            self.clock.advance(min(4, seconds - second))
            await self._appear(nodes)

    async def _appear(self, nodes: Collection[str]) -> None:
        for node in nodes:
            await self.storage.appear(Node(id=node, role="mailer", host="here", version="1"))

    async def sweep(self) -> Swept:
        """As a janitor does, on any of them."""
        return await self.storage.sweep(reached_seconds=LEASE_SECONDS)

    async def lapsed(self) -> bool:
        return (await self.sweep()).lapsed == 1

    def restarted(self) -> None:
        """The database begins to take connections now."""
        database = self.storage._database
        assert isinstance(database, PostgresDatabase)
        database.started_by_clock = self.clock()


@pytest.fixture
async def fleet(clock: FakeClock) -> AsyncIterator[Fleet]:
    async with postgres.database() as url, open_postgres(PostgresUrl(url), new_policy(), next_id, clock) as storage:
        yield Fleet(storage, clock)


@pytest.fixture
async def leased(fleet: Fleet) -> Leased:
    """By one of the fleet, for which all is well so far."""
    await fleet.live(32, "one", "two")
    return await fleet.bench.leased()


async def test_without_an_outage_a_lease_lapses_when_it_ends(fleet: Fleet, leased: Leased) -> None:
    await fleet.live(LEASE_SECONDS - 1, "two")
    assert not await fleet.lapsed()
    await fleet.live(1, "two")
    assert await fleet.lapsed()


async def test_nothing_lapses_within_a_lease_of_the_databases_own_start(fleet: Fleet, leased: Leased) -> None:
    """Quick enough to leave no gap in what the others say."""
    await fleet.live(LEASE_SECONDS - 3, "one", "two")
    fleet.clock.advance(3)
    fleet.restarted()
    await fleet.live(LEASE_SECONDS - 1, "one", "two", "late-comer")
    assert not await fleet.lapsed()
    await fleet.live(1, "one", "two", "late-comer")
    assert await fleet.lapsed()


async def test_nothing_lapses_within_a_lease_of_a_gap_in_what_everybody_says(fleet: Fleet, leased: Leased) -> None:
    """As after a failover: the promoted server was started long ago, and nobody reached any."""
    fleet.clock.advance(LEASE_SECONDS + 1)
    assert not await fleet.lapsed(), "the first call of all"
    await fleet.live(LEASE_SECONDS - 1, "one", "two", "late-comer")
    assert not await fleet.lapsed()
    await fleet.live(1, "one", "two", "late-comer")
    assert await fleet.lapsed()


async def test_a_gap_of_one_of_them_is_its_own(fleet: Fleet, leased: Leased) -> None:
    await fleet.live(LEASE_SECONDS, "two")
    assert await fleet.lapsed()


async def test_it_is_enough_that_one_after_the_other_was_there(fleet: Fleet, leased: Leased) -> None:
    """As in a roll-out, and where processes crash again and again."""
    for number in range(LEASE_SECONDS // 6):
        await fleet.live(4, f"short-lived {number}")
        fleet.clock.advance(2)
    assert await fleet.lapsed()


async def test_a_fleet_that_crashed_as_a_whole_recovers_after_one_lease(fleet: Fleet, leased: Leased) -> None:
    fleet.clock.advance(DAY_SECONDS)
    fleet.restarted()
    await fleet.live(LEASE_SECONDS - 1, "the first again")
    assert not await fleet.lapsed()
    await fleet.live(1, "the first again")
    assert await fleet.lapsed()
    [attempt] = (await fleet.bench.read(leased)).attempts
    assert attempt.detail == NOT_WRITTEN, "that its process died is more than anybody knows"


async def test_a_clock_that_was_put_back_keeps_nobody_waiting(fleet: Fleet) -> None:
    await fleet.live(32, "one")
    fleet.restarted()
    fleet.clock.advance(-3600)
    await fleet.bench.leased()
    await fleet.live(LEASE_SECONDS + 1, "one")
    assert await fleet.lapsed()


async def test_an_older_version_says_that_it_is_there_and_not_since_when(fleet: Fleet, leased: Leased) -> None:
    await run(fleet.storage, sa.text("UPDATE nodes SET seen_since = NULL"))
    fleet.clock.advance(LEASE_SECONDS)
    await run(fleet.storage, sa.text(f"UPDATE nodes SET seen_at = {fleet.clock()}"))
    assert not await fleet.lapsed()


async def test_what_has_expired_ends_all_the_same(fleet: Fleet) -> None:
    email_id = await fleet.bench.accept(expires_in=10)
    fleet.clock.advance(10)
    assert (await fleet.sweep()).expired == 1
    assert (await fleet.bench.status(email_id))[0] is Status.FAILED


async def test_a_search_does_not_end_while_what_was_found_may_be_unwritten(fleet: Fleet) -> None:
    await fleet.live(32, "one")
    leased = await fleet.bench.leased(on_doubt=OnDoubt.WAIT)
    await fleet.bench.settle(leased, Outcome.IN_DOUBT)
    await run(fleet.storage, sa.text("UPDATE deliveries SET due_at = 0"))
    fleet.clock.advance(20)
    assert (await fleet.sweep()).searched == 0
    await fleet.live(LEASE_SECONDS + 1, "one")
    assert (await fleet.sweep()).searched == 1


async def test_the_server_tells_when_it_was_started() -> None:
    async with postgres.database() as url, PostgresDatabase(PostgresUrl(url)) as database:
        started_at, now = await database.read(lambda connection, now: (database.started_at(connection), now))
    assert 0 < now - started_at < DAY_SECONDS * 1000


@pytest.mark.parametrize("kind", [KINDS["sqlite"]], ids=["sqlite"], indirect=True)
async def test_where_one_process_has_it_to_itself_nothing_is_waited_for(bench: Bench, clock: FakeClock) -> None:
    """It knows by itself whether it holds outcomes; and that the process before is dead the lock has proven."""
    await bench.leased()
    clock.advance(LEASE_SECONDS)
    assert (await bench.storage.sweep(reached_seconds=LEASE_SECONDS)).lapsed == 1
