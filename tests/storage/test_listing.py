"""Lists: every filter finds all that fit, however little of it can be looked at in one go; and nobody waits for one."""

import contextlib
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from hes.errors import StorageUnavailable
from hes.model import Address, Decision, EmailId, OnDoubt, Outcome, Reason, Status
from hes.storage import database, scan
from hes.storage.database import Turns
from hes.storage.postgres import CONNECTIONS, PostgresDatabase
from hes.storage.records import ListQuery, Reach, StoredEmail
from hes.storage.sql import SqlStorage
from hes.storage.sqlite import READERS, SqliteDatabase
from hes.web.requests import is_id
from tests.actors.parts import in_virtual_time
from tests.storage.harness import NOW, SHOP, Bench, new_email, only_sql

HOUR = 3600_000
OLDER = EmailId("018bcfe5-6800-7000-8000-000000000001")
"""Than all that the harness makes."""


async def all_sorts(bench: Bench) -> dict[EmailId, StoredEmail]:
    """Of every kind of email one or some, three hours apart in the middle; what lists know of each."""
    for n in range(3):
        sender = Address(f"shop{n}@Example.com")
        await bench.settle(await bench.leased(sender=sender, tags={"kind": "welcome"}), Outcome.ACCEPTED)
        await bench.doubted(OnDoubt.HOLD, tags={"kind": "bill"})
        bench.clock.advance(1)
    await bench.settle(await bench.leased("b"), Outcome.REJECTED)
    await bench.doubted(OnDoubt.WAIT)
    await bench.storage.cancel(SHOP, await bench.accept(tags={"kind": "welcome"}))
    for fields in ({"is_draft": True}, {"send_at": NOW + 9 * HOUR}, {"reference": "order 7", "is_test": True}):
        await bench.storage.accept(replace(new_email(to=(Address("bob@example.net"),)), **fields))
    await bench.accept(project="another", to=(Address("bob@example.net"),))
    await bench.leased("a", own_providers=("a",), stream="news")
    await bench.accept(tags={"kind": "welcome"})
    page = await listed(bench, ListQuery(limit=100))
    return {stored.delivery.email_id: stored for stored in page}


async def listed(bench: Bench, query: ListQuery, reach: Reach = SHOP) -> list[StoredEmail]:
    """All pages."""
    assert isinstance(bench.storage, SqlStorage)
    found: list[StoredEmail] = []
    for _ in range(100):
        page = await bench.storage.list(reach, query)
        assert len(page.emails) <= query.limit
        found += page.emails
        if page.behind is None:
            return found
        query = replace(query, before=page.behind)
    raise AssertionError("it does not end")


FILTERS: dict[str, tuple[dict[str, Any], Any]] = {
    "all": ({}, lambda _: True),
    "tag": ({"tag": "kind:welcome"}, lambda s: s.tags == {"kind": "welcome"}),
    "sender": ({"sender": "shop1@example.com"}, lambda s: s.sender.email == "shop1@Example.com"),
    "provider": ({"provider": "a"}, lambda s: s.delivery.provider == "a"),
    "reason": ({"reason": Reason.DOUBT}, lambda s: s.delivery.reason is Reason.DOUBT),
    "reason and status": ({"reason": Reason.DOUBT, "status": Status.FAILED}, lambda _: False),
    "to": ({"to": "bob@example.net"}, lambda s: s.recipients[0].address.email == "bob@example.net"),
    "reference": ({"reference": "order 7"}, lambda s: s.reference == "order 7"),
    "before": ({"created_before": NOW + 2000}, lambda s: s.created_at < NOW + 2000),
    "after": ({"created_after": NOW + 2000}, lambda s: s.created_at >= NOW + 2000),
    "long ago": ({"created_before": 1}, lambda _: False),
    "in the year 1": ({"created_after": -62_135_596_800_000, "limit": 100}, lambda _: True),
    **{
        f"status {status}": ({"status": status}, lambda s, status=status: s.delivery.status is status)
        for status in Status
    },
}


