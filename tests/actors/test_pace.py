"""How fast and how much: what each of the five learns from a provider's answers."""

import math
from itertools import pairwise

import pytest

from hes.actors.pace import CUT, FEWEST_AT_ONCE, Concurrency, Health, Rate, RetryBudget, Tally

# --- calls at once ---------------------------------------------------------------------------------------------------


def round_trip(calls: Concurrency) -> None:
    """As many calls as may be made at once, all of which go well."""
    for rank in range(1, int(calls.limit) + 1):
        calls.good(rank)


def test_calls_at_once_begin_at_the_ceiling() -> None:
    assert Concurrency(64).limit == 64


@pytest.mark.parametrize(
    ("ceiling", "rank", "limit"),
    [
        (64, 64, CUT * 64),
        (64, 40, CUT * 40),
        (64, 1, FEWEST_AT_ONCE),
        (3, 3, CUT * 3),
        (2, 2, FEWEST_AT_ONCE),
        (1, 1, 1),
    ],
)
def test_a_failure_cuts_what_was_in_use(ceiling: int, rank: int, limit: float) -> None:
    calls = Concurrency(ceiling)
    calls.bad(rank, calls.epoch)
    assert calls.limit == pytest.approx(limit)


def test_what_began_before_a_cut_cuts_no_more() -> None:
    calls = Concurrency(64)
    before = calls.epoch
    for rank in range(64, 0, -1):
        calls.bad(rank, before)
    assert calls.limit == pytest.approx(CUT * 64)
    calls.bad(40, calls.epoch)
    assert calls.limit == pytest.approx(CUT * 40)


def test_after_a_cut_it_grows_by_one_in_a_round_trip() -> None:
    calls = Concurrency(64)
    calls.bad(64, calls.epoch)
    before = calls.limit
    for _ in range(int(before)):
        calls.good(int(before))
    assert calls.limit == pytest.approx(before + 1, abs=0.05)


def test_after_a_restart_it_doubles_until_the_first_failure() -> None:
    calls = Concurrency(64)
    calls.restart()
    limits = [calls.limit]
    for _ in range(4):
        round_trip(calls)
        limits.append(calls.limit)
    assert limits[0] == 2
    assert all(1.5 <= after / before <= 2 for before, after in pairwise(limits))
    calls.bad(int(calls.limit), calls.epoch)
    cut = calls.limit
    round_trip(calls)
    assert cut < calls.limit <= cut + 1


def test_it_does_not_grow_while_it_is_not_used() -> None:
    calls = Concurrency(64)
    calls.restart()
    round_trip(calls)
    before = calls.limit
    for _ in range(100):
        calls.good(1)
    assert calls.limit == before


@pytest.mark.parametrize("ceiling", [1, 2, 64])
def test_it_never_leaves_its_bounds(ceiling: int) -> None:
    calls = Concurrency(ceiling)
    for _ in range(100):
        calls.bad(1, calls.epoch)
    assert calls.limit == min(FEWEST_AT_ONCE, ceiling)
    for _ in range(10_000):
        calls.good(ceiling)
    assert calls.limit == ceiling


def test_a_reset_gives_all_of_it_back() -> None:
    calls = Concurrency(64)
    calls.bad(10, calls.epoch)
    calls.reset()
    assert calls.limit == 64


# --- counting --------------------------------------------------------------------------------------------------------


def test_a_tally_forgets_what_is_longer_ago() -> None:
    tally = Tally(1.0, 10)
    for second in range(20):
        tally.add(second)
        tally.add(second + 0.5)
    assert [tally.total(now) for now in (19.9, 20, 24, 28.9, 29, 100)] == [20, 18, 10, 2, 0, 0]


def test_the_steps_of_a_tally_may_be_short() -> None:
    tally = Tally(0.1, 10)
    for now in (1.05, 1.55, 1.95):
        tally.add(now)
    assert [tally.total(now) for now in (1.99, 2.05, 2.55, 2.99)] == [3, 2, 1, 0]


