"""Decisions, one by one: what follows from each outcome, each piece of evidence, each word of a person."""

import random
from typing import Any

import pytest
from msgspec.structs import replace

from hes import interventions
from hes.case import Backoff, Case, Change, Rules
from hes.errors import WrongState
from hes.lanes import lane_of
from hes.model import (
    Answer,
    Attempt,
    AttemptId,
    Decision,
    Delivery,
    EmailId,
    Ended,
    Event,
    EventType,
    Evidence,
    OnDoubt,
    Outcome,
    Reason,
    Resolution,
    Room,
    Status,
)
from hes.policy import Policy
from hes.routing import POISON_LAPSES

NOW = 1_000_000
EXPIRES = NOW + 3_600_000


class Latest(random.Random):
    """Jitter at its longest, so that times can be said."""

    def uniform(self, a: float, b: float) -> float:
        return b


def policy(*providers: str) -> Policy:
    return Policy(Rules(providers=providers or ("a", "b"), lease_seconds=30), Latest(1))


def delivery(**fields: Any) -> Delivery:
    known: dict[str, Any] = {
        "email_id": EmailId("e"),
        "project": "p",
        "status": Status.QUEUED,
        "due_at": NOW,
        "expires_at": EXPIRES,
        "expires_in": 3600,
        "on_doubt": OnDoubt.RESEND,
        "attempt_timeout": 10.0,
    }
    return Delivery(**(known | fields))


def leased(policy: Policy, case: Case | None = None, provider: str = "a") -> Case:
    case = case or Case(delivery())
    attempt_id = AttemptId(f"attempt-{len(case.attempts) + 1}")
    return case.after(policy.lease(case.delivery, provider, attempt_id, 1, NOW))


def ended(case: Case, outcome: Outcome | None, **answer: Any) -> Ended:
    attempt = case.attempts[-1]
    return Ended(
        attempt_id=attempt.id,
        email_id=case.delivery.email_id,
        provider=attempt.provider,
        ended_at=NOW + 5,
        answer=Answer(outcome=outcome, **answer) if outcome else None,
        note="stopping" if outcome is None else "",
    )


def settle(policy: Policy, case: Case, outcome: Outcome | None, now: int = NOW + 5, **answer: Any) -> Change:
    change = policy.settle(case, ended(case, outcome, **answer), now)
    assert change is not None
    return change


def evidence(case: Case, *, accepted: bool, number: int = 1) -> Evidence:
    return Evidence(
        email_id=case.delivery.email_id, attempt_id=case.attempts[number - 1].id, accepted=accepted, source="event"
    )


def types(change: Change) -> list[EventType]:
    return [event.type for event in change.events]


def only(change: Change, type_: EventType) -> Event:
    return next(event for event in change.events if event.type is type_)


def in_doubt(policy: Policy, on_doubt: OnDoubt, **fields: Any) -> Case:
    """An email whose first attempt, at `a`, is in doubt, and what its policy made of that."""
    case = leased(policy, Case(delivery(on_doubt=on_doubt, **fields)))
    return case.after(settle(policy, case, Outcome.IN_DOUBT))


# --- leasing ---------------------------------------------------------------------------------------------------------


def test_a_lease_names_the_attempt_and_ends_by_the_storages_clock() -> None:
    change = policy().lease(delivery(), "a", AttemptId("x"), 3, NOW)
    assert (change.delivery.attempt_id, change.delivery.lease_ends_at) == ("x", NOW + 30_000)
    assert (change.attempts[0].provider, change.attempts[0].number, change.attempts[0].render_version) == ("a", 1, 3)
    assert change.attempts[0].outcome is None
    assert types(change) == [EventType.ATTEMPT]


# --- outcomes --------------------------------------------------------------------------------------------------------


def test_accepted_is_sent() -> None:
    change = settle(policy(), leased(policy()), Outcome.ACCEPTED, status_code=202, provider_message_id="m")
    assert (change.delivery.status, change.delivery.provider) == (Status.SENT, "a")
    assert (change.delivery.attempt_id, change.delivery.lease_ends_at) == (None, None)
    assert (change.attempts[0].outcome, change.attempts[0].provider_message_id) == (Outcome.ACCEPTED, "m")
    assert types(change) == [EventType.SENT]


def test_rejected_fails_without_another_provider() -> None:
    change = settle(policy(), leased(policy()), Outcome.REJECTED, detail="bad address")
    assert (change.delivery.status, change.delivery.reason) == (Status.FAILED, Reason.REJECTED)
    assert only(change, EventType.FAILED).data["detail"] == "bad address"


