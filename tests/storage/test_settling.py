"""`settle`: how attempts ended, the fence, and what comes after the lease was lost."""

import pytest
from msgspec.structs import replace

from hes.model import AttemptId, EmailId, Leased, OnDoubt, Outcome, Reason, Resolution, Room, Status
from hes.storage.records import Leases, Settled, Swept, Verdict
from tests.storage.harness import NOW, Bench, ended, rooms, told

NOT_TAKEN = [Outcome.DECLINED, Outcome.REFUSED, Outcome.THROTTLED, Outcome.UNAVAILABLE]


async def lapsed_then_leased(bench: Bench) -> tuple[Leased, Leased]:
    """The lease at a was lost; b holds the email now."""
    first = await bench.leased("a")
    await bench.lapse()
    return first, await bench.lease("b")


# --- each outcome ----------------------------------------------------------------------------------------------------


async def test_accepted_is_sent(bench: Bench) -> None:
    leased = await bench.leased()
    assert await bench.settle(leased, Outcome.ACCEPTED) == []
    stored = await bench.read(leased)
    assert (stored.delivery.status, stored.delivery.provider) == (Status.SENT, "a")
    assert told(stored) == ["created", "queued", "attempt", "sent"]


async def test_rejected_is_failed(bench: Bench) -> None:
    leased = await bench.leased()
    assert await bench.settle(leased, Outcome.REJECTED) == []
    assert await bench.status(leased) == (Status.FAILED, Reason.REJECTED)
    assert told(await bench.read(leased))[-1] == "failed"


@pytest.mark.parametrize("outcome", NOT_TAKEN)
async def test_surely_not_taken_is_due_at_once_at_another_provider(bench: Bench, outcome: Outcome) -> None:
    leased = await bench.leased("a")
    assert await bench.settle(leased, outcome) == []
    delivery = (await bench.read(leased)).delivery
    assert (delivery.status, delivery.due_at, delivery.tried, delivery.round) == (Status.QUEUED, NOW, ("a",), 0)
    assert (await bench.lease("b")).number == 2


@pytest.mark.parametrize("outcome", [Outcome.THROTTLED, Outcome.REFUSED])
async def test_account_trouble_makes_the_gate_wait_and_not_the_email(bench: Bench, outcome: Outcome) -> None:
    leased = await bench.leased(own_providers=("a",))
    await bench.settle(leased, outcome, retry_after_seconds=3600)
    delivery = (await bench.read(leased)).delivery
    assert (delivery.status, delivery.due_at, delivery.tried) == (Status.QUEUED, NOW, ())
    assert delivery.round == 0, "throttles and account trouble never lengthen the backoff"


async def test_nothing_waits_for_a_provider_that_is_shut(bench: Bench) -> None:
    bench.stand = {"b": Room(hands=0, is_shut=True)}
    leased = await bench.leased("a")
    await bench.settle(leased, Outcome.UNAVAILABLE)
    delivery = (await bench.read(leased)).delivery
    assert (delivery.tried, delivery.round, delivery.is_retry) == ((), 1, True)


async def test_what_the_other_says_of_a_rejected_email_is_told(bench: Bench) -> None:
    for outcome, is_liar in ((Outcome.ACCEPTED, True), (Outcome.REJECTED, False)):
        first = await bench.leased("a")
        not_believed = replace(ended(first, Outcome.REJECTED), is_believed=False)
        assert await bench.storage.settle([not_believed], {}) == Settled()
        assert await bench.status(first) == (Status.QUEUED, None)
        second = await bench.lease("b")
        assert second.email.id == first.email.id
        settled = await bench.storage.settle([ended(second, outcome)], {})
        assert Verdict("a", is_liar=is_liar) in settled.verdicts


async def test_unavailable_everywhere_begins_a_new_round(bench: Bench) -> None:
    leased = await bench.leased(own_providers=("a",))
    await bench.settle(leased, Outcome.UNAVAILABLE)
    delivery = (await bench.read(leased)).delivery
    assert (delivery.status, delivery.round, delivery.tried) == (Status.QUEUED, 1, ())
    assert NOW <= delivery.due_at <= NOW + 1000


