"""Several processes over one storage: who is there, who may probe, what each hears from the others."""

from collections.abc import AsyncIterator

import anyio
import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from hes.errors import StorageUnavailable
from hes.model import GateState, GateStatus, Leased, Node, OnDoubt, Outcome, Room
from hes.storage.hints import Hint
from hes.storage.postgres import PostgresUrl, open_postgres
from hes.storage.records import Presence
from hes.storage.sql import SqlStorage
from tests import postgres
from tests.storage.harness import Bench, FakeClock, new_policy, next_id, only_sql, rooms, run

GATE = GateStatus(
    name="a",
    kind="sendgrid",
    state=GateState.DOWN,
    reason="5 failures in a row",
    since=1,
    until=None,
    weight=1.0,
    effective_weight=0.5,
    in_flight=1,
    in_flight_limit=2,
    rate_limit=None,
    sent_last_minute=3,
    error_rate=0.5,
    retries_left=4,
    refused_sender_domains=("example.com",),
)


def a_node(name: str, role: str = "mailer", **fields: object) -> Node:
    return Node(id=name, role=role, host="here", version="1", **fields)  # type: ignore[arg-type]


# --- who is there ----------------------------------------------------------------------------------------------------


async def test_a_node_that_appears_is_seen_with_its_gates(bench: Bench) -> None:
    node = a_node("one", started_at=5, gates=(GATE,))
    assert await bench.storage.appear(node) == Presence(now=bench.clock(), mailers=1)
    assert await bench.storage.nodes() == [replace(node, seen_at=bench.clock())]


async def test_only_who_sends_counts_as_a_mailer(bench: Bench) -> None:
    await bench.storage.appear(a_node("one"))
    await bench.storage.appear(a_node("two", "api"))
    assert (await bench.storage.appear(a_node("three", "all"))).mailers == 2


async def test_a_node_that_is_silent_is_gone_and_comes_again(bench: Bench) -> None:
    await bench.storage.appear(a_node("one"))
    bench.clock.advance(14.9)
    assert [node.id for node in await bench.storage.nodes()] == ["one"]
    bench.clock.advance(0.1)
    assert await bench.storage.nodes() == []
    assert (await bench.storage.appear(a_node("two"))).mailers == 1
    assert (await bench.storage.appear(a_node("one"))).mailers == 2


async def test_a_node_that_leaves_is_gone_at_once(bench: Bench) -> None:
    await bench.storage.appear(a_node("one"))
    await bench.storage.leave("one")
    assert await bench.storage.nodes() == []


@only_sql
async def test_what_another_version_tells_of_its_gates_hides_no_node(bench: Bench, sql: SqlStorage) -> None:
    await bench.storage.appear(a_node("one", gates=(GATE,)))
    await run(sql, sa.text("UPDATE nodes SET gates = '[{\"name\": 7}]'"))
    [node] = await bench.storage.nodes()
    assert (node.id, node.gates) == ("one", ())


# --- on Postgres, two of them ----------------------------------------------------------------------------------------

ASKING = Room(hands=1, is_probe=True, is_shut=True, is_refused=True)


class Pair:
    """Two processes over one database."""

    def __init__(self, one: SqlStorage, two: SqlStorage, clock: FakeClock) -> None:
        self.sql = one
        self.one = Bench(one, clock)
        self.two = Bench(two, clock)
        self.clock = clock
        self.hints = (one.hints, two.hints)


@pytest.fixture
async def pair(clock: FakeClock) -> AsyncIterator[Pair]:
    async with (
        postgres.database() as url,
        open_postgres(PostgresUrl(url), new_policy(), next_id, clock) as one,
        open_postgres(PostgresUrl(url), new_policy(), next_id, clock) as two,
    ):
        yield Pair(one, two, clock)


async def test_of_two_nodes_one_finds_out_whether_a_provider_wants_us_again(pair: Pair) -> None:
    for _ in range(3):
        await pair.one.accept()
    assert len((await pair.one.give_out({"a": ASKING})).items) == 1
    assert (await pair.two.give_out({"a": ASKING})).items == ()
    assert len((await pair.one.give_out({"a": ASKING})).items) == 1, "whose probe it is may go on"
    pair.clock.advance(30)
    assert len((await pair.two.give_out({"a": ASKING})).items) == 1, "the other is gone"


