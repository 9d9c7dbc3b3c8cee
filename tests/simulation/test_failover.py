"""Failover as it is promised, measured over modelled providers in virtual time."""

import itertools
from collections import Counter

import anyio
import pytest

from hes.model import Answer, Email, EmailId, EventType, FactKind, GateState, Outcome, Scope, Status
from tests.actors.parts import in_virtual_time
from tests.simulation.fleet import Fleet, running

REFUSED = Answer(outcome=Outcome.REFUSED, status_code=401, detail="bad key")
REJECTED = Answer(outcome=Outcome.REJECTED, status_code=400, detail="no such address")


def share(fleet: Fleet, since: float = 0.0) -> dict[str, int]:
    return {name: len(model.accepted(since)) for name, model in fleet.models.items()}


# --- shares ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("weights", "expected"), [((1, 1), (100, 100)), ((3, 1), (150, 50))])
def test_emails_are_split_by_weight(weights: tuple[int, int], expected: tuple[int, int]) -> None:
    @in_virtual_time
    async def test() -> None:
        async with running(Fleet("a", "b", a={"weight": weights[0]}, b={"weight": weights[1]})) as fleet:
            await fleet.offer(100, 2)
            await fleet.drained()
        a, b = share(fleet).values()
        assert a + b == 200
        assert abs(a - expected[0]) <= 2
        assert abs(b - expected[1]) <= 2

    test()


@in_virtual_time
async def test_a_stream_takes_its_route_and_falls_back_to_the_next_group() -> None:
    routes = {"fast": (("a", "b"), ("c",))}
    async with running(Fleet("a", "b", "c", routes=routes)) as fleet:
        await fleet.offer(100, 1, stream="fast")
        await fleet.drained()
        assert share(fleet)["c"] == 0
        fleet.models["a"].is_down = fleet.models["b"].is_down = lambda _: True
        began_at = anyio.current_time()
        await fleet.offer(50, 2, stream="fast")
        await fleet.drained()
    assert share(fleet, began_at) == {"a": 0, "b": 0, "c": 100}


# --- one is down -----------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_with_one_down_all_leave_by_the_other_and_it_sees_only_probes() -> None:
    async with running(Fleet("a", "b")) as fleet:
        fleet.models["a"].is_down = lambda now: now < 60
        await fleet.offer(50, 60)
        assert fleet.statuses().keys() <= {"sent", "sending", "queued"}
        assert max(fleet.delays()) < 2
        after_in_flight = fleet.models["a"].seen(1.0, 60.0)
        # Open for 10, 10, 20, 40 s, each time give or take a fifth: no more than four probes in a minute.
        assert 1 <= len(after_in_flight) <= 4
        assert len(fleet.models["a"].seen(0, 1.0)) <= 10
        standing = await fleet.status("a")
        assert standing.state in {GateState.DOWN, GateState.PROBING}

        # It heals: traffic comes back by itself, and not all at once.
        await fleet.offer(50, 60)
        healed = fleet.models["a"].accepted(60)
        assert healed, "it got nothing"
        back_at = healed[0].at
        await fleet.drained()
        assert (await fleet.status("a")).state is GateState.UP
        second = len(fleet.models["a"].accepted(back_at + 5, back_at + 15))
        assert 200 <= second <= 300, "half of 50 a second, as the weights say"
    assert fleet.statuses() == {"sent": len(fleet.handed_in)}


@in_virtual_time
async def test_failing_over_is_told_in_the_timeline() -> None:
    async with running(Fleet("a", "b")) as fleet:
        fleet.models["a"].is_down = lambda _: True
        for _ in range(4):
            await fleet.send()
        await fleet.drained()
    moves = [e.data for events in fleet.storage.events.values() for _, e in events if e.type is EventType.FAILED_OVER]
    assert moves
    assert all(move == {"from": "a", "to": "b"} for move in moves)


