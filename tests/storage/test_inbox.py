"""`inbox`: providers' events, each counted once, told in the timeline, and proof of what was in doubt."""

from typing import Any

import anyio
import pytest

from hes.model import Address, Leased, OnDoubt, Outcome, Status
from hes.storage.inbox import Taken
from hes.storage.sql import EVENT_KEPT_MS, SqlStorage
from hes.told import EventKind, ProviderEvent, Told
from tests.storage.harness import SHOP, Bench, erase, next_id, only_sql, told

pytestmark = only_sql

ANN = "ann@example.net"


def about(leased: Leased, kind: EventKind | None = EventKind.DELIVERED, **fields: Any) -> ProviderEvent:
    """An event with our ids."""
    return an_event(kind, hes_id=leased.email.id, hes_attempt=leased.attempt_id, **fields)


def an_event(kind: EventKind | None = EventKind.DELIVERED, **fields: Any) -> ProviderEvent:
    known: dict[str, Any] = {"vendor_type": kind or "hatched", "at": 5, "dedup_id": next_id(), "recipient": ANN}
    return ProviderEvent(kind=kind, **(known | fields))


async def take(sql: SqlStorage, *events: ProviderEvent, provider: str = "a", nonce: str = "") -> Taken:
    return await sql.inbox.take(provider, Told(events, nonce))


async def sent(bench: Bench, **fields: Any) -> Leased:
    leased = await bench.leased(**fields)
    await bench.settle(leased, Outcome.ACCEPTED, provider_message_id="m1")
    return leased


async def test_an_event_moves_the_email_and_is_told(bench: Bench, sql: SqlStorage) -> None:
    leased = await sent(bench)
    assert await take(sql, about(leased)) == Taken(new=1)
    stored = await bench.read(leased)
    assert stored.delivery.status is Status.DELIVERED
    assert [r.status for r in stored.recipients] == [Status.DELIVERED]
    event = stored.events[-1][1]
    assert (event.type, event.at, event.provider, event.recipient) == ("delivered", 5, "a", ANN)


async def test_the_same_again_counts_for_nothing(bench: Bench, sql: SqlStorage) -> None:
    leased = await sent(bench)
    event = about(leased)
    assert await take(sql, event, event) == Taken(new=1)
    before = await bench.read(leased)
    assert await take(sql, event) == Taken()
    assert await bench.read(leased) == before
    assert told(before).count("delivered") == 1


async def test_the_same_id_at_another_provider_is_another_event(bench: Bench, sql: SqlStorage) -> None:
    leased = await sent(bench)
    event = about(leased)
    await take(sql, event)
    assert await take(sql, event, provider="b") == Taken(new=1, waiting=1), "and that one speaks of a's attempts"


async def test_the_same_at_the_same_time_counts_once(bench: Bench, sql: SqlStorage) -> None:
    leased = await sent(bench)
    events = [about(leased, EventKind.OPENED) for _ in range(5)]
    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(lambda: take(sql, *events))
    assert told(await bench.read(leased)).count("opened") == 5


async def test_a_nonce_is_good_once(bench: Bench, sql: SqlStorage) -> None:
    leased = await sent(bench)
    assert await take(sql, about(leased), nonce="n") == Taken(new=1)
    forged = about(leased, EventKind.COMPLAINED)
    assert await take(sql, forged, nonce="n") == Taken()
    assert await bench.status(leased) == (Status.DELIVERED, None)
    assert await take(sql, forged, nonce="n2") == Taken(new=1)


async def test_a_type_that_is_not_known_is_kept_and_changes_nothing(bench: Bench, sql: SqlStorage) -> None:
    leased = await bench.doubted(OnDoubt.HOLD)
    before = await bench.read(leased)
    assert await take(sql, about(leased, None)) == Taken(new=1)
    assert await bench.read(leased) == before


# --- what it proves --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_doubt", OnDoubt)
@pytest.mark.parametrize("says", [EventKind.ACCEPTED, EventKind.BOUNCED])
async def test_an_event_proves_an_attempt_in_doubt(
    bench: Bench, sql: SqlStorage, on_doubt: OnDoubt, says: EventKind
) -> None:
    leased = await bench.doubted(on_doubt)
    assert await take(sql, about(leased, says, provider_message_id="m1")) == Taken(new=1)
    stored = await bench.read(leased)
    assert stored.delivery.status is (Status.SENT if says is EventKind.ACCEPTED else Status.BOUNCED)
    assert stored.attempts[0].provider_message_id == "m1"
    [resolved] = [e for _, e in stored.events if e.type == "resolved"]
    assert resolved.data["source"] == "event"


async def test_two_attempts_that_turn_out_taken_are_a_duplicate(bench: Bench, sql: SqlStorage) -> None:
    first = await bench.doubted(OnDoubt.RESEND)
    second = await bench.lease("b")
    await bench.settle(second, Outcome.ACCEPTED)
    await take(sql, about(first))
    stored = await bench.read(first)
    assert [e.data for _, e in stored.events if e.type == "duplicate"] == [{"attempts": [1, 2]}]
    assert (stored.delivery.status, stored.delivery.provider) == (Status.DELIVERED, "b")


