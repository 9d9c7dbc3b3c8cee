"""SQLite alone: the lock, recovery, durability, its errors, and a group with one bad row in it."""

import contextlib
import shutil
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import sqlalchemy as sa

from hes.errors import ConfigError, StorageBroken, StorageUnavailable
from hes.model import EmailId, OnDoubt, Outcome, Reason, Status
from hes.policy import PROCESS_DIED
from hes.storage import sqlite
from hes.storage.database import Priority
from hes.storage.records import Accepted, ListQuery, NewEmail, Reach
from hes.storage.sql import SqlStorage
from hes.storage.sqlite import LOW_READERS, SqliteDatabase, open_sqlite
from tests.storage.harness import (
    KINDS,
    NOW,
    SHOP,
    Bench,
    FakeClock,
    Kind,
    ended,
    held_by_a_shell,
    new_email,
    new_policy,
    next_id,
    rooms,
    run,
    spoil,
    sqlite_file,
)


@pytest.fixture
def kind() -> Kind:
    """Only this one."""
    return KINDS["sqlite"]


def opened(path: Path, clock: FakeClock) -> Any:
    return open_sqlite(path, new_policy(), clock, next_id)


@asynccontextmanager
async def bench_at(path: Path, clock: FakeClock) -> AsyncIterator[Bench]:
    async with opened(path, clock) as storage:
        yield Bench(storage, clock)


def copied(source: Path, target: Path) -> Path:
    """The files as a power cut would leave them: what was not written to the file is not there."""
    target.mkdir()
    for name in (source.name, f"{source.name}-wal"):
        if (source.parent / name).exists():
            shutil.copy(source.parent / name, target / name)
    return target / source.name


async def submit(storage: SqlStorage, new: NewEmail, answers: dict[EmailId, Accepted | Exception]) -> None:
    try:
        answers[new.email.id] = await storage.accept(new)
    except Exception as error:  # noqa: BLE001 (whatever it is told)
        answers[new.email.id] = error


async def accept_all(storage: SqlStorage, news: list[NewEmail]) -> list[Accepted | Exception]:
    answers: dict[EmailId, Accepted | Exception] = {}
    async with anyio.create_task_group() as callers:
        for new in news:
            callers.start_soon(submit, storage, new, answers)
    return [answers[new.email.id] for new in news]


def count_writes(storage: SqlStorage, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """One entry for each write transaction from now on."""
    writes: list[object] = []
    write = storage._database.write

    async def counted(work: Any) -> Any:
        writes.append(work)
        return await write(work)

    monkeypatch.setattr(storage._database, "write", counted)
    return writes


# --- one process -----------------------------------------------------------------------------------------------------


async def test_a_second_process_is_refused_with_a_sentence(sql: SqlStorage, tmp_path: Path, clock: FakeClock) -> None:
    with pytest.raises(ConfigError, match=r"HES_DATABASE_URL: .*hes\.db is in use by another `hes` process"):
        async with opened(sqlite_file(tmp_path), clock):
            pass
    await sql.check()


async def test_the_lock_goes_with_its_holder(tmp_path: Path, clock: FakeClock) -> None:
    for _ in range(2):
        async with bench_at(sqlite_file(tmp_path), clock) as bench:
            await bench.accept()


async def test_two_files_are_two_storages(sql: SqlStorage, tmp_path: Path, clock: FakeClock) -> None:
    async with bench_at(tmp_path / "other.db", clock) as bench:
        await bench.accept()


async def test_a_folder_that_is_not_there_is_refused_with_a_sentence(tmp_path: Path, clock: FakeClock) -> None:
    with pytest.raises(ConfigError, match=r"HES_DATABASE_URL: .* can't be used: No such file or directory"):
        async with opened(tmp_path / "nowhere" / "hes.db", clock):
            pass


async def test_the_lock_file_is_the_owners_alone(sql: SqlStorage, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "hes.db.lock").stat().st_mode) == 0o600


