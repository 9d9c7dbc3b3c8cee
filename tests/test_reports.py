"""What follows from an event, one by one, and that their order does not matter."""

import itertools
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hes.case import Case
from hes.model import Attempt, AttemptId, Delivery, EmailId, OnDoubt, Outcome, Status
from hes.reports import Report, Standing, attempt_of, evidence, report
from hes.told import EventKind, ProviderEvent

NOW = 1_000_000


def sent(count: int = 1) -> tuple[Case, list[Standing]]:
    """An email that p took, to so many."""
    delivery = Delivery(
        email_id=EmailId("e"),
        project="p",
        status=Status.SENT,
        due_at=0,
        expires_at=NOW,
        expires_in=60,
        on_doubt=OnDoubt.HOLD,
    )
    attempt = Attempt(
        id=AttemptId("a1"),
        email_id=EmailId("e"),
        number=1,
        provider="p",
        started_at=0,
        outcome=Outcome.ACCEPTED,
        provider_message_id="m1",
    )
    return Case(delivery, (attempt,)), [Standing(n, f"r{n}@example.org") for n in range(count)]


def an_event(kind: EventKind | None, to: int | None = 0, **fields: Any) -> ProviderEvent:
    known: dict[str, Any] = {"vendor_type": "x", "at": 5, "dedup_id": "d", "hes_attempt": "a1"}
    known["recipient"] = None if to is None else f"r{to}@example.org"
    return ProviderEvent(kind=kind, **(known | fields))


def after(case: Case, standings: list[Standing], event: ProviderEvent) -> tuple[Case, list[Standing], Report]:
    found = report(case, standings, case.attempts[0], event, NOW)
    assert found is not None
    news = {s.position: s for s in found.standings}
    case = case.after(found.change) if found.change else case
    return case, [news.get(s.position, s) for s in standings], found


def end_of(events: list[ProviderEvent], count: int) -> tuple[Status, list[Status | None]]:
    case, standings = sent(count)
    for event in events:
        case, standings, _ = after(case, standings, event)
    return case.delivery.status, [s.status for s in standings]


@pytest.mark.parametrize(
    ("kind", "status", "type_"),
    [
        (EventKind.ACCEPTED, Status.SENT, None),
        (EventKind.DELIVERED, Status.DELIVERED, "delivered"),
        (EventKind.DEFERRED, Status.SENT, "deferred"),
        (EventKind.BOUNCED, Status.BOUNCED, "bounced"),
        (EventKind.COMPLAINED, Status.COMPLAINED, "complained"),
        (EventKind.OPENED, Status.DELIVERED, "opened"),
        (EventKind.CLICKED, Status.DELIVERED, "clicked"),
        (EventKind.UNSUBSCRIBED, Status.SENT, "unsubscribed"),
        (EventKind.RESUBSCRIBED, Status.SENT, None),
        (EventKind.REJECTED, Status.BOUNCED, "rejected"),
        (None, Status.SENT, None),
    ],
)
def test_what_each_kind_says_of_an_email_with_one_recipient(
    kind: EventKind | None, status: Status, type_: str | None
) -> None:
    case, _, told = after(*sent(), an_event(kind, data={"reason": "full", "kind": "soft"}))
    assert case.delivery.status is status
    entries = told.change.events if told.change else told.entries
    assert [e.type for e in entries] == ([type_] if type_ else [])
    for entry in entries:
        assert (entry.at, entry.provider, entry.recipient) == (5, "p", "r0@example.org")
        assert entry.data == {"attempt": 1, "reason": "full", "kind": "soft"}


def test_an_email_is_delivered_when_all_are() -> None:
    one, two = an_event(EventKind.DELIVERED, 0), an_event(EventKind.DELIVERED, 1)
    assert end_of([one], 2) == (Status.SENT, [Status.DELIVERED, Status.SENT])
    assert end_of([one, two], 2)[0] is Status.DELIVERED