def test_declined_goes_to_another_provider_and_never_back() -> None:
    change = settle(policy(), leased(policy()), Outcome.DECLINED)
    assert (change.delivery.status, change.delivery.due_at) == (Status.QUEUED, NOW + 5)
    assert change.delivery.declined_by == ("a",)


def test_declined_by_all_usable_fails() -> None:
    case = leased(policy(), Case(delivery(declined_by=("b",))))
    change = settle(policy(), case, Outcome.DECLINED)
    assert (change.delivery.status, change.delivery.reason) == (Status.FAILED, Reason.NO_PROVIDER)


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.THROTTLED, Outcome.UNAVAILABLE])
def test_trouble_of_a_provider_goes_to_another_one_at_once(outcome: Outcome) -> None:
    change = settle(policy(), leased(policy()), outcome)
    assert (change.delivery.status, change.delivery.due_at, change.delivery.round) == (Status.QUEUED, NOW + 5, 0)
    assert change.delivery.tried == ("a",)
    assert only(change, EventType.QUEUED).data["outcome"] == outcome


def test_going_to_another_provider_is_told() -> None:
    case = leased(policy())
    case = case.after(settle(policy(), case, Outcome.UNAVAILABLE))
    change = policy().lease(case.delivery, "b", AttemptId("second"), 1, NOW)
    assert types(change) == [EventType.FAILED_OVER, EventType.ATTEMPT]
    assert change.events[0].data == {"from": "a", "to": "b"}


@pytest.mark.parametrize(("round_", "seconds"), [(0, 1), (1, 2), (5, 32), (10, 600), (10_000, 600)])
def test_when_all_were_unavailable_the_backoff_grows_up_to_its_cap(round_: int, seconds: int) -> None:
    case = leased(policy(), Case(delivery(tried=("b",), round=round_)))
    change = settle(policy(), case, Outcome.UNAVAILABLE)
    assert change.delivery.due_at == NOW + 5 + seconds * 1000
    assert (change.delivery.round, change.delivery.tried) == (round_ + 1, ())


def test_the_backoff_is_jittered_down_to_nothing() -> None:
    rules = Rules(providers=("a",))
    waits = []
    for seed in range(200):
        chance = Policy(rules, random.Random(seed))
        waits.append(settle(chance, leased(chance, Case(delivery(round=4))), Outcome.UNAVAILABLE).delivery.due_at - NOW)
    assert min(waits) < 1000
    assert max(waits) > 15_000


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.THROTTLED])
def test_account_answers_never_make_an_email_wait(outcome: Outcome) -> None:
    """The provider's gate does, for as long as it has to."""
    case = leased(policy(), Case(delivery(tried=("b",), round=6)))
    change = settle(policy(), case, outcome, retry_after_seconds=3600.0)
    assert (change.delivery.due_at, change.delivery.tried) == (NOW + 5, ())
    assert (change.delivery.round, change.delivery.is_retry) == (6, False)


def test_only_a_later_round_after_unavailable_takes_from_the_retry_budget() -> None:
    case = leased(policy())
    case = case.after(settle(policy(), case, Outcome.UNAVAILABLE))
    assert not case.delivery.is_retry, "the first failover is free"
    case = leased(policy(), case, "b")
    case = case.after(settle(policy(), case, Outcome.UNAVAILABLE))
    assert case.delivery.is_retry
    doubted = leased(policy("a"))
    assert not settle(policy("a"), doubted, Outcome.IN_DOUBT).delivery.is_retry


def test_nobody_waits_for_a_provider_that_is_shut() -> None:
    case = leased(policy())
    change = policy().settle(case, ended(case, Outcome.UNAVAILABLE), NOW, {"b": Room(hands=0, is_shut=True)})
    assert change is not None
    assert (change.delivery.tried, change.delivery.round, change.delivery.due_at) == ((), 1, NOW + 1000)
    busy = policy().settle(case, ended(case, Outcome.UNAVAILABLE), NOW, {"b": Room(hands=0)})
    assert busy is not None
    assert (busy.delivery.tried, busy.delivery.due_at) == (("a",), NOW)


def test_each_provider_has_a_backoff_of_its_own() -> None:
    rules = Rules(providers=("a", "b"), backoffs={"a": Backoff(3, 600)})
    own = Policy(rules, Latest(1))
    case = leased(own, Case(delivery(tried=("b",))))
    assert settle(own, case, Outcome.UNAVAILABLE, NOW).delivery.due_at == NOW + 3000


# --- a provider that rejects everything ------------------------------------------------------------------------------


def not_believed(policy: Policy, case: Case) -> Change:
    change = policy.settle(case, replace(ended(case, Outcome.REJECTED), is_believed=False), NOW)
    assert change is not None
    return change


