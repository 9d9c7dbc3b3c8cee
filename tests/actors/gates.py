"""What the tests of gates are made of: answers, and small words for what is done to a gate."""

from collections.abc import Sequence
from typing import Any

import anyio

from hes.actors.gate import Gate, Pass
from hes.model import Address, Answer, EmailId, Fact, FactKey, FactKind, GateState, Leased, Outcome, Room, Scope
from tests.actors.parts import a_leased
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


PAUSE = Fact(provider="p", kind=FactKind.PAUSED, reason="paused by ann", since=5000, by="ann")


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
