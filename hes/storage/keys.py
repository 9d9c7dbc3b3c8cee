"""API keys in a SQL database: plain queries beside the queue. See `hes.storage.key_records` for what they promise."""

from collections.abc import Mapping, Sequence

import msgspec
import sqlalchemy as sa

from hes.errors import NotFound
from hes.ids import NewId
from hes.model import Millis
from hes.storage import tables
from hes.storage.batches import Insert, padded
from hes.storage.database import Database, Priority
from hes.storage.key_records import NewKey, StoredKey

_key = tables.api_keys.c
_insert_project = Insert(tables.projects, "ON CONFLICT DO NOTHING")
_decode_words = msgspec.json.Decoder(tuple[str, ...]).decode


class KeyStore:
    """`hes.storage.key_records.Keys` over a SQL database."""

    def __init__(self, database: Database, new_id: NewId) -> None:
        self._database = database
        self._new_id = new_id

    async def create(self, new: NewKey, by: str) -> StoredKey:
        def work(connection: sa.Connection, now: Millis) -> StoredKey:
            _ensure_project(connection, new.project, now)
            key = StoredKey(**msgspec.structs.asdict(new), created_at=now)
            connection.execute(sa.insert(tables.api_keys), _row_of(key))
            self._audit(connection, key, now, by, "key.created")
            return key

        return await self._database.write(work)

    async def page(self, project: str | None, most: int, before: str | None, *, only_test: bool) -> list[StoredKey]:
        newest_first = _of_project(sa.select(tables.api_keys), project).order_by(_key.id.desc()).limit(most)
        if only_test:
            newest_first = newest_first.where(_key.test)
        if before is not None:
            newest_first = newest_first.where(_key.id < before)
        return await self._database.read(
            lambda connection, _: [_key_of(row) for row in connection.execute(newest_first)]
        )

    async def find(self, key_ids: Sequence[str]) -> dict[str, StoredKey]:
        these = sa.select(tables.api_keys).where(_key.id.in_(padded(key_ids)))
        return await self._database.read(
            lambda connection, _: {row.id: _key_of(row) for row in connection.execute(these)},
            Priority.HIGH,
        )

    async def revoke(self, project: str | None, key_id: str, by: str) -> StoredKey:
        def work(connection: sa.Connection, now: Millis) -> StoredKey:
            key = _lock(connection, project, key_id)
            if key is None:
                raise NotFound(f"there is no key {key_id[:64]!r}")
            if key.revoked_at is not None:
                return key
            connection.execute(sa.update(tables.api_keys).where(_key.id == key_id).values(revoked_at=now))
            self._audit(connection, key, now, by, "key.revoked")
            return msgspec.structs.replace(key, revoked_at=now)

        return await self._database.write(work)

    async def note_uses(self, used_at: Mapping[str, Millis]) -> None:
        # Several processes write; the latest use stays.
        is_later = sa.or_(_key.last_used_at.is_(None), _key.last_used_at < sa.bindparam("used_at"))
        note = (
            sa.update(tables.api_keys)
            .where(_key.id == sa.bindparam("key_id"), is_later)
            .values(last_used_at=sa.bindparam("used_at"))
        )
        # In the order of keys: two processes that note the same ones must not lock them crosswise.
        rows = [{"key_id": key_id, "used_at": at} for key_id, at in sorted(used_at.items())]

        def work(connection: sa.Connection, _now: Millis) -> None:
            connection.execute(note, rows)

        if rows:
            await self._database.write(work)

    async def has_admin(self) -> bool:
        def work(connection: sa.Connection, now: Millis) -> bool:
            lasts = sa.or_(_key.expires_at.is_(None), _key.expires_at > now)
            usable = sa.select(_key.scopes).where(_key.project == "default", _key.revoked_at.is_(None), lasts)
            return any("admin" in _decode_words(scopes) for scopes in connection.execute(usable).scalars())

        return await self._database.read(work)

    def _audit(self, connection: sa.Connection, key: StoredKey, now: Millis, by: str, action: str) -> None:
        told = {"name": key.name, "scopes": key.scopes, "sender_domains": key.sender_domains, "test": key.test}
        row = {
            "id": self._new_id(),
            "project": key.project,
            "at": now,
            "actor": by,
            "action": action,
            "object": key.id,
            "data": _json(told),
        }
        connection.execute(sa.insert(tables.audit), row)


def _ensure_project(connection: sa.Connection, project: str, now: Millis) -> None:
    _insert_project.run(connection, [(project, now)])


def _of_project(select: sa.Select[tuple[object, ...]], project: str | None) -> sa.Select[tuple[object, ...]]:
    return select if project is None else select.where(_key.project == project)


def _lock(connection: sa.Connection, project: str | None, key_id: str) -> StoredKey | None:
    select = _of_project(sa.select(tables.api_keys), project).where(_key.id == key_id)
    row = connection.execute(select.with_for_update()).one_or_none()
    return None if row is None else _key_of(row)


def _row_of(key: StoredKey) -> dict[str, object]:
    row = msgspec.structs.asdict(key)
    row["secret_hash"] = row.pop("digest")
    return row | {"scopes": _json(key.scopes), "sender_domains": _json(key.sender_domains)}


def _key_of(row: sa.Row[tuple[object, ...]]) -> StoredKey:
    return StoredKey(
        id=row.id,
        project=row.project,
        name=row.name,
        digest=row.secret_hash,
        scopes=_decode_words(row.scopes),
        sender_domains=_decode_words(row.sender_domains),
        rate_per_second=row.rate_per_second,
        expires_at=row.expires_at,
        test=row.test,
        created_at=row.created_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )


def _json(value: Sequence[str] | Mapping[str, object]) -> str:
    return msgspec.json.encode(value).decode()