@in_virtual_time
async def test_after_a_recovery_the_room_begins_small_and_doubles() -> None:
    async with running(Fleet("a")) as fleet:
        model = fleet.models["a"]
        model.is_down = lambda now: now < 12
        model.latency_seconds = 0.5
        await fleet.offer(100, 12)
        await fleet.drained()
        first = model.accepted()[0].at
        in_half_seconds = [len(model.accepted(first + n / 2, first + (n + 1) / 2)) for n in range(8)]
    assert in_half_seconds[0] == 1, "the probe"
    assert in_half_seconds[1] <= 4
    assert all(later <= 3 * earlier + 2 for earlier, later in itertools.pairwise(in_half_seconds))
    assert max(in_half_seconds) >= 50


@in_virtual_time
async def test_a_gate_that_has_room_and_lets_nothing_through_keeps_nobody_busy() -> None:
    """Which is a bug: it costs some leases an hour, one entry, and then all leave."""
    fleet = Fleet("a")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fleet.mailer.vitals._senders["a"].gate, "objection", lambda _: "shut meanwhile")
        async with running(fleet):
            ids = [await fleet.send() for _ in range(5)]
            await anyio.sleep(3600)
            leases = Counter(email_id for email_id, _, after in fleet.storage.moves if after is Status.SENDING)
            assert all(5 <= leases[email_id] <= 60 for email_id in ids), leases
            assert [entries(fleet, email_id) for email_id in ids] == [["created", "queued", "attempt", "not_tried"]] * 5
            assert fleet.models["a"].calls == []
            patch.undo()
            await fleet.drained(within=600)
    assert [entries(fleet, email_id)[4:] for email_id in ids] == [["attempt", "sent"]] * 5


def entries(fleet: Fleet, email_id: EmailId) -> list[str]:
    return [event.type.value for _, event in fleet.storage.events[email_id]]


# --- the account -----------------------------------------------------------------------------------------------------


def test_refused_shuts_at_once_and_no_email_suffers(caplog: pytest.LogCaptureFixture) -> None:
    _refused_shuts_at_once()
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1, "one alert"


@in_virtual_time
async def _refused_shuts_at_once() -> None:
    async with running(Fleet("a", "b")) as fleet:
        fleet.models["a"].says = lambda _: REFUSED
        await fleet.offer(20, 5)
        await fleet.drained()
        assert len(fleet.models["a"].calls) <= 2, "those in flight at the first answer"
        standing = await fleet.status("a")
        assert (standing.state, standing.reason) == (GateState.REFUSED, "bad key")
        assert standing.until is not None
        [fact] = await fleet.storage.facts()
        assert (fact.provider, fact.reason) == ("a", "bad key")

        # Mended: it is asked again by itself.
        fleet.models["a"].says = lambda _: None
        await fleet.offer(20, 20)
        await fleet.drained()
        assert (await fleet.status("a")).state is GateState.UP
        assert await fleet.storage.facts() == []
    assert fleet.statuses() == {"sent": len(fleet.handed_in)}
    assert max(fleet.delays()) < 1
    assert all(case.delivery.round == 0 for case in fleet.storage.cases.values())


@in_virtual_time
async def test_an_unverified_sender_domain_shuts_the_gate_for_itself_only() -> None:
    unverified = Answer(outcome=Outcome.REFUSED, scope=Scope.SENDER_DOMAIN, detail="verify it first")

    def judge(email: Email) -> Answer | None:
        return unverified if email.sender.domain == "new.example.com" else None

    async with running(Fleet("a", "b")) as fleet:
        fleet.models["a"].says = judge
        for n in range(100):
            await fleet.send(sender="x@new.example.com" if n % 3 else "x@example.com")
            await anyio.sleep(0.02)
        await fleet.drained()
        assert (await fleet.status("a")).state is GateState.UP
        assert (await fleet.status("a")).refused_sender_domains == ("new.example.com",)
        refused = [call for call in fleet.models["a"].calls if call.outcome is Outcome.REFUSED]
        assert len(refused) <= 2
        assert len(fleet.models["a"].accepted()) >= 15
    assert fleet.statuses() == {"sent": 100}