async def test_what_may_not_be_probed_goes_another_way(pair: Pair) -> None:
    await pair.one.accept()
    await pair.one.give_out({"a": ASKING})
    await pair.two.accept()
    [leased] = (await pair.two.give_out({"a": ASKING, "b": Room(hands=1)})).items
    assert leased.provider == "b"


async def test_of_two_nodes_one_asks_for_a_sender_domain(pair: Pair) -> None:
    for _ in range(2):
        await pair.one.accept()
    asking = {"a": Room(hands=1, probing_domains=frozenset({"example.com"}))}
    assert len((await pair.one.give_out(asking)).items) == 1
    assert (await pair.two.give_out(asking)).items == ()


async def test_whether_a_provider_that_failed_works_again_each_finds_out_for_itself(pair: Pair) -> None:
    for _ in range(2):
        await pair.one.accept()
    asking = {"a": Room(hands=1, is_probe=True, is_shut=True)}
    assert len((await pair.one.give_out(asking)).items) == 1
    assert len((await pair.two.give_out(asking)).items) == 1


async def test_a_daily_quota_is_shared_to_the_last_email(pair: Pair) -> None:
    for _ in range(6):
        await pair.one.accept(own_providers=("quoted",))
    given: list[Leased] = []

    async def claim(bench: Bench) -> None:
        given.extend((await bench.give_out(rooms(quoted=2))).items)

    for _ in range(3):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(claim, pair.one)
            tasks.start_soon(claim, pair.two)
    assert len(given) == 3
    assert await pair.one.storage.quotas_used() == {"quoted": 3}


async def test_a_late_outcome_of_one_node_changes_nothing_of_what_another_does(pair: Pair) -> None:
    """As when a process stood still for longer than its lease."""
    late = await pair.one.leased(on_doubt=OnDoubt.RESEND)
    pair.clock.advance(30)
    await pair.two.storage.sweep()
    again = await pair.two.lease("b")
    assert again.email.id == late.email.id
    assert await pair.one.settle(late, Outcome.UNAVAILABLE) == [late.attempt_id]
    assert (await pair.two.status(late))[0] == "sending"
    assert await pair.two.settle(again, Outcome.ACCEPTED) == []
    assert (await pair.one.read(late)).delivery.provider == "b"


async def test_a_hint_is_heard_by_the_others_and_not_by_oneself(pair: Pair) -> None:
    heard: list[str] = []
    come = anyio.Event()
    one, two = pair.hints
    one.listen(Hint.DUE, lambda: heard.append("one"))

    def hear() -> None:
        heard.append("two")
        come.set()

    two.listen(Hint.DUE, hear)
    with anyio.fail_after(20):
        while not come.is_set():  # the first may be told before the other listens
            one.tell(Hint.DUE)
            with anyio.move_on_after(0.1):
                await come.wait()
    assert set(heard) == {"two"}


async def test_this_version_goes_on_while_the_next_ones_schema_is_made(pair: Pair) -> None:
    """As in a roll-out: `hes db upgrade` first, then pod by pod. The new schema says that it can be lived with."""

    async def works() -> None:
        leased = await pair.one.leased(key=next_id())
        assert await pair.one.settle(leased, Outcome.ACCEPTED) == []
        assert await pair.two.status(leased) == ("sent", None)
        await pair.two.storage.check()

    await works()
    change = [
        "ALTER TABLE deliveries ADD COLUMN of_the_future text NOT NULL DEFAULT 'x'",
        "ALTER TABLE emails ADD COLUMN of_the_future bigint",
        "ALTER TABLE events ADD COLUMN of_the_future bigint",
        "CREATE TABLE of_the_future (id text PRIMARY KEY)",
        "UPDATE alembic_version SET version_num = '9999'",
    ]
    for statement in change:  # the version at last, as alembic does it
        await run(pair.sql, sa.text(statement))
        await works()
    await run(pair.sql, sa.text("UPDATE schema_readers SET oldest = '9999'"))
    with pytest.raises(StorageUnavailable, match="the database has schema 9999"):
        await pair.one.storage.check()