def test_one_bounce_is_the_emails_and_one_complaint_more_so() -> None:
    delivered, bounced = an_event(EventKind.DELIVERED, 0), an_event(EventKind.BOUNCED, 1)
    assert end_of([delivered, bounced], 2) == (Status.BOUNCED, [Status.DELIVERED, Status.BOUNCED])
    assert end_of([delivered, bounced, an_event(EventKind.COMPLAINED, 0)], 2)[0] is Status.COMPLAINED


@pytest.mark.parametrize(("kind", "status"), [(EventKind.BOUNCED, Status.BOUNCED), (EventKind.DELIVERED, Status.SENT)])
def test_about_an_unnamed_recipient_only_what_is_bad_is_the_emails(kind: EventKind, status: Status) -> None:
    """Nobody is named, or somebody who is none of them: what it says of one of several can't be more."""
    for event in (an_event(kind, None), an_event(kind, 7)):
        found, standings = end_of([event], 2)
        assert found is status
        assert set(standings) <= {None, Status.SENT}


def test_an_unnamed_recipient_who_is_the_only_one_is_known() -> None:
    assert end_of([an_event(EventKind.DELIVERED, None)], 1) == (Status.DELIVERED, [Status.DELIVERED])


def test_an_address_that_was_erased_does_not_come_back() -> None:
    case, _ = sent()
    _, _, told = after(case, [Standing(0, "")], an_event(EventKind.DELIVERED))
    assert told.change is not None
    assert told.change.events[0].recipient is None


def test_addresses_are_compared_whatever_their_case() -> None:
    case, _ = sent()
    standings = [Standing(0, "Ann@Example.org"), Standing(1, "b@example.org")]
    _, after_it, _ = after(case, standings, an_event(EventKind.DELIVERED, recipient="ann@example.org"))
    assert [s.status for s in after_it] == [Status.DELIVERED, Status.SENT]


@pytest.mark.parametrize("status", [Status.SENDING, Status.QUEUED, Status.HELD])
def test_about_an_email_that_is_not_known_to_have_gone_out_it_waits(status: Status) -> None:
    case, standings = sent()
    case = Case(replace(case.delivery, status=status), case.attempts)
    assert report(case, standings, case.attempts[0], an_event(EventKind.DELIVERED), NOW) is None
    assert report(case, standings, case.attempts[0], an_event(EventKind.ACCEPTED), NOW) == Report()


def test_whose_attempt_it_is() -> None:
    case, _ = sent()
    assert attempt_of(case, "p", an_event(None)) is case.attempts[0]
    assert attempt_of(case, "p", an_event(None, hes_attempt="a2")) is None
    assert attempt_of(case, "p", an_event(None, hes_attempt=None, provider_message_id="m1")) is case.attempts[0]
    assert attempt_of(case, "p", an_event(None, hes_attempt=None)) is None
    assert attempt_of(case, "q", an_event(None)) is None, "nobody speaks of another's attempts"


def test_every_kind_that_is_understood_proves_acceptance() -> None:
    case, _ = sent()
    for kind in EventKind:
        proof = evidence(case.attempts[0], an_event(kind))
        assert proof is not None
        assert (proof.attempt_id, proof.accepted, proof.source) == ("a1", True, "event")
    assert evidence(case.attempts[0], an_event(None)) is None


events = st.builds(an_event, st.sampled_from(EventKind), st.sampled_from([0, 1, 2, None]))


@given(st.lists(events, max_size=8), st.integers(1, 3), st.randoms())
def test_the_order_of_events_does_not_matter(told: list[ProviderEvent], count: int, rng: random.Random) -> None:
    shuffled = told.copy()
    rng.shuffle(shuffled)
    assert end_of(shuffled, count) == end_of(told, count)


def test_every_order_of_a_late_bounce_ends_the_same() -> None:
    kinds = (EventKind.DEFERRED, EventKind.DELIVERED, EventKind.BOUNCED)
    ends = {end_of([an_event(k) for k in order], 1)[0] for order in itertools.permutations(kinds)}
    assert ends == {Status.BOUNCED}
