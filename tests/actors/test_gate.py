"""One provider's gate: what shuts it, who finds out whether it works again, and what it remembers."""

import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from hes.actors.gate import ALWAYS_CARRIED, MOST_CLOSED_DOMAINS, REJECTS_EVERYTHING, STREAK, Gate, News, Pass
from hes.model import Address, Answer, EmailId, Fact, FactKey, FactKind, GateState, Leased, Outcome, Room, Scope
from tests.actors.parts import a_gate, a_leased, in_virtual_time
from tests.fakes import an_email

ACCEPTED = Answer(outcome=Outcome.ACCEPTED)
REJECTED = Answer(outcome=Outcome.REJECTED)
DECLINED = Answer(outcome=Outcome.DECLINED)
UNAVAILABLE = Answer(outcome=Outcome.UNAVAILABLE, detail="no connection")
IN_DOUBT = Answer(outcome=Outcome.IN_DOUBT, detail="time-out")
THROTTLED = Answer(outcome=Outcome.THROTTLED, detail="slow down")
REFUSED = Answer(outcome=Outcome.REFUSED, detail="the key was revoked")
DOMAIN_REFUSED = Answer(outcome=Outcome.REFUSED, scope=Scope.SENDER_DOMAIN, detail="not verified")

ALL_GOOD = [ACCEPTED, REJECTED, DECLINED]
ALL_BAD = [UNAVAILABLE, IN_DOUBT]

DOMAIN = "example.com"
"""Of all senders, unless a test says otherwise."""

NONE, ONLY_THAT = frozenset[str](), frozenset({DOMAIN})

WHOLE: FactKey = ("p", FactKind.REFUSED, "")
ONE_DOMAIN: FactKey = ("p", FactKind.REFUSED, DOMAIN)


def from_domain(domain: str, number: int = 1) -> Leased:
    return a_leased(number, email=an_email(id=EmailId(f"email-{number}"), sender=Address(f"shop@{domain}")))


def admit(gate: Gate, count: int, **changes: Any) -> list[Pass]:
    return [gate.admit(a_leased(number, **changes)) for number in range(1, count + 1)]


def record(gate: Gate, given: Pass, answer: Answer = ACCEPTED, number: int = 1, seconds: float = 0.1) -> bool:
    return gate.record(given, EmailId(f"email-{number}"), answer, seconds)


def call(gate: Gate, answer: Answer = ACCEPTED, number: int = 1, leased: Leased | None = None) -> bool:
    """One call, alone, that is over at once."""
    return record(gate, gate.admit(leased or a_leased(number)), answer, number)


def calls(gate: Gate, answers: Sequence[Answer]) -> None:
    """One after the other, each for an email of its own."""
    for number, answer in enumerate(answers, 1):
        call(gate, answer, number)


def shut(gate: Gate) -> None:
    calls(gate, [UNAVAILABLE] * 5)


def room(gate: Gate, in_flight: int = 0) -> Room:
    return gate.room(in_flight, 1, 10)


def hands(gate: Gate) -> int:
    return room(gate).hands


def is_shut(gate: Gate) -> bool:
    return room(gate).is_shut


def state(gate: Gate) -> GateState:
    return gate.status("scripted", 0).state


async def seconds_shut(gate: Gate) -> float:
    """Wait until it lets something through, told when by itself."""
    began_at = anyio.current_time()
    while not hands(gate):
        seconds = gate.seconds_to_next()
        assert 0 < seconds < 4000
        await anyio.sleep(seconds)
    return round(anyio.current_time() - began_at, 3)


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
    for one in given[:ALWAYS_CARRIED]:
        record(gate, one, ACCEPTED)
    for one in reversed(given[ALWAYS_CARRIED:]):
        record(gate, one, UNAVAILABLE)
    assert not is_shut(gate)
    assert ALWAYS_CARRIED < hands(gate) < 64


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


# --- refused ---------------------------------------------------------------------------------------------------------


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR]