@only_sql
@pytest.mark.parametrize("few", [0, scan.FEW])
async def test_each_filter_finds_all_that_fit_in_however_small_steps(
    bench: Bench, sql: SqlStorage, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`few` 0: as with so many in the queue that its indexes are of no use."""
    known = await all_sorts(bench)
    assert len(known) == 14
    monkeypatch.setattr(scan, "FEW", few)
    for name, (fields, fits) in FILTERS.items():
        expected = [email_id for email_id, stored in sorted(known.items(), reverse=True) if fits(stored)]
        for seconds in (1.0, -1.0):  # with time for all of it, and with none
            monkeypatch.setattr("hes.storage.sql.SEARCH_SECONDS", seconds)
            found = await listed(bench, ListQuery(**{"limit": 2, **fields}))
            assert [stored.delivery.email_id for stored in found] == expected, (name, seconds)


@only_sql
async def test_each_filter_stays_within_the_reach(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    known = await all_sorts(bench)
    monkeypatch.setattr("hes.storage.sql.SEARCH_SECONDS", -1.0)
    for reach in (Reach("shop", only_test=True), Reach("shop", sender_domains=("example.com",)), Reach("blog")):
        for name, (fields, fits) in FILTERS.items():
            expected = [i for i, s in sorted(known.items(), reverse=True) if fits(s) and reach.holds(s.delivery)]
            found = await listed(bench, ListQuery(**{"limit": 2, **fields}), reach)
            assert [stored.delivery.email_id for stored in found] == expected, (name, reach)


@only_sql
async def test_a_list_whose_time_is_over_ends_where_it_is(
    bench: Bench, sql: SqlStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await bench.accept(tags={"kind": "rare"}, id=OLDER)
    for _ in range(6):
        await bench.accept()
    monkeypatch.setattr("hes.storage.sql.SEARCH_SECONDS", -1.0)
    query = ListQuery(tag="kind:rare", limit=2)
    page = await sql.list(SHOP, query)
    assert page.emails == ()
    assert page.behind is not None
    assert [s.delivery.email_id for s in await listed(bench, query)] == [first]


@only_sql
async def test_where_it_goes_on_says_nothing_of_emails_that_are_out_of_reach(
    bench: Bench, sql: SqlStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    news = [new_email(to=(Address("bob@example.net"),)) for _ in range(6)]
    news.append(new_email(to=(Address("bob@example.net"),), id=OLDER))
    ids = {(await sql.accept(replace(new, reference="order 7"))).id for new in news}
    monkeypatch.setattr("hes.storage.sql.SEARCH_SECONDS", -1.0)
    for reach, query in (
        (Reach("another"), ListQuery(to="bob@example.net", limit=1)),
        (Reach(SHOP.project, only_test=True), ListQuery(reference="order 7", limit=1)),
        (Reach(SHOP.project, sender_domains=("other.example",)), ListQuery(limit=1)),
    ):
        page = await sql.list(reach, query)
        assert (page.emails, page.behind in ids) == ((), False)
        assert page.behind is None or is_id(page.behind)


@only_sql
async def test_a_word_on_many_is_not_about_what_has_changed_since_they_were_found(
    bench: Bench, sql: SqlStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are looked for by a reader, and looked at again by the writer."""
    held, sent = await bench.doubted(OnDoubt.HOLD), await bench.doubted(OnDoubt.HOLD)
    read = sql._database.read

    async def changes_then(*args: Any) -> Any:
        found = await read(*args)
        monkeypatch.setattr(sql._database, "read", read)
        await sql.resolve(SHOP, sent.email.id, Decision.SENT, "ann")
        return found

    monkeypatch.setattr(sql._database, "read", changes_then)
    many = await sql.resolve_many(SHOP, ListQuery(reason=Reason.DOUBT), Decision.FAILED, "ann")
    assert (many.changed, many.skipped, many.behind) == (1, 0, None)
    assert (await bench.status(held))[0] is Status.FAILED
    assert (await bench.status(sent))[0] is Status.SENT


# --- who waits for whom ----------------------------------------------------------------------------------------------


@only_sql
async def test_keys_and_readiness_have_a_connection_of_their_own(sql: SqlStorage) -> None:
    database = sql._database
    assert isinstance(database, SqliteDatabase | PostgresDatabase)
    engine, most = (
        (database._reader, READERS) if isinstance(database, SqliteDatabase) else (database._engine, CONNECTIONS - 1)
    )
    async with contextlib.AsyncExitStack() as others:
        for _ in range(most):
            _ = await others.enter_async_context(engine.connect())
        with anyio.fail_after(2):
            await sql.check()
            assert await sql.keys.find(["nobody"]) == {}


@in_virtual_time
async def test_nobody_waits_for_ever_for_a_turn() -> None:
    turns = Turns(1)
    async with turns.one():
        began = anyio.current_time()
        with pytest.raises(StorageUnavailable, match="lists"):
            async with turns.one():
                pass
        assert anyio.current_time() - began == database.TURN_SECONDS
    async with turns.one():
        pass