async def test_declined_by_all_is_failed(bench: Bench) -> None:
    leased = await bench.leased("a")
    await bench.settle(leased, Outcome.DECLINED)
    await bench.settle(await bench.lease("b"), Outcome.DECLINED)
    assert await bench.status(leased) == (Status.FAILED, Reason.NO_PROVIDER)
    assert (await bench.read(leased)).delivery.declined_by == ("a", "b")


async def test_in_doubt_with_resend_is_queued(bench: Bench) -> None:
    leased = await bench.doubted(OnDoubt.RESEND)
    assert await bench.status(leased) == (Status.QUEUED, None)
    assert told(await bench.read(leased))[-2:] == ["in_doubt", "queued"]
    assert (await bench.lease("b")).number == 2


async def test_in_doubt_with_hold_is_held(bench: Bench) -> None:
    leased = await bench.doubted(OnDoubt.HOLD)
    assert await bench.status(leased) == (Status.HELD, Reason.DOUBT)
    assert told(await bench.read(leased))[-2:] == ["in_doubt", "held"]


async def test_in_doubt_with_wait_stays_in_doubt(bench: Bench) -> None:
    delivery = (await bench.read(await bench.doubted(OnDoubt.WAIT))).delivery
    assert (delivery.status, delivery.reason, delivery.due_at) == (Status.IN_DOUBT, None, delivery.expires_at)


async def test_rejected_after_a_doubt_is_held(bench: Bench) -> None:
    leased = await bench.doubted(OnDoubt.RESEND)
    await bench.settle(await bench.lease("b"), Outcome.REJECTED)
    assert await bench.status(leased) == (Status.HELD, Reason.REJECTED_AFTER_DOUBT)


async def test_declined_by_all_after_a_doubt_is_held(bench: Bench) -> None:
    leased = await bench.leased("a", own_providers=("a",))
    await bench.settle(leased, Outcome.IN_DOUBT)
    bench.clock.advance(600)
    await bench.settle(await bench.lease("a"), Outcome.DECLINED)
    assert await bench.status(leased) == (Status.HELD, Reason.DOUBT)


async def test_accepted_after_a_doubt_is_sent_and_the_doubt_stays_open(bench: Bench) -> None:
    await bench.doubted(OnDoubt.RESEND)
    second = await bench.lease("b")
    await bench.settle(second, Outcome.ACCEPTED)
    stored = await bench.read(second)
    assert (stored.delivery.status, stored.delivery.provider) == (Status.SENT, "b")
    assert [attempt.is_open_doubt for attempt in stored.attempts] == [True, False]
    assert "duplicate" not in told(stored)


async def test_the_attempt_keeps_what_the_provider_said(bench: Bench) -> None:
    leased = await bench.leased()
    bench.clock.advance(5)
    told_at = NOW + 3000
    answer = ended(leased, Outcome.ACCEPTED, told_at, status_code=202, provider_message_id="m1", detail="fine ✓")
    await bench.storage.settle([answer], {})
    [attempt] = (await bench.read(leased)).attempts
    assert (attempt.outcome, attempt.ended_at, attempt.status_code) == (Outcome.ACCEPTED, told_at, 202)
    assert (attempt.provider_message_id, attempt.detail, attempt.resolution) == ("m1", "fine ✓", None)


@pytest.mark.parametrize("outcome", [None, *Outcome])
async def test_whatever_the_outcome_the_lease_is_over(bench: Bench, outcome: Outcome | None) -> None:
    leased = await bench.leased()
    await bench.settle(leased, outcome)
    delivery = (await bench.read(leased)).delivery
    assert (delivery.attempt_id, delivery.lease_ends_at, delivery.lapses) == (None, None, 0)
    assert delivery.status is not Status.SENDING


@pytest.mark.parametrize("outcome", [None, *Outcome])
async def test_settling_again_changes_nothing(bench: Bench, outcome: Outcome | None) -> None:
    leased = await bench.leased()
    await bench.settle(leased, outcome)
    before = await bench.read(leased)
    bench.clock.advance(7)
    await bench.settle(leased, outcome)
    assert await bench.read(leased) == before


@pytest.mark.parametrize("outcome", [None, *Outcome])
async def test_settling_twice_in_one_call_is_settling_once(bench: Bench, outcome: Outcome | None) -> None:
    once, twice = await bench.leased(), await bench.leased()
    await bench.storage.settle([ended(once, outcome)], {})
    await bench.storage.settle([ended(twice, outcome), ended(twice, outcome)], {})
    assert told(await bench.read(twice)) == told(await bench.read(once))
    assert await bench.status(twice) == await bench.status(once)