def test_a_refusal_shuts_it_at_once_and_alarms_once(caplog: pytest.LogCaptureFixture) -> None:
    @in_virtual_time
    async def test() -> None:
        gate = a_gate(hands=20)
        given = admit(gate, 20)
        record(gate, given[0], REFUSED)
        assert (hands(gate), state(gate)) == (0, GateState.REFUSED)
        for one in given[1:]:
            record(gate, one, REFUSED)
        for _ in range(3):
            await seconds_shut(gate)
            call(gate, REFUSED)
        gate.judge(is_liar=True)

    test()
    assert errors(caplog) == ["p refuses us; it is asked again in 10 s: the key was revoked"]


@in_virtual_time
async def test_while_it_refuses_it_is_asked_at_growing_intervals() -> None:
    gate = a_gate()
    waited = []
    for _ in range(8):
        call(gate, REFUSED)
        waited.append(await seconds_shut(gate))
        assert room(gate).is_probe
    assert waited == [10, 20, 40, 80, 160, 300, 300, 300]


@in_virtual_time
async def test_it_is_asked_again_when_it_said_so() -> None:
    gate = a_gate()
    call(gate, Answer(outcome=Outcome.REFUSED, retry_after_seconds=3600, quota=True))
    assert gate.status("scripted", 0).until == 3_600_000
    assert await seconds_shut(gate) == 3600


@in_virtual_time
async def test_a_refusal_is_written_down_and_withdrawn_when_a_probe_is_accepted() -> None:
    gate = a_gate()
    await anyio.sleep(1)
    call(gate, REFUSED)
    fact = Fact(
        provider="p",
        kind=FactKind.REFUSED,
        reason="the key was revoked",
        since=1000,
        until=11_000,
        by="the provider",
    )
    assert gate.take_news() == News(stated={WHOLE: fact})
    await seconds_shut(gate)
    call(gate, REFUSED)
    again = gate.take_news().stated[WHOLE]
    assert (again.since, again.until) == (1000, 31_000)
    await seconds_shut(gate)
    call(gate, ACCEPTED)
    assert gate.take_news() == News(opened=True, withdrawn={WHOLE})
    assert (state(gate), hands(gate)) == (GateState.UP, 2)


@in_virtual_time
async def test_one_that_was_down_may_refuse() -> None:
    gate = a_gate()
    shut(gate)
    await seconds_shut(gate)
    call(gate, REFUSED)
    assert state(gate) is GateState.REFUSED
    assert await seconds_shut(gate) == 10


# --- one sender domain refused ---------------------------------------------------------------------------------------


def test_a_refused_sender_domain_is_closed_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    @in_virtual_time
    async def test() -> None:
        gate = a_gate()
        call(gate, DOMAIN_REFUSED)
        now = room(gate)
        assert (now.hands, now.is_shut, now.closed_domains) == (3, False, ONLY_THAT)
        call(gate, ACCEPTED, leased=from_domain("other.example"))
        assert room(gate).closed_domains == ONLY_THAT
        assert gate.status("scripted", 0).refused_sender_domains == (DOMAIN,)
        assert state(gate) is GateState.UP
        assert list(gate.take_news().stated) == [ONE_DOMAIN]

    test()
    assert errors(caplog) == ["p refuses emails from example.com: not verified"]


@in_virtual_time
async def test_one_email_at_a_time_finds_out_about_a_domain() -> None:
    gate = a_gate(hands=20)
    call(gate, DOMAIN_REFUSED)
    await anyio.sleep(10)
    assert (room(gate).closed_domains, room(gate).probing_domains) == (NONE, ONLY_THAT)
    probe = gate.admit(a_leased())
    await anyio.sleep(100)
    assert (room(gate).closed_domains, room(gate).probing_domains) == (ONLY_THAT, NONE)
    record(gate, probe, ACCEPTED)
    assert (room(gate).closed_domains, room(gate).probing_domains) == (NONE, NONE)
    assert gate.take_news() == News(opened=True, withdrawn={ONE_DOMAIN})