def test_a_rejection_that_is_not_believed_goes_to_another_provider() -> None:
    change = not_believed(policy(), leased(policy()))
    assert (change.delivery.status, change.delivery.tried) == (Status.QUEUED, ("a",))
    assert change.delivery.declined_by == (), "once it is believed again it may have the email"
    assert change.attempts[0].outcome is Outcome.REJECTED
    assert "rejects everything" in only(change, EventType.QUEUED).data["why"]


def test_rejected_by_the_other_one_as_well_it_fails() -> None:
    case = leased(policy())
    case = leased(policy(), case.after(not_believed(policy(), case)), "b")
    word = ended(case, Outcome.REJECTED)
    assert policy().verdicts(case, word) == [("a", False), ("b", False)]
    nor_believed = policy().settle(case, replace(word, is_believed=False), NOW)
    assert nor_believed is not None
    assert nor_believed.delivery.reason is Reason.REJECTED, "two are believed"
    change = policy().settle(case, word, NOW)
    assert change is not None
    assert (change.delivery.status, change.delivery.reason) == (Status.FAILED, Reason.REJECTED)


def test_accepted_by_the_other_one_it_proves_the_first_one_wrong() -> None:
    case = leased(policy())
    case = leased(policy(), case.after(not_believed(policy(), case)), "b")
    assert policy().verdicts(case, ended(case, Outcome.ACCEPTED)) == [("a", True)]
    assert policy().verdicts(case, ended(case, Outcome.UNAVAILABLE)) == []


def test_not_believed_while_the_other_is_shut_it_waits_and_comes_back() -> None:
    case = leased(policy())
    told = replace(ended(case, Outcome.REJECTED), is_believed=False)
    change = policy().settle(case, told, NOW, {"b": Room(hands=0, is_shut=True)})
    assert change is not None
    assert (change.delivery.status, change.delivery.tried, change.delivery.round) == (Status.QUEUED, (), 1)
    assert change.delivery.due_at > NOW


def test_one_that_was_tried_already_begins_the_next_round() -> None:
    change = policy().lease(delivery(tried=("a",), round=2), "a", AttemptId("x"), 1, NOW)
    assert (change.delivery.tried, change.delivery.round, change.delivery.is_retry) == ((), 3, True)
    other = policy().lease(delivery(tried=("a",), round=2), "b", AttemptId("x"), 1, NOW)
    assert (other.delivery.tried, other.delivery.round, other.delivery.is_retry) == (("a",), 2, False)


@pytest.mark.parametrize("outcome", [Outcome.THROTTLED, Outcome.REFUSED, Outcome.IN_DOUBT])
def test_a_round_that_ends_without_unavailable_makes_the_next_one_free(outcome: Outcome) -> None:
    alone = policy("a")
    change = settle(alone, leased(alone, Case(delivery(is_retry=True, round=1))), outcome)
    assert not change.delivery.is_retry


def test_not_believed_and_nobody_else_to_ask_it_fails() -> None:
    change = not_believed(policy("a"), leased(policy("a")))
    assert (change.delivery.status, change.delivery.reason) == (Status.FAILED, Reason.REJECTED)


def test_with_nobody_else_to_ask_its_own_word_counts() -> None:
    alone = policy("a")
    case = leased(alone)
    assert alone.verdicts(case, ended(case, Outcome.REJECTED)) == [("a", False)]
    assert policy().verdicts(case, ended(case, Outcome.REJECTED)) == []


def rejected(policy: Policy, **fields: Any) -> Case:
    case = leased(policy, Case(delivery(**fields)))
    return case.after(settle(policy, case, Outcome.REJECTED))


def test_a_victim_of_a_provider_that_rejects_everything_is_queued_for_another() -> None:
    change = interventions.disbelieve(policy().routing, rejected(policy()), "a", NOW + 9)
    assert change is not None
    assert (change.delivery.status, change.delivery.due_at, change.delivery.tried) == (Status.QUEUED, NOW + 9, ("a",))
    assert "rejects everything" in only(change, EventType.QUEUED).data["why"]


@pytest.mark.parametrize(
    ("fields", "provider"),
    [({"own_providers": ("a",)}, "a"), ({"expires_at": NOW + 9}, "a"), ({}, "b")],
    ids=["no other may take it", "its time is over", "it failed by another's word"],
)
def test_what_is_no_victim_stays_failed(fields: dict[str, Any], provider: str) -> None:
    assert interventions.disbelieve(policy().routing, rejected(policy(), **fields), provider, NOW + 9) is None


