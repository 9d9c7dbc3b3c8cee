"""One provider's gate: what shuts it, and who finds out whether it works again."""

import logging
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from hes.actors.gate import Gate
from hes.actors.news import News
from hes.actors.pace import Carried
from hes.model import Answer, GateState, Outcome
from tests.actors.gates import (
    ACCEPTED,
    ALL_BAD,
    ALL_GOOD,
    DECLINED,
    DOMAIN_REFUSED,
    IN_DOUBT,
    PAUSE,
    REFUSED,
    REJECTED,
    UNAVAILABLE,
    admit,
    call,
    calls,
    hands,
    is_shut,
    record,
    room,
    seconds_shut,
    shut,
    state,
)
from tests.actors.parts import a_gate, a_leased, in_virtual_time

# --- failures shut it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ALL_BAD)
def test_so_many_failures_in_a_row_shut_it(bad: Answer) -> None:
    @in_virtual_time
    async def test() -> None:
        gate = a_gate()
        calls(gate, [bad] * 4)
        assert hands(gate) == 3
        call(gate, bad)
        assert (hands(gate), is_shut(gate), state(gate)) == (0, True, GateState.DOWN)

    test()


@in_virtual_time
async def test_how_many_is_a_setting() -> None:
    gate = a_gate(fail_max=1)
    call(gate, UNAVAILABLE)
    assert is_shut(gate)
    gate = a_gate(fail_max=8)
    calls(gate, [UNAVAILABLE] * 7)
    assert not is_shut(gate)


@pytest.mark.parametrize("good", ALL_GOOD)
def test_anything_good_in_between_begins_the_row_anew(good: Answer) -> None:
    """A bad email never shuts a gate."""

    @in_virtual_time
    async def test() -> None:
        gate = a_gate()
        calls(gate, [*[UNAVAILABLE] * 4, good, *[UNAVAILABLE] * 4])
        assert not is_shut(gate)
        call(gate, UNAVAILABLE)
        assert is_shut(gate)

    test()


@in_virtual_time
async def test_what_says_nothing_about_it_breaks_no_row() -> None:
    gate = a_gate()
    calls(gate, [UNAVAILABLE] * 4)
    gate.release(gate.admit(a_leased()))
    assert not is_shut(gate)
    call(gate, UNAVAILABLE)
    assert is_shut(gate)


@pytest.mark.parametrize(
    ("answers", "seconds_between", "is_shut_then"),
    [
        ([ACCEPTED, UNAVAILABLE] * 10, 0.1, True),
        ([ACCEPTED, UNAVAILABLE] * 9 + [ACCEPTED], 0.1, False),  # fewer than twenty
        ([ACCEPTED, UNAVAILABLE] * 50, 0.6, False),  # never twenty within ten seconds
        ([ACCEPTED, ACCEPTED, UNAVAILABLE] * 50, 0.1, False),  # a third
        ([UNAVAILABLE, UNAVAILABLE, ACCEPTED] * 7, 0.1, True),
    ],
)
def test_half_of_twenty_within_ten_seconds_shut_it_though_never_in_a_row(
    *, answers: list[Answer], seconds_between: float, is_shut_then: bool
) -> None:
    @in_virtual_time
    async def test() -> None:
        gate = a_gate()
        for answer in answers:
            call(gate, answer)
            await anyio.sleep(seconds_between)
        assert is_shut(gate) is is_shut_then

    test()


@in_virtual_time
async def test_what_was_counted_before_a_trip_does_not_count_after_it() -> None:
    gate = a_gate()
    calls(gate, [ACCEPTED, UNAVAILABLE] * 10)
    await seconds_shut(gate)
    calls(gate, [ACCEPTED, UNAVAILABLE])
    assert not is_shut(gate)


# --- too much at once ------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_failures_beyond_what_it_was_seen_to_carry_only_lower_the_limit() -> None:
    gate = a_gate(hands=64)
    given = admit(gate, 64)
    for one in given[: Carried.ALWAYS]:
        record(gate, one, ACCEPTED)
    for one in reversed(given[Carried.ALWAYS :]):
        record(gate, one, UNAVAILABLE)
    assert not is_shut(gate)
    assert Carried.ALWAYS < hands(gate) < 64


@in_virtual_time
async def test_it_finds_out_how_much_a_provider_carries_and_never_shuts_it() -> None:
    gate = a_gate(hands=64)
    limits = []
    for _ in range(100):
        given = admit(gate, hands(gate))
        await anyio.sleep(0.1)
        for rank, one in enumerate(given, 1):
            record(gate, one, ACCEPTED if rank <= 20 else UNAVAILABLE)
        limits.append(hands(gate))
        assert not is_shut(gate)
    assert 10 <= min(limits[10:]) <= max(limits[10:]) <= 35


