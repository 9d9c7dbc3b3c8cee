"""The queue on Postgres with 100,000 rows in it: indexes and never the whole table, fairness, an old snapshot."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa

from hes.errors import NotFound
from hes.model import EmailId, Outcome, Reason, Status
from hes.storage.postgres import PostgresUrl, open_postgres
from hes.storage.records import ListQuery
from hes.storage.sql import SqlStorage
from tests import postgres
from tests.storage.harness import NOW, Bench, FakeClock, ended, new_email, new_policy, next_id, proof, rooms

COUNT = 100_000
SOMEBODY = f"e-{77_777:012}"

# Of a hundred emails of one project: what has become of them. All of the waiting ones are due in one lane.
STATUS = """CASE WHEN n % 100 < 40 THEN 'queued' WHEN n % 100 < 42 THEN 'sending' WHEN n % 100 = 42 THEN 'in_doubt'
    WHEN n % 100 = 43 THEN 'held' WHEN n % 100 < 46 THEN 'failed' ELSE 'sent' END"""
NUMBERS = f"(SELECT n, 'e-' || lpad(n::text, 12, '0') AS id, {STATUS} AS status FROM generate_series(1, {COUNT}) n) made"
CONTENT = """format('{"id":"%s","project":"shop","message_id":"<m>","date":0,"from":{"email":"a@example.com"}}', id)"""
FILL = f"""
INSERT INTO emails (id, project, created_at, from_email, subject, tags, reference, stream, message_id, content)
SELECT id, 'shop', {NOW} - n, 'shop@example.com', 'Hi', '{{}}', CASE WHEN n % 10 = 0 THEN 'order ' || n END, 'default', id,
    convert_to({CONTENT}, 'UTF8') FROM {NUMBERS};
INSERT INTO deliveries (email_id, project, lane, status, reason, due_at, expires_at, expires_in, on_doubt, attempt_timeout,
    own_providers, size_bytes, attempt_id, lease_ends_at, attempts, provider, tried, declined_by, round, lapses, version,
    stream, sender_domain)
SELECT id, 'shop', '["shop","default","example.com",[],[],[],false,false]', status,
    CASE status WHEN 'held' THEN 'doubt' WHEN 'failed' THEN 'rejected' END,
    {NOW} - {COUNT} + n, {NOW} + 86400000 + n, 86400, 'resend', 0, '', 100,
    CASE WHEN status = 'sending' THEN 'a-' || id END, CASE WHEN status = 'sending' THEN {NOW} + n END,
    CASE WHEN status = 'queued' THEN 0 ELSE 1 END, CASE WHEN status <> 'queued' THEN 'a' END, '', '', 0, 0, 1,
    'default', 'example.com' FROM {NUMBERS};
INSERT INTO recipients (email_id, position, kind, email) SELECT id, 0, 'to', n || '@example.net' FROM {NUMBERS};
INSERT INTO attempts (email_id, number, id, provider, render_version, started_at, outcome)
SELECT id, 1, 'a-' || id, 'a', 1, 0, CASE status WHEN 'sending' THEN NULL WHEN 'sent' THEN 'accepted' ELSE 'in_doubt' END
FROM {NUMBERS} WHERE status <> 'queued';
INSERT INTO events (email_id, id, type, at, data) SELECT id, 'v-' || n, 'created', 0, '{{}}' FROM {NUMBERS};
INSERT INTO outbox (attempt_id, email_id, kept_at, mime) SELECT 'a-' || id, id, 0, '' FROM {NUMBERS} WHERE n % 10 = 0;
INSERT INTO idempotency (project, key, request_hash, answer, created_at)
SELECT 'shop', id, '', '', {NOW} - n * 10 FROM {NUMBERS};
ANALYZE;
"""


@pytest.fixture(scope="module")
def filled() -> Iterator[str]:
    with postgres.filled_database(FILL) as url:
        yield url


@pytest.fixture
async def sql(filled: str, clock: FakeClock) -> AsyncIterator[SqlStorage]:
    async with open_postgres(PostgresUrl(filled), new_policy(), next_id, clock) as storage:
        yield storage


@pytest.fixture
def bench(sql: SqlStorage, clock: FakeClock) -> Bench:
    return Bench(sql, clock)


# --- plans -----------------------------------------------------------------------------------------------------------

Call = Callable[[Bench], Awaitable[object]]


async def lease_and_settle(bench: Bench) -> None:
    given = await bench.give_out(rooms(a=100))
    await bench.storage.settle([ended(leased, Outcome.ACCEPTED) for leased in given.items], {})


def listing(**query: Any) -> Call:
    return lambda bench: bench.storage.list("shop", ListQuery(**query))


CALLS: dict[str, Call] = {
    "accept": lambda bench: bench.accept_many(50, key="a key"),
    "lease and settle": lease_and_settle,
    "sweep": lambda bench: bench.storage.sweep(),
    "pull forward": lambda bench: bench.storage.pull_forward(["a"]),
    "disbelieve": lambda bench: bench.storage.disbelieve("a", [EmailId(SOMEBODY)]),
    "prune": lambda bench: bench.storage.prune(),
    "read": lambda bench: bench.storage.read("shop", EmailId(SOMEBODY), with_content=True),
    "erase": lambda bench: bench.storage.erase("shop", EmailId(SOMEBODY)),
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


@pytest.mark.parametrize("how", ["for these parameters", "for any"])
@pytest.mark.parametrize("name", CALLS)
async def test_no_call_reads_a_whole_table(bench: Bench, sql: SqlStorage, filled: str, name: str, how: str) -> None:
    with listening(sql) as asked:
        await CALLS[name](bench)
    assert asked
    connection = await asyncpg.connect(filled)
    for statement, parameters in asked:
        if how == "for any":
            await connection.execute(f"SET plan_cache_mode = force_generic_plan; PREPARE p AS {statement}")
            nulls = ", ".join("NULL" for _ in set(re.findall(r"\$(\d+)", statement)))
            [row] = await connection.fetch(f"EXPLAIN (FORMAT JSON) EXECUTE p{nulls and f'({nulls})'}")
            await connection.execute("DEALLOCATE p")
        else:
            [row] = await connection.fetch(f"EXPLAIN (FORMAT JSON) {statement}", *parameters)

        import json
        found = list(nodes(json.loads(row[0])[0]["Plan"]))
        scans = [node["Relation Name"] for node in found if node["Node Type"] == "Seq Scan"]
        assert set(scans) <= {"provider_quota", "provider_state"}, statement + row[0]
    await connection.close()