@in_virtual_time
async def test_of_a_daily_quota_what_is_beyond_goes_to_the_other() -> None:
    async with running(Fleet("a", "b", a={"daily_quota": 30})) as fleet:
        await fleet.offer(50, 4)
        await fleet.drained()
        assert share(fleet) == {"a": 30, "b": 170}
        standing = await fleet.status("a")
        assert (standing.daily_quota, standing.quota_left) == (30, 0)
    assert all(len(case.attempts) == 1 for case in fleet.storage.cases.values())


@in_virtual_time
async def test_a_used_up_quota_rests_until_its_reset() -> None:
    used_up = Answer(outcome=Outcome.REFUSED, quota=True, retry_after_seconds=300, detail="quota used up")
    async with running(Fleet("a", "b")) as fleet:
        fleet.models["a"].says = lambda _: used_up if anyio.current_time() < 300 else None
        await fleet.offer(10, 290)
        assert len(fleet.models["a"].calls) <= 2
        await fleet.offer(10, 30)
        await fleet.drained()
        assert (await fleet.status("a")).state is GateState.UP
    assert fleet.statuses() == {"sent": len(fleet.handed_in)}


@in_virtual_time
async def test_a_paused_provider_gets_nothing_until_it_is_resumed_also_after_a_restart() -> None:
    fleet = Fleet("a", "b")
    async with running(fleet):
        await fleet.operator.pause("a", "ann")
        await fleet.offer(20, 2)
        await fleet.drained()
        assert share(fleet)["a"] == 0
        standing = await fleet.status("a")
        assert (standing.state, standing.reason) == (GateState.PAUSED, "paused by ann")
    fleet.mailer = fleet._mailer()
    async with running(fleet):
        await fleet.offer(20, 2)
        await fleet.drained()
        assert share(fleet)["a"] == 0
        await fleet.operator.resume("a", "ann")
        await fleet.offer(20, 2)
        await fleet.drained()
        assert share(fleet)["a"] >= 15
        assert await fleet.storage.facts() == []


@in_virtual_time
async def test_a_paused_only_provider_keeps_its_emails_waiting() -> None:
    async with running(Fleet("a")) as fleet:
        await fleet.operator.pause("a", "ann")
        for _ in range(5):
            await fleet.send()
        await anyio.sleep(100)
        assert fleet.statuses() == {"queued": 5}
        await fleet.operator.resume("a", "ann")
        await fleet.drained(within=2)
    assert fleet.statuses() == {"sent": 5}


@in_virtual_time
async def test_a_reset_forgets_a_refusal() -> None:
    async with running(Fleet("a")) as fleet:
        fleet.models["a"].says = lambda _: REFUSED
        await fleet.send()
        await anyio.sleep(1)
        fleet.models["a"].says = lambda _: None
        assert (await fleet.status("a")).state is GateState.REFUSED
        await fleet.operator.reset("a", "ann")
        assert [fact.kind for fact in await fleet.storage.facts()] == [FactKind.RESET]
        await fleet.drained(within=1)
    assert fleet.statuses() == {"sent": 1}


# --- the email -------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_bad_email_fails_alone() -> None:
    async with running(Fleet("a", "b")) as fleet:
        for model in fleet.models.values():
            model.says = lambda email: REJECTED if email.subject == "bad" else None
        bad = await fleet.send(subject="bad")
        await fleet.offer(20, 2)
        await fleet.drained()
        assert (await fleet.status("a")).state is GateState.UP
        assert (await fleet.status("b")).state is GateState.UP
    case = fleet.storage.cases[bad]
    assert (case.delivery.status, len(case.attempts)) == (Status.FAILED, 1)
    seen = Counter(call.email_id for model in fleet.models.values() for call in model.calls)
    assert seen[bad] == 1


