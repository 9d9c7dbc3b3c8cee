"""The queue on Postgres with 100,000 rows in it: indexes and never the whole table, fairness, an old snapshot."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import asyncpg
import msgspec
import pytest
import sqlalchemy as sa

from hes.model import Decision, EmailId, Outcome, Reason, Status
from hes.storage.postgres import PostgresUrl, open_postgres
from hes.storage.records import ListQuery, Reach
from hes.storage.sql import SqlStorage
from hes.told import EventKind, ProviderEvent, Told
from tests import postgres
from tests.storage.harness import NOW, SHOP, Bench, FakeClock, ended, new_policy, next_id, rooms

COUNT = 100_000
LARGE = {"emails", "deliveries", "recipients", "attempts", "events", "outbox", "idempotency"}
SOMEBODY = f"e-{77_777:012}"

# Of a hundred emails of one project: what has become of them. All of the waiting ones are due in one lane.
STATUS = """CASE WHEN n % 100 < 40 THEN 'queued' WHEN n % 100 < 42 THEN 'sending' WHEN n % 100 = 42 THEN 'in_doubt'
    WHEN n % 100 = 43 THEN 'held' WHEN n % 100 < 46 THEN 'failed' ELSE 'sent' END"""
MADE = f"""(SELECT n, 'e-' || lpad(n::text, 12, '0') AS id, {STATUS} AS status
    FROM generate_series(1, {COUNT}) n) made"""
CONTENT = """format('{"id":"%s","project":"shop","message_id":"<m>","date":0,"from":{"email":"a@example.com"}}', id)"""
FILL = f"""
INSERT INTO emails (id, project, created_at, from_email, subject, tags, reference, stream, message_id, content)
SELECT id, 'shop', {NOW} - n, 'shop@example.com', 'Hi', '{{}}', CASE WHEN n % 10 = 0 THEN 'order ' || n END, 'default',
    id, convert_to({CONTENT}, 'UTF8')
FROM {MADE};
INSERT INTO deliveries (email_id, project, lane, status, reason, due_at, expires_at, expires_in, on_doubt,
    attempt_timeout, own_providers, size_bytes, attempt_id, lease_ends_at, attempts, provider, tried, declined_by,
    round, lapses, version, stream, sender_domain)
SELECT id, 'shop', '["shop","default","example.com",[],[],[],false,false]', status,
    CASE status WHEN 'held' THEN 'doubt' WHEN 'failed' THEN 'rejected' END,
    {NOW} - {COUNT} + n, {NOW} + 86400000 + n, 86400, 'resend', 0, '', 100,
    CASE WHEN status = 'sending' THEN 'a-' || id END, CASE WHEN status = 'sending' THEN {NOW} + n END,
    CASE WHEN status = 'queued' THEN 0 ELSE 1 END, CASE WHEN status <> 'queued' THEN 'a' END, '', '',
    0, 0, 1, 'default', 'example.com'
FROM {MADE};
INSERT INTO recipients (email_id, position, kind, email) SELECT id, 0, 'to', n || '@example.net' FROM {MADE};
INSERT INTO attempts (email_id, number, id, provider, render_version, started_at, outcome)
SELECT id, 1, 'a-' || id, 'a', 1, 0,
    CASE status WHEN 'sent' THEN 'accepted' WHEN 'sending' THEN NULL ELSE 'in_doubt' END
