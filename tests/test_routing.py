"""Who may take an email now, and who does."""

from typing import Any

import pytest
from msgspec.structs import replace

from hes.case import Rules
from hes.lanes import Lane, lane_of, parse, text_of
from hes.model import Attempt, AttemptId, Delivery, EmailId, OnDoubt, Outcome, Resolution, Room, Status
from hes.routing import BUSY_PATIENCE_MS, OTHERS_BEFORE_A_SUSPECT, POISON_LAPSES, Given, Routing

AMPLE = 10**9
NOW = 1


def routing(*providers: str, **rules: Any) -> Routing:
    return Routing(Rules(providers=providers or ("a", "b"), **rules))


def delivery(**fields: Any) -> Delivery:
    known: dict[str, Any] = {
        "email_id": EmailId("e"),
        "project": "p",
        "sender_domain": "example.com",
        "status": Status.QUEUED,
        "due_at": 1,
        "expires_at": 1_000_000,
        "expires_in": 3600,
        "on_doubt": OnDoubt.RESEND,
    }
    return Delivery(**(known | fields))


def many(count: int, **fields: Any) -> list[Delivery]:
    return [delivery(email_id=EmailId(str(n)), **fields) for n in range(count)]


def lane(**fields: Any) -> Lane:
    return lane_of(delivery(**fields))


def rooms(**hands: int | Room) -> dict[str, Room]:
    return {name: room if isinstance(room, Room) else Room(hands=room) for name, room in hands.items()}


def names(given: list[Given] | None) -> str:
    assert given is not None
    return "".join(one.provider for one in given)


SHUT = Room(hands=0, is_shut=True)


# --- lanes -----------------------------------------------------------------------------------------------------------


def test_a_lane_is_what_decides_who_may_take_it_and_nothing_else() -> None:
    one = delivery(tried=("b", "a"), due_at=5, lapses=1, version=7)
    other = delivery(tried=("a", "b"), due_at=9, email_id=EmailId("f"))
    assert lane_of(one) == lane_of(other)
    matters: dict[str, Any] = {"project": "q", "stream": "s", "sender_domain": "d", "is_retry": True}
    matters |= {"own_providers": ("a",), "tried": ("a",), "declined_by": ("a",)}
    for name, value in matters.items():
        assert lane(**{name: value}) != lane()


def test_a_lane_as_text_is_read_again() -> None:
    odd = lane(project='p"x', stream="täg\u2028 s", own_providers=("b", "a"), tried=("a",), is_retry=True)
    assert parse(text_of(odd)) == odd
    assert parse('["p","s","d"]') == Lane("p", "s", "d"), "an older version knew less"


# --- who may ---------------------------------------------------------------------------------------------------------


def test_the_callers_list_restricts_and_orders() -> None:
    own = lane(own_providers=("b", "a"))
    abc = routing("a", "b", "c")
    assert abc.takers(own, rooms(a=9, b=1, c=9), 0) == ["b"]
    assert abc.takers(own, rooms(a=9, b=0, c=9), 0) == ["a"]
    assert abc.takers(own, rooms(c=9), 0) == []


def test_a_route_has_groups_and_the_next_one_is_asked_when_the_first_has_no_room() -> None:
    routed = routing("a", "b", "c", routes={"fast": (("a", "b"), ("c",))})
    fast = lane(stream="fast")
    assert routed.takers(fast, rooms(a=1, b=1, c=1), 0) == ["a", "b"]
    assert routed.takers(fast, rooms(a=0, b=1, c=1), 0) == ["b"]
    assert routed.takers(fast, rooms(a=SHUT, b=SHUT, c=1), 0) == ["c"]
    assert routed.takers(lane(stream="fast", tried=("a", "b")), rooms(a=1, b=1, c=1), 0) == ["c"]
    assert routed.takers(lane(stream="other"), rooms(a=1, b=1, c=1), 0) == ["a", "b", "c"]
    assert routed.takers(lane(stream="fast", own_providers=("c",)), rooms(a=1, c=1), 0) == ["c"]


def test_who_was_tried_in_this_round_is_not_asked_again() -> None:
    assert routing().takers(lane(tried=("b",)), rooms(a=1, b=2), 0) == ["a"]
    assert routing().takers(lane(tried=("b",)), rooms(a=0, b=2), 0) == [], "the other one is only busy"
    assert routing().takers(lane(tried=("b",)), rooms(b=2), 0) == []