@pytest.mark.parametrize("outcome", [Outcome.IN_DOUBT, Outcome.UNAVAILABLE, Outcome.DECLINED])
def test_emails_that_end_badly_wherever_they_go_keep_no_gate_shut(outcome: Outcome) -> None:
    """They shut it, and then it is others that find out that it works."""

    @in_virtual_time
    async def test() -> None:
        async with running(Fleet("a")) as fleet:
            model = fleet.models["a"]
            model.says = lambda email: Answer(outcome=outcome) if email.subject == "bad" else None
            for _ in range(8):
                await fleet.send(subject="bad")
            await anyio.sleep(1)
            good = [await fleet.send() for _ in range(17)]
            await anyio.sleep(30)
            assert {fleet.storage.cases[email_id].delivery.status for email_id in good} == {Status.SENT}

    test()


@pytest.mark.parametrize("per_second", [2, 100])
def test_who_rejects_everything_is_not_believed_and_its_victims_leave_by_the_other(per_second: int) -> None:
    @in_virtual_time
    async def test() -> None:
        async with running(Fleet("a", "b")) as fleet:
            fleet.models["a"].says = lambda _: REJECTED
            await fleet.offer(per_second, 20)
            await fleet.drained()
            standing = await fleet.status("a")
            assert (standing.state, standing.reason) == (GateState.REFUSED, "it rejects everything")
            assert (await fleet.status("b")).state is GateState.UP
            # It comes to its senses.
            fleet.models["a"].says = lambda _: None
            await fleet.offer(per_second, 60)
            await fleet.drained()
            assert (await fleet.status("a")).state is GateState.UP
        assert fleet.statuses() == {"sent": len(fleet.handed_in)}

    test()


@in_virtual_time
async def test_emails_that_both_reject_fail_and_shut_no_gate() -> None:
    async with running(Fleet("a", "b")) as fleet:
        for model in fleet.models.values():
            model.says = lambda email: REJECTED if email.subject == "bad" else None
        for _ in range(40):
            await fleet.send(subject="bad")
            await anyio.sleep(0.1)
        await fleet.drained()
        assert {(await fleet.status(name)).state for name in "ab"} == {GateState.UP}
        await fleet.offer(20, 2)
        await fleet.drained()
    assert fleet.statuses() == {"failed": 40, "sent": 40}
    assert max(len(case.attempts) for case in fleet.storage.cases.values()) == 2


# --- all are down ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_second", [10, 50])
def test_all_down_for_half_a_minute_fails_nothing_and_drains_without_a_burst(per_second: float) -> None:
    @in_virtual_time
    async def test() -> None:
        async with running(Fleet("a", "b")) as fleet:
            for model in fleet.models.values():
                model.is_down = lambda now: now < 30
            await fleet.offer(per_second, 30)
            assert fleet.statuses()["failed"] == 0
            attempts = sum(len(case.attempts) for case in fleet.storage.cases.values())
            assert attempts <= 0.1 * len(fleet.handed_in) + 60, "they wait, and burn no attempts"
            untils = [status.gate.until for status in await fleet.operator.status() if status.gate.until]
            opens_in = (max(untils) - fleet.storage._clock()) / 1000 if untils else 0.0
            drained_at = await fleet.drained()
            assert drained_at <= 30 + opens_in + 5
        assert fleet.statuses() == {"sent": len(fleet.handed_in)}
        # No burst: in no tenth of a second does a provider get more than twice of what it gets at its steady best.
        steady = 64 / 0.05 / 10
        for model in fleet.models.values():
            buckets = Counter(int(call.at * 10) for call in model.seen(30))
            assert max(buckets.values(), default=0) <= 1.2 * steady

    test()


# --- limits ----------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_after_too_many_requests_nothing_is_asked_before_the_time_and_the_rate_settles() -> None:
    async with running(Fleet("a", "b")) as fleet:
        model = fleet.models["a"]
        model.per_second = 50
        await fleet.offer(200, 60)
        await fleet.drained()
        told = [call.at for call in model.calls if call.outcome is Outcome.THROTTLED]
        for at in told:
            too_early = [c for c in model.seen(at + 0.06, at + 2.0) if c.at > at + 0.06]
            assert too_early == []
        settled = len(model.accepted(20, 60)) / 40
    assert fleet.statuses() == {"sent": len(fleet.handed_in)}
    assert 0.85 * 50 <= settled <= 50
    assert max(fleet.delays()) < 2