# --- not tried -------------------------------------------------------------------------------------------------------


async def test_not_tried_leaves_no_attempt_and_is_due_at_once(bench: Bench) -> None:
    leased = await bench.leased()
    bench.clock.advance(2)
    assert await bench.settle(leased, None, note="stopping") == []
    stored = await bench.read(leased)
    assert (stored.attempts, stored.delivery.attempts, stored.delivery.provider) == ((), 0, None)
    assert (stored.delivery.status, stored.delivery.due_at) == (Status.QUEUED, bench.clock())
    assert (stored.events[-1][1].type, stored.events[-1][1].data) == ("not_tried", {"why": "stopping"})


async def test_not_tried_counts_for_no_round_and_its_number_is_free_again(bench: Bench) -> None:
    leased = await bench.leased("a")
    await bench.settle(leased, None)
    again = await bench.lease("a")
    assert (again.number, again.attempt_id != leased.attempt_id) == (1, True)
    assert (await bench.read(again)).delivery.tried == ()


async def test_not_tried_leaves_the_attempts_before_it(bench: Bench) -> None:
    first = await bench.leased("a")
    await bench.settle(first, Outcome.UNAVAILABLE)
    await bench.settle(await bench.lease("b"), None)
    stored = await bench.read(first)
    assert [attempt.id for attempt in stored.attempts] == [first.attempt_id]
    assert (stored.delivery.attempts, stored.delivery.provider, stored.delivery.tried) == (1, "a", ("a",))


async def test_not_tried_twice_in_a_row_waits_and_is_told_once(bench: Bench) -> None:
    leased = await bench.leased()
    await bench.settle(leased, None, note="too little of the lease was left")
    for _ in range(2):
        again = await bench.lease()
        assert await bench.settle(again, None, note="the gate is shut") == []
        delivery = (await bench.read(leased)).delivery
        assert (delivery.status, delivery.due_at > bench.clock()) == (Status.QUEUED, True)
        assert (await bench.give_out(rooms(a=1))).items == ()
        bench.clock.advance((delivery.due_at - bench.clock()) / 1000)
    assert told(await bench.read(leased)) == ["created", "queued", "attempt", "not_tried"]
    await bench.settle(await bench.lease(), Outcome.ACCEPTED)
    stored = await bench.read(leased)
    assert told(stored)[4:] == ["attempt", "sent"]
    assert stored.delivery.not_tried == 0


# --- late ------------------------------------------------------------------------------------------------------------


async def test_late_accepted_turns_held_into_sent(bench: Bench) -> None:
    leased = await bench.leased(on_doubt=OnDoubt.HOLD)
    await bench.lapse()
    assert await bench.status(leased) == (Status.HELD, Reason.DOUBT)
    assert await bench.settle(leased, Outcome.ACCEPTED, provider_message_id="m1") == [leased.attempt_id]
    stored = await bench.read(leased)
    assert (stored.delivery.status, stored.delivery.reason, stored.delivery.provider) == (Status.SENT, None, "a")
    [attempt] = stored.attempts
    assert (attempt.outcome, attempt.resolution) == (Outcome.IN_DOUBT, Resolution.ACCEPTED)
    assert attempt.provider_message_id == "m1"
    assert told(stored)[-2:] == ["resolved", "sent"]
    assert stored.events[-2][1].data["source"] == "late outcome"


@pytest.mark.parametrize("outcome", [None, Outcome.REJECTED, *NOT_TAKEN])
async def test_late_surely_not_about_the_last_open_doubt_frees_what_is_held(
    bench: Bench, outcome: Outcome | None
) -> None:
    leased = await bench.leased(on_doubt=OnDoubt.HOLD)
    await bench.lapse()
    assert await bench.settle(leased, outcome) == [leased.attempt_id]
    stored = await bench.read(leased)
    assert (stored.delivery.status, stored.delivery.reason) == (Status.QUEUED, None)
    assert stored.attempts[0].resolution is Resolution.NOT_ACCEPTED
    assert (await bench.lease("b")).number == 2


