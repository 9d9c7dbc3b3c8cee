"""`lease`: who gets what, how much of it, and what is on disk before anybody sends a byte."""

import anyio
import pytest
import sqlalchemy as sa

from hes.errors import NotFound
from hes.model import Address, Attempt, EmailId, Leased, OnDoubt, Outcome, Room, Status
from hes.storage import tables
from hes.storage.records import Leases
from hes.storage.sql import SqlStorage
from hes.storage.storage import Storage
from tests.storage.harness import AMPLE, DAY_SECONDS, LEASE_SECONDS, NOW, SHOP, Bench, only_sql, rooms, run, told


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
        """What is in others' hands is passed over, so the last one finds all that is left."""
        while found := ids(await bench.give_out(rooms(a=2, b=1))):
            given.extend(found)

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
    await bench.settle(old, None)  # due again now, later than the young one
    assert ids(await bench.give_out(rooms(b=1))) == [young]


async def test_what_is_due_later_is_not_leased_before(bench: Bench) -> None:
    leased = await bench.leased(own_providers=("a",))
    await bench.settle(leased, Outcome.UNAVAILABLE)
    due_at = (await bench.read(leased)).delivery.due_at
    bench.clock.now = due_at - 1
    assert await bench.give_out(rooms(a=1, b=1)) == Leases()
    bench.clock.now = due_at
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


# --- lanes take turns ------------------------------------------------------------------------------------------------


async def test_one_projects_burst_does_not_hide_anothers_email(bench: Bench) -> None:
    await bench.accept_many(20, project="loud")
    bench.clock.advance(1)
    quiet = await bench.accept(project="quiet")
    assert quiet in ids(await bench.give_out(rooms(a=2)))


async def test_with_one_hand_at_a_time_lanes_take_turns(bench: Bench) -> None:
    for project in ("one", "two", "three"):
        await bench.accept_many(3, project=project)
    turns = [(await bench.lease()).email.project for _ in range(9)]
    for first in range(0, 9, 3):
        assert set(turns[first : first + 3]) == {"one", "two", "three"}


@only_sql
@pytest.mark.parametrize(("late_seconds", "seen_after"), [(9, 0), (50, 60)])
async def test_what_comes_in_behind_the_head_of_a_lane_is_found(
    bench: Bench, sql: SqlStorage, late_seconds: int, seen_after: int
) -> None:
    """A transaction that took long: it commits what was due before that which others have claimed meanwhile."""
    late = await bench.accept()
    change = sa.update(tables.deliveries).where(tables.deliveries.c.email_id == late)
    await run(sql, change.values(due_at=NOW + 999_999))
    bench.clock.advance(100)
    await bench.accept_many(3)
    await bench.lease()
    await run(sql, change.values(due_at=bench.clock() - late_seconds * 1000))
    if seen_after:
        assert (await bench.lease()).email.id != late
        bench.clock.advance(seen_after)
    assert (await bench.lease()).email.id == late


async def test_however_many_lanes_there_are_each_gets_its_turn(bench: Bench) -> None:
    accepted = [await bench.accept(sender=Address(f"shop@{n}.example.com")) for n in range(150)]
    leased: list[EmailId] = []
    while len(leased) < 150:
        leases = await bench.give_out(rooms(a=10))
        assert 0 < len(leases.items) <= 10
        leased += ids(leases)
    assert sorted(leased) == sorted(accepted)


async def test_lanes_without_anything_due_hide_nothing(bench: Bench) -> None:
    for n in range(130):
        await bench.accept(own_providers=("a",), sender=Address(f"shop@{n:03}.example.com"))
    while (leases := await bench.give_out(rooms(a=200))).items:
        for leased in leases.items:
            await bench.settle(leased, Outcome.UNAVAILABLE)  # waits for its next round
    last = await bench.accept(sender=Address("shop@zzz.example.com"))
    found: list[EmailId] = []
    for _ in range(4):
        leases = await bench.give_out(rooms(a=1))
        found += ids(leases)
        if not leases.more:
            break
    assert last in found


async def test_a_route_decides_who_takes_it_first(bench: Bench) -> None:
    for _ in range(3):
        await bench.accept(stream="b first")
    leases = await bench.give_out(rooms(a=5, b=2))
    assert sorted(leased.provider for leased in leases.items) == ["a", "b", "b"]


# --- what a provider may get -----------------------------------------------------------------------------------------


async def test_of_a_daily_quota_no_more_is_given_than_is_left(bench: Bench) -> None:
    await bench.accept_many(5, own_providers=("quoted",), expires_in=3 * DAY_SECONDS)
    assert len((await bench.give_out(rooms(quoted=2))).items) == 2
    assert await bench.storage.quotas_used() == {"quoted": 2}
    assert len((await bench.give_out(rooms(quoted=4))).items) == 1
    assert (await bench.give_out(rooms(quoted=4))).items == ()
    bench.clock.advance(DAY_SECONDS)
    assert await bench.storage.quotas_used() == {}
    assert len((await bench.give_out(rooms(quoted=1))).items) == 1
    assert await bench.storage.quotas_used() == {"quoted": 1}


async def test_beyond_its_quota_a_provider_is_passed_over(bench: Bench) -> None:
    await bench.accept_many(8, own_providers=("quoted", "a"))
    leases = await bench.give_out(rooms(quoted=9, a=9))
    assert [leased.provider for leased in leases.items] == ["quoted"] * 3 + ["a"] * 5


async def test_an_email_without_a_time_out_gets_the_providers(bench: Bench) -> None:
    await bench.accept(attempt_timeout=0.0)
    await bench.accept(attempt_timeout=7.0)
    leases = await bench.give_out({"a": Room(hands=2, timeout_seconds=25.0)})
    assert sorted(leased.timeout_seconds for leased in leases.items) == [7.0, 25.0]


async def test_a_later_round_is_marked_as_one(bench: Bench) -> None:
    await bench.settle(await bench.leased("a"), Outcome.UNAVAILABLE)
    second = await bench.lease("b")
    assert (second.failed_over_from, second.is_retry) == ("a", False)
    await bench.settle(second, Outcome.UNAVAILABLE)
    bench.clock.advance(10)
    assert (await bench.give_out({"a": Room(hands=1, retries=0)})).items == ()
    third = await bench.lease("a")
    assert (third.failed_over_from, third.is_retry) == (None, True)


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
    assert set(ids(await bench.give_out(rooms(a=2), is_idle=False))) == {leased.email.id, neighbour}


async def test_another_projects_emails_are_leased_as_well(storage: Storage, bench: Bench) -> None:
    email_id = await bench.accept(project="blog")
    assert (await bench.lease()).email.id == email_id
    with pytest.raises(NotFound):
        await storage.read(SHOP, email_id)


async def test_a_probe_is_an_email_that_was_never_tried_there_though_others_are_due_before_it(bench: Bench) -> None:
    probing = {"a": Room(hands=1, is_shut=True, is_probe=True)}
    await bench.accept_many(2, own_providers=("a",))
    doubted, failed = (await bench.give_out(rooms(a=2))).items
    await bench.settle(doubted, Outcome.IN_DOUBT)
    await bench.settle(failed, Outcome.UNAVAILABLE)
    bench.clock.advance(600)
    fresh = await bench.accept(own_providers=("a",))
    given = [ids(await bench.give_out(probing)) for _ in range(3)]
    assert given == [[fresh], [failed.email.id], [doubted.email.id]]
