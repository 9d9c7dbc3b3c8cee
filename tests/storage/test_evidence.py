"""`evidence`: what was found out about a named attempt, and what follows from it in each state."""

import pytest
from msgspec.structs import replace

from hes.model import AttemptId, Decision, EmailId, Leased, OnDoubt, Outcome, Reason, Resolution, Status
from hes.storage.records import Leases
from tests.storage.harness import DAY_SECONDS, SHOP, Bench, proof, rooms, told


async def find_out(bench: Bench, leased: Leased, *, accepted: bool) -> None:
    await bench.storage.evidence([proof(leased, accepted=accepted, provider_message_id="m1", detail="seen")])


async def doubted_twice(bench: Bench) -> tuple[Leased, Leased]:
    """Held as its time was over, with a doubt at a and one at b."""
    first = await bench.doubted(OnDoubt.RESEND)
    second = await bench.lease("b")
    await bench.settle(second, Outcome.IN_DOUBT)
    bench.clock.advance(DAY_SECONDS)
    await bench.storage.sweep()
    assert await bench.status(first) == (Status.HELD, Reason.EXPIRED_IN_DOUBT)
    return first, second


@pytest.mark.parametrize("on_doubt", OnDoubt)
async def test_accepted_is_sent_from_wherever_it_waits(bench: Bench, on_doubt: OnDoubt) -> None:
    leased = await bench.doubted(on_doubt)
    await find_out(bench, leased, accepted=True)
    stored = await bench.read(leased)
    assert (stored.delivery.status, stored.delivery.reason, stored.delivery.provider) == (Status.SENT, None, "a")
    assert await bench.give_out(rooms(a=1, b=1)) == Leases()


async def test_it_is_written_down_who_found_out_what(bench: Bench) -> None:
    leased = await bench.doubted(OnDoubt.HOLD)
    await find_out(bench, leased, accepted=True)
    stored = await bench.read(leased)
    [attempt] = stored.attempts
    assert (attempt.outcome, attempt.resolution) == (Outcome.IN_DOUBT, Resolution.ACCEPTED)
    assert attempt.provider_message_id == "m1"
    assert told(stored)[-2:] == ["resolved", "sent"]
    expected = {"attempt": 1, "resolution": "accepted", "source": "event", "detail": "seen"}
    assert stored.events[-2][1].data == expected


@pytest.mark.parametrize("on_doubt", [OnDoubt.HOLD, OnDoubt.WAIT])
async def test_surely_not_about_the_last_open_doubt_is_queued(bench: Bench, on_doubt: OnDoubt) -> None:
    leased = await bench.doubted(on_doubt)
    await find_out(bench, leased, accepted=False)
    assert await bench.status(leased) == (Status.QUEUED, None)
    assert (await bench.read(leased)).attempts[0].resolution is Resolution.NOT_ACCEPTED
    assert (await bench.lease("b")).number == 2


async def test_surely_not_leaves_what_is_queued_where_it_is(bench: Bench) -> None:
    leased = await bench.doubted(OnDoubt.RESEND)
    before = (await bench.read(leased)).delivery
    await find_out(bench, leased, accepted=False)
    stored = await bench.read(leased)
    assert replace(stored.delivery, version=0) == replace(before, version=0)
    assert not stored.attempts[0].is_open_doubt


async def test_surely_not_about_one_of_two_doubts_frees_nothing(bench: Bench) -> None:
    first, second = await doubted_twice(bench)
    await find_out(bench, second, accepted=False)
    assert await bench.status(first) == (Status.HELD, Reason.EXPIRED_IN_DOUBT)
    await find_out(bench, first, accepted=False)
    assert await bench.status(first) == (Status.FAILED, Reason.EXPIRED)


async def test_one_of_two_doubts_accepted_is_sent_there(bench: Bench) -> None:
    first, second = await doubted_twice(bench)
    await find_out(bench, second, accepted=True)
    stored = await bench.read(first)
    assert (stored.delivery.status, stored.delivery.provider) == (Status.SENT, "b")


async def test_both_doubts_accepted_are_a_duplicate(bench: Bench) -> None:
    first, second = await doubted_twice(bench)
    await bench.storage.evidence([proof(second, accepted=True), proof(first, accepted=True)])
    stored = await bench.read(first)
    assert (stored.delivery.status, stored.delivery.provider) == (Status.SENT, "b")
    assert (stored.events[-1][1].type, stored.events[-1][1].data) == ("duplicate", {"attempts": [1, 2]})


async def test_rejected_elsewhere_and_surely_not_here_is_failed(bench: Bench) -> None:
    leased = await bench.doubted(OnDoubt.RESEND)
    await bench.settle(await bench.lease("b"), Outcome.REJECTED)
    await find_out(bench, leased, accepted=False)
    assert await bench.status(leased) == (Status.FAILED, Reason.REJECTED)


