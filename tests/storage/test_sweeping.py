"""`sweep`: leases that ran out become doubt, and what has expired ends."""

import pytest

from hes.model import Decision, Leased, OnDoubt, Outcome, Reason, Status
from hes.storage.records import Leases, Swept
from tests.storage.harness import LEASE_SECONDS, SHOP, Bench, rooms, told


async def lapse_three_times(bench: Bench, on_doubt: OnDoubt) -> Leased:
    """Whatever a person says in between."""
    leased = await bench.leased(own_providers=("a",), on_doubt=on_doubt)
    await bench.lapse()
    for _ in range(2):
        if on_doubt is not OnDoubt.RESEND:
            await bench.storage.resolve(SHOP, leased.email.id, Decision.RESEND, "ann")
        await bench.lease("a")
        await bench.lapse()
    return leased


async def test_nothing_to_do_is_nothing_done(bench: Bench) -> None:
    assert await bench.storage.sweep() == Swept()
    await bench.accept()
    assert await bench.storage.sweep() == Swept()


# --- lapsed leases ---------------------------------------------------------------------------------------------------


async def test_a_lease_lapses_at_its_end_and_not_before(bench: Bench) -> None:
    leased = await bench.leased()
    bench.clock.advance(LEASE_SECONDS - 0.001)
    assert await bench.storage.sweep() == Swept()
    assert await bench.status(leased) == (Status.SENDING, None)
    bench.clock.advance(0.001)
    assert await bench.storage.sweep() == Swept(lapsed=1)


async def test_a_lapsed_lease_is_a_doubt_about_that_attempt(bench: Bench) -> None:
    leased = await bench.leased(on_doubt=OnDoubt.HOLD)
    await bench.lapse()
    stored = await bench.read(leased)
    [attempt] = stored.attempts
    assert (attempt.id, attempt.outcome, attempt.ended_at) == (leased.attempt_id, Outcome.IN_DOUBT, bench.clock())
    assert attempt.is_open_doubt
    delivery = stored.delivery
    assert (delivery.attempt_id, delivery.lease_ends_at, delivery.lapses) == (None, None, 1)


async def test_lapsed_with_resend_is_due_at_once_elsewhere(bench: Bench) -> None:
    leased = await bench.leased("a", on_doubt=OnDoubt.RESEND)
    await bench.lapse()
    delivery = (await bench.read(leased)).delivery
    assert (delivery.status, delivery.due_at, delivery.tried) == (Status.QUEUED, bench.clock(), ("a",))
    assert told(await bench.read(leased))[-2:] == ["in_doubt", "queued"]
    assert (await bench.lease("b")).number == 2


async def test_lapsed_with_resend_lengthens_no_backoff(bench: Bench) -> None:
    leased = await bench.leased(own_providers=("a",), on_doubt=OnDoubt.RESEND)
    await bench.lapse()
    delivery = (await bench.read(leased)).delivery
    assert (delivery.due_at, delivery.round, delivery.tried) == (bench.clock(), 0, ())


async def test_lapsed_with_hold_is_held(bench: Bench) -> None:
    leased = await bench.leased(on_doubt=OnDoubt.HOLD)
    await bench.lapse()
    assert await bench.status(leased) == (Status.HELD, Reason.DOUBT)
    assert told(await bench.read(leased))[-2:] == ["in_doubt", "held"]
    assert await bench.give_out(rooms(a=1, b=1)) == Leases()


async def test_lapsed_with_wait_stays_in_doubt(bench: Bench) -> None:
    leased = await bench.leased(on_doubt=OnDoubt.WAIT)
    await bench.lapse()
    delivery = (await bench.read(leased)).delivery
    assert (delivery.status, delivery.due_at) == (Status.IN_DOUBT, delivery.expires_at)
    assert await bench.give_out(rooms(a=1, b=1)) == Leases()


async def test_a_lease_lapses_once(bench: Bench) -> None:
    leased = await bench.leased()
    await bench.lapse()
    before = await bench.read(leased)
    assert await bench.storage.sweep() == Swept()
    assert await bench.read(leased) == before


async def test_only_the_leases_that_ran_out_lapse(bench: Bench) -> None:
    old = await bench.leased()
    bench.clock.advance(1)
    young = await bench.leased()
    bench.clock.advance(LEASE_SECONDS - 1)
    assert await bench.storage.sweep() == Swept(lapsed=1)
    assert (await bench.read(old)).delivery.lapses == 1
    assert await bench.status(young) == (Status.SENDING, None)


@pytest.mark.parametrize("on_doubt", OnDoubt)
async def test_the_third_lapse_is_poison_whatever_the_policy(bench: Bench, on_doubt: OnDoubt) -> None:
    leased = await lapse_three_times(bench, on_doubt)
    assert await bench.status(leased) == (Status.HELD, Reason.POISON)
    assert (await bench.read(leased)).delivery.lapses == 3
    assert await bench.give_out(rooms(a=1, b=1)) == Leases()


