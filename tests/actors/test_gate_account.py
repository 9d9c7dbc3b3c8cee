"""What a gate knows of our account: refusals, rests, pauses, a provider that is not believed."""

import logging

import anyio
import pytest

from hes.actors import domains
from hes.actors.gate import REJECTS_EVERYTHING, STREAK, Gate
from hes.actors.news import News
from hes.model import Answer, EmailId, Fact, FactKind, GateState, Outcome, Scope
from tests.actors.gates import (
    ACCEPTED,
    DECLINED,
    DOMAIN,
    DOMAIN_REFUSED,
    IN_DOUBT,
    NONE,
    ONE_DOMAIN,
    ONLY_THAT,
    PAUSE,
    REFUSED,
    REJECTED,
    THROTTLED,
    UNAVAILABLE,
    WHOLE,
    admit,
    call,
    calls,
    from_domain,
    hands,
    is_shut,
    record,
    room,
    seconds_shut,
    shut,
    state,
)
from tests.actors.parts import a_gate, a_leased, in_virtual_time

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
    for number in range(domains.MOST + 1):
        call(gate, DOMAIN_REFUSED, leased=from_domain(f"{number}.example"))
    assert len(room(gate).closed_domains) == domains.MOST
    news = gate.take_news()
    assert news.withdrawn == {("p", FactKind.REFUSED, "0.example")}
    assert len(news.stated) == domains.MOST


# --- told to slow down -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("said", "seconds"), [(None, 1), (0.5, 0.5), (7, 7), (3600, 3600)])
def test_told_to_slow_down_it_rests_as_long_as_was_said(said: float | None, seconds: float) -> None:
    @in_virtual_time
    async def test() -> None:
        gate = a_gate()
        call(gate, Answer(outcome=Outcome.THROTTLED, retry_after_seconds=said))
        assert (hands(gate), is_shut(gate), state(gate)) == (0, True, GateState.SLOWED)
        assert gate.objection(gate.admit(a_leased())) == "the provider has told us to wait"
        assert await seconds_shut(gate) == seconds
        assert (hands(gate), is_shut(gate), state(gate)) == (2, False, GateState.UP), "it begins with few at once"

    test()


@in_virtual_time
async def test_told_to_slow_down_for_ever_it_is_never_down() -> None:
    gate = a_gate()
    for _ in range(100):
        call(gate, THROTTLED)
        assert state(gate) is GateState.SLOWED
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
        assert (news.opened, news.stated) == (True, {}), "what was to be written down is forgotten too"
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
    assert (state(gate), hands(gate)) == (GateState.UP, 1), "one at a time, until it is known"


@pytest.mark.parametrize("answer", [THROTTLED, UNAVAILABLE, IN_DOUBT])
def test_what_says_nothing_of_the_account_does_not_end_a_refusal(answer: Answer) -> None:
    @in_virtual_time
    async def test() -> None:
        gate = a_gate()
        call(gate, REFUSED)
        gate.take_news()
        await seconds_shut(gate)
        call(gate, answer)
        assert (state(gate), gate.status("scripted", 0).reason) == (GateState.REFUSED, "the key was revoked")
        assert WHOLE not in gate.take_news().withdrawn
        await seconds_shut(gate)
        call(gate, ACCEPTED)
        assert state(gate) is GateState.UP

    test()


@in_virtual_time
async def test_a_liar_is_not_believed_though_it_was_away_meanwhile() -> None:
    gate = suspected()
    gate.judge(is_liar=True)
    await seconds_shut(gate)
    call(gate, IN_DOUBT)
    await seconds_shut(gate)
    assert not call(gate, REJECTED, 9)
    assert state(gate) is GateState.REFUSED


@in_virtual_time
async def test_a_long_rest_outlives_the_process() -> None:
    gate = a_gate()
    call(gate, Answer(outcome=Outcome.THROTTLED, retry_after_seconds=60))
    [fact] = gate.take_news().stated.values()
    assert (fact.kind, fact.until) == (FactKind.THROTTLED, 60_000)
    await anyio.sleep(10)
    after = a_gate()
    after.learn(fact)
    assert (state(after), hands(after)) == (GateState.SLOWED, 0)
    assert await seconds_shut(after) == 50


@in_virtual_time
async def test_a_short_rest_is_not_worth_writing_down() -> None:
    gate = a_gate()
    call(gate, Answer(outcome=Outcome.THROTTLED, retry_after_seconds=2))
    assert not gate.take_news().stated


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