@in_virtual_time
async def test_a_configured_rate_is_kept_and_the_rest_goes_to_the_other() -> None:
    async with running(Fleet("a", "b", a={"rate_per_second": 20.0})) as fleet:
        await fleet.offer(100, 10)
        await fleet.drained()
        for second in range(10):
            assert len(fleet.models["a"].seen(second, second + 1)) <= 23
        assert len(fleet.models["a"].calls) >= 170


@in_virtual_time
async def test_a_configured_rate_is_kept_by_the_only_provider() -> None:
    async with running(Fleet("a", rate_per_second=20.0)) as fleet:
        await fleet.offer(100, 5)
        drained_at = await fleet.drained()
    assert 24 <= drained_at <= 27


# --- trouble that comes and goes -------------------------------------------------------------------------------------


async def goodput(trouble: Fleet, per_second: float, seconds: float) -> float:
    """How much of what is handed in has been taken when the load ends."""
    async with running(trouble) as fleet:
        await fleet.offer(per_second, seconds)
        return fleet.took() / len(fleet.handed_in)


@in_virtual_time
async def test_flapping_costs_less_than_a_tenth() -> None:
    fleet = Fleet("a", "b")
    fleet.models["a"].is_down = lambda now: int(now) % 2 == 0
    assert await goodput(fleet, 100, 60) >= 0.9
    assert max(fleet.delays()) < 2


@in_virtual_time
async def test_a_grey_failure_costs_less_than_a_tenth_and_its_share_moves_away_and_back() -> None:
    fleet = Fleet("a", "b")
    grey = fleet.models["a"]
    async with running(fleet):
        await fleet.offer(100, 30)
        grey.error_share, grey.latency_seconds = 0.1, 1.0
        await fleet.offer(100, 60)
        assert fleet.took(30, 90) >= 0.9 * 60 * 100
        assert (await fleet.status("a")).effective_weight < 0.5
        while_grey = len(grey.seen(60, 90)) / len(fleet.models["b"].seen(60, 90))
        assert while_grey < 0.5
        grey.error_share, grey.latency_seconds = 0.0, 0.05
        await fleet.offer(100, 90)
        back = len(grey.seen(150, 180)) / len(fleet.models["b"].seen(150, 180))
        assert back > 0.8
        await fleet.drained()
    assert fleet.statuses() == {"sent": len(fleet.handed_in)}


@in_virtual_time
async def test_nothing_moves_when_both_are_equally_bad() -> None:
    fleet = Fleet("a", "b")
    async with running(fleet):
        await fleet.offer(100, 20)
        for model in fleet.models.values():
            model.error_share, model.latency_seconds = 0.05, 0.6
        await fleet.offer(100, 60)
        ratio = len(fleet.models["a"].seen(30, 80)) / len(fleet.models["b"].seen(30, 80))
        await fleet.drained()
    assert 0.7 < ratio < 1.4


@pytest.mark.parametrize("names", [("a", "b"), ("a",)])
def test_of_a_small_capacity_nearly_all_is_used(names: tuple[str, ...]) -> None:
    @in_virtual_time
    async def test() -> None:
        fleet = Fleet(*names)
        fleet.models["a"].capacity = 20
        fleet.models["a"].latency_seconds = 0.1
        others = 200 if "b" in names else 0
        per_second = 0.9 * (20 / 0.1) + others
        assert await goodput(fleet, per_second, 30) >= 0.9
        assert (await fleet.status("a")).state is GateState.UP

    test()