@pytest.mark.parametrize("order", [1, -1])
def test_a_dead_provider_shuts_at_once_though_asked_by_many_from_the_first_call_on(order: int) -> None:
    @in_virtual_time
    async def test() -> None:
        gate = a_gate(hands=64)
        for one in admit(gate, 64)[::order]:
            record(gate, one, UNAVAILABLE)
        assert state(gate) is GateState.DOWN

    test()


@in_virtual_time
async def test_one_that_dies_under_full_load_shuts_however_long_its_calls_take_to_fail() -> None:
    gate = a_gate(hands=64)
    for one in admit(gate, 64):
        record(gate, one, ACCEPTED)
    given = admit(gate, 64)
    await anyio.sleep(25)
    for one in given[-5:]:
        record(gate, one, IN_DOUBT)
    assert is_shut(gate)


@in_virtual_time
async def test_what_it_carried_long_ago_proves_nothing_now() -> None:
    gate = a_gate(hands=64)
    for one in admit(gate, 64):
        record(gate, one, ACCEPTED)
    await anyio.sleep(25)
    for one in admit(gate, 64)[-5:]:
        record(gate, one, UNAVAILABLE)
    assert not is_shut(gate)


@in_virtual_time
async def test_a_few_failures_among_many_lower_nothing() -> None:
    gate = a_gate(hands=64)
    for number, one in enumerate(admit(gate, 64)):
        record(gate, one, UNAVAILABLE if number % 10 == 0 else ACCEPTED)
    assert hands(gate) == 64


@in_virtual_time
async def test_hands_in_use_are_no_room() -> None:
    gate = a_gate(hands=10)
    assert [room(gate, in_flight).hands for in_flight in (0, 7, 10, 12)] == [10, 3, 0, 0]
    shut(gate)
    await seconds_shut(gate)
    assert [room(gate, in_flight).hands for in_flight in (0, 9, 10)] == [1, 1, 0]


@in_virtual_time
async def test_a_configured_rate_limits_the_room() -> None:
    gate = a_gate(hands=64, rate_per_second=10.0)
    taken = 0
    for _ in range(500):
        for _ in range(hands(gate)):
            call(gate)
            taken += 1
        await anyio.sleep(0.02)
    assert taken == pytest.approx(100, abs=2)


# --- finding out whether it works again ------------------------------------------------------------------------------


@in_virtual_time
async def test_it_is_shut_for_longer_from_the_third_time_in_a_row_on() -> None:
    gate = a_gate()
    shut(gate)
    waited = []
    for _ in range(9):
        waited.append(await seconds_shut(gate))
        call(gate, UNAVAILABLE)
    assert waited == [10, 10, 20, 40, 80, 160, 300, 300, 300]


@in_virtual_time
async def test_how_long_is_a_little_different_each_time() -> None:
    """Or all mailers would ask at the same moment."""
    gate = a_gate()
    gate._rng = random.Random(1)
    waited = set()
    for _ in range(50):
        shut(gate)
        waited.add(await seconds_shut(gate))
        call(gate)
    assert len(waited) > 40
    assert 8 <= min(waited) < 9
    assert 11 < max(waited) <= 12


@pytest.mark.parametrize("good", ALL_GOOD)
def test_a_good_probe_ends_the_row(good: Answer) -> None:
    @in_virtual_time
    async def test() -> None:
        gate = a_gate(open_seconds=5.0)
        shut(gate)
        for _ in range(4):
            await seconds_shut(gate)
            call(gate, UNAVAILABLE)
        await seconds_shut(gate)
        call(gate, good)
        assert state(gate) is not GateState.DOWN
        shut(gate)
        assert await seconds_shut(gate) == 5

    test()


@in_virtual_time
async def test_one_failed_probe_is_enough() -> None:
    gate = a_gate()
    shut(gate)
    await seconds_shut(gate)
    call(gate, IN_DOUBT)
    assert (hands(gate), state(gate)) == (0, GateState.DOWN)


@in_virtual_time
async def test_one_probe_goes_out_at_a_time() -> None:
    gate = a_gate()
    shut(gate)
    await seconds_shut(gate)
    assert (room(gate).hands, room(gate).is_probe, room(gate).is_shut) == (1, True, True)
    probe = gate.admit(a_leased())
    assert gate.objection(probe) is None
    await anyio.sleep(1000)
    assert (room(gate).hands, room(gate).is_probe, gate.seconds_to_next()) == (0, False, float("inf"))
    record(gate, probe)
    assert not is_shut(gate)


