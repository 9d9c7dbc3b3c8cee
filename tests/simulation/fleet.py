"""The real mailer over modelled providers, in virtual time: minutes of trouble in a second, the same in each run.

A `Model` is a provider as it behaves: how long it takes, when it is down, how much it carries, what it allows. Nothing
is scripted call by call, so that what comes out is what the mailer makes of it.
"""

import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
from msgspec import Struct

from hes.app import make_operator
from hes.configured import rules_of
from hes.ids import id_maker
from hes.mailer import Mailer
from hes.model import Address, Answer, AttemptId, Clock, Email, EmailId, GateStatus, OnDoubt, Outcome
from hes.node import ThisNode
from hes.policy import Policy
from hes.provider_settings import Kind, ProviderSettings
from hes.settings import Settings
from hes.storage.records import NewEmail
from tests.simulation.memory import MemoryStorage
from tests.simulation.world import World

Ask = Callable[[Email], Answer | None]
"""What a provider says to an email; None: whatever it says by itself."""

BAD_GATEWAY = Answer(outcome=Outcome.UNAVAILABLE, status_code=503, detail="503 Service Unavailable")


class Call(Struct, frozen=True):
    """One request that a provider saw."""

    email_id: EmailId
    at: float
    outcome: Outcome


class Model:
    """One provider. Its attributes may be changed at any time."""

    kind = "model"
    render_version = 1

    def __init__(self, name: str, rng: random.Random) -> None:
        self.name = name
        self.latency_seconds = 0.05
        self.says: Ask = lambda _: None
        self.is_down: Callable[[float], bool] = lambda _: False
        self.error_share = 0.0
        self.capacity: int | None = None
        self.per_second: int | None = None
        self.retry_after_seconds = 2.0
        self.calls: list[Call] = []
        self._rng = rng
        self._in_flight = 0
        self._recent: deque[float] = deque()

    async def send(self, email: Email, attempt_id: AttemptId, timeout_seconds: float) -> Answer:
        began_at = anyio.current_time()
        self._in_flight += 1
        try:
            answer, seconds = self._judge(email, began_at)
            await anyio.sleep(seconds)
        finally:
            self._in_flight -= 1
        self.calls.append(Call(email.id, began_at, answer.outcome))
        return answer

    async def aclose(self) -> None: ...

    def _judge(self, email: Email, now: float) -> tuple[Answer, float]:
        """The answer, and how long it takes."""
        if (said := self.says(email)) is not None:
            return said, 0.01
        if self.is_down(now) or self._rng.random() < self.error_share:
            return BAD_GATEWAY, 0.01
        if self.capacity is not None and self._in_flight > self.capacity:
            return BAD_GATEWAY, 0.005
        if self.per_second is not None:
            while self._recent and self._recent[0] <= now - 1.0:
                self._recent.popleft()
            if len(self._recent) >= self.per_second:
                detail = "slow down"
                seconds = self.retry_after_seconds
                return Answer(outcome=Outcome.THROTTLED, retry_after_seconds=seconds, detail=detail), 0.005
            self._recent.append(now)
        return Answer(outcome=Outcome.ACCEPTED), self.latency_seconds * self._rng.uniform(0.8, 1.2)

    def accepted(self, since: float = 0.0, until: float = float("inf")) -> list[Call]:
        return [c for c in self.calls if c.outcome is Outcome.ACCEPTED and since <= c.at < until]

    def seen(self, since: float, until: float = float("inf")) -> list[Call]:
        """Requests that began then."""
        return [c for c in self.calls if since <= c.at < until]


class Fleet:
    """A mailer, its providers, and what was handed in."""

    def __init__(
        self,
        *names: str,
        routes: Mapping[str, tuple[tuple[str, ...], ...]] | None = None,
        database_ahead_ms: int = 0,
        model: type[Model] = Model,
        **each: Any,
    ) -> None:
        """`each`: settings of the providers; `a={"weight": 3}` for one of them.

        `database_ahead_ms`: by how much the storage's clock and the mailer's differ.
        """
        self.rng = random.Random(7)
        own = {name: each.pop(name, {}) for name in names}
        providers = (ProviderSettings(name=n, kind=Kind.OUTBOX, **(each | own[n])) for n in names)
        self.settings = Settings(providers=tuple(providers), routes=routes or {})
        new_id = id_maker(World.clock, self.rng)
        self._new_id = new_id
        self.database_clock: Clock = lambda: World.clock() + database_ahead_ms
        self.storage = MemoryStorage(Policy(rules_of(self.settings), self.rng), self.database_clock, new_id)
        self.models = {name: model(name, self.rng) for name in names}
        self.mailer = self._mailer()
        self.handed_in: dict[EmailId, float] = {}

    def _mailer(self) -> Mailer:
        models = list(self.models.values())
        mailer = Mailer(self.settings, self.storage, models, World.clock, self.rng, anyio.current_time)
        node = ThisNode(self.settings, self.storage, mailer, World.clock)
        self.operator = make_operator(self.settings, self.storage, node, World.clock)
        return mailer

    async def send(self, **fields: Any) -> EmailId:
        email_id = EmailId(self._new_id())
        sender = fields.pop("sender", "a@example.com")
        email = Email(
            id=email_id,
            project="p",
            message_id=f"<{email_id}@example.com>",
            date=World.clock(),
            sender=Address(sender),
            to=(Address("b@example.org"),),
            subject=fields.pop("subject", "s"),
            text="t",
        )
        known: dict[str, Any] = {"on_doubt": OnDoubt.RESEND, "expires_in": 86_400}
        await self.storage.accept(NewEmail(email=email, **(known | fields)))
        self.handed_in[email_id] = anyio.current_time()
        self.mailer.intake.wake()
        return email_id

    async def offer(self, per_second: float, seconds: float, **fields: Any) -> None:
        """A steady load."""
        began_at = anyio.current_time()
        for n in range(round(per_second * seconds)):
            await anyio.sleep(began_at + n / per_second - anyio.current_time())
            await self.send(**fields)
        await anyio.sleep(began_at + seconds - anyio.current_time())

    async def drained(self, *, within: float = 3600.0) -> float:
        """Wait until nothing waits any more; the time then."""
        with anyio.fail_after(within):
            while self.storage.is_busy:  # noqa: ASYNC110 (in virtual time, where a look costs nothing)
                await anyio.sleep(0.05)
        return anyio.current_time()

    async def status(self, name: str) -> GateStatus:
        return next(status.gate for status in await self.operator.status() if status.gate.name == name)

    def statuses(self) -> Counter[str]:
        """How many emails are in which status."""
        return Counter(case.delivery.status.value for case in self.storage.cases.values())

    def delays(self, since: float = 0.0) -> list[float]:
        """From acceptance until the provider that took it was asked, for what was handed in since then."""
        taken = {call.email_id: call.at for model in self.models.values() for call in model.accepted()}
        return [taken[i] - at for i, at in self.handed_in.items() if i in taken and at >= since]

    def took(self, since: float = 0.0, until: float = float("inf")) -> int:
        """How many emails all providers together have taken."""
        return sum(len(model.accepted(since, until)) for model in self.models.values())


@asynccontextmanager
async def running(fleet: Fleet) -> AsyncIterator[Fleet]:
    mailer = fleet.mailer
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(mailer.run)
            yield fleet
            tasks.cancel_scope.cancel()
    finally:
        await mailer.aclose()
