"""`drop_old`: contents go first, later all of an email, and only of what is at rest."""

import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from hes.errors import NotFound
from hes.model import EmailId, Leased, OnDoubt, Outcome, Status
from hes.storage import tables
from hes.storage.sql import SqlStorage
from tests.storage.harness import SHOP, Bench, new_email, only_sql, run

HOUR_MS = 3600 * 1000


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


@only_sql
async def test_at_most_some_hundreds_go_at_a_time(bench: Bench, sql: SqlStorage) -> None:
    for email_id in await bench.accept_many(501):
        await bench.storage.cancel(SHOP, email_id)
    bench.clock.advance(3601)
    assert await sql.drop_old(HOUR_MS, None) == 500
    assert await sql.drop_old(HOUR_MS, None) == 1
    assert await sql.drop_old(HOUR_MS, HOUR_MS) == 500
    assert await sql.drop_old(HOUR_MS, HOUR_MS) == 1
