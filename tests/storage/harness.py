"""What the storage's tests are made of: the kinds of storage, a clock that stands still, and a bench to work at."""

import contextlib
import functools
import random
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import sqlalchemy as sa
from msgspec import Struct

from hes.case import Rules
from hes.ids import NewId, id_maker
from hes.model import (
    Address,
    Answer,
    AttemptId,
    Clock,
    Email,
    EmailId,
    Ended,
    Evidence,
    Leased,
    OnDoubt,
    Outcome,
    Room,
    Status,
)
from hes.policy import Policy
from hes.storage import migrations, tables
from hes.storage.postgres import PostgresDatabase, PostgresUrl, open_postgres, run_schema
from hes.storage.records import IdempotencyKey, Leases, NewEmail, Reach, StoredEmail
from hes.storage.sql import SqlStorage
from hes.storage.sqlite import open_sqlite, schema
from hes.storage.storage import Storage
from tests import postgres
from tests.simulation.memory import MemoryStorage

NOW = 1_800_000_000_000
DAY_SECONDS = 24 * 3600
LEASE_SECONDS = 30
RULES = Rules(
    providers=("a", "b", "quoted"),
    routes={"default": (("a", "b"),), "b first": (("b",), ("a",))},
    daily_quotas={"quoted": 3},
    lease_seconds=LEASE_SECONDS,
    keep_drafts_ms=30 * DAY_SECONDS * 1000,
)
AMPLE = 1_000_000_000

next_id = id_maker(lambda: NOW, random.Random(1))
"""Ids that grow through all of a test run, however many storages are opened in it."""


SHOP = Reach("shop")
"""The project of `new_email`, all of it."""


class FakeClock:
    """Milliseconds that pass only when told to."""

    def __init__(self, now: int = NOW) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += round(seconds * 1000)


def new_policy() -> Policy:
    return Policy(RULES, random.Random(7))


def new_email(
    *,
    project: str = "shop",
    key: str | None = None,
    request: bytes = b"request",
    text: str = "Hello",
    on_doubt: OnDoubt = OnDoubt.RESEND,
    expires_in: int = DAY_SECONDS,
    own_providers: tuple[str, ...] = (),
    attempt_timeout: float = 10.0,
    stream: str = "default",
    **fields: Any,
) -> NewEmail:
    """A checked email with an id of its own. `fields` go into the Email."""
    email_id = EmailId(next_id())
    content: dict[str, Any] = {
        "id": email_id,
        "project": project,
        "message_id": f"<{email_id}@example.com>",
        "date": NOW,
        "text": text,
    }
    content |= {"sender": Address("shop@example.com"), "to": (Address("ann@example.net"),), "subject": "Hi", **fields}
    return NewEmail(
        email=Email(**content),
        on_doubt=on_doubt,
        expires_in=expires_in,
        attempt_timeout=attempt_timeout,
        own_providers=own_providers,
        stream=stream,
        key=IdempotencyKey(key, request) if key is not None else None,
    )


def rooms(**hands: int) -> dict[str, Room]:
    """`rooms(a=2)`: provider a's sender has two free hands."""
    return {name: Room(hands=count, render_version=3) for name, count in hands.items()}


def ended(leased: Leased, outcome: Outcome | None, at: int = NOW, note: str = "", **answer: Any) -> Ended:
    """How an attempt ended. `outcome` None: not tried."""
    return Ended(
        attempt_id=leased.attempt_id,
        email_id=leased.email.id,
        provider=leased.provider,
        ended_at=at,
        answer=None if outcome is None else Answer(outcome=outcome, **answer),
        note=note,
    )


def proof(leased: Leased, *, accepted: bool, source: str = "event", **fields: Any) -> Evidence:
    """What somebody found out about an attempt."""
    return Evidence(email_id=leased.email.id, attempt_id=leased.attempt_id, accepted=accepted, source=source, **fields)


def told(stored: StoredEmail) -> list[str]:
    """The timeline's words, oldest first."""
    return [event.type.value for _, event in stored.events]