FROM {MADE} WHERE status <> 'queued';
INSERT INTO events (email_id, id, type, at, data) SELECT id, 'v-' || n, 'created', 0, '{{}}' FROM {MADE};
INSERT INTO outbox (attempt_id, email_id, kept_at, mime) SELECT 'a-' || id, id, 0, '' FROM {MADE} WHERE n % 10 = 0;
INSERT INTO idempotency (project, key, request_hash, answer, created_at)
SELECT 'shop', id, '', '', {NOW} - n * 10 FROM {MADE};
"""


@pytest.fixture(scope="module")
def filled() -> Iterator[str]:
    with postgres.filled_database(FILL, "VACUUM (ANALYZE)") as url:
        yield url


@pytest.fixture
async def sql(filled: str, clock: FakeClock) -> AsyncIterator[SqlStorage]:
    async with open_postgres(PostgresUrl(filled), new_policy(), next_id, clock) as storage:
        yield storage


@pytest.fixture
async def shell(filled: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(filled)
    yield connection
    await connection.close()


@pytest.fixture
def bench(sql: SqlStorage, clock: FakeClock) -> Bench:
    return Bench(sql, clock)


# --- plans -----------------------------------------------------------------------------------------------------------

Call = Callable[[Any], Awaitable[object]]
"""Takes a Bench whose storage has all the verbs."""


async def lease_and_settle(bench: Bench) -> None:
    given = await bench.give_out(rooms(a=100))
    await bench.storage.settle([ended(leased, Outcome.ACCEPTED) for leased in given.items], {})


def listing(reach: Reach = SHOP, **query: Any) -> Call:
    return lambda bench: bench.storage.list(reach, ListQuery(**query))


async def take_events(bench: Bench) -> None:
    """One with our ids, one of which only the provider's is known."""
    known: dict[str, Any] = {"kind": EventKind.DELIVERED, "vendor_type": "delivered", "at": NOW}
    ours = ProviderEvent(dedup_id="1", hes_id=SOMEBODY, hes_attempt="a1", **known)
    theirs = ProviderEvent(dedup_id="2", recipient="77777@example.net", provider_message_id="m1", **known)
    assert (await bench.storage.inbox.take("a", Told((ours, theirs)))).new == 2


CALLS: dict[str, Call] = {
    "claim searches": lambda bench: bench.storage.searches.claim({"a": 9}, {}),
    "take events": take_events,
    "match events": lambda bench: bench.storage.inbox.match(),
    "cancel many": lambda bench: bench.storage.cancel_many(SHOP, ListQuery(reference="order 70000")),
    "resolve many": lambda bench: bench.storage.resolve_many(
        SHOP, ListQuery(status=Status.HELD), Decision.FAILED, "ann"
    ),
    "accept": lambda bench: bench.accept_many(50, key="a key"),
    "lease and settle": lease_and_settle,
    "sweep": lambda bench: bench.storage.sweep(),
    "pull forward": lambda bench: bench.storage.pull_forward(["a"]),
    "disbelieve": lambda bench: bench.storage.disbelieve("a", [EmailId(SOMEBODY)]),
    "prune": lambda bench: bench.storage.prune(),
    "drop what is old": lambda bench: bench.storage.drop_old(1000, 1000),
    "count what waits": lambda bench: bench.storage.waiting(),
    "read": lambda bench: bench.storage.read(SHOP, EmailId(SOMEBODY), with_content=True),
    "erase": lambda bench: bench.storage.erase(SHOP, EmailId(SOMEBODY)),
    "list": listing(),
    "list by status": listing(status=Status.SENT),
    "list by rare status": listing(status=Status.HELD),
    "list by status that nothing has": listing(status=Status.CANCELLED),
    "list by reason": listing(reason=Reason.DOUBT),
    "list by provider": listing(provider="a"),
    "list by address": listing(to="77777@example.net"),
    "list by sender": listing(sender="shop@example.com"),
    "list by reference": listing(reference="order 70000"),
    "list by tag": listing(tag="kind:welcome"),
    "list by time": listing(created_after=NOW - 5000, created_before=NOW - 4000),
    "list tests": listing(Reach("shop", only_test=True)),
    "list of a domain": listing(Reach("shop", sender_domains=("example.org", "example.com"))),
    "list tests of a status": listing(Reach("shop", only_test=True), status=Status.QUEUED),
    "list from a cursor on": listing(before=EmailId(SOMEBODY)),
}