async def test_late_and_still_in_doubt_changes_nothing(bench: Bench) -> None:
    leased = await bench.leased(on_doubt=OnDoubt.HOLD)
    await bench.lapse()
    before = await bench.read(leased)
    assert await bench.settle(leased, Outcome.IN_DOUBT) == [leased.attempt_id]
    assert await bench.read(leased) == before


async def test_late_accepted_drops_the_pending_resend(bench: Bench) -> None:
    leased = await bench.leased(on_doubt=OnDoubt.RESEND)
    await bench.lapse()
    assert await bench.settle(leased, Outcome.ACCEPTED) == [leased.attempt_id]
    assert await bench.status(leased) == (Status.SENT, None)
    assert await bench.give_out(rooms(a=1, b=1)) == Leases()


@pytest.mark.parametrize("outcome", [None, Outcome.ACCEPTED, Outcome.UNAVAILABLE, Outcome.IN_DOUBT])
async def test_late_moves_nothing_that_another_attempt_leases(bench: Bench, outcome: Outcome | None) -> None:
    first, second = await lapsed_then_leased(bench)
    before = (await bench.read(second)).delivery
    assert await bench.settle(first, outcome) == [first.attempt_id]
    stored = await bench.read(second)
    assert replace(stored.delivery, version=0) == replace(before, version=0)
    assert stored.attempts[1].outcome is None


@pytest.mark.parametrize("outcome", [None, *(o for o in Outcome if o is not Outcome.ACCEPTED)])
async def test_late_accepted_is_read_when_the_other_lease_ends(bench: Bench, outcome: Outcome | None) -> None:
    first, second = await lapsed_then_leased(bench)
    await bench.settle(first, Outcome.ACCEPTED)
    assert await bench.settle(second, outcome) == []
    stored = await bench.read(second)
    assert (stored.delivery.status, stored.delivery.provider) == (Status.SENT, "a")
    assert "duplicate" not in told(stored)
    assert len(stored.attempts) == (1 if outcome is None else 2)


async def test_late_accepted_is_read_when_the_other_lease_lapses(bench: Bench) -> None:
    first, second = await lapsed_then_leased(bench)
    await bench.settle(first, Outcome.ACCEPTED)
    await bench.lapse()
    stored = await bench.read(second)
    assert (stored.delivery.status, stored.delivery.provider) == (Status.SENT, "a")


async def test_two_that_accepted_are_a_duplicate_and_the_first_proven_counts(bench: Bench) -> None:
    first, second = await lapsed_then_leased(bench)
    await bench.settle(first, Outcome.ACCEPTED)
    await bench.settle(second, Outcome.ACCEPTED)
    stored = await bench.read(second)
    assert (stored.delivery.status, stored.delivery.provider) == (Status.SENT, "a")
    [duplicate] = [event for _, event in stored.events if event.type == "duplicate"]
    assert duplicate.data == {"attempts": [1, 2]}


async def test_late_accepted_after_it_was_sent_elsewhere_is_a_duplicate(bench: Bench) -> None:
    first, second = await lapsed_then_leased(bench)
    await bench.settle(second, Outcome.ACCEPTED)
    assert await bench.settle(first, Outcome.ACCEPTED) == [first.attempt_id]
    stored = await bench.read(second)
    assert (stored.delivery.status, stored.delivery.provider) == (Status.SENT, "b")
    assert (stored.events[-1][1].type, stored.events[-1][1].data) == ("duplicate", {"attempts": [1, 2]})


async def test_late_surely_not_leaves_no_doubt_to_the_attempt_that_follows(bench: Bench) -> None:
    first, second = await lapsed_then_leased(bench)
    await bench.settle(first, Outcome.UNAVAILABLE)
    await bench.settle(second, Outcome.REJECTED)
    assert await bench.status(second) == (Status.FAILED, Reason.REJECTED)


async def test_late_again_changes_nothing(bench: Bench) -> None:
    leased = await bench.leased(on_doubt=OnDoubt.HOLD)
    await bench.lapse()
    await bench.settle(leased, Outcome.ACCEPTED)
    before = await bench.read(leased)
    await bench.settle(leased, Outcome.ACCEPTED)
    await bench.settle(leased, Outcome.UNAVAILABLE)
    assert await bench.read(leased) == before