@in_virtual_time
async def test_a_released_probe_of_a_domain_frees_the_next() -> None:
    gate = a_gate()
    call(gate, DOMAIN_REFUSED)
    await anyio.sleep(10)
    gate.release(gate.admit(a_leased()))
    assert room(gate).probing_domains == ONLY_THAT


@pytest.mark.parametrize("other", [REJECTED, DECLINED, UNAVAILABLE, IN_DOUBT, THROTTLED])
def test_what_says_nothing_about_the_domain_lets_it_wait_as_long_again(other: Answer) -> None:
    @in_virtual_time
    async def test() -> None:
        gate = a_gate()
        call(gate, DOMAIN_REFUSED)
        await anyio.sleep(10)
        call(gate, other)
        await anyio.sleep(9.9)
        assert room(gate).closed_domains == ONLY_THAT
        await anyio.sleep(0.1)
        assert room(gate).probing_domains == ONLY_THAT

    test()


def test_many_refused_at_once_are_one_refusal(caplog: pytest.LogCaptureFixture) -> None:
    @in_virtual_time
    async def test() -> None:
        gate = a_gate(hands=20)
        for one in admit(gate, 20):
            record(gate, one, DOMAIN_REFUSED)
        await anyio.sleep(10)
        for wait in (20, 40, 80):
            assert room(gate).probing_domains == ONLY_THAT
            call(gate, DOMAIN_REFUSED)
            await anyio.sleep(wait - 0.1)
            assert room(gate).closed_domains == ONLY_THAT
            await anyio.sleep(0.1)

    test()
    assert len(errors(caplog)) == 1


@in_virtual_time
async def test_what_was_asked_before_a_domain_was_closed_does_not_open_it() -> None:
    gate = a_gate()
    early, late = admit(gate, 2)
    record(gate, early, DOMAIN_REFUSED)
    record(gate, late, ACCEPTED)
    assert room(gate).closed_domains == ONLY_THAT


@in_virtual_time
async def test_a_domain_may_say_when_it_is_to_be_asked_again() -> None:
    gate = a_gate()
    call(gate, Answer(outcome=Outcome.REFUSED, scope=Scope.SENDER_DOMAIN, retry_after_seconds=600))
    await anyio.sleep(599)
    assert room(gate).closed_domains == ONLY_THAT
    await anyio.sleep(1)
    assert room(gate).probing_domains == ONLY_THAT


@in_virtual_time
async def test_one_that_was_down_and_refuses_a_domain_is_up_for_the_others() -> None:
    gate = a_gate()
    shut(gate)
    await seconds_shut(gate)
    call(gate, DOMAIN_REFUSED)
    assert (hands(gate), state(gate), room(gate).closed_domains) == (2, GateState.UP, ONLY_THAT)


@in_virtual_time
async def test_it_remembers_no_more_closed_domains_than_it_may() -> None:
    gate = a_gate()
    for number in range(MOST_CLOSED_DOMAINS + 1):
        call(gate, DOMAIN_REFUSED, leased=from_domain(f"{number}.example"))
    assert len(room(gate).closed_domains) == MOST_CLOSED_DOMAINS
    news = gate.take_news()
    assert news.withdrawn == {("p", FactKind.REFUSED, "0.example")}
    assert len(news.stated) == MOST_CLOSED_DOMAINS


# --- told to slow down -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("said", "seconds"), [(None, 1), (0.5, 0.5), (7, 7), (3600, 3600)])
def test_told_to_slow_down_it_rests_as_long_as_was_said(said: float | None, seconds: float) -> None:
    @in_virtual_time
    async def test() -> None:
        gate = a_gate()
        call(gate, Answer(outcome=Outcome.THROTTLED, retry_after_seconds=said))
        assert (hands(gate), is_shut(gate), state(gate)) == (0, False, GateState.SLOWED)
        assert gate.objection(gate.admit(a_leased())) == "the provider has told us to wait"
        assert await seconds_shut(gate) == seconds
        assert (hands(gate), state(gate)) == (3, GateState.UP)

    test()