# --- durability ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pragma", "value"), [("synchronous", 2), ("journal_mode", "wal"), ("busy_timeout", 5000)])
async def test_the_writer_syncs_every_commit(sql: SqlStorage, pragma: str, value: object) -> None:
    def ask(connection: sa.Connection, _now: int) -> object:
        return connection.execute(sa.text(f"PRAGMA {pragma}")).scalar_one()

    assert await sql._database.write(ask) == value


async def test_what_was_answered_is_in_the_files(bench: Bench, tmp_path: Path, clock: FakeClock) -> None:
    new = new_email(key="order-1")
    answer = await bench.storage.accept(new)
    copy = copied(sqlite_file(tmp_path), tmp_path / "copy")
    async with bench_at(copy, clock) as after:
        assert (await after.read(new.email.id)).email == new.email
        assert await after.storage.accept(new_email(key="order-1")) == answer


async def test_what_was_settled_is_in_the_files(bench: Bench, tmp_path: Path, clock: FakeClock) -> None:
    leased = await bench.leased()
    await bench.settle(leased, Outcome.ACCEPTED)
    before = await bench.read(leased)
    async with bench_at(copied(sqlite_file(tmp_path), tmp_path / "copy"), clock) as after:
        assert await after.read(leased) == before


async def test_nothing_is_held_between_two_calls(bench: Bench, tmp_path: Path) -> None:
    await bench.settle(await bench.leased(), Outcome.ACCEPTED)
    shell = sqlite3.connect(sqlite_file(tmp_path), timeout=0, isolation_level=None)
    shell.execute("BEGIN EXCLUSIVE")
    shell.execute("ROLLBACK")
    shell.close()


# --- recovery --------------------------------------------------------------------------------------------------------


async def test_what_was_in_flight_at_a_crash_is_in_doubt_at_once(
    bench: Bench, tmp_path: Path, clock: FakeClock
) -> None:
    leased = await bench.leased(on_doubt=OnDoubt.HOLD)
    queued = await bench.accept()
    clock.advance(1)
    async with bench_at(copied(sqlite_file(tmp_path), tmp_path / "copy"), clock) as after:
        assert await after.status(leased) == (Status.HELD, Reason.DOUBT)
        stored = await after.read(leased)
        assert (stored.attempts[0].is_open_doubt, stored.attempts[0].ended_at) == (True, NOW + 1000)
        assert stored.attempts[0].detail == PROCESS_DIED, "the lock has proven it"
        assert stored.delivery.lapses == 1
        assert await after.status(queued) == (Status.QUEUED, None)


async def test_closing_without_an_outcome_is_a_doubt_when_it_opens_again(tmp_path: Path, clock: FakeClock) -> None:
    async with bench_at(sqlite_file(tmp_path), clock) as bench:
        leased = await bench.leased(on_doubt=OnDoubt.WAIT)
    async with bench_at(sqlite_file(tmp_path), clock) as bench:
        assert await bench.status(leased) == (Status.IN_DOUBT, None)
        assert await bench.settle(leased, Outcome.ACCEPTED) == [leased.attempt_id]
        assert await bench.status(leased) == (Status.SENT, None)


async def test_more_than_one_batch_in_flight_is_recovered(tmp_path: Path, clock: FakeClock) -> None:
    async with bench_at(sqlite_file(tmp_path), clock) as bench:
        await bench.accept_many(501, on_doubt=OnDoubt.HOLD)
        leased = (await bench.give_out(rooms(a=501))).items
    async with bench_at(sqlite_file(tmp_path), clock) as bench:
        assert {await bench.status(one) for one in leased[::50]} == {(Status.HELD, Reason.DOUBT)}
        assert not await bench.storage.recover()  # type: ignore[attr-defined]