def test_a_tally_holds_no_more_than_its_steps() -> None:
    tally = Tally(0.1, 10)
    for now in range(1000):
        tally.add(now / 7)
    assert len(tally._counts) <= 10


def test_a_cleared_tally_is_empty() -> None:
    tally = Tally(1.0, 10)
    tally.add(5)
    tally.clear()
    assert tally.total(5) == 0


# --- emails a second -------------------------------------------------------------------------------------------------


def sent(rate: Rate, since: float, until: float) -> list[float]:
    """When emails go out if always as many go as may, asked again every 20 ms."""
    times = []
    for tick in range(round(since * 50), round(until * 50)):
        for _ in range(int(rate.tokens(tick / 50))):
            rate.take(tick / 50)
            times.append(tick / 50)
    return times


def test_without_a_limit_there_is_none() -> None:
    rate = Rate(None, 0)
    rate.take(0)
    assert (rate.limit(0), rate.tokens(0), rate.seconds_to_next(0)) == (None, math.inf, math.inf)


@pytest.mark.parametrize("per_second", [0.5, 1, 5, 10, 100, 333])
def test_a_configured_rate_is_kept_and_comes_smoothly(per_second: float) -> None:
    times = sent(Rate(per_second, 0), 0, 20)
    assert len(times) == pytest.approx(per_second * 20, abs=max(2, per_second * 0.1 + 1))
    for second in range(20):
        within = sum(second <= time < second + 1 for time in times)
        assert within <= per_second + max(1, per_second * Rate.SMOOTH_SECONDS)


def test_a_pause_saves_up_no_burst() -> None:
    rate = Rate(100, 0)
    assert rate.tokens(3600) == pytest.approx(11)


@pytest.mark.parametrize(("per_second", "seconds"), [(1, 1), (4, 0.25), (100, Rate.SMOOTH_SECONDS / 2)])
def test_it_says_when_to_look_again(per_second: float, seconds: float) -> None:
    rate = Rate(per_second, 0)
    rate.take(0)
    assert rate.seconds_to_next(0) == pytest.approx(seconds)
    assert rate.seconds_to_next(seconds / 4) == pytest.approx(max(0.75 * seconds, Rate.SMOOTH_SECONDS / 2))


def test_with_a_full_bucket_time_alone_changes_nothing() -> None:
    """Else an idle process would ask the database twenty times a second for nothing."""
    rate = Rate(100, 0)
    rate.take(0)
    rate.tokens(1)
    assert rate.seconds_to_next(1) == math.inf


def test_what_fills_up_just_after_a_look_is_worth_another() -> None:
    rate = Rate(1, 0)
    rate.take(0)
    assert int(rate.tokens(0.999)) == 0
    assert rate.seconds_to_next(1.001) < math.inf


def told_after(per_second: int, *, configured: float | None = None, rest: float = 1.0) -> Rate:
    """One that sends so many a second, evenly, and is told to slow down in the second second."""
    rate = Rate(configured, 0)
    for number in range(2 * per_second):
        rate.accepted(number / per_second - 0.05, number / per_second)
    rate.told_to_slow_down(1.95, 1.995, rest)
    return rate


def limit(rate: Rate, now: float) -> float:
    known = rate.limit(now)
    assert known is not None
    return known


def test_told_to_slow_down_it_stays_below_what_went_well() -> None:
    rate = told_after(100)
    after = [limit(rate, 3 + second) for second in range(30)]
    assert after[0] == pytest.approx(85, abs=0.1)
    assert all(85 <= one < 100 for one in after)
    assert after == sorted(after)


def test_after_half_a_minute_it_feels_its_way_up_and_in_the_end_forgets() -> None:
    rate = told_after(100)
    assert limit(rate, 33) < 100 < limit(rate, 36) < limit(rate, 60) < 400
    assert rate.limit(33 + 50) is None
    assert rate.limit(33) is None, "forgotten"