def test_when_all_others_are_shut_who_was_tried_is_asked_again() -> None:
    assert routing().takers(lane(tried=("b",)), rooms(a=SHUT, b=2), 0) == ["b"]
    closed = Room(hands=5, closed_domains=frozenset({"example.com"}))
    assert routing().takers(lane(tried=("b",)), rooms(a=closed, b=2), 0) == ["b"]


def test_a_busy_one_is_waited_for_but_not_for_ever() -> None:
    busy, tried = rooms(a=0, b=2), lane(tried=("b",))
    assert routing().takers(tried, busy, BUSY_PATIENCE_MS - 1) == []
    assert routing().takers(tried, busy, BUSY_PATIENCE_MS) == ["b"]
    assert routing().takers(tried, rooms(a=1, b=2), BUSY_PATIENCE_MS) == ["a"]


def test_who_declined_is_never_asked_again() -> None:
    assert routing().usable(lane(declined_by=("a",))) == ["b"]
    assert routing().takers(lane(declined_by=("a",)), rooms(a=1, b=SHUT), 0) == []


def test_a_provider_that_is_no_longer_configured_is_not_usable() -> None:
    assert routing("a").usable(lane(own_providers=("gone", "a"))) == ["a"]
    assert routing("a", routes={"s": (("gone",), ("a",))}).usable(lane(stream="s")) == ["a"]


def test_a_closed_sender_domain_is_closed_for_that_domain_only() -> None:
    closed = Room(hands=5, closed_domains=frozenset({"example.com"}))
    assert routing().takers(lane(), rooms(a=closed, b=1), 0) == ["b"]
    assert routing().takers(lane(sender_domain="example.org"), rooms(a=closed, b=1), 0) == ["a", "b"]


def test_without_a_retry_budget_only_first_rounds_go_there() -> None:
    poor = Room(hands=5, retries=0)
    assert routing().takers(lane(is_retry=True), rooms(a=poor, b=1), 0) == ["b"]
    assert routing().takers(lane(), rooms(a=poor), 0) == ["a"]


# --- who does --------------------------------------------------------------------------------------------------------


def test_providers_take_turns_by_their_weights() -> None:
    weighted = rooms(a=Room(hands=99, weight=3), b=99)
    assert names(routing().give_out(many(8), weighted, AMPLE, NOW, is_idle=True)) == "aabaaaba"


def test_within_a_group_they_take_turns_and_the_next_group_gets_what_is_left() -> None:
    routed = routing("a", "b", "c", routes={"s": (("a", "b"), ("c",))})
    assert names(routed.give_out(many(6, stream="s"), rooms(a=2, b=2, c=9), AMPLE, NOW, is_idle=True)) == "ababcc"


def test_no_more_is_given_out_than_there_are_hands() -> None:
    assert sorted(names(routing().give_out(many(5), rooms(a=1, b=2), AMPLE, NOW, is_idle=True))) == ["a", "b", "b"]


def test_no_more_is_given_out_than_the_retry_budget_has() -> None:
    given = routing("a").give_out(many(5, is_retry=True), rooms(a=Room(hands=9, retries=2)), AMPLE, NOW, is_idle=True)
    assert names(given) == "aa"


def test_one_email_finds_out_whether_a_sender_domain_is_taken_again() -> None:
    probing = Room(hands=9, probing_domains=frozenset({"example.com"}))
    assert names(routing().give_out(many(4), rooms(a=probing, b=9), AMPLE, NOW, is_idle=True)) == "abbb"


def test_a_probe_is_best_an_email_that_may_be_sent_twice() -> None:
    held = many(3, on_doubt=OnDoubt.HOLD)
    may_be_doubled = delivery(email_id=EmailId("twice"))
    probing = rooms(a=Room(hands=1, is_shut=True, is_probe=True))
    assert routing("a").give_out([*held, may_be_doubled], probing, AMPLE, NOW, is_idle=True) == [
        Given(may_be_doubled, "a")
    ]
    assert routing("a").give_out(held, probing, AMPLE, NOW, is_idle=True) == [Given(held[0], "a")]


def tried(
    email_id: str, *outcomes: Outcome, provider: str = "a", resolution: Resolution | None = None
) -> list[Attempt]:
    return [
        Attempt(
            id=AttemptId(f"{email_id}-{number}"),
            email_id=EmailId(email_id),
            number=number,
            provider=provider,
            started_at=0,
            outcome=outcome,
            resolution=resolution if outcome is Outcome.IN_DOUBT else None,
        )
        for number, outcome in enumerate(outcomes, 1)
    ]