async def test_in_flight_at_three_crashes_is_poison(tmp_path: Path, clock: FakeClock) -> None:
    async with bench_at(sqlite_file(tmp_path), clock) as bench:
        email_id = await bench.accept(own_providers=("a",))
    for _ in range(3):
        async with bench_at(sqlite_file(tmp_path), clock) as bench:
            assert (await bench.lease()).email.id == email_id
    async with bench_at(sqlite_file(tmp_path), clock) as bench:
        assert await bench.status(email_id) == (Status.HELD, Reason.POISON)


# --- writers ---------------------------------------------------------------------------------------------------------


async def test_two_processes_never_take_the_same(bench: Bench, tmp_path: Path, clock: FakeClock) -> None:
    """As if the lock did not hold: every write begins IMMEDIATE, so what was read is still true."""
    due = {await bench.accept() for _ in range(40)}
    given: list[EmailId] = []

    async def claim(storage: SqlStorage) -> None:
        leases = await storage.lease(rooms(a=2), size_budget=10**6, is_idle=True, deadline=1.0)
        given.extend(leased.email.id for leased in leases.items)

    async with (
        SqliteDatabase(sqlite_file(tmp_path), clock) as one,
        SqliteDatabase(sqlite_file(tmp_path), clock) as two,
        anyio.create_task_group() as claimers,
    ):
        for database in (one, two) * 10:
            storage = SqlStorage(database, new_policy(), next_id)
            claimers.start_soon(claim, storage)
    assert len(given) == 40
    assert set(given) == due


async def test_a_write_transaction_holds_the_file_before_it_reads(sql: SqlStorage, tmp_path: Path) -> None:
    def work(_connection: sa.Connection, _now: int) -> str:
        shell = sqlite3.connect(sqlite_file(tmp_path), timeout=0, isolation_level=None)
        try:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                shell.execute("BEGIN IMMEDIATE")
        finally:
            shell.close()
        return "held"

    assert await sql._database.write(work) == "held"


async def test_reading_does_not_wait_for_a_writer(bench: Bench, tmp_path: Path) -> None:
    email_id = await bench.accept()
    with held_by_a_shell(sqlite_file(tmp_path)), anyio.fail_after(2):
        assert await bench.status(email_id) == (Status.QUEUED, None)


async def test_a_read_sees_one_moment(bench: Bench, sql: SqlStorage, tmp_path: Path) -> None:
    email_id = await bench.accept()

    def work(connection: sa.Connection, _now: int) -> list[object]:
        statuses = sa.text("SELECT status FROM deliveries")
        first = connection.execute(statuses).scalar_one()
        with contextlib.closing(sqlite3.connect(sqlite_file(tmp_path), isolation_level=None)) as other:
            other.execute("UPDATE deliveries SET status = 'cancelled'")
        return [first, connection.execute(statuses).scalar_one()]

    assert await sql._database.read(work) == ["queued", "queued"]
    assert await bench.status(email_id) == (Status.CANCELLED, None)


async def test_lists_leave_readers_to_the_others(bench: Bench, sql: SqlStorage) -> None:
    """However many are asked for at once."""
    let_go = threading.Event()
    running: list[int] = []

    def work(_connection: sa.Connection, _now: int) -> None:
        running.append(1)
        let_go.wait()

    email_id = await bench.accept()
    async with anyio.create_task_group() as lists:
        for _ in range(24):
            lists.start_soon(sql._database.read, work, Priority.LOW)
        with anyio.fail_after(2):
            await bench.status(email_id)
            await bench.accept()
        assert len(running) <= LOW_READERS
        let_go.set()
    assert len(running) == 24


def statements_of(engine: sa.Engine) -> list[str]:
    """What it is asked from now on."""
    asked: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda _c, _k, statement, _p, _x, _m: asked.append(statement))
    return asked