def test_the_half_minute_begins_when_the_rest_ends() -> None:
    rate = told_after(100, rest=600)
    assert limit(rate, 602) == pytest.approx(85, abs=0.1)
    assert limit(rate, 631) < 100


@pytest.mark.parametrize(("configured", "known"), [(1000.0, 85.02), (50.0, 50)])
def test_of_what_is_configured_and_what_was_learned_the_smaller_counts(configured: float, known: float) -> None:
    assert limit(told_after(100, configured=configured), 3) == pytest.approx(known, abs=0.1)


def test_accepted_answers_that_were_on_their_way_raise_it() -> None:
    rate = told_after(100)
    for _ in range(20):
        rate.accepted(1.9, 2.1)
    assert limit(rate, 3) == pytest.approx(0.85 * 120, abs=0.1)


def test_answers_to_what_was_asked_later_do_not_raise_it() -> None:
    """They came after the second that counts, or slow answers would look like a high rate."""
    rate = told_after(100)
    for _ in range(20):
        rate.accepted(1.96, 2.1)
    assert limit(rate, 3) == pytest.approx(85, abs=0.1)


def test_one_word_told_to_many_is_one_word() -> None:
    rate = told_after(100)
    for late in range(50):
        rate.told_to_slow_down(1.9, 2.5 + late / 100, 1.0)
    assert limit(rate, 4) == pytest.approx(85, abs=0.1)


def test_too_few_emails_teach_nothing() -> None:
    assert told_after(Rate.ENOUGH).limit(3) is not None
    assert told_after(4).limit(3) is None
    assert told_after(4, configured=50).limit(3) == 50


def test_told_again_before_it_could_learn_anew_it_keeps_what_it_knows() -> None:
    rate = told_after(100)
    for _ in range(3):
        rate.accepted(3, 3.02)
    rate.told_to_slow_down(3.01, 3.05, 1.0)
    assert limit(rate, 4.05) == pytest.approx(85, abs=0.1)
    rate.accepted(3, 4.1)
    assert limit(rate, 4.1) < 90, "one more is no more than one more"


def test_told_again_it_learns_anew() -> None:
    rate = told_after(100)
    for number in range(60):
        rate.accepted(3 + number / 60, 3.05 + number / 60)
    rate.told_to_slow_down(3.95, 4, 1.0)
    assert limit(rate, 5) == pytest.approx(0.85 * 57, rel=0.05)


def test_after_a_rest_it_begins_with_one_and_no_burst() -> None:
    rate = told_after(100, rest=10)
    assert rate.tokens(11.994) == 1
    assert sum(time < 12.1 for time in sent(rate, 12, 13)) <= 10
    assert len(sent(rate, 13, 14)) == pytest.approx(87, abs=4)


def test_a_rest_saves_up_nothing_and_costs_nothing() -> None:
    rate = told_after(100, rest=10)
    rate.take(5)  # leased just before
    assert rate.tokens(11.994) == 0
    assert rate.tokens(12.1) == pytest.approx(9, abs=0.1)


def test_what_the_bucket_held_before_a_word_is_gone() -> None:
    rate = Rate(100, 0)
    assert rate.tokens(1) == 11
    rate.told_to_slow_down(0.9, 1, 10)
    assert rate.tokens(11) == 1


def test_a_reset_forgets_what_was_learned_at_once() -> None:
    rate = told_after(100, rest=600)
    rate.reset(6)
    rate.accepted(1.9, 6.1)  # was on its way
    assert rate.limit(7) is None


def test_a_reset_ends_the_rest_and_keeps_what_is_configured() -> None:
    rate = told_after(100, configured=10, rest=600)
    for _ in range(50):
        rate.take(5)
    rate.reset(6)
    assert limit(rate, 6) == 10
    assert len(sent(rate, 6, 16)) == pytest.approx(100, abs=2)


# --- share of the traffic --------------------------------------------------------------------------------------------