def test_what_was_sent_is_no_victim() -> None:
    case = leased(policy())
    assert (
        interventions.disbelieve(policy().routing, case.after(settle(policy(), case, Outcome.ACCEPTED)), "a", NOW)
        is None
    )


# --- not tried -------------------------------------------------------------------------------------------------------


def test_not_tried_leaves_no_attempt_and_is_due_at_once() -> None:
    change = settle(policy(), leased(policy()), None)
    assert change.dropped == "attempt-1"
    assert (change.delivery.status, change.delivery.attempts, change.delivery.provider) == (Status.QUEUED, 0, None)
    assert change.delivery.due_at == NOW + 5
    assert only(change, EventType.NOT_TRIED).data == {"why": "stopping"}
    assert change.delivery.tried == ()


def given_back(policy: Policy, times: int, provider: str = "a") -> Case:
    """An email that was leased so often, and never tried."""
    case = Case(delivery())
    for _ in range(times):
        case = leased(policy, case, provider)
        case = case.after(settle(policy, case, None))
    return case


@pytest.mark.parametrize(("before", "wait_ms"), [(0, 0), (1, 1000), (2, 2000), (3, 4000), (30, 600_000)])
def test_not_tried_again_and_again_waits_longer_and_longer(before: int, wait_ms: int) -> None:
    change = settle(policy(), leased(policy(), given_back(policy(), before)), None)
    assert (change.delivery.status, change.delivery.due_at - NOW - 5) == (Status.QUEUED, wait_ms)
    assert (change.delivery.attempts, change.delivery.round, change.delivery.is_retry) == (0, 0, False)


def test_only_the_first_not_tried_in_a_row_is_told() -> None:
    case, told = Case(delivery()), []
    for provider in ("a", "b", "a"):
        change = policy().lease(case.delivery, provider, AttemptId("x"), 1, NOW)
        told += types(change)
        case = case.after(change)
        change = settle(policy(), case, None)
        told += types(change)
        case = case.after(change)
    assert told == [EventType.ATTEMPT, EventType.NOT_TRIED]


@pytest.mark.parametrize("outcome", list(Outcome))
def test_an_attempt_after_a_not_tried_is_told_when_it_ends_and_begins_a_new_row(outcome: Outcome) -> None:
    begun = leased(policy(), given_back(policy(), 2))
    change = settle(policy(), begun, outcome)
    assert types(change)[0] is EventType.ATTEMPT
    assert (change.events[0].at, change.events[0].data) == (NOW, {"attempt": 1})
    assert change.delivery.not_tried == 0


def test_a_failover_after_a_not_tried_is_told_with_its_attempt() -> None:
    case = leased(policy())
    case = case.after(settle(policy(), case, Outcome.UNAVAILABLE))
    case = leased(policy(), case, "b")
    case = case.after(settle(policy(), case, None))
    change = settle(policy(), leased(policy(), case, "b"), Outcome.ACCEPTED)
    assert types(change) == [EventType.FAILED_OVER, EventType.ATTEMPT, EventType.SENT]
    assert change.events[0].data == {"from": "a", "to": "b"}


def test_a_lapse_after_a_not_tried_tells_the_attempt_too() -> None:
    change = policy().lapse(leased(policy(), given_back(policy(), 1)), NOW + 30_000)
    assert types(change)[:2] == [EventType.ATTEMPT, EventType.IN_DOUBT]
    assert change.delivery.not_tried == 0


def test_a_restore_after_a_not_tried_tells_the_attempt_too() -> None:
    change = interventions.restore(policy().rules, leased(policy(), given_back(policy(), 1)), NOW + 9)
    assert change is not None
    assert types(change) == [EventType.ATTEMPT, EventType.HELD]
    assert change.delivery.not_tried == 0


def test_what_a_person_sends_again_begins_without_a_wait() -> None:
    expired = interventions.expire(given_back(policy(), 3), EXPIRES)
    assert expired is not None
    again = interventions.send(Case(expired.delivery), None, EXPIRES)
    assert again.delivery.not_tried == 0


# --- doubt -----------------------------------------------------------------------------------------------------------


def test_in_doubt_under_resend_is_told_and_goes_to_another_provider() -> None:
    change = settle(policy(), leased(policy()), Outcome.IN_DOUBT, detail="connection lost")
    assert types(change) == [EventType.IN_DOUBT, EventType.QUEUED]
    assert only(change, EventType.IN_DOUBT).provider == "a"
    assert only(change, EventType.QUEUED).data["why"] == "on_doubt is resend"
    assert (change.delivery.status, change.delivery.due_at) == (Status.QUEUED, NOW + 5)
    assert change.delivery.tried == ("a",)


