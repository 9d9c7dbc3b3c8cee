"""What is outside a reach is not found, left out and left alone, by every verb for emails that are there."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from hes.errors import KeyReused, NotFound
from hes.model import Address, Decision, EmailId, OnDoubt, Outcome
from hes.storage import migrations
from hes.storage.records import Accepted, BatchItem, IdempotencyKey, ListQuery, NewEmail, Reach
from hes.storage.sql import SqlStorage
from hes.storage.storage import Storage
from tests.storage.harness import SHOP, Bench, Kind, new_email, only_sql, run

SHOPS_TESTS = Reach("shop", only_test=True)
BOUND = Reach("shop", sender_domains=("example.net", "example.org"))

EMAILS: dict[str, NewEmail] = {
    "live": new_email(),
    "test": replace(new_email(), is_test=True),
    "live, of the domain": new_email(sender=Address("a@Example.net")),
    "test, of the domain": replace(new_email(sender=Address("a@example.net")), is_test=True),
    "of the blog": new_email(project="blog"),
}
WITHIN: dict[str, tuple[Reach, set[str]]] = {
    "the project": (SHOP, {"live", "test", "live, of the domain", "test, of the domain"}),
    "its tests": (SHOPS_TESTS, {"test", "test, of the domain"}),
    "its domain": (BOUND, {"live, of the domain", "test, of the domain"}),
    "its tests of the domain": (replace(BOUND, only_test=True), {"test, of the domain"}),
    "another project": (Reach("blog"), {"of the blog"}),
    "nobody's": (Reach("blog", only_test=True), set()),
}
each_reach = pytest.mark.parametrize("reach", WITHIN)

Verb = Callable[[Any, Reach, NewEmail], Awaitable[object]]

VERBS: dict[str, Verb] = {
    "read": lambda storage, reach, new: storage.read(reach, new.email.id),
    "send": lambda storage, reach, new: storage.send(reach, new.email.id, None),
    "cancel": lambda storage, reach, new: storage.cancel(reach, new.email.id),
}
SQL_VERBS: dict[str, Verb] = {
    "edit": lambda storage, reach, new: storage.edit(reach, new, 1),
    "erase": lambda storage, reach, new: storage.erase(reach, new.email.id),
}


def made(which: str, **fields: Any) -> NewEmail:
    """Such an email, with an id of its own, as a draft."""
    pattern = EMAILS[which]
    new = new_email(project=pattern.email.project, sender=pattern.email.sender)
    return replace(new, is_test=pattern.is_test, is_draft=True, **fields)


async def found_by(verb: Verb, storage: Storage, reach: Reach) -> set[str]:
    """Of which emails it says that they are there; the others it leaves as they were."""
    found, told = set(), set()
    for which in EMAILS:
        new = made(which)
        await storage.accept(new)
        everything = Reach(new.email.project)
        before = await storage.read(everything, new.email.id)
        try:
            await verb(storage, reach, new)
        except NotFound as error:
            told.add(error.detail.replace(new.email.id, "nobody"))
            assert await storage.read(everything, new.email.id) == before
        else:
            found.add(which)
    with pytest.raises(NotFound) as unknown:
        await storage.read(reach, EmailId("nobody"))
    assert told <= {unknown.value.detail}
    return found


@each_reach
@pytest.mark.parametrize("verb", VERBS)
async def test_what_is_outside_is_not_found_and_stays(storage: Storage, reach: str, verb: str) -> None:
    within, expected = WITHIN[reach]
    assert await found_by(VERBS[verb], storage, within) == expected


@only_sql
@each_reach
@pytest.mark.parametrize("verb", SQL_VERBS)
async def test_what_is_outside_can_neither_be_edited_nor_erased(sql: SqlStorage, reach: str, verb: str) -> None:
    within, expected = WITHIN[reach]
    assert await found_by(SQL_VERBS[verb], sql, within) == expected


async def test_what_is_held_outside_is_not_resolved(bench: Bench) -> None:
    leased = await bench.leased(on_doubt=OnDoubt.WAIT)
    await bench.settle(leased, Outcome.IN_DOUBT)
    for reach in (SHOPS_TESTS, BOUND):
        with pytest.raises(NotFound):
            await bench.storage.resolve(reach, leased.email.id, Decision.SENT, "ann")
    await bench.storage.resolve(SHOP, leased.email.id, Decision.SENT, "ann")


@only_sql
async def test_what_is_scheduled_outside_gets_no_other_time(bench: Bench, sql: SqlStorage) -> None:
    new = replace(new_email(), send_at=bench.clock() + 60_000)
    await sql.accept(new)
    for reach in (SHOPS_TESTS, BOUND):
        with pytest.raises(NotFound):
            await sql.reschedule(reach, new.email.id, bench.clock() + 90_000, 7)
    await sql.reschedule(SHOP, new.email.id, bench.clock() + 90_000, 1)


@only_sql
@each_reach
async def test_lists_and_filters_leave_out_what_is_outside(sql: SqlStorage, reach: str) -> None:
    within, expected = WITHIN[reach]
    names: dict[str, str] = {}
    for which in [*EMAILS, *EMAILS]:
        names[(new := made(which, reference="r")).email.id] = which
        await sql.accept(new)
    listed: list[str] = []
    query = ListQuery(limit=1, reference="r")
    while (page := await sql.list(within, query)).emails:
        listed += [one.delivery.email_id for one in page.emails]
        query = replace(query, before=page.emails[-1].delivery.email_id)
        assert (page.behind is not None) == (len(listed) < 2 * len(expected))
    assert sorted(names[one] for one in listed) == sorted([*expected, *expected])
    assert listed == sorted(listed, reverse=True)
    many = await sql.cancel_many(within, ListQuery(limit=100))
    assert (many.changed, many.skipped, many.behind) == (2 * len(expected), 0, None)
    for email_id, which in names.items():
        stored = await sql.read(Reach(EMAILS[which].email.project), EmailId(email_id))
        assert stored.delivery.status == ("cancelled" if email_id in listed else "draft")


@only_sql
async def test_of_many_only_those_within_are_resolved(bench: Bench, sql: SqlStorage) -> None:
    leased = await bench.leased(on_doubt=OnDoubt.WAIT)
    await bench.settle(leased, Outcome.IN_DOUBT)
    for reach, changed in ((SHOPS_TESTS, 0), (BOUND, 0), (SHOP, 1)):
        assert (await sql.resolve_many(reach, ListQuery(), Decision.SENT, "ann")).changed == changed


@only_sql
async def test_an_erased_email_stays_within_the_reach_of_its_domain(sql: SqlStorage) -> None:
    new = made("live, of the domain")
    await sql.accept(new)
    await sql.erase(BOUND, new.email.id)
    assert (await sql.read(BOUND, new.email.id)).sender.email == ""
    assert len((await sql.list(BOUND, ListQuery())).emails) == 1


# --- idempotency keys ------------------------------------------------------------------------------------------------


async def test_test_emails_have_idempotency_keys_of_their_own(storage: Storage) -> None:
    live, test = new_email(key="7", request=b"live"), replace(new_email(key="7", request=b"test"), is_test=True)
    answers = [await storage.accept(new) for new in (live, test)]
    assert [one.id for one in answers] == [live.email.id, test.email.id]
    again = [await storage.accept(replace(new, email=new_email().email)) for new in (live, test)]
    assert again == answers
    for new, other in ((live, b"test"), (test, b"live")):
        with pytest.raises(KeyReused):
            await storage.accept(replace(new, key=IdempotencyKey("7", other)))


@only_sql
async def test_a_batch_of_tests_has_idempotency_keys_of_its_own(sql: SqlStorage) -> None:
    key = IdempotencyKey("7", b"request")
    live, test = new_email(), replace(new_email(), is_test=True)
    for _ in range(2):
        for reach, new in ((SHOP, live), (SHOPS_TESTS, test)):
            [item] = await sql.accept_batch(reach, [replace(new, key=None)], key)
            assert item.accepted is not None
            assert item.accepted.id == new.email.id
            assert await sql.first_answer(reach, key, list[BatchItem]) == [item]
    assert await sql.first_answer(Reach("blog"), key, list[BatchItem]) is None


# --- who wrote it ----------------------------------------------------------------------------------------------------


async def test_who_handed_it_in_is_known(storage: Storage) -> None:
    for written_by in ("a key", None):
        new = replace(new_email(), written_by=written_by)
        await storage.accept(new)
        assert (await storage.read(SHOP, new.email.id)).written_by == written_by


@only_sql
async def test_an_edited_draft_is_of_who_edited_it_and_as_old_as_it_was(bench: Bench, sql: SqlStorage) -> None:
    draft = made("test", written_by="first")
    await sql.accept(draft)
    before = await sql.read(SHOP, draft.email.id)
    bench.clock.advance(5)
    await sql.edit(SHOP, replace(draft, written_by="second", is_test=False), 1)
    after = await sql.read(SHOP, draft.email.id)
    assert (before.written_by, after.written_by) == ("first", "second")
    assert (after.created_at, after.delivery.is_test) == (before.created_at, True)
    assert [one.written_by for one in (await sql.list(SHOP, ListQuery())).emails] == ["second"]


@only_sql
async def test_the_version_before_writes_beside_this_one(
    bench: Bench, sql: SqlStorage, kind: Kind, tmp_path: Path
) -> None:
    """It says nothing of the key, and names the idempotency keys' primary key as it was."""
    email_id = await bench.accept(key="7")
    await run(sql, sa.text("UPDATE emails SET written_by = 'a key'"))

    def back_and_forth(connection: sa.Connection) -> None:
        migrations.downgrade(connection, "0006")
        migrations.upgrade(connection)

    await kind.on_schema(sql, tmp_path, back_and_forth)
    stored = await sql.read(SHOP, email_id)
    assert (stored.written_by, stored.subject) == (None, "Hi")
    first = await sql.first_answer(SHOP, IdempotencyKey("7", b"request"), Accepted)
    assert first is not None
    assert first.id == email_id
    again = "INSERT INTO idempotency (project, key, request_hash, answer, created_at) VALUES ('shop', '7', '', '', 0) "
    await run(sql, sa.text(again + "ON CONFLICT (project, key) DO UPDATE SET created_at = excluded.created_at"))