@in_virtual_time
async def test_a_released_probe_says_nothing_and_frees_the_next() -> None:
    gate = a_gate()
    shut(gate)
    await seconds_shut(gate)
    for _ in range(3):
        gate.release(gate.admit(a_leased()))
        assert (hands(gate), state(gate)) == (1, GateState.PROBING)
    call(gate, UNAVAILABLE)
    assert await seconds_shut(gate) == 10, "only the second time in a row"


@in_virtual_time
async def test_what_was_leased_before_a_trip_and_admitted_after_it_does_not_go_out() -> None:
    gate = a_gate()
    shut(gate)
    assert gate.objection(gate.admit(a_leased(1))) == "the provider's gate was shut meanwhile"
    await seconds_shut(gate)
    probe, second, third = admit(gate, 3)
    assert [gate.objection(one) is None for one in (probe, second, third)] == [True, False, False]
    gate.release(second)
    gate.release(third)
    assert hands(gate) == 0, "the probe is out still"
    record(gate, probe)
    assert hands(gate) == 2


@in_virtual_time
async def test_what_was_admitted_just_before_a_trip_does_not_go_out() -> None:
    gate = a_gate()
    given = gate.admit(a_leased())
    shut(gate)
    assert gate.objection(given) is not None


@pytest.mark.parametrize("late", [ACCEPTED, UNAVAILABLE, REFUSED, DOMAIN_REFUSED])
def test_what_began_before_a_trip_changes_nothing_after_it(late: Answer) -> None:
    @in_virtual_time
    async def test() -> None:
        gate = a_gate(hands=20)
        given = admit(gate, 20)
        for one in given[:5]:
            record(gate, one, UNAVAILABLE)
        before = gate.status("scripted", 0)
        assert before.state is GateState.DOWN
        for one in given[5:10]:
            record(gate, one, late)
        assert (gate.status("scripted", 0).state, gate.status("scripted", 0).until) == (before.state, before.until)
        assert await seconds_shut(gate) == 10
        probe = gate.admit(a_leased())
        for one in given[10:15]:
            record(gate, one, late)
        assert state(gate) is GateState.PROBING
        record(gate, probe)
        for one in given[15:]:
            record(gate, one, late)
        assert state(gate) is GateState.UP
        assert not gate.take_news().stated

    test()


@in_virtual_time
async def test_what_began_before_a_trip_does_not_end_the_row_after_recovery() -> None:
    gate = a_gate(hands=20)
    late = gate.admit(a_leased())
    shut(gate)
    await seconds_shut(gate)
    call(gate)
    calls(gate, [UNAVAILABLE] * 4)
    record(gate, late, ACCEPTED)
    call(gate, UNAVAILABLE)
    assert is_shut(gate)


@in_virtual_time
async def test_after_a_recovery_the_room_begins_at_two_and_doubles() -> None:
    gate = a_gate(hands=64)
    shut(gate)
    await seconds_shut(gate)
    call(gate)
    seen = [hands(gate)]
    out = admit(gate, 2)
    for _ in range(6):
        for one in list(out):  # a round trip: each that ends makes room for the next ones
            record(gate, one)
            out.remove(one)
            out += admit(gate, room(gate, len(out)).hands)
        seen.append(len(out))
    assert seen == [2, 4, 8, 16, 32, 64, 64]


@in_virtual_time
async def test_it_recovers_though_the_wall_clock_went_back() -> None:
    """An open breaker of pybreaker looks at it."""
    gate = a_gate()
    shut(gate)
    gate._breaker._state_storage.opened_at = datetime.now(UTC) + timedelta(days=1)
    await seconds_shut(gate)
    call(gate)
    assert state(gate) is GateState.UP


def test_people_are_told_of_a_row_of_trips_once(caplog: pytest.LogCaptureFixture) -> None:
    @in_virtual_time
    async def test() -> None:
        gate = a_gate()
        shut(gate)
        for answer in (UNAVAILABLE, UNAVAILABLE, ACCEPTED):
            await seconds_shut(gate)
            call(gate, answer)

    test()
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING] == [
        "p is down, nothing goes there for 10 s: 5 failures in a row, the last: no connection",
        "p is used again: a probe went well",
    ]


@in_virtual_time
async def test_when_it_works_again_what_waits_is_told() -> None:
    told: list[bool] = []
    gate = a_gate()
    gate._changed = lambda: told.append(bool(gate._news))
    shut(gate)
    assert (told, gate.take_news()) == ([], News())
    await seconds_shut(gate)
    call(gate)
    assert (told, gate.take_news()) == ([True], News(opened=True))


# --- retries, and its share of the traffic ---------------------------------------------------------------------------


