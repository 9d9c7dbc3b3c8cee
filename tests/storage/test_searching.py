"""Doubts that are searched: how long they wait, who may ask what when, and how it ends."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from msgspec.structs import replace

from hes.case import Means
from hes.model import Decision, Leased, OnDoubt, Outcome, Reason, Resolution, Status
from hes.policy import Policy
from hes.searching import Way
from hes.storage.searches import Asked, Asking
from hes.storage.sql import SqlStorage
from hes.storage.storage import Storage
from tests.storage.harness import (
    DAY_SECONDS,
    LEASE_SECONDS,
    RULES,
    SHOP,
    Bench,
    FakeClock,
    Kind,
    next_id,
    only_sql,
    proof,
    rooms,
    told,
)

DOUBT_SECONDS = 15
HOUR = 3600
MEANS = {
    "a": Means(doubt_seconds=DOUBT_SECONDS, replay_seconds=20 * HOUR),
    "b": Means(doubt_seconds=DOUBT_SECONDS, look_up_seconds=3 * DAY_SECONDS),
}


@pytest.fixture
async def storage(kind: Kind, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Storage]:
    """One whose provider a can be asked again, and b's records searched; `quoted` can't be asked."""
    policy = Policy(replace(RULES, means=MEANS), random.Random(7))
    async with kind.open(tmp_path, policy, clock, next_id) as opened:
        yield opened


async def doubted(bench: Bench, provider: str = "a", on_doubt: OnDoubt = OnDoubt.HOLD, **fields: int) -> Leased:
    leased = await bench.leased(provider, on_doubt=on_doubt, **fields)
    await bench.settle(leased, Outcome.IN_DOUBT, detail="lost")
    return leased


async def claim(bench: Bench, most: int = 9, *, may_replay: bool = True) -> list[Asking]:
    return await bench.storage.searches.claim({"a": most, "b": most}, {"a": may_replay, "b": may_replay})


async def answer(bench: Bench, asking: Asking, said: str = "nothing", **fields: object) -> None:
    asked = Asked(search=asking.search, way=asking.way, answer=said, accepted=said == "accepted")
    await bench.storage.searches.answer(replace(asked, **fields))


async def pass_on(bench: Bench, seconds: float) -> None:
    bench.clock.advance(seconds)
    await bench.storage.sweep()


# --- how long it waits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on_doubt", "end"),
    [
        (OnDoubt.RESEND, (Status.QUEUED, None)),
        (OnDoubt.HOLD, (Status.HELD, Reason.DOUBT)),
        (OnDoubt.WAIT, (Status.IN_DOUBT, None)),
    ],
)
async def test_it_is_in_doubt_while_it_is_searched_and_then_the_policy_acts(
    bench: Bench, on_doubt: OnDoubt, end: tuple[Status, str | None]
) -> None:
    leased = await doubted(bench, on_doubt=on_doubt)
    await pass_on(bench, DOUBT_SECONDS - 0.001)
    assert await bench.status(leased) == (Status.IN_DOUBT, None)
    await pass_on(bench, 0.001)
    assert await bench.status(leased) == end


async def test_never_more_than_a_quarter_of_its_time(bench: Bench) -> None:
    leased = await doubted(bench, expires_in=20)
    assert (await bench.read(leased)).events[-1][1].data["search_ms"] == 5000
    await pass_on(bench, 5)
    assert await bench.status(leased) == (Status.HELD, Reason.DOUBT)


async def test_where_nobody_can_be_asked_the_policy_acts_at_once(bench: Bench) -> None:
    leased = await bench.leased("quoted", on_doubt=OnDoubt.HOLD, own_providers=("quoted",))
    await bench.settle(leased, Outcome.IN_DOUBT)
    assert await bench.status(leased) == (Status.HELD, Reason.DOUBT)
    assert await claim(bench) == []


async def test_a_lapsed_lease_is_searched_too(bench: Bench) -> None:
    leased = await bench.leased("b", on_doubt=OnDoubt.HOLD)
    await bench.lapse()
    assert await bench.status(leased) == (Status.IN_DOUBT, None)
    [asking] = await claim(bench)
    assert asking.search.attempt_id == leased.attempt_id


async def test_waiting_ends_when_it_expires(bench: Bench) -> None:
    leased = await doubted(bench, on_doubt=OnDoubt.WAIT)
    await pass_on(bench, DOUBT_SECONDS)
    await pass_on(bench, DAY_SECONDS)
    assert await bench.status(leased) == (Status.HELD, Reason.EXPIRED_IN_DOUBT)


async def test_resent_after_the_search_another_takes_it(bench: Bench) -> None:
    leased = await doubted(bench, on_doubt=OnDoubt.RESEND)
    await pass_on(bench, DOUBT_SECONDS)
    [again] = (await bench.give_out(rooms(a=1, b=1))).items
    assert (again.provider, again.email.id) == ("b", leased.email.id)


# --- who asks what ---------------------------------------------------------------------------------------------------


async def test_a_claim_has_what_a_question_needs(bench: Bench) -> None:
    leased = await doubted(bench)
    [asking] = await claim(bench)
    assert (asking.email, asking.search.attempt_id) == (leased.email, leased.attempt_id)
    assert (asking.render_version, asking.started_at) == (3, bench.clock())
    assert asking.way is Way.REPLAY
    assert asking.seconds == DOUBT_SECONDS, "it must end before the policy acts"


async def test_nobody_is_given_what_another_has(bench: Bench) -> None:
    for _ in range(4):
        await doubted(bench)
    claims: list[Asking] = []

    async def take() -> None:
        claims.extend(await claim(bench, 2))

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(take)
    assert len({asking.search.attempt_id for asking in claims}) == len(claims) == 4
    assert await claim(bench) == []


async def test_a_question_that_is_lost_is_asked_again_after_its_lease(bench: Bench) -> None:
    await doubted(bench, "b")
    await claim(bench)
    bench.clock.advance(LEASE_SECONDS - 0.001)
    assert await claim(bench) == []
    bench.clock.advance(0.001)
    [again] = await claim(bench)
    assert (again.search.asked, again.search.lost) == (2, 1)


async def test_after_two_lost_replays_there_is_no_third(bench: Bench) -> None:
    """It may have been their doing that the process went away."""
    await doubted(bench, on_doubt=OnDoubt.WAIT)
    for _ in range(2):
        assert len(await claim(bench)) == 1
        await pass_on(bench, LEASE_SECONDS)
    assert await claim(bench) == []


async def test_an_answer_that_comes_after_its_lease_sets_nothing(bench: Bench) -> None:
    await doubted(bench, "b")
    [late] = await claim(bench)
    bench.clock.advance(LEASE_SECONDS)
    [now] = await claim(bench)
    await answer(bench, late)
    assert await claim(bench) == []
    await answer(bench, now)
    bench.clock.advance(60)
    assert len(await claim(bench)) == 1


async def test_an_acceptance_counts_however_late_it_comes(bench: Bench) -> None:
    leased = await doubted(bench, "b")
    [late] = await claim(bench)
    await pass_on(bench, LEASE_SECONDS)
    await claim(bench)
    await answer(bench, late, "accepted", provider_message_id="m1")
    stored = await bench.read(leased)
    assert (stored.delivery.status, stored.attempts[0].resolution) == (Status.SENT, Resolution.ACCEPTED)
    assert stored.attempts[0].provider_message_id == "m1"
    assert stored.events[-2][1].data["source"] == "look-up"
    bench.clock.advance(DAY_SECONDS)
    assert await claim(bench) == []


async def test_the_pauses_grow_and_are_short_while_the_email_waits(bench: Bench) -> None:
    await doubted(bench, "b", on_doubt=OnDoubt.HOLD)
    for pause in (1, 2, 4, 4, 4, 32, 64, 128):
        [asking] = await claim(bench)
        await answer(bench, asking)
        await pass_on(bench, pause - 0.001)
        assert await claim(bench) == [], f"before {pause} s"
        await pass_on(bench, 0.001)


async def test_it_is_not_asked_before_the_provider_wants(bench: Bench) -> None:
    await doubted(bench, "b")
    [asking] = await claim(bench)
    await answer(bench, asking, "unavailable", ask_again_seconds=120.0)
    await pass_on(bench, 119)
    assert await claim(bench) == []
    await pass_on(bench, 1)
    assert len(await claim(bench)) == 1


@pytest.mark.parametrize(
    ("provider", "is_asked", "end"),
    [
        ("a", False, Resolution.NOT_ACCEPTED),
        ("a", True, None),  # the request that was made again may have been taken, whatever became of the first
        ("b", True, Resolution.NOT_ACCEPTED),  # to look something up leaves all as it is
    ],
)
async def test_a_late_surely_not_is_proof_until_the_request_is_made_again(
    bench: Bench, *, provider: str, is_asked: bool, end: Resolution | None
) -> None:
    leased = await bench.leased(provider, on_doubt=OnDoubt.HOLD)
    await bench.lapse()
    if is_asked:
        await claim(bench)
    await bench.settle(leased, Outcome.UNAVAILABLE)
    stored = await bench.read(leased)
    assert stored.attempts[0].resolution is end
    assert stored.delivery.status is (Status.QUEUED if end else Status.IN_DOUBT)


# --- when there is no replay -----------------------------------------------------------------------------------------


async def test_a_replay_waits_while_its_provider_is_paused(bench: Bench) -> None:
    await doubted(bench, on_doubt=OnDoubt.WAIT)
    assert await claim(bench, may_replay=False) == []
    await pass_on(bench, 60)
    [asking] = await claim(bench)
    assert asking.search.lost == 0


async def test_no_replay_once_the_email_may_leave_again(bench: Bench) -> None:
    await doubted(bench, on_doubt=OnDoubt.RESEND)
    await pass_on(bench, DOUBT_SECONDS)
    assert await claim(bench) == []


async def test_no_replay_after_its_time(bench: Bench) -> None:
    await doubted(bench, expires_in=60)
    await pass_on(bench, 60)
    assert await claim(bench) == []


async def test_no_replay_at_the_end_of_the_window(bench: Bench) -> None:
    await doubted(bench, expires_in=3 * DAY_SECONDS)
    await pass_on(bench, 20 * HOUR - 1)
    [asking] = await claim(bench)
    assert asking.seconds == 1
    await answer(bench, asking, "unavailable")
    bench.clock.advance(DAY_SECONDS)
    assert await claim(bench) == []


async def test_held_it_goes_on_being_replayed(bench: Bench) -> None:
    leased = await doubted(bench)
    await pass_on(bench, DOUBT_SECONDS)
    [asking] = await claim(bench)
    assert (asking.way, await bench.status(leased)) == (Way.REPLAY, (Status.HELD, Reason.DOUBT))
    await answer(bench, asking, "accepted")
    assert await bench.status(leased) == (Status.SENT, None)


@pytest.mark.parametrize("decision", Decision)
async def test_a_persons_word_ends_the_search(bench: Bench, decision: Decision) -> None:
    leased = await doubted(bench)
    await bench.storage.resolve(SHOP, leased.email.id, decision, "ann")
    assert await claim(bench) == []
    bench.clock.advance(DAY_SECONDS)
    assert await claim(bench) == []


async def test_a_look_up_goes_on_while_the_resend_waits_and_ends_it(bench: Bench) -> None:
    leased = await doubted(bench, "b", on_doubt=OnDoubt.RESEND)
    await pass_on(bench, DOUBT_SECONDS)
    assert await bench.status(leased) == (Status.QUEUED, None)
    [asking] = await claim(bench)
    await answer(bench, asking, "accepted")
    assert await bench.status(leased) == (Status.SENT, None)
    assert (await bench.give_out(rooms(a=1, b=1))).items == ()


async def test_a_look_up_ends_with_the_records(bench: Bench) -> None:
    await doubted(bench, "b")
    await pass_on(bench, 3 * DAY_SECONDS)
    assert await claim(bench) == []


async def test_what_is_over_is_forgotten(bench: Bench) -> None:
    await doubted(bench, "b")
    assert await bench.storage.prune() == 0
    bench.clock.advance(3 * DAY_SECONDS)
    assert await bench.storage.prune() == 1
    assert await bench.storage.prune() == 0


# --- what is told ----------------------------------------------------------------------------------------------------


async def test_the_timeline_tells_each_change_of_an_answer_and_no_more(bench: Bench) -> None:
    leased = await doubted(bench, "b", on_doubt=OnDoubt.WAIT)
    for said in ("nothing", "nothing", "unavailable", "nothing", "nothing"):
        [asking] = await claim(bench)
        await answer(bench, asking, said, detail="no records")
        await pass_on(bench, 3600 * 7)
    entries = [e.data for _, e in (await bench.read(leased)).events if e.type == "in_doubt"]
    assert entries[0] == {"attempt": 1, "detail": "lost", "search_ms": 15_000}
    about = {"attempt": 1, "asked": "look-up", "detail": "no records"}
    assert entries[1:] == [about | {"answer": said} for said in ("nothing", "unavailable", "nothing")]


async def test_an_event_and_a_late_outcome_come_before_the_answer(bench: Bench) -> None:
    leased = await doubted(bench)
    [asking] = await claim(bench)
    await bench.storage.evidence([proof(leased, accepted=True)])
    await bench.settle(leased, Outcome.ACCEPTED)
    before = await bench.read(leased)
    await answer(bench, asking, "accepted")
    assert await bench.read(leased) == before
    assert told(before).count("sent") == 1
    assert "duplicate" not in told(before)


async def test_a_search_that_found_nothing_and_an_event_that_proves_both_are_a_duplicate(bench: Bench) -> None:
    """The look-up says no, the resend leaves and is taken, and then an event proves the first."""
    leased = await doubted(bench, "b", on_doubt=OnDoubt.RESEND)
    [asking] = await claim(bench)
    await answer(bench, asking, "nothing")
    await pass_on(bench, DOUBT_SECONDS)
    await bench.settle(await bench.lease("a"), Outcome.ACCEPTED)
    await bench.storage.evidence([proof(leased, accepted=True)])
    stored = await bench.read(leased)
    assert told(stored)[-2:] == ["resolved", "duplicate"]
    assert (stored.delivery.status, stored.delivery.provider) == (Status.SENT, "a")


@only_sql
async def test_what_was_in_flight_when_a_backup_was_made_is_looked_up_and_never_replayed(
    bench: Bench, sql: SqlStorage
) -> None:
    ours, theirs = await bench.leased("a"), await bench.leased("b")
    await sql.restored()
    [asking] = await claim(bench)
    assert (asking.search.attempt_id, asking.way) == (theirs.attempt_id, Way.LOOK_UP)
    await answer(bench, asking, "accepted")
    assert await bench.status(theirs) == (Status.SENT, None)
    assert await bench.status(ours) == (Status.HELD, Reason.RESTORED)