# --- while it is leased ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accepted", [True, False])
async def test_about_an_attempt_in_flight_it_is_kept(bench: Bench, *, accepted: bool) -> None:
    leased = await bench.leased()
    before = (await bench.read(leased)).delivery
    await find_out(bench, leased, accepted=accepted)
    stored = await bench.read(leased)
    assert replace(stored.delivery, version=0) == replace(before, version=0)
    assert told(stored)[-1] == "resolved"


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.ACCEPTED])
async def test_accepted_in_flight_is_sent_whatever_the_answer(bench: Bench, outcome: Outcome) -> None:
    leased = await bench.leased(on_doubt=OnDoubt.HOLD)
    await find_out(bench, leased, accepted=True)
    await bench.settle(leased, outcome)
    assert await bench.status(leased) == (Status.SENT, None)


async def test_accepted_in_flight_is_sent_when_the_lease_lapses(bench: Bench) -> None:
    leased = await bench.leased(on_doubt=OnDoubt.HOLD)
    await find_out(bench, leased, accepted=True)
    await bench.lapse()
    assert await bench.status(leased) == (Status.SENT, None)


async def test_surely_not_in_flight_leaves_no_doubt_when_the_lease_lapses(bench: Bench) -> None:
    leased = await bench.leased(on_doubt=OnDoubt.HOLD)
    await find_out(bench, leased, accepted=False)
    await bench.lapse()
    assert await bench.status(leased) == (Status.QUEUED, None)


async def test_accepted_in_flight_and_by_its_own_answer_is_one_copy(bench: Bench) -> None:
    leased = await bench.leased()
    await find_out(bench, leased, accepted=True)
    await bench.settle(leased, Outcome.ACCEPTED, provider_message_id="m1")
    stored = await bench.read(leased)
    assert stored.delivery.status is Status.SENT
    assert "duplicate" not in told(stored)


# --- at rest ---------------------------------------------------------------------------------------------------------


async def test_accepted_is_believed_against_a_surely_not(bench: Bench) -> None:
    leased = await bench.leased()
    await bench.settle(leased, Outcome.REJECTED)
    await find_out(bench, leased, accepted=True)
    assert await bench.status(leased) == (Status.SENT, None)


async def test_accepted_is_believed_against_a_persons_word(bench: Bench) -> None:
    leased = await bench.doubted(OnDoubt.HOLD)
    await bench.storage.resolve(SHOP, leased.email.id, Decision.FAILED, "ann")
    await find_out(bench, leased, accepted=True)
    assert await bench.status(leased) == (Status.SENT, None)


async def test_accepted_turns_cancelled_into_sent(bench: Bench) -> None:
    leased = await bench.leased()
    await bench.settle(leased, Outcome.UNAVAILABLE)
    await bench.storage.cancel(SHOP, leased.email.id)
    await find_out(bench, leased, accepted=True)
    assert await bench.status(leased) == (Status.SENT, None)


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.IN_DOUBT])
async def test_surely_not_settles_only_what_is_open(bench: Bench, outcome: Outcome) -> None:
    leased = await bench.leased()
    await bench.settle(leased, outcome)
    before = await bench.read(leased)
    await find_out(bench, leased, accepted=False)
    assert await bench.read(leased) == before


@pytest.mark.parametrize("accepted", [True, False])
async def test_the_same_again_changes_nothing(bench: Bench, *, accepted: bool) -> None:
    leased = await bench.doubted(OnDoubt.HOLD)
    await find_out(bench, leased, accepted=accepted)
    before = await bench.read(leased)
    bench.clock.advance(1)
    await find_out(bench, leased, accepted=accepted)
    assert await bench.read(leased) == before


async def test_what_is_known_accepted_tells_nothing_new(bench: Bench) -> None:
    leased = await bench.leased()
    await bench.settle(leased, Outcome.ACCEPTED)
    before = await bench.read(leased)
    await find_out(bench, leased, accepted=True)
    assert await bench.read(leased) == before


async def test_an_unknown_attempt_is_passed_over_and_the_others_count(bench: Bench) -> None:
    leased = await bench.doubted(OnDoubt.HOLD)
    known = proof(leased, accepted=True)
    no_attempt = replace(known, attempt_id=AttemptId("0-0-0"))
    no_email = replace(known, email_id=EmailId("nobody"))
    before = await bench.read(leased)
    await bench.storage.evidence([no_attempt, no_email])
    assert await bench.read(leased) == before
    await bench.storage.evidence([no_attempt, no_email, known])
    assert await bench.status(leased) == (Status.SENT, None)


async def test_an_attempt_that_was_not_made_is_unknown(bench: Bench) -> None:
    leased = await bench.leased()
    await bench.settle(leased, None)
    before = await bench.read(leased)
    await find_out(bench, leased, accepted=True)
    assert await bench.read(leased) == before


async def test_no_proofs_change_nothing(bench: Bench) -> None:
    await bench.storage.evidence([])