class Bench:
    """One storage and what is done to it in nearly every test."""

    def __init__(self, storage: Storage, clock: FakeClock) -> None:
        self.storage = storage
        self.clock = clock
        self.stand: Mapping[str, Room] = {}
        """How the providers stand, as `settle` is told."""

    async def accept(self, **fields: Any) -> EmailId:
        new = new_email(**fields)
        await self.storage.accept(new)
        return new.email.id

    async def accept_many(self, count: int, **fields: Any) -> list[EmailId]:
        """At once, so that they share transactions."""
        news = [new_email(**fields) for _ in range(count)]
        async with anyio.create_task_group() as callers:
            for new in news:
                callers.start_soon(self.storage.accept, new)
        return [new.email.id for new in news]

    async def give_out(
        self, free: Mapping[str, Room], *, size_budget: int = AMPLE, is_idle: bool = True, deadline: float = 99.0
    ) -> Leases:
        return await self.storage.lease(free, size_budget=size_budget, is_idle=is_idle, deadline=deadline)

    async def lease(self, provider: str = "a") -> Leased:
        """What is due first, in this provider's one free hand."""
        [leased] = (await self.give_out(rooms(**{provider: 1}))).items
        return leased

    async def leased(self, provider: str = "a", **fields: Any) -> Leased:
        """A new email in this provider's hands."""
        email_id = await self.accept(**fields)
        leased = await self.lease(provider)
        assert leased.email.id == email_id
        return leased

    async def settle(self, leased: Leased, outcome: Outcome | None, **answer: Any) -> list[AttemptId]:
        return list((await self.storage.settle([ended(leased, outcome, self.clock(), **answer)], self.stand)).lost)

    async def doubted(self, on_doubt: OnDoubt = OnDoubt.RESEND, **fields: Any) -> Leased:
        """An email whose one attempt is in open doubt: queued again, held or waiting, as `on_doubt` has it."""
        leased = await self.leased(on_doubt=on_doubt, **fields)
        await self.settle(leased, Outcome.IN_DOUBT)
        return leased

    async def lapse(self) -> None:
        """Let the lease run out and sweep it."""
        self.clock.advance(LEASE_SECONDS)
        await self.storage.sweep()

    async def read(self, email: Leased | EmailId) -> StoredEmail:
        email_id = email.email.id if isinstance(email, Leased) else email
        return await self.storage.read(SHOP, email_id, with_content=True)

    async def status(self, email: Leased | EmailId) -> tuple[Status, str | None]:
        delivery = (await self.read(email)).delivery
        return delivery.status, delivery.reason and delivery.reason.value


# --- the kinds -------------------------------------------------------------------------------------------------------


class Kind(Struct, frozen=True, kw_only=True):
    """One kind of storage: how to open it, and what the protocol has no word for."""

    open: Callable[[Path, Policy, Clock, NewId], AbstractAsyncContextManager[Storage]]
    away: Callable[[Any, Path], AbstractAsyncContextManager[None]]
    """While it lasts every write is refused."""
    kept: Callable[[Any, AttemptId], Any]
    """Awaitable: the message in the outbox, or None."""
    on_schema: Callable[[Any, Path, Callable[[sa.Connection], None]], Awaitable[None]]
    """Does something to the schema of an opened one, beside it."""
    is_sql: bool = True


async def run(storage: SqlStorage, statement: sa.Executable) -> sa.CursorResult[Any]:
    """One statement in a write transaction of the storage's own."""

    def work(connection: sa.Connection, _now: int) -> Any:
        return connection.execute(statement)

    result: sa.CursorResult[Any] = await storage._database.write(work)
    return result


async def erase(storage: SqlStorage, email_id: EmailId) -> None:
    """The content goes, as retention will do it."""
    await run(storage, sa.update(tables.emails).where(tables.emails.c.id == email_id).values(content=None))


async def spoil(storage: SqlStorage, email_id: EmailId) -> None:
    """The stored content can't be read any more."""
    await run(storage, sa.update(tables.emails).where(tables.emails.c.id == email_id).values(content=b'{"id": 7'))