OUT, DOWN = Outcome.IN_DOUBT, Outcome.UNAVAILABLE


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (None, tried("worse", OUT)),
        (None, tried("worse", DOWN)),
        (tried("better", DOWN, DOWN), tried("worse", OUT)),
        (tried("better", DOWN, DOWN, Outcome.REFUSED, Outcome.THROTTLED), tried("worse", DOWN, OUT)),
        (tried("better", OUT, resolution=Resolution.NOT_ACCEPTED), tried("worse", OUT)),
        (tried("better", DOWN), tried("worse", OUT, resolution=Resolution.OPERATOR)),
        (tried("better", DOWN), tried("worse", DOWN, DOWN)),
        (tried("better", OUT), tried("worse", OUT, OUT)),
        (tried("better", OUT, OUT, provider="b"), tried("worse", DOWN)),
    ],
)
def test_a_probe_is_best_an_email_that_can_not_have_shut_the_gate(
    better: list[Attempt] | None, worse: list[Attempt]
) -> None:
    """The one that shut it would do so again, and the gate would never open."""
    attempts = {EmailId("better"): better or [], EmailId("worse"): worse}
    due = [delivery(email_id=EmailId(name)) for name in ("worse", "better")]
    probing = rooms(a=Room(hands=1, is_shut=True, is_probe=True))
    assert routing("a").give_out(due, probing, AMPLE, NOW, is_idle=True, tries=attempts) == [Given(due[1], "a")]
    alone = routing("a").give_out(due[:1], probing, AMPLE, NOW, is_idle=True, tries=attempts)
    assert alone == [Given(due[0], "a")], "where only such wait, one of them is taken"


def test_of_emails_that_are_as_good_as_probes_one_that_may_be_sent_twice_is_best() -> None:
    held, other = delivery(email_id=EmailId("held"), on_doubt=OnDoubt.HOLD), delivery(email_id=EmailId("other"))
    attempts = {EmailId("held"): tried("held", DOWN), EmailId("other"): tried("other", DOWN, DOWN)}
    probing = rooms(a=Room(hands=1, is_shut=True, is_probe=True))
    given = routing("a").give_out([held, other], probing, AMPLE, NOW, is_idle=True, tries=attempts)
    assert given == [Given(other, "a")]
    fresh = replace(held, email_id=EmailId("fresh"))
    given = routing("a").give_out([other, fresh], probing, AMPLE, NOW, is_idle=True, tries=attempts)
    assert given == [Given(fresh, "a")], "but one that may have shut the gate comes last, or it never opens"


def test_content_beyond_the_budget_waits_unless_nothing_else_is_in_flight() -> None:
    big = many(3, size_bytes=60)
    give = routing().give_out
    assert len(give(big, rooms(a=9), 100, NOW, is_idle=True) or []) == 1
    assert len(give(big, rooms(a=9), 50, NOW, is_idle=True) or []) == 1
    assert give(big, rooms(a=9), 50, NOW, is_idle=False) == []


# --- suspects --------------------------------------------------------------------------------------------------------


def test_a_suspect_of_two_crashes_goes_alone_and_only_into_quiet() -> None:
    suspect = delivery(email_id=EmailId("s"), lapses=POISON_LAPSES - 1)
    assert routing().give_out([suspect], rooms(a=9), AMPLE, NOW, is_idle=False) is None
    assert routing().give_out([suspect], rooms(a=9), AMPLE, NOW, is_idle=True) == [Given(suspect, "a")]


def test_a_suspect_lets_others_go_first_but_not_for_ever() -> None:
    suspect = delivery(email_id=EmailId("s"), lapses=POISON_LAPSES - 1)
    due = [suspect, *many(50)]
    patient = routing()
    for _ in range(OTHERS_BEFORE_A_SUSPECT // 50):
        given = patient.give_out(due, rooms(a=99), AMPLE, NOW, is_idle=False)
        assert given is not None
        assert len(given) == 50
        assert suspect not in [one.delivery for one in given]
    assert patient.give_out(due, rooms(a=99), AMPLE, NOW, is_idle=False) is None
    assert patient.give_out(due, rooms(a=99), AMPLE, NOW, is_idle=True) == [Given(suspect, "a")]
    assert len(patient.give_out(due, rooms(a=99), AMPLE, NOW, is_idle=False) or ()) == 50


@pytest.mark.parametrize("own", [("b",), ("gone",)])
def test_a_suspect_that_nobody_can_take_stops_nobody(own: tuple[str, ...]) -> None:
    suspect = delivery(email_id=EmailId("s"), lapses=POISON_LAPSES - 1, own_providers=own)
    given = routing().give_out([suspect, delivery()], rooms(a=9), AMPLE, NOW, is_idle=False)
    assert [one.delivery.email_id for one in given or ()] == ["e"]
