"""`cancel` and `resolve`: what a person may decide, and when it is too late for it."""

from collections.abc import Awaitable, Callable

import pytest
from msgspec.structs import replace

from hes.errors import NotFound, WrongState, WrongVersion
from hes.model import Decision, EmailId, OnDoubt, Outcome, Reason, Resolution, Status
from hes.storage.records import Leases, Reach
from hes.storage.sql import SqlStorage
from tests.storage.harness import NOW, SHOP, Bench, erase, new_email, only_sql, rooms, told

Situation = Callable[[Bench], Awaitable[EmailId]]


async def queued(bench: Bench) -> EmailId:
    return await bench.accept()


async def sending(bench: Bench) -> EmailId:
    return (await bench.leased()).email.id


async def sent(bench: Bench) -> EmailId:
    leased = await bench.leased()
    await bench.settle(leased, Outcome.ACCEPTED)
    return leased.email.id


async def failed(bench: Bench) -> EmailId:
    leased = await bench.leased()
    await bench.settle(leased, Outcome.REJECTED)
    return leased.email.id


async def cancelled(bench: Bench) -> EmailId:
    email_id = await bench.accept()
    await bench.storage.cancel(SHOP, email_id)
    return email_id


async def queued_with_a_doubt(bench: Bench) -> EmailId:
    return (await bench.doubted(OnDoubt.RESEND)).email.id


async def held(bench: Bench) -> EmailId:
    return (await bench.doubted(OnDoubt.HOLD)).email.id


async def in_doubt(bench: Bench) -> EmailId:
    return (await bench.doubted(OnDoubt.WAIT)).email.id


# --- cancel ----------------------------------------------------------------------------------------------------------


async def test_what_nobody_had_is_cancelled(bench: Bench) -> None:
    email_id = await bench.accept()
    await bench.storage.cancel(SHOP, email_id)
    assert await bench.status(email_id) == (Status.CANCELLED, None)
    assert told(await bench.read(email_id)) == ["created", "queued", "cancelled"]
    assert await bench.give_out(rooms(a=1, b=1)) == Leases()


@pytest.mark.parametrize("outcome", [None, Outcome.UNAVAILABLE, Outcome.THROTTLED])
async def test_what_surely_nobody_took_is_cancelled(bench: Bench, outcome: Outcome | None) -> None:
    leased = await bench.leased()
    await bench.settle(leased, outcome)
    await bench.storage.cancel(SHOP, leased.email.id)
    assert await bench.status(leased) == (Status.CANCELLED, None)


async def test_cancelling_again_changes_nothing(bench: Bench) -> None:
    email_id = await cancelled(bench)
    before = await bench.read(email_id)
    bench.clock.advance(1)
    await bench.storage.cancel(SHOP, email_id)
    assert await bench.read(email_id) == before


@pytest.mark.parametrize("situation", [sending, sent, failed, held, in_doubt, queued_with_a_doubt])
async def test_what_somebody_may_have_is_not_cancelled(bench: Bench, situation: Situation) -> None:
    email_id = await situation(bench)
    before = await bench.read(email_id)
    with pytest.raises(WrongState):
        await bench.storage.cancel(SHOP, email_id)
    assert await bench.read(email_id) == before


async def test_cancelled_does_not_expire(bench: Bench) -> None:
    email_id = await bench.accept(expires_in=60)
    await bench.storage.cancel(SHOP, email_id)
    bench.clock.advance(60)
    await bench.storage.sweep()
    assert await bench.status(email_id) == (Status.CANCELLED, None)


async def test_nobody_cancels_another_projects_email(bench: Bench) -> None:
    email_id = await bench.accept()
    with pytest.raises(NotFound):
        await bench.storage.cancel(Reach("blog"), email_id)
    assert await bench.status(email_id) == (Status.QUEUED, None)


async def test_what_does_not_exist_is_not_cancelled(bench: Bench) -> None:
    with pytest.raises(NotFound):
        await bench.storage.cancel(SHOP, EmailId("nobody"))


# --- resolve ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("situation", [held, in_doubt])
@pytest.mark.parametrize(
    ("decision", "status", "reason", "word"),
    [
        (Decision.SENT, Status.SENT, None, "sent"),
        (Decision.RESEND, Status.QUEUED, None, "queued"),
        (Decision.FAILED, Status.FAILED, Reason.OPERATOR, "failed"),
    ],
)
async def test_each_decision(
    bench: Bench, situation: Situation, decision: Decision, status: Status, reason: Reason | None, word: str
) -> None:
    email_id = await situation(bench)
    await bench.storage.resolve(SHOP, email_id, decision, "ann")
    stored = await bench.read(email_id)
    assert (stored.delivery.status, stored.delivery.reason) == (status, reason)
    assert told(stored)[-2:] == ["resolved", word]
    assert stored.events[-2][1].data == {"decision": decision.value, "by": "ann", "attempts": [1]}


@pytest.mark.parametrize("decision", Decision)
async def test_every_open_doubt_is_closed(bench: Bench, decision: Decision) -> None:
    first = await bench.doubted(OnDoubt.RESEND, expires_in=60)
    await bench.settle(await bench.lease("b"), Outcome.IN_DOUBT)
    bench.clock.advance(60)
    await bench.storage.sweep()
    await bench.storage.resolve(SHOP, first.email.id, decision, "ann")
    stored = await bench.read(first)
    assert [attempt.resolution for attempt in stored.attempts] == [Resolution.OPERATOR] * 2