def test_in_doubt_with_no_other_provider_backs_off_and_takes_the_same() -> None:
    alone = policy("a")
    change = settle(alone, leased(alone), Outcome.IN_DOUBT)
    assert change.delivery.due_at == NOW + 5 + 1000
    assert change.delivery.tried == ()


def test_in_doubt_under_hold_is_held() -> None:
    change = settle(policy(), leased(policy(), Case(delivery(on_doubt=OnDoubt.HOLD))), Outcome.IN_DOUBT)
    assert (change.delivery.status, change.delivery.reason) == (Status.HELD, Reason.DOUBT)
    assert types(change) == [EventType.IN_DOUBT, EventType.HELD]


def test_in_doubt_under_wait_waits_until_it_expires() -> None:
    change = settle(policy(), leased(policy(), Case(delivery(on_doubt=OnDoubt.WAIT))), Outcome.IN_DOUBT)
    assert (change.delivery.status, change.delivery.due_at) == (Status.IN_DOUBT, EXPIRES)


def test_a_lapsed_lease_is_a_doubt_that_says_nothing_about_the_provider() -> None:
    alone = policy("a")
    change = alone.lapse(leased(alone), NOW + 30_000)
    assert change.attempts[0].outcome is Outcome.IN_DOUBT
    assert (change.delivery.status, change.delivery.lapses) == (Status.QUEUED, 1)
    assert (change.delivery.due_at, change.delivery.round) == (NOW + 30_000, 0)


@pytest.mark.parametrize("on_doubt", list(OnDoubt))
def test_in_flight_at_three_crashes_is_poison_whatever_the_policy(on_doubt: OnDoubt) -> None:
    case = leased(policy(), Case(delivery(on_doubt=on_doubt, lapses=POISON_LAPSES - 1)))
    change = policy().lapse(case, NOW)
    assert (change.delivery.status, change.delivery.reason) == (Status.HELD, Reason.POISON)


def test_rejected_with_an_open_doubt_is_held_and_not_failed() -> None:
    case = leased(policy(), in_doubt(policy(), OnDoubt.RESEND), "b")
    change = settle(policy(), case, Outcome.REJECTED)
    assert (change.delivery.status, change.delivery.reason) == (Status.HELD, Reason.REJECTED_AFTER_DOUBT)


def test_declined_by_all_with_an_open_doubt_is_held() -> None:
    case = in_doubt(policy(), OnDoubt.RESEND, declined_by=())
    case = leased(policy(), replace(case, delivery=replace(case.delivery, declined_by=("a",))), "b")
    change = settle(policy(), case, Outcome.DECLINED)
    assert (change.delivery.status, change.delivery.reason) == (Status.HELD, Reason.DOUBT)


def test_accepted_after_a_doubt_is_sent_by_the_one_that_took_it() -> None:
    case = leased(policy(), in_doubt(policy(), OnDoubt.RESEND), "b")
    change = settle(policy(), case, Outcome.ACCEPTED)
    assert (change.delivery.status, change.delivery.provider) == (Status.SENT, "b")
    assert types(change) == [EventType.SENT]


# --- evidence --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_doubt", list(OnDoubt))
def test_proof_of_a_doubt_at_rest_sends_it_and_drops_the_pending_resend(on_doubt: OnDoubt) -> None:
    case = in_doubt(policy(), on_doubt)
    change = policy().evidence(case, evidence(case, accepted=True), NOW + 9)
    assert change is not None
    assert (change.delivery.status, change.delivery.reason, change.delivery.provider) == (Status.SENT, None, "a")
    assert change.attempts[0].resolution is Resolution.ACCEPTED
    assert types(change) == [EventType.RESOLVED, EventType.SENT]


def test_proof_while_another_attempt_is_in_flight_is_kept_and_read_at_its_end() -> None:
    case = leased(policy(), in_doubt(policy(), OnDoubt.RESEND), "b")
    kept = policy().evidence(case, evidence(case, accepted=True), NOW + 9)
    assert kept is not None
    assert (kept.delivery.status, kept.delivery.attempt_id) == (Status.SENDING, "attempt-2")
    change = settle(policy(), case.after(kept), Outcome.UNAVAILABLE)
    assert (change.delivery.status, change.delivery.provider) == (Status.SENT, "a")