@in_virtual_time
async def test_told_to_slow_down_for_ever_it_is_never_down() -> None:
    gate = a_gate()
    for _ in range(100):
        call(gate, THROTTLED)
        assert not is_shut(gate)
        await seconds_shut(gate)
    assert state(gate) is GateState.UP


@in_virtual_time
async def test_told_is_told_though_it_was_asked_before_the_trip() -> None:
    gate = a_gate()
    late = gate.admit(a_leased())
    shut(gate)
    record(gate, late, Answer(outcome=Outcome.THROTTLED, retry_after_seconds=60))
    assert state(gate) is GateState.DOWN
    assert gate.status("scripted", 0).until == 60_000
    assert await seconds_shut(gate) == 60
    assert gate.objection(gate.admit(a_leased())) is None, "or the probe would be leased again and again"


@in_virtual_time
async def test_a_shorter_word_does_not_shorten_a_longer_one() -> None:
    gate = a_gate()
    first, second = admit(gate, 2)
    record(gate, first, Answer(outcome=Outcome.THROTTLED, retry_after_seconds=30))
    record(gate, second, Answer(outcome=Outcome.THROTTLED, retry_after_seconds=2))
    assert await seconds_shut(gate) == 30


@in_virtual_time
async def test_a_probe_that_is_told_to_slow_down_has_reached_it() -> None:
    gate = a_gate()
    shut(gate)
    await seconds_shut(gate)
    call(gate, THROTTLED)
    assert state(gate) is GateState.SLOWED
    assert await seconds_shut(gate) == 1
    assert hands(gate) == 2


@in_virtual_time
async def test_after_a_word_it_stays_below_the_rate_that_went_well() -> None:
    gate = a_gate(hands=64)
    for number in range(200):
        call(gate, number=number)
        await anyio.sleep(0.01)
    call(gate, THROTTLED)
    await seconds_shut(gate)
    limit = gate.status("scripted", 0).rate_limit
    assert limit is not None
    assert 70 < limit < 90
    assert hands(gate) == 1


# --- the operator's hand, and what was known before ------------------------------------------------------------------


PAUSE = Fact(provider="p", kind=FactKind.PAUSED, reason="paused by ann", since=5000, by="ann")


@in_virtual_time
async def test_paused_it_lets_nothing_through_until_it_is_resumed() -> None:
    gate = a_gate()
    given = gate.admit(a_leased())
    gate.pause(PAUSE)
    assert (hands(gate), is_shut(gate), gate.seconds_to_next()) == (0, True, float("inf"))
    assert gate.objection(given) == "the provider was paused meanwhile"
    gate.release(given)
    assert gate.objection(gate.admit(a_leased())) is not None
    await anyio.sleep(10_000)
    assert hands(gate) == 0
    gate.resume()
    assert (hands(gate), gate.take_news().opened) == (3, True)


@in_virtual_time
async def test_a_resume_of_what_is_not_paused_is_no_news() -> None:
    gate = a_gate()
    gate.resume()
    assert not gate.take_news()


@in_virtual_time
async def test_a_pause_hides_a_trip_and_does_not_heal_it() -> None:
    gate = a_gate()
    shut(gate)
    gate.pause(PAUSE)
    await anyio.sleep(60)
    assert (hands(gate), state(gate)) == (0, GateState.PAUSED)
    gate.resume()
    assert (hands(gate), state(gate)) == (1, GateState.PROBING)


@in_virtual_time
async def test_a_call_in_flight_counts_though_it_is_paused_meanwhile() -> None:
    gate = a_gate(hands=9)
    given = admit(gate, 9)
    gate.pause(PAUSE)
    for one in given:
        record(gate, one, UNAVAILABLE)
    gate.resume()
    assert state(gate) is GateState.DOWN


