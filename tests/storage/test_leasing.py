"""`lease`: who gets what, how much of it, and what is on disk before anybody sends a byte."""

import anyio
import pytest

from hes.errors import NotFound
from hes.model import Attempt, EmailId, Leased, OnDoubt, Outcome, Status
from hes.storage.storage import Leases, Room, Storage
from tests.storage.harness import AMPLE, LEASE_SECONDS, NOW, Bench, rooms, told


async def size_of(bench: Bench, email_id: EmailId) -> int:
    return (await bench.read(email_id)).delivery.size_bytes


def ids(leases: Leases) -> list[EmailId]:
    return [leased.email.id for leased in leases.items]


async def make_suspect(bench: Bench) -> Leased:
    """An email that was in flight at two crashes; it is due."""
    email_id = await bench.accept(own_providers=("a",))
    first = await bench.lease()
    await bench.lapse()
    second = await bench.lease()
    await bench.lapse()
    assert first.email.id == second.email.id == email_id
    assert (await bench.read(email_id)).delivery.lapses == 2
    return second


async def test_nothing_due_is_nothing_leased(bench: Bench) -> None:
    assert await bench.give_out(rooms(a=5, b=5)) == Leases()


@pytest.mark.parametrize("free", [{}, rooms(a=0, b=0), rooms(stranger=3)])
async def test_without_a_free_hand_of_a_known_provider_nothing_is_touched(bench: Bench, free: dict[str, Room]) -> None:
    email_id = await bench.accept()
    before = await bench.read(email_id)
    assert await bench.give_out(free) == Leases()
    assert await bench.read(email_id) == before


async def test_the_lease_and_its_attempt_are_written_down(bench: Bench) -> None:
    leased = await bench.leased("b")
    stored = await bench.read(leased)
    delivery = stored.delivery
    assert (delivery.status, delivery.attempt_id, delivery.provider) == (Status.SENDING, leased.attempt_id, "b")
    assert (delivery.lease_ends_at, delivery.attempts) == (NOW + LEASE_SECONDS * 1000, 1)
    assert stored.attempts == (
        Attempt(
            id=leased.attempt_id,
            email_id=leased.email.id,
            number=1,
            provider="b",
            started_at=NOW,
            render_version=3,
        ),
    )
    assert told(stored) == ["created", "queued", "attempt"]


async def test_the_hand_is_told_all_that_it_needs(bench: Bench) -> None:
    email_id = await bench.accept()
    [leased] = (await bench.give_out(rooms(a=1), deadline=12.5)).items
    assert (leased.email.id, leased.number, leased.provider) == (email_id, 1, "a")
    assert (leased.timeout_seconds, leased.deadline) == (10.0, 12.5)
    assert leased.size_bytes == await size_of(bench, email_id)


async def test_never_more_for_a_provider_than_its_hands(bench: Bench) -> None:
    for _ in range(9):
        await bench.accept()
    leases = await bench.give_out(rooms(a=2, b=3))
    assert sorted(leased.provider for leased in leases.items) == ["a", "a", "b", "b", "b"]
    assert len({leased.attempt_id for leased in leases.items}) == 5
    assert leases.more


async def test_more_says_whether_more_is_due_than_these_hands_took(bench: Bench) -> None:
    for _ in range(3):
        await bench.accept()
    assert (await bench.give_out(rooms(a=2))).more
    assert not (await bench.give_out(rooms(a=2))).more


async def test_what_is_leased_is_not_leased_again(bench: Bench) -> None:
    first = await bench.leased()
    assert await bench.give_out(rooms(a=5, b=5)) == Leases()
    bench.clock.advance(LEASE_SECONDS + 1)
    assert await bench.give_out(rooms(a=5, b=5)) == Leases(), "not even after its lease: that is the sweeper's to say"
    assert (await bench.read(first)).delivery.attempt_id == first.attempt_id


async def test_many_who_lease_at_once_never_get_the_same(bench: Bench) -> None:
    due = {await bench.accept() for _ in range(20)}
    given: list[EmailId] = []

    async def claim() -> None:
        given.extend(ids(await bench.give_out(rooms(a=2, b=1))))

    async with anyio.create_task_group() as claimers:
        for _ in range(10):
            claimers.start_soon(claim)
    assert len(given) == 20
    assert set(given) == due