# --- the fence -------------------------------------------------------------------------------------------------------


async def test_an_attempt_that_never_was_settles_nothing(bench: Bench) -> None:
    leased = await bench.leased()
    before = await bench.read(leased)
    stranger = replace(ended(leased, Outcome.ACCEPTED), attempt_id=AttemptId("0-0-0"))
    await bench.storage.settle([stranger], {})
    assert await bench.read(leased) == before


async def test_the_attempt_of_another_email_settles_nothing(bench: Bench) -> None:
    one, two = await bench.leased(), await bench.leased("b")
    before = await bench.read(one), await bench.read(two)
    await bench.storage.settle([replace(ended(one, Outcome.ACCEPTED), email_id=two.email.id)], {})
    assert (await bench.read(one), await bench.read(two)) == before


async def test_an_unknown_email_is_passed_over(bench: Bench) -> None:
    leased = await bench.leased()
    stranger = replace(ended(leased, Outcome.ACCEPTED), email_id=EmailId("nobody"))
    assert (await bench.storage.settle([stranger, ended(leased, Outcome.ACCEPTED)], {})).lost == ()
    assert await bench.status(leased) == (Status.SENT, None)


async def test_the_outcome_of_the_attempt_before_is_not_taken_for_this_ones(bench: Bench) -> None:
    """The same provider, the same number even: the id of the attempt is the fence."""
    first = await bench.leased("a")
    await bench.settle(first, None)
    second = await bench.lease("a")
    assert second.number == first.number
    assert await bench.settle(first, Outcome.REJECTED) == [first.attempt_id]
    assert await bench.status(second) == (Status.SENDING, None)


# --- many at once ----------------------------------------------------------------------------------------------------


async def test_nothing_is_settled_by_no_outcomes(bench: Bench) -> None:
    assert (await bench.storage.settle([], {})).lost == ()


async def test_a_mixed_batch_settles_each_by_itself(bench: Bench) -> None:
    late = await bench.leased(on_doubt=OnDoubt.HOLD)
    await bench.lapse()
    outcomes = [None, *Outcome]
    leased = [await bench.leased() for _ in outcomes]
    batch = [ended(one, outcome) for one, outcome in zip(leased, outcomes, strict=True)]
    assert (await bench.storage.settle([*batch, ended(late, Outcome.ACCEPTED)], {})).lost == (late.attempt_id,)
    queued, sent, failed = (Status.QUEUED, None), (Status.SENT, None), (Status.FAILED, Reason.REJECTED)
    assert [await bench.status(one) for one in leased] == [queued, sent, failed, *[queued] * 5]
    assert await bench.status(late) == sent


@pytest.mark.parametrize("late_goes_first", [True, False])
async def test_a_late_outcome_and_the_next_attempts_own_in_one_call(bench: Bench, *, late_goes_first: bool) -> None:
    first, second = await lapsed_then_leased(bench)
    batch = [ended(first, Outcome.ACCEPTED), ended(second, Outcome.ACCEPTED)]
    assert (await bench.storage.settle(batch if late_goes_first else batch[::-1], {})).lost == (first.attempt_id,)
    stored = await bench.read(second)
    assert stored.delivery.status is Status.SENT
    assert stored.delivery.provider == ("a" if late_goes_first else "b")
    assert told(stored).count("duplicate") == 1
    assert all(attempt.is_accepted for attempt in stored.attempts)


async def test_late_accepted_and_not_tried_in_one_call(bench: Bench) -> None:
    first, second = await lapsed_then_leased(bench)
    await bench.storage.settle([ended(first, Outcome.ACCEPTED), ended(second, None)], {})
    stored = await bench.read(second)
    assert (stored.delivery.status, stored.delivery.provider) == (Status.SENT, "a")
    assert [attempt.id for attempt in stored.attempts] == [first.attempt_id]


async def test_500_in_one_call(bench: Bench) -> None:
    await bench.accept_many(500)
    leased = (await bench.give_out(rooms(a=500))).items
    assert (await bench.storage.settle([ended(one, Outcome.ACCEPTED) for one in leased], {})).lost == ()
    assert {await bench.status(one) for one in leased[::50]} == {(Status.SENT, None)}
    bench.clock.advance(3600)
    assert await bench.storage.sweep() == Swept(), "no lease is left"