async def test_the_content_is_not_even_read_unless_it_is_asked_for(bench: Bench, sql: SqlStorage) -> None:
    """Up to 30 MB, for an answer of a kilobyte."""
    email_id = await bench.accept()
    asked = statements_of(sql._database._reader.sync_engine)  # type: ignore[attr-defined]
    await sql.read(SHOP, email_id)
    assert not any("content" in statement for statement in asked)
    assert (await sql.read(SHOP, email_id, with_content=True)).email is not None


async def test_what_waits_is_counted_from_indexes_of_what_waits_only(sql: SqlStorage, tmp_path: Path) -> None:
    asked = statements_of(sql._database._reader.sync_engine)  # type: ignore[attr-defined]
    await sql.waiting()
    [statement] = [s for s in asked if "deliveries" in s]
    with contextlib.closing(sqlite3.connect(sqlite_file(tmp_path))) as shell:
        plan = shell.execute("EXPLAIN QUERY PLAN " + statement, [""] * statement.count("?")).fetchall()
    assert [step for *_, step in plan if "deliveries" in step] == [
        "SCAN deliveries USING COVERING INDEX deliveries_expiring",
        "SCAN deliveries USING INDEX deliveries_leased",
        "SCAN deliveries USING COVERING INDEX deliveries_drafts",
    ]


async def test_what_projects_hold_is_counted_from_indexes_of_just_that(sql: SqlStorage, tmp_path: Path) -> None:
    asked = statements_of(sql._database._reader.sync_engine)  # type: ignore[attr-defined]
    await sql.stored_bytes()
    [statement] = [s for s in asked if "deliveries" in s]
    with contextlib.closing(sqlite3.connect(sqlite_file(tmp_path))) as shell:
        plan = shell.execute("EXPLAIN QUERY PLAN " + statement, [""] * statement.count("?")).fetchall()
    assert [step for *_, step in plan if "deliveries" in step] == [
        "SCAN deliveries USING COVERING INDEX deliveries_expiring",
        "SCAN deliveries USING INDEX deliveries_leased",
        "SCAN deliveries USING COVERING INDEX deliveries_holding",
    ]


@pytest.mark.parametrize(
    ("index", "tests_only", "query"),
    [
        ("emails_project", False, {"tag": "a"}),
        ("deliveries_test", True, {"tag": "a"}),
        ("deliveries_aside", False, {"status": Status.HELD, "tag": "a"}),
        ("deliveries_aside", False, {"reason": Reason.DOUBT}),
        ("deliveries_waiting", False, {"status": Status.QUEUED}),
        ("deliveries_leased", False, {"status": Status.SENDING}),
        ("recipients_email", False, {"to": "ann@example.net"}),
        ("emails_reference", False, {"reference": "r", "provider": "a"}),
    ],
)
async def test_a_list_goes_through_the_index_that_holds_what_can_fit(
    sql: SqlStorage, tmp_path: Path, index: str, query: dict[str, Any], *, tests_only: bool
) -> None:
    asked = statements_of(sql._database._low_reader)  # type: ignore[attr-defined]
    await sql.list(Reach("shop", only_test=tests_only), ListQuery(**query))
    fitting = asked[-1]
    with contextlib.closing(sqlite3.connect(sqlite_file(tmp_path))) as shell:
        plan = shell.execute("EXPLAIN QUERY PLAN " + fitting, [1] * fitting.count("?")).fetchall()
    steps = [step for *_, step in plan if step.startswith(("SEARCH", "SCAN")) and "VIRTUAL" not in step]
    assert f" {index}" in steps[0]
    by_key = (index, "few", "all_there", "sqlite_autoindex_", "PRIMARY KEY")
    assert all(any(word in step for word in by_key) for step in steps[1:]), steps