@contextlib.contextmanager
def held_by_a_shell(path: Path) -> Iterator[None]:
    """Another program has a write transaction open."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as shell:
        shell.execute("BEGIN IMMEDIATE")
        yield
        shell.execute("ROLLBACK")


@asynccontextmanager
async def _open_memory(_: Path, policy: Policy, clock: Clock, new_id: NewId) -> AsyncIterator[Storage]:
    yield MemoryStorage(policy, clock, new_id)


@asynccontextmanager
async def _memory_away(storage: MemoryStorage, _: Path) -> AsyncIterator[None]:
    storage.is_away = True
    yield
    storage.is_away = False


async def _no_schema(_: MemoryStorage, __: Path, ___: Callable[[sa.Connection], None]) -> None:
    raise NotImplementedError


async def _memory_kept(storage: MemoryStorage, attempt_id: AttemptId) -> bytes | None:
    return storage.outbox.get(attempt_id)


def sqlite_file(folder: Path) -> Path:
    return folder / "hes.db"


@functools.cache
def _migrated() -> bytes:
    """A database as the migrations leave it: they take longer than most tests, and have tests of their own."""
    with tempfile.TemporaryDirectory() as folder:
        with schema(sqlite_file(Path(folder))) as connection:
            migrations.upgrade(connection)
        return sqlite_file(Path(folder)).read_bytes()


@asynccontextmanager
async def _open_sqlite(folder: Path, policy: Policy, clock: Clock, new_id: NewId) -> AsyncIterator[Storage]:
    sqlite_file(folder).write_bytes(_migrated())
    async with open_sqlite(sqlite_file(folder), policy, clock, new_id) as storage:
        yield storage


@asynccontextmanager
async def _sqlite_away(storage: SqlStorage, folder: Path) -> AsyncIterator[None]:
    await run(storage, sa.text("PRAGMA busy_timeout = 0"))
    with held_by_a_shell(sqlite_file(folder)):
        yield


@asynccontextmanager
async def _open_postgres(_: Path, policy: Policy, clock: Clock, new_id: NewId) -> AsyncIterator[Storage]:
    async with postgres.database() as url, open_postgres(PostgresUrl(url), policy, new_id, clock) as storage:
        _urls[id(storage)] = url
        yield storage
        del _urls[id(storage)]


@asynccontextmanager
async def postgres_without_hints(
    url: str, clock: Clock, policy: Callable[[], Policy] = new_policy
) -> AsyncIterator[SqlStorage]:
    """Where nothing else happens on its connections: hints to other processes have COMMITs of their own."""
    async with PostgresDatabase(PostgresUrl(url), clock) as database, anyio.create_task_group() as tasks:
        storage = SqlStorage(database, policy(), next_id)
        tasks.start_soon(storage.accepts.run)
        yield storage
        tasks.cancel_scope.cancel()


_urls: dict[int, str] = {}
"""Where the opened Postgres storages are."""


@asynccontextmanager
async def _postgres_away(storage: SqlStorage, _: Path) -> AsyncIterator[None]:
    async with postgres.away(_urls[id(storage)]):
        yield


async def _on_sqlite_schema(_: SqlStorage, folder: Path, work: Callable[[sa.Connection], None]) -> None:
    with schema(sqlite_file(folder)) as connection:
        work(connection)


async def _on_postgres_schema(storage: SqlStorage, _: Path, work: Callable[[sa.Connection], None]) -> None:
    await run_schema(PostgresUrl(_urls[id(storage)]), work)


async def _sql_kept(storage: SqlStorage, attempt_id: AttemptId) -> bytes | None:
    def work(connection: sa.Connection, _now: int) -> Any:
        kept = sa.select(tables.outbox.c.mime).where(tables.outbox.c.attempt_id == attempt_id)
        return connection.execute(kept).scalar_one_or_none()

    mime: bytes | None = await storage._database.read(work)
    return mime


KINDS = {
    "memory": Kind(open=_open_memory, away=_memory_away, kept=_memory_kept, on_schema=_no_schema, is_sql=False),
    "sqlite": Kind(open=_open_sqlite, away=_sqlite_away, kept=_sql_kept, on_schema=_on_sqlite_schema),
    "postgres": Kind(open=_open_postgres, away=_postgres_away, kept=_sql_kept, on_schema=_on_postgres_schema),
}
"""All that the suite runs against. A new kind is one line here."""

_SQL_KINDS = {name: kind for name, kind in KINDS.items() if kind.is_sql}
only_sql = pytest.mark.parametrize("kind", list(_SQL_KINDS.values()), ids=list(_SQL_KINDS), indirect=True)
"""For what only a database can come to, such as content that was erased."""
