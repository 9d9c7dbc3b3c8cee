"""The schema's history: forward, back, and forward again, with and without data."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from hes.errors import StorageUnavailable
from hes.storage import migrations
from hes.storage.postgres import PostgresUrl, run_schema
from hes.storage.sql import SqlStorage
from hes.storage.sqlite import schema
from hes.storage.tables import metadata
from tests import postgres
from tests.storage.harness import SHOP, Bench, Kind, erase, only_sql, run, sqlite_file

T = TypeVar("T")

HISTORY = ScriptDirectory(str(Path(migrations.__file__).parent))
REVISIONS = [revision.revision for revision in HISTORY.walk_revisions()][::-1]


class Schema:
    """A database's schema, empty at first."""

    def run(self, work: Callable[[sa.Connection], T]) -> T:
        raise NotImplementedError

    def upgrade(self, revision: str = "head") -> None:
        self.run(lambda connection: migrations.upgrade(connection, revision))

    def downgrade(self, revision: str) -> None:
        self.run(lambda connection: migrations.downgrade(connection, revision))

    def definitions(self) -> dict[str, str]:
        """What there is, by name, in the database's words."""
        raise NotImplementedError


class SqliteSchema(Schema):
    def __init__(self, path: Path) -> None:
        self._path = path

    def run(self, work: Callable[[sa.Connection], T]) -> T:
        with schema(self._path) as connection:
            return work(connection)

    def definitions(self) -> dict[str, str]:
        def work(connection: sa.Connection) -> dict[str, str]:
            found = connection.execute(sa.text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
            return {name: re.sub(r'[\s"]+', " ", sql).strip() for name, sql in found if name != "alembic_version"}

        return self.run(work)


class PostgresSchema(Schema):
    def __init__(self, url: str) -> None:
        self._url = PostgresUrl(url)

    def run(self, work: Callable[[sa.Connection], T]) -> T:
        return postgres.in_thread(run_schema(self._url, work))

    def definitions(self) -> dict[str, str]:
        return self.run(postgres.schema_of)


@pytest.fixture
def sqlite(tmp_path: Path) -> SqliteSchema:
    return SqliteSchema(sqlite_file(tmp_path))


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, sqlite: SqliteSchema) -> Iterator[Schema]:
    if request.param == "sqlite":
        yield sqlite
        return
    with postgres.empty_database() as url:
        yield PostgresSchema(url)


def tables_of(connection: sa.Connection) -> set[str]:
    return set(sa.inspect(connection).get_table_names()) - {"alembic_version"}


def test_there_is_one_head_and_it_is_the_version_that_is_asked_for() -> None:
    assert HISTORY.get_heads() == [migrations.SCHEMA_VERSION]
    assert HISTORY.get_bases() == REVISIONS[:1]


def test_an_empty_database_has_no_revision(database: Schema) -> None:
    assert database.run(migrations.current) is None


def test_upgraded_it_is_what_the_tables_say(database: Schema) -> None:
    database.upgrade()
    assert database.run(migrations.current) == migrations.SCHEMA_VERSION
    assert database.run(lambda c: compare_metadata(MigrationContext.configure(c), metadata)) == []


def test_upgraded_it_is_also_what_comparing_does_not_see(database: Schema, tmp_path: Path) -> None:
    """Key order, the conditions of partial indexes, WITHOUT ROWID; collations and storage parameters."""
    database.upgrade()
    upgraded = database.definitions()
    database.downgrade("base")
    database.run(_create_all)
    created = database.definitions()
    assert upgraded.keys() == created.keys()
    for name in created:
        assert sorted(re.split(r"[ ,]+", upgraded[name])) == sorted(re.split(r"[ ,]+", created[name])), name


def _create_all(connection: sa.Connection) -> None:
    metadata.create_all(connection)
    connection.commit()


@pytest.mark.parametrize(
    "name", [t.name for t in metadata.sorted_tables if not t.dialect_options["sqlite"]["with_rowid"]]
)
def test_narrow_tables_are_without_rowid(sqlite: SqliteSchema, name: str) -> None:
    sqlite.upgrade()
    assert sqlite.definitions()[name].endswith("WITHOUT ROWID")