@in_virtual_time
async def test_a_dead_providers_backlog_hides_nothing_from_the_other() -> None:
    async with running(Fleet("a", "b")) as fleet:
        fleet.models["a"].is_down = lambda _: True
        for _ in range(500):
            await fleet.send(own_providers=("a",))
        began_at = anyio.current_time()
        await fleet.offer(50, 10)
        await anyio.sleep(1)
        assert max(fleet.delays(began_at)) < 2
        assert fleet.statuses() == {"sent": 500, "queued": 500}


# --- nothing waits for what does not come ----------------------------------------------------------------------------


@in_virtual_time
async def test_nothing_waits_for_a_provider_that_rests_while_another_works() -> None:
    rest = Answer(outcome=Outcome.THROTTLED, retry_after_seconds=3600, detail="come back in an hour")
    async with running(Fleet("a", "b")) as fleet:
        fleet.models["b"].says = lambda _: rest
        await fleet.offer(20, 1)
        fleet.models["a"].error_share = 0.5
        await fleet.offer(20, 3, expires_in=60)
        fleet.models["a"].error_share = 0.0
        await fleet.drained(within=30)
    assert fleet.statuses() == {"sent": 80}


@in_virtual_time
async def test_nothing_waits_long_for_a_busy_provider_while_another_works() -> None:
    async with running(Fleet("a", "b", b={"rate_per_second": 1.0})) as fleet:
        fleet.models["a"].error_share = 0.1
        await fleet.offer(50, 30)
        fleet.models["a"].error_share = 0.0
        began_at = anyio.current_time()
        assert await fleet.drained() < began_at + 5
    assert fleet.statuses() == {"sent": 1500}


@in_virtual_time
async def test_with_the_others_quota_used_up_a_failed_email_backs_off() -> None:
    async with running(Fleet("a", "b", a={"gate_fail_max": 1000}, b={"daily_quota": 1})) as fleet:
        await fleet.send(own_providers=("b",))
        await fleet.drained()
        fleet.models["a"].is_down = lambda _: True
        await fleet.send()
        await anyio.sleep(10)
        assert len(fleet.models["a"].calls) <= 12, "1, 2, 4 … s at most, by chance less; not as fast as it can"
        assert (await fleet.status("b")).state is GateState.REFUSED
        fleet.models["a"].is_down = lambda _: False
        await fleet.drained(within=60)
    assert fleet.statuses() == {"sent": 2}


@in_virtual_time
async def test_after_trouble_that_shut_no_gate_the_budget_holds_nothing_back() -> None:
    async with running(Fleet("a", gate_fail_max=1000)) as fleet:
        fleet.models["a"].error_share = 0.3
        await fleet.offer(60, 40)
        fleet.models["a"].error_share = 0.0
        began_at = anyio.current_time()
        await fleet.offer(60, 5)
        assert await fleet.drained() < began_at + 40
    assert fleet.statuses() == {"sent": len(fleet.handed_in)}


@in_virtual_time
async def test_a_slow_limit_is_not_stormed_at_the_end_of_each_rest() -> None:
    async with running(Fleet("a")) as fleet:
        fleet.models["a"].per_second = 3
        await fleet.offer(20, 10)
        await anyio.sleep(20)
        told = [call.at for call in fleet.models["a"].calls if call.outcome is Outcome.THROTTLED]
        first_storm = sum(at < 1 for at in told)
        assert len(told) - first_storm <= len(fleet.models["a"].accepted())


@in_virtual_time
async def test_rejected_by_one_while_the_other_is_down_it_is_sent_once_either_works() -> None:
    async with running(Fleet("a", "b")) as fleet:
        fleet.models["b"].is_down = lambda _: True
        await fleet.offer(20, 5)
        fleet.models["a"].says = lambda _: REJECTED
        await fleet.offer(20, 5)
        assert (await fleet.status("a")).reason is not None
        fleet.models["a"].says = lambda _: None
        await fleet.drained(within=200)
    assert fleet.statuses()["failed"] <= 5, "those that it was believed about, and nobody could be asked"
    assert fleet.statuses()["sent"] >= 195