@pytest.mark.parametrize("outcome", [None, *Outcome])
def test_whatever_ends_a_lease_reads_the_evidence_kept_meanwhile(outcome: Outcome | None) -> None:
    case = leased(policy(), in_doubt(policy(), OnDoubt.RESEND), "b")
    kept = policy().evidence(case, evidence(case, accepted=True), NOW + 9)
    assert kept is not None
    change = settle(policy(), case.after(kept), outcome)
    assert (change.delivery.status, change.delivery.provider) == (Status.SENT, "a")
    assert (EventType.DUPLICATE in types(change)) == (outcome is Outcome.ACCEPTED)


def test_a_lapse_reads_the_evidence_kept_meanwhile() -> None:
    case = leased(policy())
    kept = policy().evidence(case, evidence(case, accepted=True), NOW + 9)
    assert kept is not None
    change = policy().lapse(case.after(kept), NOW + 30_000)
    assert (change.delivery.status, change.delivery.provider) == (Status.SENT, "a")


def test_two_acceptances_are_told_as_a_duplicate_with_both_attempts() -> None:
    case = leased(policy(), in_doubt(policy(), OnDoubt.RESEND), "b")
    case = case.after(settle(policy(), case, Outcome.ACCEPTED))
    change = policy().evidence(case, evidence(case, accepted=True), NOW + 9)
    assert change is not None
    assert (change.delivery.status, change.delivery.provider) == (Status.SENT, "b")
    assert only(change, EventType.DUPLICATE).data == {"attempts": [1, 2]}


def test_surely_not_about_the_only_doubt_queues_it_again() -> None:
    case = in_doubt(policy(), OnDoubt.HOLD)
    change = policy().evidence(case, evidence(case, accepted=False), NOW + 9)
    assert change is not None
    assert (change.delivery.status, change.delivery.reason, change.delivery.due_at) == (Status.QUEUED, None, NOW + 9)
    assert change.attempts[0].resolution is Resolution.NOT_ACCEPTED


@pytest.mark.parametrize(
    ("reason", "now", "expected"),
    [
        (Reason.REJECTED_AFTER_DOUBT, NOW, Reason.REJECTED),
        (Reason.EXPIRED_IN_DOUBT, EXPIRES, Reason.EXPIRED),
        (Reason.DOUBT, EXPIRES + 1, Reason.EXPIRED),
    ],
)
def test_surely_not_about_what_is_held_for_another_reason_fails_it(reason: Reason, now: int, expected: Reason) -> None:
    case = in_doubt(policy(), OnDoubt.HOLD)
    case = replace(case, delivery=replace(case.delivery, reason=reason))
    change = policy().evidence(case, evidence(case, accepted=False), now)
    assert change is not None
    assert (change.delivery.status, change.delivery.reason) == (Status.FAILED, expected)


def test_surely_not_about_one_of_two_doubts_moves_nothing() -> None:
    case = leased(policy(), in_doubt(policy(), OnDoubt.RESEND), "b")
    case = case.after(settle(policy(), case, Outcome.IN_DOUBT))
    case = replace(case, delivery=replace(case.delivery, status=Status.HELD, reason=Reason.DOUBT))
    change = policy().evidence(case, evidence(case, accepted=False), NOW)
    assert change is not None
    assert (change.delivery.status, change.delivery.reason) == (Status.HELD, Reason.DOUBT)


def test_surely_not_about_what_is_settled_tells_nothing() -> None:
    case = leased(policy())
    case = case.after(settle(policy(), case, Outcome.UNAVAILABLE))
    assert policy().evidence(case, evidence(case, accepted=False), NOW) is None


def test_proof_is_believed_against_an_earlier_surely_not() -> None:
    case = leased(policy())
    case = case.after(settle(policy(), case, Outcome.REJECTED))
    change = policy().evidence(case, evidence(case, accepted=True), NOW)
    assert change is not None
    assert change.delivery.status is Status.SENT


def test_evidence_about_an_unknown_attempt_tells_nothing() -> None:
    unknown = Evidence(email_id=EmailId("e"), attempt_id=AttemptId("?"), accepted=True, source="event")
    assert policy().evidence(Case(delivery()), unknown, NOW) is None


# --- late outcomes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_doubt", list(OnDoubt))
def test_a_late_acceptance_turns_a_lapsed_doubt_into_sent(on_doubt: OnDoubt) -> None:
    case = leased(policy(), Case(delivery(on_doubt=on_doubt)))
    late = ended(case, Outcome.ACCEPTED)
    case = case.after(policy().lapse(case, NOW + 30_000))
    change = policy().settle(case, late, NOW + 40_000)
    assert change is not None
    assert (change.delivery.status, change.delivery.provider) == (Status.SENT, "a")
    assert only(change, EventType.RESOLVED).data["source"] == "late outcome"


