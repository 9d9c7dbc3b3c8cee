"""`send_at`: not a millisecond before it, by the storage's own clock; and what another time, or none, does to it."""

import pytest
from msgspec.structs import replace

from hes.model import EmailId, Millis, Status
from hes.storage.records import Leases
from hes.storage.sql import SqlStorage
from tests.storage.harness import NOW, SHOP, Bench, new_email, only_sql, rooms, told

AT = NOW + 3_600_000


async def scheduled(bench: Bench, send_at: Millis = AT) -> EmailId:
    new = replace(new_email(), send_at=send_at)
    assert (await bench.storage.accept(new)).status is Status.SCHEDULED
    return new.email.id


async def check_leaves_at(bench: Bench, email_id: EmailId, at: Millis) -> None:
    bench.clock.now = at - 1
    assert await bench.give_out(rooms(a=1, b=1)) == Leases()
    bench.clock.now = at
    assert (await bench.lease()).email.id == email_id


async def test_it_is_leased_at_its_time_and_not_before(bench: Bench) -> None:
    await check_leaves_at(bench, await scheduled(bench), AT)


@pytest.mark.parametrize("moved_by", [60_000, -60_000])
async def test_another_time_counts_from_then_on(bench: Bench, moved_by: int) -> None:
    email_id = await scheduled(bench)
    await bench.storage.send(SHOP, email_id, AT + moved_by)
    await check_leaves_at(bench, email_id, AT + moved_by)
    assert told(await bench.read(email_id))[:3] == ["created", "scheduled", "rescheduled"]


@only_sql
async def test_likewise_by_a_reschedule(bench: Bench, sql: SqlStorage) -> None:
    email_id = await scheduled(bench)
    await sql.reschedule(SHOP, email_id, AT + 60_000, None)
    await check_leaves_at(bench, email_id, AT + 60_000)


@pytest.mark.parametrize("send_at", [None, NOW - 1])
async def test_promoted_or_moved_into_the_past_it_is_due_at_once(bench: Bench, send_at: Millis | None) -> None:
    email_id = await scheduled(bench)
    await bench.storage.send(SHOP, email_id, send_at)
    assert await bench.status(email_id) == (Status.QUEUED, None)
    assert (await bench.lease()).email.id == email_id


async def test_what_waits_for_a_provider_is_pulled_forward_and_what_is_scheduled_is_not(bench: Bench) -> None:
    email_id = await scheduled(bench)
    assert await bench.storage.pull_forward(["a", "b"]) == 0
    await check_leaves_at(bench, email_id, AT)