@pytest.mark.parametrize("answers", [[UNAVAILABLE] * 5, [REFUSED], [DOMAIN_REFUSED], [THROTTLED], [REJECTED] * 9])
def test_a_reset_forgets_all_that_was_learned(answers: list[Answer]) -> None:
    @in_virtual_time
    async def test() -> None:
        gate = a_gate(hands=20)
        late = gate.admit(a_leased())
        calls(gate, answers)
        gate.reset()
        assert room(gate) == room(a_gate(hands=20))
        assert state(gate) is GateState.UP
        news = gate.take_news()
        assert (news.opened, news.stated, WHOLE in news.withdrawn) == (True, {}, True)
        assert (ONE_DOMAIN in news.withdrawn) is (answers == [DOMAIN_REFUSED])
        assert record(gate, late, REJECTED), "believed again"

    test()


@in_virtual_time
async def test_what_began_before_a_reset_does_not_count_after_it() -> None:
    gate = a_gate(hands=20)
    late = admit(gate, 10)
    calls(gate, [ACCEPTED, UNAVAILABLE] * 9)
    gate.reset()
    for one in late:
        record(gate, one, UNAVAILABLE)
    calls(gate, [ACCEPTED, UNAVAILABLE])
    assert state(gate) is GateState.UP


@in_virtual_time
async def test_after_a_reset_all_rows_begin_anew() -> None:
    gate = a_gate()
    shut(gate)
    for _ in range(4):
        await seconds_shut(gate)
        call(gate, UNAVAILABLE)
    gate.reset()
    assert gate.status("scripted", 0).since == 80_000
    calls(gate, [UNAVAILABLE] * 4)
    assert not is_shut(gate)
    call(gate, UNAVAILABLE)
    assert await seconds_shut(gate) == 10


@in_virtual_time
async def test_a_reset_lets_a_pause_stay() -> None:
    gate = a_gate()
    gate.pause(PAUSE)
    gate.reset()
    assert (hands(gate), state(gate)) == (0, GateState.PAUSED)


def refused_until(until: int | None, sender_domain: str = "", reason: str = "the key was revoked") -> Fact:
    return Fact(
        provider="p",
        kind=FactKind.REFUSED,
        sender_domain=sender_domain,
        reason=reason,
        since=1,
        until=until,
        by="the provider",
    )


@pytest.mark.parametrize(("until", "seconds"), [(60_000, 55), (5_000, 0), (1_000, 0), (None, 0)])
def test_a_refusal_outlives_the_process(until: int | None, seconds: float) -> None:
    @in_virtual_time
    async def test() -> None:
        await anyio.sleep(5)
        gate = a_gate()
        gate.learn(refused_until(until))
        assert (is_shut(gate), state(gate)) == (True, GateState.REFUSED)
        assert gate.status("scripted", 0).since == 1
        assert await seconds_shut(gate) == seconds
        assert (hands(gate), room(gate).is_probe) == (1, True)
        call(gate)
        assert gate.take_news() == News(opened=True, withdrawn={WHOLE})

    test()


def test_a_refusal_that_was_known_alarms_nobody_again(caplog: pytest.LogCaptureFixture) -> None:
    @in_virtual_time
    async def test() -> None:
        gate = a_gate()
        gate.learn(refused_until(0))
        call(gate, REFUSED)
        assert await seconds_shut(gate) == 20

    test()
    assert errors(caplog) == []


@in_virtual_time
async def test_a_refused_domain_and_a_pause_outlive_the_process() -> None:
    gate = a_gate()
    gate.learn(refused_until(60_000, DOMAIN))
    assert (hands(gate), room(gate).closed_domains) == (3, ONLY_THAT)
    gate.learn(PAUSE)
    status = gate.status("scripted", 0)
    assert (status.state, status.reason, status.since) == (GateState.PAUSED, "paused by ann", 5000)
    gate.resume()
    await anyio.sleep(60)
    call(gate)
    assert room(gate).probing_domains == NONE
    assert ONE_DOMAIN in gate.take_news().withdrawn