@pytest.mark.parametrize(
    ("index", "condition"),
    [
        ("deliveries_waiting", "WHERE status IN ('scheduled', 'queued')"),
        ("deliveries_leased", "WHERE status = 'sending'"),
        ("deliveries_expiring", "WHERE status IN ('scheduled', 'queued', 'in_doubt')"),
        ("deliveries_drafts", "WHERE status = 'draft'"),
        ("deliveries_holding", "WHERE status IN ('draft', 'failed', 'cancelled') AND size_bytes > 0"),
        ("webhook_deliveries_waiting", "WHERE status = 'queued'"),
    ],
)
def test_queues_are_indexed_by_what_waits_only(sqlite: SqliteSchema, index: str, condition: str) -> None:
    sqlite.upgrade()
    assert sqlite.definitions()[index].endswith(condition)


def test_upgrading_again_changes_nothing(database: Schema) -> None:
    database.upgrade()
    before = database.definitions()
    database.upgrade()
    assert database.definitions() == before


@pytest.mark.parametrize("revision", REVISIONS)
def test_each_revision_goes_forward_back_and_forward(database: Schema, revision: str) -> None:
    below = HISTORY.get_revision(revision).down_revision
    below = below if isinstance(below, str) else "base"
    if below != "base":
        database.upgrade(below)
    before = database.definitions()
    database.upgrade(revision)
    after = database.definitions()
    database.downgrade(below)
    assert _unnumbered(database.definitions()) == _unnumbered(before)
    database.upgrade(revision)
    assert _unnumbered(database.definitions()) == _unnumbered(after)


def _unnumbered(definitions: dict[str, str]) -> dict[str, str]:
    """A column that went and came again stands behind the others in Postgres: that is all the same to us."""
    return {name: re.sub(r"^\d+ ", "", text) for name, text in definitions.items()}


def test_back_to_the_base_nothing_is_left(database: Schema) -> None:
    database.upgrade()
    database.downgrade("base")
    assert (database.run(migrations.current), database.run(tables_of)) == (None, set())


def test_many_may_upgrade_at_once() -> None:
    """As the pods of a roll-out do: one does the work, the others find it done."""
    with postgres.empty_database() as url:
        command = [sys.executable, "-m", "hes", "db", "upgrade", "--database-url", url]
        pods = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
        told = [pod.communicate(timeout=60)[0] for pod in pods]
        assert [pod.returncode for pod in pods] == [0] * 4
        assert told == [f"schema {migrations.SCHEMA_VERSION}\n"] * 4


@only_sql
async def test_with_data_it_goes_back_to_the_base_and_up_again(
    bench: Bench, sql: SqlStorage, kind: Kind, tmp_path: Path
) -> None:
    await bench.settle(await bench.leased(key="order-1"), None)
    await kind.on_schema(sql, tmp_path, lambda connection: migrations.downgrade(connection, "base"))
    await kind.on_schema(sql, tmp_path, migrations.upgrade)
    await sql.check()
    assert (await bench.leased(key="order-1")).number == 1, "the key went with the tables"


@only_sql
async def test_upgrading_keeps_the_data(bench: Bench, sql: SqlStorage, kind: Kind, tmp_path: Path) -> None:
    leased = await bench.leased(key="order-1")
    before = await bench.read(leased)
    await kind.on_schema(sql, tmp_path, migrations.upgrade)
    assert await bench.read(leased) == before


@only_sql
async def test_what_was_erased_before_its_bytes_were_counted_holds_none(
    bench: Bench, sql: SqlStorage, kind: Kind, tmp_path: Path
) -> None:
    erased, kept = await bench.accept(), await bench.accept()
    for email_id in (erased, kept):
        await bench.storage.cancel(SHOP, email_id)
    await erase(sql, erased)
    before = await sql.stored_bytes()
    await kind.on_schema(sql, tmp_path, lambda connection: migrations.downgrade(connection, "0008"))
    await kind.on_schema(sql, tmp_path, migrations.upgrade)
    assert before["shop"] == 2 * (await sql.stored_bytes())["shop"]
    assert (await bench.read(kept)).delivery.size_bytes > 0


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
