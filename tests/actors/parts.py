"""Small parts for tests of one actor at a time. They run in virtual time: waiting costs nothing."""

import functools
import random
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from msgspec.structs import replace

from hes.actors.gate import Gate, GateSettings
from hes.model import Answer, AttemptId, Email, EmailId, Ended, Leased, Outcome
from tests.fakes import an_email
from tests.simulation import virtual_time


def in_virtual_time(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Run an async test in a loop whose time jumps."""

    @functools.wraps(test)
    def run() -> None:
        async def bounded() -> None:
            with anyio.fail_after(24 * 3600):
                await test()

        virtual_time.run(bounded)

    del run.__wrapped__  # or pytest sees an async test
    return run


def clock() -> int:
    return int(anyio.current_time() * 1000)


def a_leased(number: int = 1, **changes: Any) -> Leased:
    leased = Leased(
        email=an_email(id=EmailId(f"email-{number}")),
        attempt_id=AttemptId(f"attempt-{number}"),
        number=1,
        provider="p",
        timeout_seconds=10,
        size_bytes=100,
        deadline=1e9,
    )
    return replace(leased, **changes)


def an_ended(number: int = 1, outcome: Outcome = Outcome.ACCEPTED) -> Ended:
    return Ended(
        attempt_id=AttemptId(f"attempt-{number}"),
        email_id=EmailId(f"email-{number}"),
        provider="p",
        ended_at=0,
        answer=Answer(outcome=outcome),
    )


def a_gate(*, hands: int = 3, **settings: Any) -> Gate:
    """One whose jitter is none."""
    return Gate(
        "p",
        GateSettings(max_in_flight=hands, **settings),
        clock=clock,
        monotonic=anyio.current_time,
        rng=NoJitter(1),
    )


class NoJitter(random.Random):
    """What is drawn from a range is its middle."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


class ScriptedProvider:
    """Answers as told: an outcome, an exception, or an event to wait for first."""

    name = "p"
    kind = "scripted"
    render_version = 5

    def __init__(self) -> None:
        self.calls: list[AttemptId] = []
        self.script: Callable[[AttemptId], Awaitable[Answer]] = self._accept

    async def _accept(self, attempt_id: AttemptId) -> Answer:
        del attempt_id
        return Answer(outcome=Outcome.ACCEPTED)

    async def send(self, email: Email, attempt_id: AttemptId, timeout_seconds: float) -> Answer:
        del email, timeout_seconds
        self.calls.append(attempt_id)
        return await self.script(attempt_id)

    async def aclose(self) -> None: ...
