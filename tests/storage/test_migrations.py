"""The schema's history: forward, back, and forward again, with and without data."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from hes.errors import StorageUnavailable
from hes.storage import migrations
from hes.storage.sql import SqlStorage
from hes.storage.sqlite import sync_engine
from hes.storage.tables import metadata
from tests.storage.harness import Bench, only_sql, run, sqlite_file

HISTORY = ScriptDirectory(str(Path(migrations.__file__).parent))
REVISIONS = [revision.revision for revision in HISTORY.walk_revisions()][::-1]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = sync_engine(sqlite_file(tmp_path))
    yield engine
    engine.dispose()


def tables_of(engine: sa.Engine) -> set[str]:
    return set(sa.inspect(engine).get_table_names()) - {"alembic_version"}


def definitions(engine: sa.Engine) -> dict[str, str]:
    """What SQLite was told to create, by name, without regard to blanks and quotes."""
    with engine.connect() as connection:
        found = connection.execute(sa.text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
        return {name: re.sub(r'[\s"]+', " ", sql).strip() for name, sql in found if name != "alembic_version"}


def test_there_is_one_head_and_it_is_the_version_that_is_asked_for() -> None:
    assert HISTORY.get_heads() == [migrations.SCHEMA_VERSION]
    assert HISTORY.get_bases() == REVISIONS[:1]


def test_an_empty_database_has_no_revision(engine: sa.Engine) -> None:
    assert migrations.current(engine) is None


def test_upgraded_it_is_what_the_tables_say(engine: sa.Engine) -> None:
    migrations.upgrade(engine)
    assert migrations.current(engine) == migrations.SCHEMA_VERSION
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_upgraded_it_is_also_what_comparing_does_not_see(engine: sa.Engine, tmp_path: Path) -> None:
    """Key order, WITHOUT ROWID, and the conditions of partial indexes."""
    migrations.upgrade(engine)
    fresh = sync_engine(tmp_path / "fresh.db")
    metadata.create_all(fresh)
    upgraded, created = definitions(engine), definitions(fresh)
    fresh.dispose()
    assert upgraded.keys() == created.keys()
    for name in created:
        assert sorted(re.split(r"[ ,]+", upgraded[name])) == sorted(re.split(r"[ ,]+", created[name])), name


@pytest.mark.parametrize(
    "name", [t.name for t in metadata.sorted_tables if not t.dialect_options["sqlite"]["with_rowid"]]
)
def test_narrow_tables_are_without_rowid(engine: sa.Engine, name: str) -> None:
    migrations.upgrade(engine)
    assert definitions(engine)[name].endswith("WITHOUT ROWID")


@pytest.mark.parametrize(
    ("index", "condition"),
    [
        ("deliveries_waiting", "WHERE status IN ('scheduled', 'queued')"),
        ("deliveries_leased", "WHERE status = 'sending'"),
        ("deliveries_expiring", "WHERE status IN ('scheduled', 'queued', 'in_doubt')"),
        ("webhook_deliveries_waiting", "WHERE status = 'queued'"),
    ],
)
def test_queues_are_indexed_by_what_waits_only(engine: sa.Engine, index: str, condition: str) -> None:
    migrations.upgrade(engine)
    assert definitions(engine)[index].endswith(condition)


def test_upgrading_again_changes_nothing(engine: sa.Engine) -> None:
    migrations.upgrade(engine)
    before = definitions(engine)
    migrations.upgrade(engine)
    assert definitions(engine) == before


@pytest.mark.parametrize("revision", REVISIONS)
def test_each_revision_goes_forward_back_and_forward(engine: sa.Engine, revision: str) -> None:
    below = HISTORY.get_revision(revision).down_revision
    below = below if isinstance(below, str) else "base"
    if below != "base":
        migrations.upgrade(engine, below)
    before = definitions(engine)
    migrations.upgrade(engine, revision)
    after = definitions(engine)
    migrations.downgrade(engine, below)
    assert definitions(engine) == before
    migrations.upgrade(engine, revision)
    assert definitions(engine) == after


def test_back_to_the_base_nothing_is_left(engine: sa.Engine) -> None:
    migrations.upgrade(engine)
    migrations.downgrade(engine, "base")
    assert (migrations.current(engine), tables_of(engine)) == (None, set())


@only_sql
async def test_with_data_it_goes_back_to_the_base_and_up_again(bench: Bench, sql: SqlStorage, tmp_path: Path) -> None:
    await bench.settle(await bench.leased(key="order-1"), None)
    engine = sync_engine(sqlite_file(tmp_path))
    try:
        migrations.downgrade(engine, "base")
        migrations.upgrade(engine)
    finally:
        engine.dispose()
    await sql.check()
    assert (await bench.leased(key="order-1")).number == 1, "the key went with the tables"


@only_sql
async def test_upgrading_keeps_the_data(bench: Bench, tmp_path: Path) -> None:
    leased = await bench.leased(key="order-1")
    before = await bench.read(leased)
    engine = sync_engine(sqlite_file(tmp_path))
    try:
        migrations.upgrade(engine)
    finally:
        engine.dispose()
    assert await bench.read(leased) == before


@only_sql
@pytest.mark.parametrize(
    "statement",
    ["UPDATE alembic_version SET version_num = '0000'", "DELETE FROM alembic_version"],
)
async def test_another_schema_is_refused_by_the_check(sql: SqlStorage, statement: str) -> None:
    await sql.check()
    await run(sql, sa.text(statement))
    with pytest.raises(StorageUnavailable, match=migrations.SCHEMA_VERSION):
        await sql.check()