async def test_the_claim_reads_only_the_index_of_what_waits(bench: Bench, sql: SqlStorage, tmp_path: Path) -> None:
    asked = statements_of(sql._database._writer)  # type: ignore[attr-defined]
    await bench.accept()
    await bench.accept(project="other")
    await sql.lease(rooms(a=1, b=1), size_budget=1, is_idle=True, deadline=1.0)
    known, lanes, due = [
        s for s in asked if s.startswith(("SELECT", "WITH")) and "deliveries" in s and "UPDATE" not in s
    ]
    shell = sqlite3.connect(sqlite_file(tmp_path))
    plans = {}
    for name, statement in (("known", known), ("lanes", lanes), ("due", due)):
        plan = shell.execute("EXPLAIN QUERY PLAN " + statement, [1] * statement.count("?")).fetchall()
        plans[name] = {
            step for *_, step in plan if step.startswith(("SEARCH", "SCAN deliv", "SCAN d ")) or "B-TREE" in step
        }
    shell.close()
    search = "SEARCH deliveries USING INDEX deliveries_waiting"
    assert plans["known"] == {
        f"{search.replace('deliveries', 'd', 1)} {on}" for on in ("(lane=? AND due_at>?)", "(lane>? AND lane<?)")
    }
    assert plans["lanes"] == {f"{search} (lane>? AND lane<?)", f"{search} (lane=?)"}
    assert plans["due"] == {f"{search} (lane=? AND due_at>? AND due_at<?)"}


# --- trouble ---------------------------------------------------------------------------------------------------------


async def fill_up(sql: SqlStorage, *, spare_pages: int) -> None:
    pages = (await run(sql, sa.text("PRAGMA page_count"))).scalar_one()
    await run(sql, sa.text(f"PRAGMA max_page_count = {pages + spare_pages}"))


async def test_a_full_disk_takes_nothing_half_and_works_again_after(bench: Bench, sql: SqlStorage) -> None:
    small = await bench.accept()
    await fill_up(sql, spare_pages=3)
    large = new_email(text="x" * 100_000, key="order-1")
    with pytest.raises(StorageUnavailable, match="the disk is full"):
        await bench.storage.accept(large)
    for table in ("emails", "deliveries"):
        assert (await run(sql, sa.text(f"SELECT count(*) FROM {table}"))).scalar_one() == 1
    assert (await run(sql, sa.text("SELECT count(*) FROM idempotency"))).scalar_one() == 0
    assert (await run(sql, sa.text("PRAGMA integrity_check"))).scalar_one() == "ok"
    await run(sql, sa.text("PRAGMA max_page_count = 1000000"))
    assert (await bench.storage.accept(large)).id == large.email.id
    assert await bench.status(small) == (Status.QUEUED, None)


async def test_outcomes_of_a_full_disk_are_written_later(bench: Bench, sql: SqlStorage) -> None:
    leased = await bench.leased()
    await fill_up(sql, spare_pages=0)
    outcome = ended(leased, Outcome.ACCEPTED, detail="x" * 100_000)
    with pytest.raises(StorageUnavailable, match="the disk is full"):
        await bench.storage.settle([outcome], {})
    assert await bench.status(leased) == (Status.SENDING, None)
    await run(sql, sa.text("PRAGMA max_page_count = 1000000"))
    assert (await bench.storage.settle([outcome], {})).lost == ()
    assert await bench.status(leased) == (Status.SENT, None)