@in_virtual_time
async def test_what_was_admitted_before_a_fact_was_learned_does_not_count() -> None:
    gate = a_gate()
    given = gate.admit(a_leased())
    gate.learn(refused_until(60_000))
    record(gate, given, ACCEPTED)
    assert state(gate) is GateState.REFUSED


# --- news ------------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_news_is_told_once() -> None:
    gate = a_gate()
    call(gate, REFUSED)
    assert gate.take_news()
    assert not gate.take_news()


@in_virtual_time
async def test_news_that_could_not_be_written_is_told_again() -> None:
    gate = a_gate()
    call(gate, REFUSED)
    news = gate.take_news()
    gate.return_news(news)
    assert gate.take_news() == news


@in_virtual_time
async def test_news_is_announced_and_the_newest_counts() -> None:
    told: list[bool] = []
    gate = a_gate()
    gate._changed = lambda: told.append(bool(gate._news))
    call(gate, REFUSED)
    assert told == [True]
    await seconds_shut(gate)
    call(gate, ACCEPTED)
    call(gate, REFUSED)
    news = gate.take_news()
    assert (list(news.stated), news.withdrawn) == ([WHOLE], set())


OLD, NEW = refused_until(1), refused_until(2)
E1, E2 = EmailId("1"), EmailId("2")


@pytest.mark.parametrize(
    ("returned", "later", "merged"),
    [
        (News(stated={WHOLE: OLD}), News(), News(stated={WHOLE: OLD})),
        (News(stated={WHOLE: OLD}), News(stated={WHOLE: NEW}), News(stated={WHOLE: NEW})),
        (News(stated={WHOLE: OLD}), News(withdrawn={WHOLE}), News(withdrawn={WHOLE})),
        (News(withdrawn={WHOLE}), News(stated={WHOLE: NEW}), News(stated={WHOLE: NEW})),
        (News(withdrawn={WHOLE}), News(stated={ONE_DOMAIN: NEW}), News(withdrawn={WHOLE}, stated={ONE_DOMAIN: NEW})),
        (News(opened=True), News(victims=[E1]), News(opened=True, victims=[E1])),
        (News(victims=[E1]), News(opened=True, victims=[E2]), News(opened=True, victims=[E1, E2])),
    ],
)
def test_of_what_could_not_be_written_the_newer_counts(returned: News, later: News, merged: News) -> None:
    @in_virtual_time
    async def test() -> None:
        gate = a_gate()
        gate._news = later
        gate.return_news(returned)
        assert gate.take_news() == merged

    test()


# --- one that rejects everything -------------------------------------------------------------------------------------


VICTIMS = [EmailId(f"email-{number}") for number in range(1, STREAK + 1)]


def suspected() -> Gate:
    gate = a_gate()
    assert all(call(gate, REJECTED, number) for number in range(1, STREAK + 1))
    return gate


@in_virtual_time
async def test_after_five_rejected_emails_the_sixth_is_not_believed() -> None:
    gate = suspected()
    assert not call(gate, REJECTED, 6)
    assert not call(gate, REJECTED, 7)
    assert (state(gate), hands(gate)) == (GateState.UP, 3)


@in_virtual_time
async def test_the_same_email_counts_once() -> None:
    gate = a_gate()
    assert all(call(gate, REJECTED, number) for number in (1, 2, 3, 4, 4, 4, 1, 5))
    assert not call(gate, REJECTED, 6)


@pytest.mark.parametrize("other", [ACCEPTED, DECLINED, UNAVAILABLE, IN_DOUBT, DOMAIN_REFUSED])
def test_another_outcome_ends_the_streak(other: Answer) -> None:
    @in_virtual_time
    async def test() -> None:
        gate = suspected()
        call(gate, other, 6)
        assert all(call(gate, REJECTED, number) for number in range(11, 16))
        assert not call(gate, REJECTED, 16)

    test()