async def test_resend_is_due_at_once_for_every_provider(bench: Bench) -> None:
    email_id = await held(bench)
    bench.clock.advance(7)
    await bench.storage.resolve(SHOP, email_id, Decision.RESEND, "ann")
    delivery = (await bench.read(email_id)).delivery
    assert (delivery.due_at, delivery.tried) == (bench.clock(), ())
    assert (await bench.lease("a")).number == 2


async def test_resend_within_its_time_keeps_its_expiry(bench: Bench) -> None:
    leased = await bench.doubted(OnDoubt.HOLD, expires_in=60)
    bench.clock.advance(59)
    await bench.storage.resolve(SHOP, leased.email.id, Decision.RESEND, "ann")
    assert (await bench.read(leased)).delivery.expires_at == NOW + 60_000


async def test_resend_after_its_time_gets_as_much_time_again(bench: Bench) -> None:
    leased = await bench.doubted(OnDoubt.HOLD, expires_in=60)
    bench.clock.advance(3600)
    await bench.storage.resolve(SHOP, leased.email.id, Decision.RESEND, "ann")
    assert (await bench.read(leased)).delivery.expires_at == bench.clock() + 60_000
    assert (await bench.lease()).email.id == leased.email.id


@pytest.mark.parametrize("decision", Decision)
@pytest.mark.parametrize("situation", [queued, queued_with_a_doubt, sending, sent, failed, cancelled])
async def test_elsewhere_there_is_nothing_to_resolve(bench: Bench, situation: Situation, decision: Decision) -> None:
    email_id = await situation(bench)
    before = await bench.read(email_id)
    with pytest.raises(WrongState):
        await bench.storage.resolve(SHOP, email_id, decision, "ann")
    assert await bench.read(email_id) == before


async def test_a_second_decision_comes_too_late(bench: Bench) -> None:
    email_id = await held(bench)
    await bench.storage.resolve(SHOP, email_id, Decision.FAILED, "ann")
    with pytest.raises(WrongState):
        await bench.storage.resolve(SHOP, email_id, Decision.SENT, "bob")
    assert await bench.status(email_id) == (Status.FAILED, Reason.OPERATOR)


async def test_after_sent_by_a_person_an_acceptance_elsewhere_is_no_second_sending(bench: Bench) -> None:
    leased = await bench.doubted(OnDoubt.HOLD)
    await bench.storage.resolve(SHOP, leased.email.id, Decision.SENT, "ann")
    await bench.settle(leased, Outcome.ACCEPTED)
    stored = await bench.read(leased)
    assert stored.delivery.status is Status.SENT
    assert told(stored).count("sent") == 1


@pytest.mark.parametrize("decision", Decision)
async def test_nobody_resolves_another_projects_email(bench: Bench, decision: Decision) -> None:
    email_id = await held(bench)
    before = await bench.read(email_id)
    with pytest.raises(NotFound):
        await bench.storage.resolve(Reach("blog"), email_id, decision, "ann")
    assert await bench.read(email_id) == before


async def test_what_does_not_exist_is_not_resolved(bench: Bench) -> None:
    with pytest.raises(NotFound):
        await bench.storage.resolve(SHOP, EmailId("nobody"), Decision.SENT, "ann")


@only_sql
async def test_what_was_erased_can_not_be_sent_again(bench: Bench, sql: SqlStorage) -> None:
    email_id = await held(bench)
    await erase(sql, email_id)
    before = await bench.read(email_id)
    with pytest.raises(WrongState, match="erased"):
        await bench.storage.resolve(SHOP, email_id, Decision.RESEND, "ann")
    assert await bench.read(email_id) == before


@only_sql
@pytest.mark.parametrize("decision", [Decision.SENT, Decision.FAILED])
async def test_what_was_erased_can_still_be_decided(bench: Bench, sql: SqlStorage, decision: Decision) -> None:
    email_id = await held(bench)
    await erase(sql, email_id)
    await bench.storage.resolve(SHOP, email_id, decision, "ann")
    assert (await bench.status(email_id))[0].value == decision.value


# --- drafts ----------------------------------------------------------------------------------------------------------


@only_sql
async def test_only_a_draft_of_ones_own_is_edited_and_only_in_the_version_that_was_read(
    bench: Bench, sql: SqlStorage
) -> None:
    draft = replace(new_email(subject="Old"), is_draft=True)
    await sql.accept(draft)
    new = replace(draft, email=replace(draft.email, subject="New"))
    with pytest.raises(NotFound):
        await sql.edit(Reach("other"), new, 1)
    with pytest.raises(WrongVersion):
        await sql.edit(SHOP, new, 2)
    assert (await bench.read(draft.email.id)).subject == "Old"
    await sql.edit(SHOP, new, 1)
    await sql.send(SHOP, draft.email.id, None)
    assert (await bench.lease()).email == new.email
    with pytest.raises(WrongState, match="`sending` can't be edited"):
        await sql.edit(SHOP, draft, (await bench.read(draft.email.id)).delivery.version)