async def test_a_file_that_another_program_holds_is_waited_for_and_no_longer(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
    async with bench_at(sqlite_file(tmp_path), clock) as bench:
        new = new_email()
        refused = pytest.raises(StorageUnavailable, match="another program holds the database")
        with held_by_a_shell(sqlite_file(tmp_path)), refused:
            await bench.storage.accept(new)
        assert (await bench.storage.accept(new)).id == new.email.id


@pytest.mark.parametrize(
    ("code", "becomes"),
    [
        ("SQLITE_BUSY", StorageUnavailable),
        ("SQLITE_BUSY_SNAPSHOT", StorageUnavailable),
        ("SQLITE_FULL", StorageUnavailable),
        ("SQLITE_CANTOPEN", StorageUnavailable),
        ("SQLITE_READONLY_DBMOVED", StorageUnavailable),
    ],
)
async def test_what_each_error_of_sqlite_means(
    bench: Bench, sql: SqlStorage, code: str, becomes: type[Exception]
) -> None:
    email_id = await bench.accept()

    def work(connection: sa.Connection, _now: int) -> None:
        connection.execute(sa.text("DELETE FROM emails"))
        error = sqlite3.OperationalError("made up")
        error.sqlite_errorname = code
        raise sa.exc.OperationalError("a statement", None, error)

    with pytest.raises(becomes) as caught:
        await sql._database.write(work)
    assert "a statement" not in str(caught.value)
    assert (await bench.read(email_id)).email is not None


@pytest.mark.parametrize("code", ["SQLITE_IOERR_FSYNC", "SQLITE_IOERR_WRITE", "SQLITE_CORRUPT", "SQLITE_NOTADB"])
async def test_a_broken_disk_ends_the_storage_whoever_met_it(tmp_path: Path, clock: FakeClock, code: str) -> None:
    def work(_connection: sa.Connection, _now: int) -> None:
        error = sqlite3.OperationalError("made up")
        error.sqlite_errorname = code
        raise sa.exc.OperationalError("a statement", None, error)

    with pytest.RaisesGroup(StorageBroken, flatten_subgroups=True):
        async with opened(sqlite_file(tmp_path), clock) as storage:
            with contextlib.suppress(StorageBroken):
                await storage._database.read(work)
            await anyio.sleep_forever()


async def lose_the_file(path: Path, clock: FakeClock) -> None:
    async with bench_at(path, clock) as bench:
        path.unlink()
        with pytest.raises(StorageBroken, match="removed or replaced"):
            await bench.accept()
        await anyio.sleep_forever()


async def test_a_removed_file_takes_no_email_and_ends_the_storage(tmp_path: Path, clock: FakeClock) -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        await lose_the_file(sqlite_file(tmp_path), clock)
    assert caught.value.split(StorageBroken)[1] is None


async def test_nobody_else_can_read_the_file(tmp_path: Path, clock: FakeClock) -> None:
    async with bench_at(sqlite_file(tmp_path), clock) as bench:
        await bench.accept()
        assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}


async def test_a_failed_sync_ends_the_storage(tmp_path: Path, clock: FakeClock) -> None:
    told: list[Exception] = []

    async def fail(_work: Any) -> Any:
        raise StorageBroken("the disk failed the database (SQLITE_IOERR_FSYNC)")

    with pytest.RaisesGroup(StorageBroken, flatten_subgroups=True):
        async with opened(sqlite_file(tmp_path), clock) as storage:
            storage._database.write = fail
            try:
                await storage.accept(new_email())
            except StorageBroken as error:
                told.append(error)
            await anyio.sleep_forever()
    assert len(told) <= 1


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path, clock: FakeClock) -> None:
    sqlite_file(tmp_path).write_bytes(b"not a database at all, only some text" * 100)
    with pytest.raises(ConfigError, match=r"HES_DATABASE_URL: .*hes\.db"):
        async with opened(sqlite_file(tmp_path), clock):
            pass


