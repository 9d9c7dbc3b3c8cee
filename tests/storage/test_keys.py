"""API keys in storage: kept without the key itself, revoked for good, each change in the audit."""

from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from hes.errors import NotFound
from hes.storage import tables
from hes.storage.key_records import NewKey, StoredKey
from hes.storage.sql import SqlStorage
from tests.storage.harness import NOW, FakeClock, next_id, only_sql

pytestmark = only_sql


def a_key(project: str = "shop", **fields: Any) -> NewKey:
    known = {"name": "checkout", "digest": b"d" * 32, "scopes": ("emails:send", "emails:read")}
    return NewKey(**({"id": next_id(), "project": project} | known | fields))


async def rows_of(sql: SqlStorage, table: sa.Table) -> list[dict[str, Any]]:
    def work(connection: sa.Connection, _now: int) -> list[dict[str, Any]]:
        return [dict(row) for row in connection.execute(sa.select(table)).mappings()]

    return await sql._database.read(work)


async def test_a_key_is_found_as_it_was_kept(sql: SqlStorage) -> None:
    full = a_key(sender_domains=("example.com", "b.example"), rate_per_second=2.5, expires_at=NOW + 9, test=True)
    for new in (full, a_key()):
        stored = await sql.keys.create(new, "bootstrap")
        assert stored == StoredKey(**msgspec.structs.asdict(new), created_at=NOW)
        assert await sql.keys.find([new.id]) == {new.id: stored}
    assert await sql.keys.find([next_id(), ""]) == {}


async def test_several_keys_are_found_at_once(sql: SqlStorage) -> None:
    keys = [await sql.keys.create(a_key(), "bootstrap") for _ in range(3)]
    for some in (keys, keys[:2], keys[:1]):
        ids = [key.id for key in some]
        assert await sql.keys.find([*ids, next_id()]) == dict(zip(ids, some, strict=True))


async def test_keys_are_listed_by_project_and_newest_first(sql: SqlStorage) -> None:
    first, second, other = [await sql.keys.create(a_key(name), "b") for name in ("shop", "shop", "other")]
    assert await sql.keys.page("shop", 9, None, only_test=False) == [second, first]
    assert await sql.keys.page("other", 9, None, only_test=False) == [other]
    assert await sql.keys.page("nobody's", 9, None, only_test=False) == []
    assert await sql.keys.page(None, 9, None, only_test=False) == [other, second, first]
    assert await sql.keys.page(None, 1, None, only_test=False) == [other]
    assert await sql.keys.page(None, 1, other.id, only_test=False) == [second]
    assert await sql.keys.page("shop", 9, second.id, only_test=False) == [first]


async def test_a_project_is_made_once_by_its_first_key(sql: SqlStorage, clock: FakeClock) -> None:
    for project in ("shop", "shop", "other"):
        await sql.keys.create(a_key(project), "b")
        clock.advance(1)
    assert {row["id"]: row["created_at"] for row in await rows_of(sql, tables.projects)} == {
        "shop": NOW,
        "other": NOW + 2000,
    }


async def test_a_revoked_key_stays_so_from_the_first_time_on(sql: SqlStorage, clock: FakeClock) -> None:
    key = await sql.keys.create(a_key(), "b")
    clock.advance(1)
    revoked = await sql.keys.revoke("shop", key.id, "b")
    assert revoked == msgspec.structs.replace(key, revoked_at=NOW + 1000)
    clock.advance(1)
    assert await sql.keys.revoke(None, key.id, "b") == revoked
    assert await sql.keys.find([key.id]) == {key.id: revoked}


async def test_another_projects_key_is_not_there_to_revoke(sql: SqlStorage) -> None:
    key = await sql.keys.create(a_key("other"), "b")
    for project, key_id in (("shop", key.id), ("shop", next_id()), (None, next_id())):
        with pytest.raises(NotFound):
            await sql.keys.revoke(project, key_id, "b")
    assert await sql.keys.find([key.id]) == {key.id: key}


async def test_the_audit_tells_who_made_and_who_revoked_a_key(sql: SqlStorage, clock: FakeClock) -> None:
    key = await sql.keys.create(a_key(), "bootstrap")
    clock.advance(1)
    for who in ("k1", "k2"):
        await sql.keys.revoke("shop", key.id, who)
    made, revoked = sorted(await rows_of(sql, tables.audit), key=lambda row: row["id"])
    assert [(row["action"], row["actor"], row["at"]) for row in (made, revoked)] == [
        ("key.created", "bootstrap", NOW),
        ("key.revoked", "k1", NOW + 1000),
    ]
    assert {(row["project"], row["object"]) for row in (made, revoked)} == {("shop", key.id)}
    assert msgspec.json.decode(made["data"]) == {
        "name": "checkout",
        "scopes": ["emails:send", "emails:read"],
        "sender_domains": [],
        "test": False,
    }


async def test_the_latest_use_stays(sql: SqlStorage) -> None:
    one, two, unused = [await sql.keys.create(a_key(), "b") for _ in range(3)]
    await sql.keys.note_uses({one.id: NOW + 5, two.id: NOW + 1})
    await sql.keys.note_uses({one.id: NOW + 3, two.id: NOW + 2, next_id(): NOW})
    await sql.keys.note_uses({})
    found = await sql.keys.find([one.id, two.id, unused.id])
    assert [found[key.id].last_used_at for key in (one, two, unused)] == [NOW + 5, NOW + 2, None]


@pytest.mark.parametrize(
    ("fields", "can"),
    [
        ({"project": "default", "scopes": ("emails:send", "admin")}, True),
        ({"project": "default", "scopes": ("admin",), "expires_at": NOW + 1}, True),
        ({"project": "default", "scopes": ("admin",), "expires_at": NOW}, False),
        ({"project": "shop", "scopes": ("admin",)}, False),
        ({"project": "default"}, False),
    ],
)
async def test_whether_a_key_can_make_others(sql: SqlStorage, fields: dict[str, Any], *, can: bool) -> None:
    assert not await sql.keys.has_admin()
    key = await sql.keys.create(a_key(**fields), "b")
    assert await sql.keys.has_admin() == can
    await sql.keys.revoke(None, key.id, "b")
    assert not await sql.keys.has_admin()