async def test_longest_due_goes_first(bench: Bench) -> None:
    waited = []
    for _ in range(4):
        waited.append(await bench.accept())
        bench.clock.advance(1)
    assert ids(await bench.give_out(rooms(a=3))) == waited[:3]


async def test_due_counts_and_not_age(bench: Bench) -> None:
    old = await bench.leased()
    bench.clock.advance(1)
    young = await bench.accept()
    bench.clock.advance(1)
    await bench.settle(old, Outcome.UNAVAILABLE)  # due again now, later than the young one
    assert ids(await bench.give_out(rooms(b=2))) == [young, old.email.id]


async def test_what_is_due_later_is_not_leased_before(bench: Bench) -> None:
    leased = await bench.leased(own_providers=("a",))
    await bench.settle(leased, Outcome.THROTTLED, retry_after_seconds=60)
    bench.clock.advance(59.999)
    assert await bench.give_out(rooms(a=1, b=1)) == Leases()
    bench.clock.advance(0.001)
    assert ids(await bench.give_out(rooms(a=1, b=1))) == [leased.email.id]


async def test_what_has_expired_is_not_leased(bench: Bench) -> None:
    email_id = await bench.accept(expires_in=60)
    bench.clock.advance(60)
    assert await bench.give_out(rooms(a=1)) == Leases()
    assert await bench.status(email_id) == (Status.QUEUED, None)


async def test_what_is_about_to_expire_is_leased(bench: Bench) -> None:
    email_id = await bench.accept(expires_in=60)
    bench.clock.advance(59.999)
    assert ids(await bench.give_out(rooms(a=1))) == [email_id]


@pytest.mark.parametrize("end", [Outcome.ACCEPTED, Outcome.REJECTED])
async def test_what_is_over_is_not_leased(bench: Bench, end: Outcome) -> None:
    await bench.settle(await bench.leased(), end)
    bench.clock.advance(3600)
    assert await bench.give_out(rooms(a=1, b=1)) == Leases()


@pytest.mark.parametrize("on_doubt", [OnDoubt.HOLD, OnDoubt.WAIT])
async def test_what_waits_for_evidence_is_not_leased(bench: Bench, on_doubt: OnDoubt) -> None:
    await bench.doubted(on_doubt)
    bench.clock.advance(3600)
    assert await bench.give_out(rooms(a=1, b=1)) == Leases()


# --- bytes -----------------------------------------------------------------------------------------------------------


async def test_together_never_more_bytes_than_the_budget(bench: Bench) -> None:
    due = [await bench.accept(text="x" * 1000) for _ in range(5)]
    size = await size_of(bench, due[0])
    leases = await bench.give_out(rooms(a=5), size_budget=3 * size, is_idle=False)
    assert ids(leases) == due[:3]
    assert leases.more
    assert ids(await bench.give_out(rooms(a=5), size_budget=2 * size - 1, is_idle=False)) == due[3:4]


async def test_one_larger_than_the_budget_goes_alone_if_idle(bench: Bench) -> None:
    large = await bench.accept(text="x" * 1000)
    small = await bench.accept(text="x")
    assert ids(await bench.give_out(rooms(a=5), size_budget=10)) == [large]
    assert ids(await bench.give_out(rooms(a=5), size_budget=AMPLE)) == [small]


async def test_one_larger_than_the_budget_waits_while_others_are_in_flight(bench: Bench) -> None:
    large = await bench.accept(text="x" * 1000)
    assert await bench.give_out(rooms(a=5), size_budget=10, is_idle=False) == Leases()
    assert await bench.status(large) == (Status.QUEUED, None)


async def test_only_the_first_may_be_larger_than_the_budget(bench: Bench) -> None:
    small = await bench.accept(text="x")
    await bench.accept(text="x" * 1000)
    assert ids(await bench.give_out(rooms(a=5), size_budget=await size_of(bench, small) + 10)) == [small]


# --- who -------------------------------------------------------------------------------------------------------------


async def test_providers_take_turns(bench: Bench) -> None:
    for _ in range(4):
        await bench.accept()
    given = (await bench.give_out(rooms(a=9, b=9))).items
    assert sorted(leased.provider for leased in given) == ["a", "a", "b", "b"]


async def test_the_callers_own_order_goes_before(bench: Bench) -> None:
    await bench.accept(own_providers=("a", "b"))
    assert [leased.provider for leased in (await bench.give_out(rooms(a=1, b=2))).items] == ["a"]