def test_a_late_surely_not_turns_a_held_doubt_into_queued() -> None:
    case = leased(policy(), Case(delivery(on_doubt=OnDoubt.HOLD)))
    late = ended(case, Outcome.UNAVAILABLE)
    case = case.after(policy().lapse(case, NOW + 30_000))
    change = policy().settle(case, late, NOW + 40_000)
    assert change is not None
    assert change.delivery.status is Status.QUEUED


def test_a_late_outcome_leaves_the_lease_of_another_attempt_alone() -> None:
    case = leased(policy())
    late = ended(case, Outcome.UNAVAILABLE)
    case = case.after(policy().lapse(case, NOW + 30_000))
    case = leased(policy(), case, "b")
    change = policy().settle(case, late, NOW + 40_000)
    assert change is not None
    assert (change.delivery.status, change.delivery.attempt_id) == (Status.SENDING, "attempt-2")


def test_a_late_doubt_tells_nothing() -> None:
    case = leased(policy())
    late = ended(case, Outcome.IN_DOUBT)
    case = case.after(policy().lapse(case, NOW + 30_000))
    assert policy().settle(case, late, NOW + 40_000) is None


@pytest.mark.parametrize("outcome", [None, *Outcome])
def test_settling_again_changes_nothing(outcome: Outcome | None) -> None:
    case = leased(policy())
    again = ended(case, outcome)
    case = case.after(settle(policy(), case, outcome))
    assert policy().settle(case, again, NOW) is None


# --- people and time -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [Status.DRAFT, Status.SCHEDULED, Status.QUEUED])
def test_what_was_handed_to_nobody_can_be_cancelled(status: Status) -> None:
    change = interventions.cancel(Case(delivery(status=status)), NOW)
    assert change is not None
    assert change.delivery.status is Status.CANCELLED


def test_cancelling_again_changes_nothing() -> None:
    assert interventions.cancel(Case(delivery(status=Status.CANCELLED)), NOW) is None


@pytest.mark.parametrize(
    ("status", "keep_ms", "is_dropped"),
    [
        (Status.DRAFT, 1000, True),
        (Status.DRAFT, 1001, False),
        (Status.DRAFT, None, False),
        (Status.QUEUED, 1000, False),
        (Status.CANCELLED, 1000, False),
    ],
)
def test_only_a_draft_whose_time_is_over_is_dropped(status: Status, keep_ms: int | None, *, is_dropped: bool) -> None:
    rules = Rules(providers=("a",), keep_drafts_ms=keep_ms)
    draft = delivery(status=status, due_at=NOW - 1000)
    change = interventions.drop_draft(rules, Case(draft), NOW)
    assert (change is not None) == is_dropped
    if status is Status.DRAFT:
        assert interventions.expires_at(rules, draft) == (None if keep_ms is None else NOW - 1000 + keep_ms)


@pytest.mark.parametrize("status", [Status.SENDING, Status.IN_DOUBT, Status.HELD, Status.SENT, Status.FAILED])
def test_everything_else_can_not_be_cancelled(status: Status) -> None:
    with pytest.raises(WrongState):
        interventions.cancel(Case(delivery(status=status)), NOW)


def test_what_waits_with_an_open_doubt_can_not_be_cancelled() -> None:
    with pytest.raises(WrongState, match="may have taken"):
        interventions.cancel(in_doubt(policy(), OnDoubt.RESEND), NOW)


@pytest.mark.parametrize("on_doubt", [OnDoubt.HOLD, OnDoubt.WAIT])
@pytest.mark.parametrize(
    ("decision", "status", "reason"),
    [
        (Decision.SENT, Status.SENT, None),
        (Decision.RESEND, Status.QUEUED, None),
        (Decision.FAILED, Status.FAILED, Reason.OPERATOR),
    ],
)
def test_a_person_decides(on_doubt: OnDoubt, decision: Decision, status: Status, reason: Reason | None) -> None:
    case = in_doubt(policy(), on_doubt)
    change = interventions.resolve(case, decision, NOW, "ann")
    assert (change.delivery.status, change.delivery.reason) == (status, reason)
    assert [a.resolution for a in change.attempts] == [Resolution.OPERATOR]
    assert only(change, EventType.RESOLVED).data == {"decision": decision, "by": "ann", "attempts": [1]}


@pytest.mark.parametrize("status", [Status.QUEUED, Status.SENDING, Status.SENT, Status.FAILED, Status.CANCELLED])
def test_nothing_else_can_be_resolved(status: Status) -> None:
    with pytest.raises(WrongState):
        interventions.resolve(Case(delivery(status=status)), Decision.SENT, NOW, "ann")


