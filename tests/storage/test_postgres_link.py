"""Postgres behind a link that fails: a COMMIT that is lost, a link that is cut, down or silent."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import anyio
import pytest

from hes.errors import CommitUnknown, StorageUnavailable
from hes.model import AttemptId, Leased, OnDoubt, Outcome, Status
from hes.storage.postgres import Deadlines, PostgresDatabase
from hes.storage.records import StoredEmail
from hes.storage.sql import SqlStorage
from tests import postgres
from tests.faults.link import Link, Lost, link_to
from tests.storage.harness import Bench, FakeClock, new_email, postgres_without_hints, proof, rooms, told
from tests.storage.test_unavailable import CALLS, prepared

SILENCE = Deadlines(connect=0.1, call=0.1)
UNKNOWN = Deadlines(resolve=0.1)

each_way = pytest.mark.parametrize("how", Lost, ids=lambda how: how.name)


@pytest.fixture
async def link() -> AsyncIterator[Link]:
    async with postgres.database() as url, link_to(url) as found:
        yield found


@pytest.fixture
async def sql(link: Link, clock: FakeClock) -> AsyncIterator[SqlStorage]:
    async with postgres_without_hints(link.url, clock) as storage:
        yield storage


@pytest.fixture
def bench(sql: SqlStorage, clock: FakeClock) -> Bench:
    return Bench(sql, clock)


@pytest.fixture
async def untroubled(clock: FakeClock) -> AsyncIterator[Bench]:
    """Another database, without a link."""
    async with postgres.database() as url, postgres_without_hints(url, clock) as storage:
        yield Bench(storage, clock)


@contextmanager
def impatient(storage: SqlStorage, deadlines: Deadlines) -> Iterator[None]:
    """Where it is to give up, it does so at once."""
    database = storage._database
    assert isinstance(database, PostgresDatabase)
    database._deadlines, patient = deadlines, database._deadlines
    yield
    database._deadlines = patient


async def trace(bench: Bench, email: Leased) -> tuple[object, ...]:
    """What became of it, in words that are the same on every database."""
    stored = await bench.read(email)
    attempts = [(a.number, a.provider, a.outcome, a.resolution) for a in stored.attempts]
    return stored.delivery.status, stored.delivery.reason, stored.delivery.version, attempts, told(stored)


def attempt_ids(stored: StoredEmail) -> list[AttemptId]:
    return [attempt.id for attempt in stored.attempts]


# --- a COMMIT that is lost -------------------------------------------------------------------------------------------


@each_way
@pytest.mark.parametrize("verb", CALLS)
async def test_every_verb_is_done_once(bench: Bench, untroubled: Bench, link: Link, how: Lost, verb: str) -> None:
    """Its answer lost, or the COMMIT itself: nobody notices, and nothing is there twice."""
    leased, model = await prepared(bench, verb), await prepared(untroubled, verb)
    link.lose_commit(how)
    link.commits = 0
    await CALLS[verb](bench, leased)
    await CALLS[verb](untroubled, model)
    assert link.commits == (2 if how is Lost.BEFORE_THE_SERVER else 1)
    assert await trace(bench, leased) == await trace(untroubled, model)
    counted = "SELECT (SELECT count(*) FROM emails) + (SELECT count(*) FROM outbox), (SELECT count(*) FROM idempotency)"
    assert await counts(bench, counted) == await counts(untroubled, counted)


async def counts(bench: Bench, query: str) -> list[int]:
    assert isinstance(bench.storage, SqlStorage)
    return await bench.storage._database.read(lambda connection, _: list(connection.exec_driver_sql(query).one()))


@each_way
async def test_what_was_leased_is_returned_and_not_lost(bench: Bench, link: Link, how: Lost) -> None:
    email_ids = {await bench.accept() for _ in range(3)}
    link.lose_commit(how)
    given = await bench.give_out(rooms(a=3))
    assert {leased.email.id for leased in given.items} == email_ids
    for leased in given.items:
        assert attempt_ids(await bench.read(leased)) == [leased.attempt_id]
        assert await bench.settle(leased, Outcome.ACCEPTED) == []


@each_way
async def test_a_group_whose_commit_is_lost_is_written_once(bench: Bench, link: Link, how: Lost) -> None:
    link.lose_commit(how)
    email_ids = await bench.accept_many(5)
    assert await counts(bench, "SELECT count(*) FROM emails") == [5]
    assert {await bench.status(email_id) for email_id in email_ids} == {(Status.QUEUED, None)}


# --- the server stays away, and nobody knows what became of it -------------------------------------------------------


@each_way
async def test_an_unknown_accept_is_found_by_its_key(bench: Bench, sql: SqlStorage, link: Link, how: Lost) -> None:
    new = new_email(key="order-1")
    link.lose_commit(how, stay_down=True)
    with impatient(sql, UNKNOWN), pytest.raises(CommitUnknown, match="in the middle of a COMMIT"):
        await sql.accept(new)
    link.come_back()
    again = await sql.accept(new_email(key="order-1"))
    assert (again.id == new.email.id) == (how is Lost.ANSWER)
    assert await counts(bench, "SELECT count(*) FROM emails") == [1]


@each_way
@pytest.mark.parametrize("on_doubt", OnDoubt)
async def test_an_unknown_lease_is_given_back(
    bench: Bench, sql: SqlStorage, link: Link, how: Lost, on_doubt: OnDoubt
) -> None:
    """Nobody has it in hand, so nobody waits for its lease to end, and it is no doubt."""
    email_id = await bench.accept(on_doubt=on_doubt)
    link.lose_commit(how, stay_down=True)
    with impatient(sql, UNKNOWN), pytest.raises(CommitUnknown):
        await bench.lease()
    link.come_back()
    leased = await bench.lease()
    assert leased.email.id == email_id
    stored = await bench.read(email_id)
    assert attempt_ids(stored) == [leased.attempt_id]
    was_leased = how is Lost.ANSWER
    assert told(stored) == ["created", "queued", "attempt", *(["not_tried"] if was_leased else [])]
    await bench.settle(leased, Outcome.ACCEPTED)
    assert told(await bench.read(email_id))[-2:] == ["attempt", "sent"]


async def test_an_unknown_lease_is_kept_in_mind_until_it_is_given_back(
    bench: Bench, sql: SqlStorage, link: Link, clock: FakeClock
) -> None:
    email_id = await bench.accept(on_doubt=OnDoubt.HOLD)
    link.lose_commit(Lost.ANSWER, stay_down=True)
    with impatient(sql, UNKNOWN):
        with pytest.raises(CommitUnknown):
            await bench.lease()
        with pytest.raises(StorageUnavailable):
            await bench.lease()
    link.come_back()
    await bench.lapse()  # the sweep comes first, and late
    assert await bench.status(email_id) == (Status.QUEUED, None)
    assert (await bench.read(email_id)).attempts == ()


async def test_an_unknown_lease_that_another_process_swept_is_no_doubt_in_the_end(
    bench: Bench, sql: SqlStorage, link: Link, clock: FakeClock
) -> None:
    email_id = await bench.accept(on_doubt=OnDoubt.HOLD)
    link.lose_commit(Lost.ANSWER, stay_down=True)
    with impatient(sql, UNKNOWN), pytest.raises(CommitUnknown):
        await bench.lease()
    link.come_back()
    async with postgres_without_hints(link.url, clock) as other:
        clock.advance(30)
        assert (await other.sweep()).lapsed == 1
    assert (await bench.status(email_id))[0] is Status.HELD
    assert (await bench.lease("b")).email.id == email_id


@each_way
async def test_an_unknown_outcome_is_settled_again(bench: Bench, sql: SqlStorage, link: Link, how: Lost) -> None:
    leased = await bench.leased()
    link.lose_commit(how, stay_down=True)
    with impatient(sql, UNKNOWN), pytest.raises(CommitUnknown):
        await bench.settle(leased, Outcome.ACCEPTED)
    link.come_back()
    await bench.settle(leased, Outcome.ACCEPTED)
    assert told(await bench.read(leased)) == ["created", "queued", "attempt", "sent"]


# --- cut, down, silent -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", CALLS)
async def test_a_connection_that_was_cut_meanwhile_is_not_noticed(bench: Bench, link: Link, verb: str) -> None:
    leased = await prepared(bench, verb)
    link.cut()
    await CALLS[verb](bench, leased)


@pytest.mark.parametrize("verb", CALLS)
async def test_a_silent_link_ends_each_verb_and_the_same_call_works_later(
    bench: Bench, sql: SqlStorage, link: Link, verb: str
) -> None:
    leased = await prepared(bench, verb)
    before = await bench.read(leased)
    link.go_silent()
    with impatient(sql, SILENCE):
        for _ in range(2):  # on the connection that was there, and while a new one is made
            with pytest.raises(StorageUnavailable, match="the database did not answer in time"):
                await CALLS[verb](bench, leased)
    link.come_back()
    assert await bench.read(leased) == before
    await CALLS[verb](bench, leased)


async def test_a_link_that_is_down_is_told_as_such(bench: Bench, sql: SqlStorage, link: Link) -> None:
    link.go_down()
    with pytest.raises(StorageUnavailable, match="the connection to the database was lost"):
        await bench.accept()
    link.come_back()
    await bench.accept()


async def test_after_a_silence_no_connection_is_lost_to_the_pool(bench: Bench, sql: SqlStorage, link: Link) -> None:
    """All of them were busy in it; each that led nowhere is made anew before it is used."""
    email_id = await bench.accept()

    async def read_all(count: int) -> None:
        async with anyio.create_task_group() as readers:
            for _ in range(count):
                readers.start_soon(bench.read, email_id)

    await read_all(10)
    link.go_silent()
    with impatient(sql, SILENCE), pytest.RaisesGroup(*[StorageUnavailable] * 10):
        await read_all(10)
    link.come_back()
    await read_all(30)


async def test_connections_that_went_silent_unused_are_not_waited_for_one_by_one(
    bench: Bench, sql: SqlStorage, link: Link
) -> None:
    email_id = await bench.accept()
    async with anyio.create_task_group() as readers:
        for _ in range(10):
            readers.start_soon(bench.read, email_id)
    link.go_silent()
    with impatient(sql, SILENCE), pytest.raises(StorageUnavailable):
        await bench.read(email_id)
    link.come_back()
    for _ in range(10):
        await bench.read(email_id)


async def test_a_slow_link_delays_and_no_more(bench: Bench, link: Link) -> None:
    link.delay_seconds = 0.01
    leased = await bench.leased()
    assert await bench.settle(leased, Outcome.ACCEPTED) == []
    assert (await bench.status(leased))[0] is Status.SENT


async def test_a_caller_that_goes_away_leaves_no_transaction_half_done(bench: Bench, link: Link) -> None:
    leased = await bench.leased()
    link.delay_seconds = 0.01
    async with anyio.create_task_group() as callers:
        callers.start_soon(bench.storage.evidence, [proof(leased, accepted=True)])
        await anyio.wait_all_tasks_blocked()
        callers.cancel_scope.cancel()
    assert (await bench.read(leased)).attempts[0].is_accepted