async def test_a_file_of_a_newer_version_is_refused(tmp_path: Path, clock: FakeClock) -> None:
    async with bench_at(sqlite_file(tmp_path), clock) as bench:
        await run(bench.storage, sa.text("UPDATE alembic_version SET version_num = '9999'"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"HES_DATABASE_URL: .*hes\.db"):
        async with opened(sqlite_file(tmp_path), clock):
            pass


@pytest.mark.parametrize("hands", [1, 3])
async def test_content_that_can_not_be_read_stops_no_other(
    bench: Bench, sql: SqlStorage, caplog: pytest.LogCaptureFixture, hands: int
) -> None:
    bad = [await bench.accept() for _ in range(5)]
    for email_id in bad:
        await spoil(sql, email_id)
    good = [await bench.accept() for _ in range(3)]
    given: list[EmailId] = []
    for _ in range(3):
        given += [leased.email.id for leased in (await bench.give_out(rooms(a=hands))).items]
    assert given == good
    assert all(email_id in caplog.text for email_id in bad)
    assert (await sql.read(SHOP, bad[0])).delivery.status is Status.QUEUED


# --- groups ----------------------------------------------------------------------------------------------------------


async def test_concurrent_accepts_share_transactions(sql: SqlStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = count_writes(sql, monkeypatch)
    news = [new_email() for _ in range(150)]
    assert await accept_all(sql, news) == [Accepted(new.email.id, Status.QUEUED, NOW) for new in news]
    assert len(writes) <= 2


async def test_twins_in_one_group_do_not_make_it_fail(sql: SqlStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = count_writes(sql, monkeypatch)
    answers = await accept_all(sql, [new_email(key="order-1") for _ in range(50)])
    assert len(set(map(repr, answers))) == 1
    assert len(writes) <= 2


async def test_one_bad_email_harms_none_of_its_group(bench: Bench, sql: SqlStorage) -> None:
    twin = new_email()
    await bench.storage.accept(twin)
    unwritable = new_email(subject="\ud800")
    neighbours = [new_email(key=f"k{n}") for n in range(6)]
    answers = await accept_all(sql, [*neighbours[:3], twin, unwritable, *neighbours[3:]])
    assert [isinstance(answer, Exception) for answer in answers] == [False] * 3 + [True] * 2 + [False] * 3
    for neighbour in neighbours:
        assert (await bench.read(neighbour.email.id)).email == neighbour.email


async def test_a_bad_emails_key_is_not_used_up(bench: Bench, sql: SqlStorage) -> None:
    answers = await accept_all(sql, [new_email(subject="\ud800", key="k"), new_email()])
    assert isinstance(answers[0], Exception)
    good = new_email(key="k", request=b"another")
    assert (await bench.storage.accept(good)).id == good.email.id


async def test_a_caller_who_goes_away_in_the_middle_harms_nobody(bench: Bench, sql: SqlStorage) -> None:
    news = [new_email() for _ in range(20)]
    answers: dict[EmailId, Accepted | Exception] = {}
    async with anyio.create_task_group() as patient, anyio.create_task_group() as impatient:
        for n, new in enumerate(news):
            (impatient if n % 2 else patient).start_soon(submit, sql, new, answers)
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        impatient.cancel_scope.cancel()
    assert answers.keys() == {new.email.id for new in news[::2]}
    assert not [answer for answer in answers.values() if isinstance(answer, Exception)]
    for new in news[::2]:
        assert (await bench.read(new.email.id)).email == new.email
    await bench.accept()


async def test_a_caller_who_goes_away_leaves_no_transaction_open(bench: Bench) -> None:
    leased = await bench.leased()
    async with anyio.create_task_group() as calls:
        calls.start_soon(bench.storage.settle, [ended(leased, Outcome.ACCEPTED)], {})
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        calls.cancel_scope.cancel()
    assert await bench.status(leased) == (Status.SENT, None), "what was begun is done"
    await bench.accept()


async def test_closing_answers_whoever_still_waits(tmp_path: Path, clock: FakeClock) -> None:
    answers: dict[EmailId, Accepted | Exception] = {}
    news = [new_email() for _ in range(250)]
    with anyio.fail_after(5):
        async with anyio.create_task_group() as callers, opened(sqlite_file(tmp_path), clock) as storage:
            for new in news:
                callers.start_soon(submit, storage, new, answers)
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
    assert len(answers) == 250
    async with bench_at(sqlite_file(tmp_path), clock) as bench:
        for new in news:
            if isinstance(answers[new.email.id], Accepted):
                assert await bench.status(new.email.id) == (Status.QUEUED, None)