def test_proven_wrong_it_is_shut_as_refused_and_its_victims_are_told(caplog: pytest.LogCaptureFixture) -> None:
    @in_virtual_time
    async def test() -> None:
        gate = suspected()
        call(gate, REJECTED, 6)
        gate.judge(is_liar=True)
        gate.judge(is_liar=True)  # the other one took the seventh, too
        assert (state(gate), hands(gate)) == (GateState.REFUSED, 0)
        news = gate.take_news()
        assert news.victims == VICTIMS
        assert news.stated[WHOLE].reason == REJECTS_EVERYTHING

    test()
    assert errors(caplog) == [f"p refuses us; it is asked again in 10 s: {REJECTS_EVERYTHING}"]


@in_virtual_time
async def test_borne_out_it_is_believed_and_counted_anew() -> None:
    gate = suspected()
    call(gate, REJECTED, 6)
    gate.judge(is_liar=False)
    assert state(gate) is GateState.UP
    assert all(call(gate, REJECTED, number) for number in range(11, 16))
    assert not call(gate, REJECTED, 16)


@pytest.mark.parametrize("is_liar", [True, False])
def test_a_word_about_one_that_is_not_suspected_changes_nothing(*, is_liar: bool) -> None:
    @in_virtual_time
    async def test() -> None:
        gate = a_gate()
        calls(gate, [REJECTED] * (STREAK - 1))
        gate.judge(is_liar=is_liar)
        assert (state(gate), gate.take_news()) == (GateState.UP, News())
        call(gate, REJECTED, STREAK)
        assert not call(gate, REJECTED, STREAK + 1)

    test()


async def is_shut_as_a_liar_still(gate: Gate) -> None:
    """It goes on rejecting, and nobody believes it."""
    waited = []
    for number in range(20, 23):
        waited.append(await seconds_shut(gate))
        assert not call(gate, REJECTED, number)
        assert state(gate) is GateState.REFUSED
    assert waited[1:] == [20, 40]


@in_virtual_time
async def test_while_it_rejects_everything_its_probes_are_not_believed_and_keep_it_shut() -> None:
    gate = suspected()
    gate.judge(is_liar=True)
    await is_shut_as_a_liar_still(gate)
    assert gate.take_news().victims == VICTIMS, "each is told once"
    await seconds_shut(gate)
    call(gate, ACCEPTED)
    assert state(gate) is GateState.UP
    assert call(gate, REJECTED), "believed again"


@in_virtual_time
async def test_that_it_rejects_everything_outlives_the_process() -> None:
    gate = a_gate()
    gate.learn(refused_until(0, reason=REJECTS_EVERYTHING))
    await is_shut_as_a_liar_still(gate)


@in_virtual_time
async def test_what_comes_late_from_one_that_rejects_everything_is_not_believed() -> None:
    gate = a_gate(hands=9)
    given = admit(gate, 9)
    for number, one in enumerate(given[:7], 1):
        record(gate, one, REJECTED, number)
    gate.judge(is_liar=True)
    assert not record(gate, given[7], REJECTED, 8)
    assert await seconds_shut(gate) == 10, "and lengthens nothing"


# --- retries, and its share of the traffic ---------------------------------------------------------------------------


@in_virtual_time
async def test_retries_take_from_a_budget_that_grows_with_success_and_time() -> None:
    gate = a_gate(fail_max=1000)
    for _ in range(100):
        call(gate, UNAVAILABLE, leased=a_leased(is_retry=True))
        call(gate, DECLINED, leased=a_leased(is_retry=False))
    assert room(gate).retries == 0
    await anyio.sleep(5)
    assert room(gate).retries == 5
    for _ in range(50):
        call(gate, ACCEPTED)
    assert 9 <= room(gate).retries <= 10


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
