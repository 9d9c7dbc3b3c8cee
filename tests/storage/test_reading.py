"""`read`, `keep` and `check`: what is known of an email, and only to whom it belongs."""

import pytest
from msgspec.structs import replace

from hes.errors import NotFound
from hes.model import Address, AttemptId, Decision, EmailId, OnDoubt, Outcome, Status
from hes.storage.records import Reach, Recipient
from hes.storage.sql import SqlStorage
from tests.storage.harness import NOW, SHOP, Bench, Kind, erase, new_email, only_sql, told


async def test_what_was_handed_in_is_read_back(bench: Bench) -> None:
    sender = Address("shop@example.com", "The Shop")
    new = replace(new_email(sender=sender, subject="Order 7 ✓", tags={"a": "1"}), reference="r-7", stream="news")
    await bench.storage.accept(new)
    stored = await bench.read(new.email.id)
    assert (stored.sender, stored.subject, stored.tags) == (sender, "Order 7 ✓", {"a": "1"})
    assert (stored.reference, stored.stream, stored.created_at) == ("r-7", "news", NOW)
    assert stored.email == new.email


async def test_the_content_comes_only_when_asked_for(bench: Bench) -> None:
    email_id = await bench.accept()
    assert (await bench.storage.read(SHOP, email_id)).email is None
    assert (await bench.storage.read(SHOP, email_id, with_content=True)).email is not None


async def test_recipients_come_in_their_order_and_kind(bench: Bench) -> None:
    ann, bob, eve, sue = (Address(f"{name}@example.net", name.title()) for name in ("ann", "bob", "eve", "sue"))
    email_id = await bench.accept(to=(sue, ann), cc=(eve,), bcc=(bob,))
    stored = await bench.read(email_id)
    assert stored.recipients == (
        Recipient(sue, "to"),
        Recipient(ann, "to"),
        Recipient(eve, "cc"),
        Recipient(bob, "bcc"),
    )


async def test_another_projects_email_is_not_found(bench: Bench) -> None:
    email_id = await bench.accept()
    with pytest.raises(NotFound):
        await bench.storage.read(Reach("blog"), email_id)


@pytest.mark.parametrize("email_id", ["", "nobody", "' OR 1=1 --", "x" * 10_000])
async def test_what_does_not_exist_is_not_found(bench: Bench, email_id: str) -> None:
    with pytest.raises(NotFound):
        await bench.storage.read(SHOP, EmailId(email_id))


async def test_attempts_come_in_the_order_they_were_made(bench: Bench) -> None:
    leased = await bench.leased(own_providers=("a",))
    for _ in range(11):
        await bench.settle(leased, Outcome.UNAVAILABLE)
        bench.clock.advance(600)
        leased = await bench.lease()
    assert [attempt.number for attempt in (await bench.read(leased)).attempts] == list(range(1, 13))


async def test_the_timeline_is_told_in_order(bench: Bench) -> None:
    leased = await bench.leased("a", on_doubt=OnDoubt.RESEND)
    await bench.lapse()
    second = await bench.lease("b")
    await bench.settle(second, Outcome.ACCEPTED)
    await bench.settle(leased, Outcome.ACCEPTED)
    stored = await bench.read(leased)
    assert told(stored) == [
        *("created", "queued", "attempt", "in_doubt", "queued"),
        *("failed_over", "attempt", "sent", "resolved", "duplicate"),
    ]
    ids = [event_id for event_id, _ in stored.events]
    assert ids == sorted(set(ids))
    assert [event.at for _, event in stored.events] == sorted(event.at for _, event in stored.events)


async def test_one_emails_timeline_is_not_anothers(bench: Bench) -> None:
    one, two = await bench.accept(), await bench.accept()
    await bench.storage.cancel(SHOP, one)
    assert told(await bench.read(two)) == ["created", "queued"]
    assert {event.email_id for _, event in (await bench.read(one)).events} == {one}


async def test_versions_only_grow(bench: Bench) -> None:
    """Whatever is written about an email, its version tells that something was."""
    leased = await bench.leased("a")
    versions = [1, (await bench.read(leased)).delivery.version]

    async def look() -> None:
        versions.append((await bench.read(leased)).delivery.version)

    await bench.lapse()
    await look()
    second = await bench.lease("b")
    await look()
    await bench.settle(leased, Outcome.UNAVAILABLE)  # late: kept as evidence
    await look()
    await bench.settle(second, Outcome.IN_DOUBT)
    await look()
    bench.clock.advance(24 * 3600)
    await bench.storage.sweep()
    await look()
    await bench.storage.resolve(SHOP, leased.email.id, Decision.SENT, "ann")
    await look()
    await bench.settle(second, Outcome.ACCEPTED)
    await look()
    assert versions == sorted(set(versions))


async def test_a_move_raises_the_version(bench: Bench) -> None:
    email_id = await bench.accept()
    await bench.storage.cancel(SHOP, email_id)
    delivery = (await bench.read(email_id)).delivery
    assert (delivery.status, delivery.version) == (Status.CANCELLED, 2)


@only_sql
async def test_what_was_erased_reads_without_its_content(bench: Bench, sql: SqlStorage) -> None:
    email_id = await bench.accept()
    await erase(sql, email_id)
    stored = await bench.read(email_id)
    assert stored.email is None
    assert (stored.subject, len(stored.recipients)) == ("Hi", 1)


async def test_a_message_is_kept_once_for_each_attempt(bench: Bench, kind: Kind) -> None:
    leased = await bench.leased()
    await bench.storage.keep(leased.email.id, leased.attempt_id, b"first\x00\xff")
    await bench.storage.keep(leased.email.id, leased.attempt_id, b"second")
    assert await kind.kept(bench.storage, leased.attempt_id) == b"first\x00\xff"


async def test_each_attempts_message_is_kept(bench: Bench, kind: Kind) -> None:
    email_id = await bench.accept()
    one, two = AttemptId("one"), AttemptId("two")
    await bench.storage.keep(email_id, one, b"1")
    await bench.storage.keep(email_id, two, b"2")
    assert [await kind.kept(bench.storage, attempt_id) for attempt_id in (one, two)] == [b"1", b"2"]


async def test_a_storage_as_it_should_be_passes_its_check(bench: Bench) -> None:
    await bench.storage.check()
