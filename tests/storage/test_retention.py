"""`drop_old`: contents go first, later all of an email, and only of what is at rest."""

from typing import Any

import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from hes.errors import NotFound, WrongState
from hes.model import EmailId, Leased, OnDoubt, Outcome, Status
from hes.storage import tables
from hes.storage.records import ListQuery
from hes.storage.sql import SqlStorage
from tests.storage.harness import DAY_SECONDS, SHOP, Bench, new_email, only_sql, run

HOUR_MS = 3600 * 1000
DAY_MS = DAY_SECONDS * 1000


async def sent(bench: Bench) -> Leased:
    leased = await bench.leased()
    await bench.settle(leased, Outcome.ACCEPTED)
    await bench.storage.keep(leased.email.id, leased.attempt_id, b"mime")
    return leased


async def rows_of(sql: SqlStorage, email_id: EmailId) -> set[str]:
    """The tables that still hold something of it."""
    found = set()
    for table in (tables.emails, *tables.metadata.tables.values()):
        name = "id" if table is tables.emails else "email_id"
        if name in table.c:
            rows = await run(sql, sa.select(sa.func.count()).where(table.c[name] == email_id))
            found |= {table.name} if rows.scalar_one() else set()
    return found


@only_sql
async def test_old_contents_go_and_the_trace_stays(bench: Bench, sql: SqlStorage) -> None:
    leased = await sent(bench)
    bench.clock.advance(3601)
    assert await sql.drop_old(HOUR_MS, None) == 1
    stored = await bench.read(leased)
    assert (stored.email, stored.delivery.status, stored.subject) == (None, Status.SENT, "Hi")
    assert "outbox" not in await rows_of(sql, leased.email.id)
    assert await sql.drop_old(HOUR_MS, None) == 0, "once"


@only_sql
async def test_whose_content_is_gone_can_be_asked(bench: Bench, sql: SqlStorage) -> None:
    dropped = await sent(bench)
    bench.clock.advance(3601)
    erased, kept = await sent(bench), await bench.accept()
    await sql.drop_old(HOUR_MS, None)
    await sql.erase(SHOP, erased.email.id)
    unknown = new_email().email.id
    found = await sql.has_content([dropped.email.id, erased.email.id, EmailId(kept), unknown])
    assert found == {dropped.email.id: False, erased.email.id: False, kept: True}
    assert await sql.has_content([]) == {}


@only_sql
async def test_of_old_emails_nothing_is_left(bench: Bench, sql: SqlStorage) -> None:
    leased = await sent(bench)
    young = await bench.accept()
    bench.clock.advance(3601)
    assert await sql.drop_old(None, HOUR_MS * 2) == 0
    assert await sql.drop_old(None, HOUR_MS) == 1
    with pytest.raises(NotFound):
        await bench.read(leased)
    assert await rows_of(sql, leased.email.id) == set()
    assert (await bench.read(young)).email is not None, "it waits"


@only_sql
@pytest.mark.parametrize("status", ["queued", "sending", "in_doubt", "held", "draft", "scheduled"])
async def test_what_is_not_at_rest_stays(bench: Bench, sql: SqlStorage, status: str) -> None:
    if status in ("draft", "scheduled"):
        new = replace(new_email(), is_draft=status == "draft", send_at=bench.clock() + 10 * HOUR_MS)
        email_id = (await bench.storage.accept(new)).id
    elif status == "queued":
        email_id = await bench.accept()
    else:
        on_doubt = OnDoubt.WAIT if status == "in_doubt" else OnDoubt.HOLD
        leased = await bench.leased(on_doubt=on_doubt)
        email_id = leased.email.id
        if status != "sending":
            await bench.settle(leased, Outcome.IN_DOUBT)
    assert (await bench.status(email_id))[0].value == status
    bench.clock.advance(3601)
    assert await sql.drop_old(HOUR_MS, HOUR_MS) == 0
    assert (await bench.read(email_id)).email is not None


async def a_draft(bench: Bench, **fields: Any) -> EmailId:
    return (await bench.storage.accept(replace(new_email(), is_draft=True, **fields))).id