async def test_the_callers_own_list_restricts(bench: Bench) -> None:
    email_id = await bench.accept(own_providers=("a",))
    before = await bench.read(email_id)
    assert await bench.give_out(rooms(b=5)) == Leases()
    assert await bench.read(email_id) == before


async def test_who_was_tried_in_this_round_is_not_tried_again(bench: Bench) -> None:
    leased = await bench.leased("a")
    await bench.settle(leased, Outcome.UNAVAILABLE)
    assert await bench.give_out(rooms(a=5)) == Leases()
    assert (await bench.lease("b")).number == 2


async def test_who_declined_an_email_never_gets_it_again(bench: Bench) -> None:
    leased = await bench.leased("a")
    await bench.settle(leased, Outcome.DECLINED)
    await bench.settle(await bench.lease("b"), Outcome.UNAVAILABLE)
    bench.clock.advance(3600)
    assert await bench.give_out(rooms(a=5)) == Leases()
    assert (await bench.lease("b")).number == 3


async def test_the_second_provider_is_told_of_as_failed_over(bench: Bench) -> None:
    await bench.settle(await bench.leased("a"), Outcome.UNAVAILABLE)
    second = await bench.lease("b")
    stored = await bench.read(second)
    assert told(stored)[-2:] == ["failed_over", "attempt"]
    [failed_over] = [event for _, event in stored.events if event.type.value == "failed_over"]
    assert (failed_over.provider, failed_over.data) == ("b", {"from": "a", "to": "b"})


@pytest.mark.parametrize("count", [2, 7])
async def test_what_nobody_can_take_now_hides_nothing_behind_it(bench: Bench, count: int) -> None:
    """However many wait for a busy provider: the others' hands do not stand idle."""
    for _ in range(count):
        await bench.accept(own_providers=("b",))
    bench.clock.advance(1)
    behind = await bench.accept()
    assert ids(await bench.give_out(rooms(a=1, b=0))) == [behind]


async def test_what_was_tried_elsewhere_hides_nothing_behind_it(bench: Bench) -> None:
    for _ in range(4):
        await bench.settle(await bench.leased("a"), Outcome.UNAVAILABLE)  # they wait for b now
    bench.clock.advance(1)
    behind = await bench.accept()
    assert ids(await bench.give_out(rooms(a=2))) == [behind]


# --- what was in flight at two crashes -------------------------------------------------------------------------------


async def test_a_suspect_is_leased_alone(bench: Bench) -> None:
    suspect = await make_suspect(bench)
    neighbour = await bench.accept()
    assert ids(await bench.give_out(rooms(a=5, b=5))) == [neighbour]
    assert ids(await bench.give_out(rooms(a=5, b=5))) == [suspect.email.id]


async def test_a_suspect_waits_until_nothing_else_is_in_flight(bench: Bench) -> None:
    suspect = await make_suspect(bench)
    assert await bench.give_out(rooms(a=5, b=5), is_idle=False) == Leases()
    assert await bench.status(suspect) == (Status.QUEUED, None)
    assert ids(await bench.give_out(rooms(a=5, b=5), is_idle=True)) == [suspect.email.id]


async def test_a_suspect_larger_than_the_budget_is_leased_all_the_same(bench: Bench) -> None:
    suspect = await make_suspect(bench)
    assert ids(await bench.give_out(rooms(a=1), size_budget=1)) == [suspect.email.id]


async def test_a_suspect_that_nobody_can_take_now_stops_no_other(bench: Bench) -> None:
    await make_suspect(bench)  # for a alone
    neighbour = await bench.accept()
    assert ids(await bench.give_out(rooms(b=1), is_idle=False)) == [neighbour]


async def test_after_one_crash_it_is_leased_as_any_other(bench: Bench) -> None:
    leased = await bench.leased(own_providers=("a",))
    await bench.lapse()
    neighbour = await bench.accept()
    assert ids(await bench.give_out(rooms(a=2), is_idle=False)) == [leased.email.id, neighbour]


async def test_another_projects_emails_are_leased_as_well(storage: Storage, bench: Bench) -> None:
    email_id = await bench.accept(project="blog")
    assert (await bench.lease()).email.id == email_id
    with pytest.raises(NotFound):
        await storage.read("shop", email_id)