async def test_an_event_about_a_cancelled_email_says_that_it_went_out(bench: Bench, sql: SqlStorage) -> None:
    leased = await bench.leased()
    await bench.settle(leased, Outcome.UNAVAILABLE)
    await bench.storage.cancel(SHOP, leased.email.id)
    await take(sql, about(leased))
    assert await bench.status(leased) == (Status.DELIVERED, None)


# --- what comes too early --------------------------------------------------------------------------------------------


async def test_about_an_attempt_in_flight_it_waits_for_the_end_of_its_lease(bench: Bench, sql: SqlStorage) -> None:
    leased = await bench.leased(on_doubt=OnDoubt.HOLD)
    assert await take(sql, about(leased)) == Taken(new=1, waiting=1)
    assert await bench.status(leased) == (Status.SENDING, None)
    await bench.settle(leased, Outcome.IN_DOUBT)
    assert await bench.status(leased) == (Status.SENT, None), "it proved the attempt at once"
    assert await sql.inbox.match() == 0
    bench.clock.advance(1)
    assert await sql.inbox.match() == 1
    assert await bench.status(leased) == (Status.DELIVERED, None)
    bench.clock.advance(3600)
    assert await sql.inbox.match() == 0


async def test_before_our_commit_of_the_providers_id_it_waits(bench: Bench, sql: SqlStorage) -> None:
    leased = await bench.leased()
    assert await take(sql, an_event(provider_message_id="m1")) == Taken(new=1, waiting=1)
    bench.clock.advance(1)
    assert await sql.inbox.match() == 0
    await bench.settle(leased, Outcome.ACCEPTED, provider_message_id="m1")
    assert await sql.inbox.match() == 0, "not again at once"
    bench.clock.advance(1)
    assert await sql.inbox.match() == 1
    assert await bench.status(leased) == (Status.DELIVERED, None)


async def test_about_an_email_that_nobody_knows_it_waits(bench: Bench, sql: SqlStorage) -> None:
    del bench
    unknown = an_event(hes_id=next_id(), hes_attempt=next_id())
    assert await take(sql, unknown) == Taken(new=1, waiting=1)


async def test_after_a_day_nobody_waits_any_more(bench: Bench, sql: SqlStorage) -> None:
    leased = await bench.leased(on_doubt=OnDoubt.HOLD, expires_in=10 * 24 * 3600)
    await take(sql, about(leased))
    bench.clock.advance(24 * 3600)
    assert await sql.inbox.match() == 0
    await bench.settle(leased, Outcome.ACCEPTED)
    bench.clock.advance(24 * 3600)
    assert await sql.inbox.match() == 0
    assert await bench.status(leased) == (Status.SENT, None)


async def test_known_for_some_days_and_then_forgotten(bench: Bench, sql: SqlStorage) -> None:
    event = about(await sent(bench))
    await take(sql, event)
    bench.clock.advance(EVENT_KEPT_MS / 1000 - 1)
    await sql.prune()
    assert await take(sql, event) == Taken()
    bench.clock.advance(1)
    await sql.prune()
    assert (await take(sql, event)).new == 1


# --- without our ids -------------------------------------------------------------------------------------------------


async def test_by_the_providers_id_and_the_recipient(bench: Bench, sql: SqlStorage) -> None:
    leased = await sent(bench)
    await sent(bench, to=(Address("bob@example.net"),))
    assert await take(sql, an_event(provider_message_id="m1", recipient="Ann@example.net")) == Taken(new=1)
    assert await bench.status(leased) == (Status.DELIVERED, None)


@pytest.mark.parametrize(
    "fields", [{"provider_message_id": "m2"}, {"provider_message_id": "m1", "recipient": "x@example.net"}, {}]
)
async def test_of_somebody_else_it_is_of_no_email(bench: Bench, sql: SqlStorage, fields: dict[str, Any]) -> None:
    leased = await sent(bench)
    assert await take(sql, an_event(**fields)) == Taken(new=1, waiting=1)
    assert await bench.status(leased) == (Status.SENT, None)
    bench.clock.advance(600)
    assert await sql.inbox.match() == 0
    bench.clock.advance(3600)
    assert await sql.inbox.match() == 0


# --- several recipients ----------------------------------------------------------------------------------------------


async def test_each_recipient_stands_for_itself(bench: Bench, sql: SqlStorage) -> None:
    leased = await sent(bench, to=(Address(ANN), Address("bob@example.net")), cc=(Address("c@example.net"),))
    await take(sql, about(leased), about(leased, EventKind.BOUNCED, recipient="c@example.net"))
    stored = await bench.read(leased)
    assert stored.delivery.status is Status.BOUNCED
    assert [r.status for r in stored.recipients] == [Status.DELIVERED, Status.SENT, Status.BOUNCED]


async def test_what_was_erased_does_not_come_back(bench: Bench, sql: SqlStorage) -> None:
    leased = await sent(bench)
    await sql.erase(SHOP, leased.email.id)
    await erase(sql, leased.email.id)
    await take(sql, about(leased))
    stored = await bench.read(leased)
    assert (stored.delivery.status, stored.events[-1][1].recipient) == (Status.DELIVERED, None)