async def test_a_draft_that_nobody_sends_is_cancelled_when_its_time_is_over(bench: Bench) -> None:
    old, later_on = await a_draft(bench), await a_draft(bench, send_at=bench.clock() + 10 * HOUR_MS)
    assert (await bench.read(old)).expires_at == bench.clock() + 30 * DAY_MS
    assert (await bench.read(later_on)).expires_at == bench.clock() + 10 * HOUR_MS + 30 * DAY_MS
    bench.clock.advance(30 * DAY_SECONDS - 1)
    assert await bench.storage.drop_drafts() == 0
    bench.clock.advance(1)
    young = await a_draft(bench)
    assert await bench.storage.drop_drafts() == 1
    assert [(await bench.status(i))[0].value for i in (old, later_on, young)] == ["cancelled", "draft", "draft"]
    (_, told) = (await bench.read(old)).events[-1]
    assert (told.type.value, told.at) == ("cancelled", bench.clock())
    assert "its time was over" in told.data["why"]
    assert await bench.storage.drop_drafts() == 0


@only_sql
async def test_the_content_of_a_draft_goes_with_it(bench: Bench, sql: SqlStorage) -> None:
    draft = await a_draft(bench)
    held = await sql.stored_bytes()
    assert held["shop"] > 0
    bench.clock.advance(30 * DAY_SECONDS)
    assert await sql.drop_drafts() == 1
    stored = await bench.read(draft)
    assert (stored.email, stored.subject) == (None, "Hi")
    assert await sql.stored_bytes() == {}
    with pytest.raises(WrongState, match="erased"):
        await sql.send(SHOP, draft, None)


@only_sql
async def test_editing_a_draft_gives_it_time_anew(bench: Bench, sql: SqlStorage) -> None:
    new = replace(new_email(), is_draft=True)
    await sql.accept(new)
    bench.clock.advance(20 * DAY_SECONDS)
    await sql.edit(SHOP, new, 1)
    bench.clock.advance(20 * DAY_SECONDS)
    assert await sql.drop_drafts() == 0
    await sql.send(SHOP, new.email.id, None)
    stored = await bench.read(new.email.id)
    assert stored.expires_at == bench.clock() + DAY_MS, "counted anew when it is sent"


@only_sql
async def test_what_has_lost_its_content_holds_no_bytes(bench: Bench, sql: SqlStorage) -> None:
    """Whether it was erased or dropped; while it is there, drafts, what waits, what failed and was cancelled do."""
    size = {}
    for name in ("dropped", "erased", "waits"):
        size[name] = (await bench.read(await bench.accept(project="shop", text=name))).delivery.size_bytes
    ids = [s.delivery.email_id for s in (await sql.list(SHOP, ListQuery())).emails][::-1]
    assert await sql.stored_bytes() == {"shop": sum(size.values())}
    for email_id in ids[:2]:
        await sql.cancel(SHOP, email_id)
    assert await sql.stored_bytes() == {"shop": sum(size.values())}
    await sql.erase(SHOP, ids[1])
    assert await sql.stored_bytes() == {"shop": size["dropped"] + size["waits"]}
    bench.clock.advance(3601)
    assert await sql.drop_old(HOUR_MS, None) == 1
    assert await sql.stored_bytes() == {"shop": size["waits"]}
    await bench.settle(await bench.lease(), Outcome.ACCEPTED)
    assert await sql.stored_bytes() == {}


@only_sql
async def test_at_most_some_hundreds_go_at_a_time(bench: Bench, sql: SqlStorage) -> None:
    for email_id in await bench.accept_many(501):
        await bench.storage.cancel(SHOP, email_id)
    bench.clock.advance(3601)
    assert await sql.drop_old(HOUR_MS, None) == 500
    assert await sql.drop_old(HOUR_MS, None) == 1
    assert await sql.drop_old(HOUR_MS, HOUR_MS) == 500
    assert await sql.drop_old(HOUR_MS, HOUR_MS) == 1