async def test_poison_that_a_person_sends_again_gets_one_more_try_alone(bench: Bench) -> None:
    leased = await lapse_three_times(bench, OnDoubt.RESEND)
    await bench.storage.resolve(SHOP, leased.email.id, Decision.RESEND, "ann")
    assert await bench.give_out(rooms(a=5, b=5), is_idle=False) == Leases()
    [again] = (await bench.give_out(rooms(a=5, b=5))).items
    assert again.email.id == leased.email.id
    await bench.lapse()
    assert await bench.status(leased) == (Status.HELD, Reason.POISON)


async def test_poison_that_was_accepted_after_all_is_sent(bench: Bench) -> None:
    leased = await lapse_three_times(bench, OnDoubt.RESEND)
    await bench.settle(leased, Outcome.ACCEPTED)
    assert await bench.status(leased) == (Status.SENT, None)


# --- expiry ----------------------------------------------------------------------------------------------------------


async def test_expired_before_anybody_had_it_is_failed(bench: Bench) -> None:
    email_id = await bench.accept(expires_in=60)
    bench.clock.advance(59.999)
    assert await bench.storage.sweep() == Swept()
    bench.clock.advance(0.001)
    assert await bench.storage.sweep() == Swept(expired=1)
    assert await bench.status(email_id) == (Status.FAILED, Reason.EXPIRED)
    assert told(await bench.read(email_id)) == ["created", "queued", "failed"]


async def test_expired_after_tries_that_surely_failed_is_failed(bench: Bench) -> None:
    leased = await bench.leased(expires_in=60)
    await bench.settle(leased, Outcome.UNAVAILABLE)
    bench.clock.advance(60)
    await bench.storage.sweep()
    assert await bench.status(leased) == (Status.FAILED, Reason.EXPIRED)


async def test_expired_with_an_open_doubt_is_held(bench: Bench) -> None:
    leased = await bench.doubted(OnDoubt.RESEND, expires_in=60)
    bench.clock.advance(60)
    assert await bench.storage.sweep() == Swept(expired=1)
    assert await bench.status(leased) == (Status.HELD, Reason.EXPIRED_IN_DOUBT)


async def test_wait_is_held_when_its_time_is_over(bench: Bench) -> None:
    leased = await bench.doubted(OnDoubt.WAIT, expires_in=60)
    bench.clock.advance(59.999)
    await bench.storage.sweep()
    assert await bench.status(leased) == (Status.IN_DOUBT, None)
    bench.clock.advance(0.001)
    await bench.storage.sweep()
    assert await bench.status(leased) == (Status.HELD, Reason.EXPIRED_IN_DOUBT)


async def test_what_is_held_never_expires(bench: Bench) -> None:
    leased = await bench.doubted(OnDoubt.HOLD, expires_in=60)
    bench.clock.advance(3600)
    assert await bench.storage.sweep() == Swept()
    assert await bench.status(leased) == (Status.HELD, Reason.DOUBT)


async def test_what_is_being_sent_does_not_expire(bench: Bench) -> None:
    leased = await bench.leased(expires_in=10)
    bench.clock.advance(10)
    assert await bench.storage.sweep() == Swept()
    await bench.settle(leased, Outcome.ACCEPTED)
    assert await bench.status(leased) == (Status.SENT, None)


async def test_lapsed_and_expired_ends_held(bench: Bench) -> None:
    leased = await bench.leased(expires_in=10, on_doubt=OnDoubt.RESEND)
    await bench.lapse()
    await bench.storage.sweep()
    assert await bench.status(leased) == (Status.HELD, Reason.EXPIRED_IN_DOUBT)


@pytest.mark.parametrize("end", [Outcome.ACCEPTED, Outcome.REJECTED])
async def test_what_is_over_does_not_expire(bench: Bench, end: Outcome) -> None:
    leased = await bench.leased(expires_in=10)
    await bench.settle(leased, end)
    before = await bench.read(leased)
    bench.clock.advance(60)
    assert await bench.storage.sweep() == Swept()
    assert await bench.read(leased) == before


# --- many ------------------------------------------------------------------------------------------------------------


async def test_one_sweep_does_both(bench: Bench) -> None:
    leased = await bench.leased()
    email_id = await bench.accept(expires_in=LEASE_SECONDS)
    bench.clock.advance(LEASE_SECONDS)
    assert await bench.storage.sweep() == Swept(lapsed=1, expired=1)
    assert await bench.status(leased) == (Status.QUEUED, None)
    assert await bench.status(email_id) == (Status.FAILED, Reason.EXPIRED)


async def test_at_most_500_leases_lapse_at_a_time(bench: Bench) -> None:
    await bench.accept_many(501, on_doubt=OnDoubt.HOLD)
    await bench.give_out(rooms(a=501))
    bench.clock.advance(LEASE_SECONDS)
    assert await bench.storage.sweep() == Swept(lapsed=500, more=True)
    assert await bench.storage.sweep() == Swept(lapsed=1)


async def test_at_most_500_expire_at_a_time(bench: Bench) -> None:
    await bench.accept_many(501, expires_in=60)
    bench.clock.advance(60)
    assert await bench.storage.sweep() == Swept(expired=500, more=True)
    assert await bench.storage.sweep() == Swept(expired=1)