@contextmanager
def listening(storage: SqlStorage) -> Iterator[list[tuple[str, Any]]]:
    """All statements about rows, with their parameters."""
    engine = storage._database._engine.sync_engine  # type: ignore[attr-defined]
    asked: list[tuple[str, Any]] = []

    def note(_c: Any, _k: Any, statement: str, parameters: Any, _x: Any, _m: Any) -> None:
        if re.match("SELECT|WITH|INSERT|UPDATE|DELETE", statement):
            asked.append((statement, parameters))

    sa.event.listen(engine, "before_cursor_execute", note)
    yield asked
    sa.event.remove(engine, "before_cursor_execute", note)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


PLANNING = 20.0
"""What the server counts for making a plan, about."""


async def plans(connection: asyncpg.Connection, statement: str, parameters: Any) -> Iterator[dict[str, Any]]:
    """All steps of how the server does this: for these parameters, and for any if it thinks that this is as good.

    It considers that from the sixth time on (postgresql.org/docs/current/sql-prepare.html).
    """
    told = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {statement}", *parameters)
    await connection.execute(f"SET plan_cache_mode = force_generic_plan; PREPARE p AS {statement}")
    nulls = ", ".join("NULL" for _ in set(re.findall(r"\$(\d+)", statement)))
    told_of_any = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE p{nulls and f'({nulls})'}")
    await connection.execute("DEALLOCATE p")
    for_these, for_any = (msgspec.json.decode(text)[0]["Plan"] for text in (told, told_of_any))
    is_kept = for_any["Total Cost"] <= for_these["Total Cost"] + PLANNING
    return chain(nodes(for_these), nodes(for_any) if is_kept else ())


@pytest.mark.parametrize("name", CALLS)
async def test_no_call_reads_a_whole_table(bench: Bench, sql: SqlStorage, shell: asyncpg.Connection, name: str) -> None:
    with listening(sql) as asked:
        await CALLS[name](bench)
    assert asked
    for statement, parameters in asked:
        whole = {n["Relation Name"] for n in await plans(shell, statement, parameters) if n["Node Type"] == "Seq Scan"}
        assert whole.isdisjoint(LARGE), statement


# --- a long queue ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hands", [1, 20, 200])
async def test_a_long_queue_of_one_project_delays_no_other(bench: Bench, shell: asyncpg.Connection, hands: int) -> None:
    """It leaves with the first claims, whatever waits in the other lane and for how long."""
    waiting = await shell.fetchval("SELECT count(*) FROM deliveries WHERE status = 'queued' AND project = 'shop'")
    assert waiting > 30_000
    await bench.give_out(rooms(a=hands))
    single = await bench.accept(project="other")
    given = [leased.email.id for _ in range(2) for leased in (await bench.give_out(rooms(a=hands))).items]
    assert single in given


async def entries_read(bench: Bench, shell: asyncpg.Connection) -> int:
    """How many index entries the claims went over until now."""
    assert isinstance(bench.storage, SqlStorage)
    told = sa.text("SELECT pg_stat_force_next_flush()")
    await bench.storage._database.write(lambda connection, _: connection.execute(told).all())
    count: int = await shell.fetchval(
        "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'deliveries_waiting'"
    )
    return count


async def test_a_claim_does_not_walk_over_what_was_claimed_before(
    bench: Bench, shell: asyncpg.Connection, filled: str
) -> None:
    """Not even while an old snapshot keeps all of it in the index."""
    await shell.execute("VACUUM deliveries")
    old = await asyncpg.connect(filled)
    async with old.transaction(isolation="repeatable_read", readonly=True):
        await old.fetch("SELECT count(*) FROM projects")
        for _ in range(20):
            await lease_and_settle(bench)
        before = await entries_read(bench, shell)
        await lease_and_settle(bench)
        walked = await entries_read(bench, shell) - before
    await old.close()
    assert walked < 1000, "2,000 were claimed before these"