def test_a_resend_after_the_time_is_over_gets_new_time() -> None:
    case = in_doubt(policy(), OnDoubt.HOLD)
    change = interventions.resolve(case, Decision.RESEND, EXPIRES + 1, "ann")
    assert change.delivery.expires_at == EXPIRES + 1 + 3_600_000


def test_a_poisoned_one_that_is_sent_again_goes_alone() -> None:
    case = leased(policy(), Case(delivery(lapses=POISON_LAPSES - 1)))
    case = case.after(policy().lapse(case, NOW))
    again = interventions.resolve(case, Decision.RESEND, NOW, "ann").delivery
    assert again.lapses == POISON_LAPSES - 1


@pytest.mark.parametrize("status", [Status.SCHEDULED, Status.QUEUED])
def test_time_over_fails_what_waits(status: Status) -> None:
    change = interventions.expire(Case(delivery(status=status)), EXPIRES)
    assert change is not None
    assert (change.delivery.status, change.delivery.reason) == (Status.FAILED, Reason.EXPIRED)


@pytest.mark.parametrize("on_doubt", [OnDoubt.RESEND, OnDoubt.WAIT])
def test_time_over_holds_what_is_in_doubt(on_doubt: OnDoubt) -> None:
    change = interventions.expire(in_doubt(policy(), on_doubt), EXPIRES)
    assert change is not None
    assert (change.delivery.status, change.delivery.reason) == (Status.HELD, Reason.EXPIRED_IN_DOUBT)


@pytest.mark.parametrize("status", [Status.SENDING, Status.HELD, Status.SENT, Status.FAILED, Status.DRAFT])
def test_time_over_means_nothing_to_the_others(status: Status) -> None:
    assert interventions.expire(Case(delivery(status=status)), EXPIRES) is None


def test_time_not_over_changes_nothing() -> None:
    assert interventions.expire(Case(delivery()), EXPIRES - 1) is None


def test_an_attempt_in_doubt_is_open_until_it_is_resolved() -> None:
    attempt = Attempt(
        id=AttemptId("x"), email_id=EmailId("e"), number=1, provider="a", started_at=0, outcome=Outcome.IN_DOUBT
    )
    assert attempt.is_open_doubt
    assert not replace(attempt, resolution=Resolution.OPERATOR).is_open_doubt


# --- the edges -------------------------------------------------------------------------------------------------------


def test_surely_not_about_an_email_that_all_others_declined_fails_it() -> None:
    case = in_doubt(policy("a"), OnDoubt.HOLD)
    late = replace(ended(case, Outcome.DECLINED), attempt_id=case.attempts[0].id)
    change = policy("a").settle(case, late, NOW + 9)
    assert change is not None
    assert (change.delivery.status, change.delivery.reason) == (Status.FAILED, Reason.NO_PROVIDER)


@pytest.mark.parametrize("outcome", [Outcome.DECLINED, Outcome.REJECTED])
def test_who_declined_or_rejected_late_is_not_asked_again(outcome: Outcome) -> None:
    case = leased(policy(), Case(delivery(on_doubt=OnDoubt.HOLD)))
    late = ended(case, outcome)
    case = case.after(policy().lapse(case, NOW + 30_000))
    change = policy().settle(case, late, NOW + 40_000)
    assert change is not None
    assert (change.delivery.status, policy().routing.usable(lane_of(change.delivery))) == (Status.QUEUED, ["b"])


def test_not_tried_against_evidence_that_it_was_accepted_is_sent_and_keeps_the_attempt() -> None:
    case = leased(policy())
    kept = policy().evidence(case, evidence(case, accepted=True), NOW + 9)
    assert kept is not None
    change = settle(policy(), case.after(kept), None)
    assert (change.delivery.status, change.delivery.provider, change.dropped) == (Status.SENT, "a", None)


def test_a_resend_by_a_person_asks_those_again_who_declined() -> None:
    case = in_doubt(policy(), OnDoubt.HOLD, declined_by=("b",))
    change = interventions.resolve(case, Decision.RESEND, NOW, "ann")
    assert policy().routing.usable(lane_of(change.delivery)) == ["a", "b"]
    assert types(change) == [EventType.RESOLVED, EventType.QUEUED]


def test_what_waits_with_a_doubt_is_not_sent_to_resolve() -> None:
    with pytest.raises(WrongState) as waiting:
        interventions.cancel(in_doubt(policy(), OnDoubt.RESEND), NOW)
    assert "resolve" not in waiting.value.detail
    with pytest.raises(WrongState, match="resolve"):
        interventions.cancel(in_doubt(policy(), OnDoubt.HOLD), NOW)