@in_virtual_time
async def test_retries_take_from_a_budget_while_it_is_in_trouble() -> None:
    gate = a_gate(fail_max=1000)
    call(gate, UNAVAILABLE)
    for _ in range(100):
        call(gate, UNAVAILABLE, leased=a_leased(is_retry=True))
        calls(gate, [DECLINED, DECLINED])
    assert (room(gate).retries, is_shut(gate)) == (0, False)
    await anyio.sleep(5)
    assert room(gate).retries == 5
    for _ in range(12):
        call(gate, ACCEPTED)
    assert room(gate).retries == 6
    for _ in range(100):
        call(gate, ACCEPTED)
    assert room(gate).retries == 100, "it is healthy: nothing is held back"


@in_virtual_time
async def test_a_retry_that_was_not_tried_takes_nothing() -> None:
    gate = a_gate()
    for one in admit(gate, 10, is_retry=True):
        gate.release(one)
    assert room(gate).retries == 100


@in_virtual_time
async def test_its_share_shrinks_while_it_fails_and_comes_back() -> None:
    gate = a_gate(weight=2.0)
    assert room(gate).weight == 2
    calls(gate, [UNAVAILABLE, ACCEPTED, ACCEPTED] * 20)
    assert 0.1 <= room(gate).weight < 1
    assert gate.status("scripted", 0).effective_weight == pytest.approx(room(gate).weight, abs=0.001)
    await anyio.sleep(300)
    assert room(gate).weight == 2


# --- for people ------------------------------------------------------------------------------------------------------


async def nothing(gate: Gate) -> None:
    del gate


async def is_told_to_slow_down(gate: Gate) -> None:
    call(gate, Answer(outcome=Outcome.THROTTLED, retry_after_seconds=7, detail="slow down"))


async def gets_slow(gate: Gate) -> None:
    for seconds in [0.1] * 20 + [5.0] * 40:
        record(gate, gate.admit(a_leased()), ACCEPTED, seconds=seconds)


async def fails(gate: Gate) -> None:
    shut(gate)


async def fails_and_waits(gate: Gate) -> None:
    shut(gate)
    await anyio.sleep(10)


async def fails_and_recovers(gate: Gate) -> None:
    shut(gate)
    await anyio.sleep(10)
    for _ in range(20):
        call(gate)


async def refuses(gate: Gate) -> None:
    call(gate, REFUSED)


async def refuses_and_waits(gate: Gate) -> None:
    call(gate, REFUSED)
    await anyio.sleep(10)


async def is_paused(gate: Gate) -> None:
    gate.pause(PAUSE)


@pytest.mark.parametrize(
    ("happening", "state_then", "reason", "since", "until"),
    [
        (nothing, GateState.UP, None, 1000, None),
        (is_told_to_slow_down, GateState.SLOWED, "slow down", 2000, 9000),
        (gets_slow, GateState.SLOWED, "it fails often, or answers slowly: others get its share", 1000, None),
        (fails, GateState.DOWN, "5 failures in a row, the last: no connection", 2000, 12_000),
        (fails_and_waits, GateState.PROBING, "5 failures in a row, the last: no connection", 2000, None),
        (fails_and_recovers, GateState.UP, None, 12_000, None),
        (refuses, GateState.REFUSED, "the key was revoked", 2000, 12_000),
        (refuses_and_waits, GateState.REFUSED, "the key was revoked", 2000, None),
        (is_paused, GateState.PAUSED, "paused by ann", 5000, None),
    ],
)
def test_people_see_how_it_stands(
    happening: Callable[[Gate], Awaitable[None]],
    state_then: GateState,
    reason: str | None,
    since: int,
    until: int | None,
) -> None:
    @in_virtual_time
    async def test() -> None:
        await anyio.sleep(1)
        gate = a_gate()
        await anyio.sleep(1)
        await happening(gate)
        status = gate.status("scripted", 0)
        assert (status.state, status.reason) == (state_then, reason)
        assert (status.since, status.until) == (since, until)

    test()


@in_virtual_time
async def test_people_see_its_figures() -> None:
    gate = a_gate(hands=9, weight=2.0, rate_per_second=50.0)
    calls(gate, [*[ACCEPTED] * 8, UNAVAILABLE, REJECTED])
    status = gate.status("scripted", 4)
    assert (status.name, status.kind, status.weight) == ("p", "scripted", 2)
    assert (status.in_flight, status.in_flight_limit, status.rate_limit) == (4, 9, 50)
    assert status.sent_last_minute == 8
    assert status.error_rate == pytest.approx(0.05, abs=0.005)
    await anyio.sleep(61)
    assert gate.status("scripted", 0).sent_last_minute == 0