def healthy(seconds: float = 0.3) -> Health:
    """One that has answered for ten seconds, always as fast."""
    health = Health(0)
    for number in range(100):
        health.good(seconds, number / 10)
    return health


def test_when_all_is_normal_it_has_its_full_share() -> None:
    assert Health(0).factor(0) == 1
    assert healthy().factor(10) == 1


def test_errors_take_of_its_share() -> None:
    health = healthy()
    factors = []
    for _ in range(10):
        health.bad(10)
        factors.append(health.factor(10))
    assert factors[0] == pytest.approx(0.95**3)
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] < 0.3


@pytest.mark.parametrize(
    ("normally", "now", "at_least", "at_most"),
    [
        (0.3, 0.5, 1.0, 1.0),
        (0.3, 3.0, 0.15, 0.3),
        (0.3, 60.0, Health.LEAST, Health.LEAST),
        (0.001, 0.19, 1.0, 1.0),
        (0.001, 0.8, 0.2, 0.35),
    ],
)
def test_slow_answers_take_of_its_share_only_when_slow_for_it(
    normally: float, now: float, at_least: float, at_most: float
) -> None:
    health = healthy(normally)
    for number in range(40):
        health.good(now, 10 + number / 100)
    assert at_least <= health.factor(10.4) <= at_most


def test_before_anything_is_normal_nothing_is_slow() -> None:
    health = Health(0)
    health.good(0.05, 0)
    for _ in range(Health.ENOUGH - 2):
        health.good(5, 0)
    assert health.factor(0) == 1


def test_there_is_a_floor() -> None:
    health = healthy()
    for _ in range(1000):
        health.bad(10)
        health.good(100, 10)
        health.bad(10)
    assert health.factor(10) == Health.LEAST


def test_what_it_knows_fades() -> None:
    health = healthy()
    for _ in range(20):
        health.bad(10)
        health.good(5, 10)
    factors = [health.factor(10 + seconds) for seconds in range(0, 200, 10)]
    assert factors[0] < 0.1
    assert factors == sorted(factors)
    assert factors[-1] == 1


def test_a_slower_normal_is_learned_in_time() -> None:
    health = healthy()
    for second in range(7200):
        health.good(3, 10 + second)
    assert health.factor(7210) == 1


def test_two_with_equal_trouble_share_equally_whatever_is_normal_for_each() -> None:
    """Trouble for all is trouble for nobody: what counts is the ratio of the factors."""
    one, other = healthy(0.2), healthy(0.6)
    for number in range(300):
        now = 10 + number / 10
        for health, normally in ((one, 0.2), (other, 0.6)):
            if number % 3:
                health.good(5 * normally, now)
            else:
                health.bad(now)
    assert one.factor(40) == pytest.approx(other.factor(40), rel=0.1)
    assert one.factor(40) < 0.5


# --- retries ---------------------------------------------------------------------------------------------------------


def spent(budget: RetryBudget, times: int) -> RetryBudget:
    for _ in range(times):
        budget.spend()
    return budget


@pytest.mark.parametrize(
    ("spends", "successes", "seconds", "left"),
    [
        (0, 0, 0, 100),
        (0, 50, 1000, 100),
        (30, 0, 0, 70),
        (100, 0, 0, 0),
        (1000, 0, 0, 0),
        (1000, 11, 0, 1),
        (1000, 9, 0, 0),
        (1000, 0, 7, 7),
        (1000, 0, 0.9, 0),
        (1000, 0, 1000, 100),
        (40, 25, 3, 65),
    ],
)
def test_the_retry_budget_is_as_designed(spends: int, successes: int, seconds: float, left: int) -> None:
    budget = spent(RetryBudget(0), spends)
    for _ in range(successes):
        budget.success()
    assert budget.left(seconds) == left


def test_what_was_not_tried_is_given_back() -> None:
    budget = spent(RetryBudget(0), 3)
    budget.give_back()
    assert budget.left(0) == 98
    for _ in range(9):
        budget.give_back()
    assert budget.left(0) == 100
