"""The simulated world: real actors, a storage in memory, providers that misbehave, crashes, pauses and people.

Everything that happens follows from one seed. `World.run` raises `Violation` as soon as one of I1 to I4 is broken, by
looking at what the providers really took and at what the storage says, not at what the code under test believes.
"""

import contextlib
import itertools
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

import anyio
import anyio.abc
from msgspec import Struct
from msgspec.structs import replace

from hes.case import Case, Means
from hes.configured import rules_of
from hes.errors import StorageUnavailable, WrongState
from hes.ids import id_maker
from hes.mailer import Mailer
from hes.model import (
    Address,
    Answer,
    AttemptId,
    Decision,
    Email,
    EmailId,
    Ended,
    EventType,
    Evidence,
    Fact,
    FactKey,
    OnDoubt,
    Outcome,
    Reason,
    Resolution,
    Room,
    Status,
)
from hes.policy import Policy
from hes.provider_settings import Kind, ProviderSettings
from hes.providers.finding import Doubt, Finding, Found
from hes.settings import Settings
from hes.storage.hints import NoHints
from hes.storage.records import Leases, NewEmail, Reach, Settled, Swept
from hes.storage.searches import Asked, Asking
from tests.simulation.memory import LIVE, MemoryStorage

LEASE_SECONDS = 30.0
HANDS = 4
START = 1_800_000_000_000
DOUBT_SECONDS = 5.0
REPLAY_SECONDS, LOOK_UP_SECONDS = 60.0, 300.0
MEANS = {
    "a": Means(doubt_seconds=DOUBT_SECONDS, replay_seconds=REPLAY_SECONDS),
    "b": Means(doubt_seconds=DOUBT_SECONDS, look_up_seconds=LOOK_UP_SECONDS),
}

MAY_MOVE = {
    (Status.QUEUED, Status.SENDING),
    (Status.QUEUED, Status.CANCELLED),
    (Status.QUEUED, Status.FAILED),
    (Status.QUEUED, Status.HELD),
    (Status.QUEUED, Status.SENT),
    (Status.SENDING, Status.SENT),
    (Status.SENDING, Status.FAILED),
    (Status.SENDING, Status.HELD),
    (Status.SENDING, Status.QUEUED),
    (Status.SENDING, Status.IN_DOUBT),
    (Status.IN_DOUBT, Status.SENT),
    (Status.IN_DOUBT, Status.QUEUED),
    (Status.IN_DOUBT, Status.HELD),
    (Status.IN_DOUBT, Status.FAILED),
    (Status.HELD, Status.SENT),
    (Status.HELD, Status.QUEUED),
    (Status.HELD, Status.FAILED),
    (Status.FAILED, Status.SENT),
    (Status.FAILED, Status.QUEUED),
    (Status.CANCELLED, Status.SENT),
}
"""Said here once more, by hand, so that a slip in the table of `hes.transitions` does not excuse itself."""


class Violation(AssertionError):
    """An invariant is broken."""


class Chances(Struct, frozen=True):
    """How a provider behaves: the share of calls that end in each way; the rest is accepted."""

    accepted_then_lost: float = 0.04
    lost: float = 0.03
    hangs_accepted: float = 0.02
    hangs: float = 0.02
    unavailable: float = 0.1
    throttled: float = 0.03
    refused: float = 0.02
    declined: float = 0.01
    rejected: float = 0.02
    raises: float = 0.01


CALM = Chances(*[0.0] * len(Chances.__struct_fields__))


class SimulatedProvider:
    """What a provider really did, whatever we learn of it."""

    kind = "simulated"
    render_version = 1

    def __init__(self, name: str, world: "World") -> None:
        self.name = name
        self._world = world
        self.accepted: list[tuple[EmailId, AttemptId]] = []
        self.chances = Chances()
        self.is_slow = False
        self.in_flight = 0

    async def call(self, email: Email, attempt_id: AttemptId, timeout_seconds: float) -> Answer:
        self._world.calls += 1
        self._world.check_hand_over(self.name, email.id, attempt_id)
        self.in_flight += 1
        try:
            return await self._answer(email, attempt_id, timeout_seconds)
        finally:
            self.in_flight -= 1

    async def _answer(self, email: Email, attempt_id: AttemptId, timeout_seconds: float) -> Answer:
        rng = self._world.rng
        await anyio.sleep(rng.uniform(0, 0.3))
        end = self._draw()
        if end in ("accepted", "accepted_then_lost", "hangs_accepted"):
            self.accepted.append((email.id, attempt_id))
        answers_after = rng.uniform(0, 0.9 * timeout_seconds if self.is_slow else 0.3)
        await anyio.sleep(timeout_seconds if end.startswith("hangs") else answers_after)
        if end == "raises":
            raise RuntimeError("a bug in the adapter")
        if end in ("accepted_then_lost", "lost", "hangs", "hangs_accepted"):
            return Answer(outcome=Outcome.IN_DOUBT, detail=end)
        return Answer(outcome=Outcome(end), retry_after_seconds=2.0 if end == "throttled" else None)

    async def replay(self, doubt: Doubt, timeout_seconds: float) -> Finding:
        """Under its key a request is taken once, however often it is made."""
        self._world.calls += 1
        self._world.check_replay(self.name, doubt.email.id, doubt.attempt_id)
        rng = self._world.rng
        await anyio.sleep(rng.uniform(0, 0.3))
        if (doubt.email.id, doubt.attempt_id) not in self.accepted:
            if rng.random() < 0.3:
                return Finding(found=Found.UNAVAILABLE, detail="away")
            self.accepted.append((doubt.email.id, doubt.attempt_id))
        if rng.random() < 0.3:
            await anyio.sleep(timeout_seconds)
            return Finding(found=Found.UNAVAILABLE, detail="lost")
        return Finding(found=Found.ACCEPTED)

    async def look_up(self, doubt: Doubt) -> Finding:
        self._world.calls += 1
        rng = self._world.rng
        await anyio.sleep(rng.uniform(0, 0.3))
        is_seen = (doubt.email.id, doubt.attempt_id) in self.accepted and rng.random() < 0.7
        await anyio.sleep(rng.uniform(0, 0.3))  # what it saw is told later: meanwhile anything may happen
        if rng.random() < 0.2:
            return Finding(found=Found.UNAVAILABLE, ask_again_seconds=rng.choice([None, 5.0]))
        return Finding(found=Found.ACCEPTED if is_seen else Found.NOTHING)

    def _draw(self) -> str:
        point = self._world.rng.random()
        for end in Chances.__struct_fields__:
            point -= getattr(self.chances, end)
            if point < 0:
                return end
        return "accepted"


class _Thread:
    """What a process needs from outside: gone when it is killed, standing still while it is stopped."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.is_dead = False
        self.thawed = anyio.Event()
        self.thawed.set()
        self._stood_still_at = -math.inf

    def freeze(self) -> None:
        if self.thawed.is_set():
            self.thawed = anyio.Event()

    def thaw(self) -> None:
        self._stood_still_at = anyio.current_time()
        self.thawed.set()

    def ran_for(self, seconds: float) -> bool:
        """Without standing still."""
        return not self.is_dead and self.thawed.is_set() and anyio.current_time() - self._stood_still_at >= seconds

    async def step(self) -> None:
        """On the way to or from the storage or a provider: takes a moment, in which anything may happen."""
        await anyio.sleep(self._rng.uniform(0, 0.03))
        await self.thawed.wait()
        if self.is_dead:
            await anyio.sleep_forever()


class NodeStorage:
    """The storage as one process sees it."""

    is_shared = True
    hints = NoHints()

    def __init__(self, storage: MemoryStorage, thread: _Thread, world: "World") -> None:
        self.node_id = world._new_id()
        self._storage = storage
        self._thread = thread
        self._world = world

    async def lease(self, rooms: dict[str, Room], *, size_budget: int, is_idle: bool, deadline: float) -> Leases:
        await self._thread.step()
        leases = await self._storage.lease(
            rooms, size_budget=size_budget, is_idle=is_idle, deadline=deadline, node_id=self.node_id
        )
        self._world.check_leases(rooms, leases)
        await self._thread.step()
        return leases

    async def settle(self, ended: Sequence[Ended], rooms: Mapping[str, Room]) -> Settled:
        await self._thread.step()
        before = self._world.leases_of(ended)
        settled = await self._storage.settle(ended, rooms)
        self._world.check_settled(before, ended)
        self._world.check_books()
        await self._thread.step()
        return settled

    async def facts(self) -> list[Fact]:
        await self._thread.step()
        return await self._storage.facts()

    async def state_facts(self, stated: Collection[Fact], withdrawn: Collection[FactKey] = ()) -> None:
        await self._thread.step()
        await self._storage.state_facts(stated, withdrawn)

    async def pull_forward(self, providers: Collection[str]) -> int:
        await self._thread.step()
        return await self._storage.pull_forward(providers)

    async def disbelieve(self, provider: str, email_ids: Collection[EmailId]) -> int:
        await self._thread.step()
        count = await self._storage.disbelieve(provider, email_ids)
        self._world.check_books()
        return count

    async def sweep(self, held: Collection[AttemptId] = (), *, reached_seconds: float = 0.0) -> Swept:
        await self._thread.step()
        leases = self._world.leases()
        swept = await self._storage.sweep(held, reached_seconds=reached_seconds)
        self._world.check_swept(leases)
        self._world.check_books()
        await self._thread.step()
        return swept

    @property
    def searches(self) -> "NodeStorage":
        return self

    @property
    def inbox(self) -> "NodeStorage":
        return self

    async def match(self) -> int:
        await self._thread.step()
        return await self._storage.match()

    async def claim(self, hands: Mapping[str, int], may_replay: Mapping[str, bool]) -> list[Asking]:
        await self._thread.step()
        claimed = await self._storage.claim(hands, may_replay)
        self._world.check_claimed(claimed)
        await self._thread.step()
        return claimed

    async def answer(self, asked: Asked) -> None:
        await self._thread.step()
        await self._storage.answer(asked)
        self._world.note_answer(asked)
        self._world.check_books()
        await self._thread.step()

    async def check(self) -> None:
        await self._thread.step()
        await self._storage.check()

    async def prune(self) -> int:
        await self._thread.step()
        return await self._storage.prune()

    async def drop_drafts(self) -> int:
        await self._thread.step()
        return await self._storage.drop_drafts()


class NodeProvider:
    """A provider as one process sees it."""

    kind = "simulated"
    render_version = 1

    def __init__(self, provider: SimulatedProvider, thread: _Thread) -> None:
        self.name = provider.name
        self._provider = provider
        self._thread = thread

    async def send(self, email: Email, attempt_id: AttemptId, timeout_seconds: float) -> Answer:
        answer = await self._provider.call(email, attempt_id, timeout_seconds)
        await self._thread.step()
        return answer

    replay_seconds = REPLAY_SECONDS
    look_up_seconds = LOOK_UP_SECONDS

    async def replay(self, doubt: Doubt, timeout_seconds: float) -> Finding:
        with anyio.move_on_after(timeout_seconds):
            finding = await self._provider.replay(doubt, timeout_seconds)
            await self._thread.step()
            return finding
        return Finding(found=Found.UNAVAILABLE, detail="no answer in time")

    async def look_up(self, doubt: Doubt, timeout_seconds: float) -> Finding:
        with anyio.move_on_after(timeout_seconds):
            finding = await self._provider.look_up(doubt)
            await self._thread.step()
            return finding
        return Finding(found=Found.UNAVAILABLE, detail="no answer in time")

    async def aclose(self) -> None: ...


class Node:
    """One mailer process, as `hes.app` wires it."""

    def __init__(self, world: "World") -> None:
        self.thread = _Thread(world.rng)
        self.scope = anyio.CancelScope()
        self.mailer = Mailer(
            world.settings,
            NodeStorage(world.storage, self.thread, world),  # type: ignore[arg-type]  # only the verbs of a mailer
            [NodeProvider(provider, self.thread) for provider in world.providers],
            world.clock,
            world.rng,
            anyio.current_time,
        )

    async def run(self) -> None:
        try:
            with self.scope:
                await self.mailer.run()
        finally:
            await self.mailer.aclose()

    def holds(self, attempt_id: AttemptId) -> bool:
        return any(attempt_id in sender.in_hand for sender in self.mailer._senders.values())

    def kill(self) -> None:
        self.thread.is_dead = True
        self.thread.thawed.set()
        self.scope.cancel()


def settings_of(*names: str, routes: Mapping[str, tuple[tuple[str, ...], ...]], **common: Any) -> Settings:
    """With a provider for each name."""
    known: dict[str, Any] = {"gate_open_seconds": 3, "max_in_flight": HANDS, "retry_cap_seconds": 20}
    providers = tuple(ProviderSettings(name=name, kind=Kind.OUTBOX, **(known | common)) for name in names)
    return Settings(providers=providers, routes=routes, lease_seconds=LEASE_SECONDS)


class World:
    """Emails, providers, processes, people and bad luck, out of one seed."""

    def __init__(
        self, seed: int, *, nodes: int = 2, policy: type[Policy] = Policy, is_searched: bool = True, kills: int = 3
    ) -> None:
        """`is_searched` False: the providers can't be asked about a doubt. `kills`: of about a hundred happenings."""
        self.rng = random.Random(seed)
        self.calls = 0
        self.settings = settings_of("a", "b", routes={"b first": (("b",), ("a",))})
        new_id = id_maker(self.clock, self.rng)
        self._new_id = new_id
        rules = replace(rules_of(self.settings), means=MEANS if is_searched else {})
        self.storage = MemoryStorage(policy(rules, self.rng), self.clock, new_id)
        self._is_searched = is_searched
        self._asking: dict[AttemptId, tuple[str | None, float]] = {}
        """Who asks about what, and until when."""
        self.providers = [SimulatedProvider(name, self) for name in ("a", "b")]
        self._node_count = nodes
        self._kills = kills
        self._checked_moves = 0
        self._violation: Violation | None = None
        self._told_to_resend: Counter[EmailId] = Counter()
        self._tasks: anyio.abc.TaskGroup
        self._nodes: list[Node] = []

    @staticmethod
    def clock() -> int:
        try:
            return START + int(anyio.current_time() * 1000)
        except RuntimeError:  # before the loop runs
            return START

    @property
    def steps(self) -> int:
        """Calls of the storage and of providers: what the processes did, and what was checked."""
        return self.storage.calls + self.calls

    # --- what happens --------------------------------------------------------------------------------------------

    async def run(self, steps: int) -> None:
        """So many things happen; then all heals, and everything must come to rest."""
        async with anyio.create_task_group() as self._tasks:
            self._nodes = [self._start() for _ in range(self._node_count)]
            for _ in range(steps):
                await self._something()
                self.check_books()
                if self._violation is not None:
                    break
            else:
                await self._heal()
                self.check_books()
                self.check_end()
            self._tasks.cancel_scope.cancel()
        if self._violation is not None:
            raise self._violation

    def _start(self) -> Node:
        node = Node(self)
        self._tasks.start_soon(node.run)
        return node

    async def _something(self) -> None:
        happenings = {
            self._accept: 40,
            self._wait: 40,
            self._kill: self._kills,
            self._pause: 3,
            self._sleepwalk: 1,
            self._storage_trouble: 1,
            self._change_weather: 2,
            self._cancel: 3,
            self._resolve: 5,
            self._event: 5,
        }
        happening = self.rng.choices(list(happenings), list(happenings.values()))[0]
        await happening()

    async def _accept(self) -> None:
        for _ in range(self.rng.randint(1, 5)):
            email_id = EmailId(self._new_id())
            email = Email(
                id=email_id,
                project="p",
                message_id=f"<{email_id}@example.com>",
                date=self.clock(),
                sender=Address("a@example.com"),
                to=(Address("b@example.org"),),
                subject="s",
                text="t",
            )
            new = NewEmail(
                email=email,
                on_doubt=self.rng.choice(list(OnDoubt)),
                expires_in=self.rng.choice([5, 60, 200]),
                attempt_timeout=self.rng.choice([0.0, 1.0, 10.0]),
                stream=self.rng.choice(["default", "b first"]),
            )
            try:
                await self.storage.accept(new)
            except StorageUnavailable:
                continue
        for node in self._nodes:
            node.mailer.intake.wake()

    async def _wait(self) -> None:
        await anyio.sleep(self.rng.choice([0.01, 0.1, 0.5, 2.0]))

    async def _kill(self) -> None:
        index = self.rng.randrange(len(self._nodes))
        self._nodes[index].kill()
        await anyio.sleep(self.rng.choice([0.0, 0.5]))
        self._nodes[index] = self._start()

    async def _pause(self) -> None:
        """SIGSTOP, and SIGCONT later: longer than a lease, at times, and then best while others are at it."""
        node = self.rng.choice(self._nodes)
        node.thread.freeze()

        async def resume(seconds: float, thread: _Thread) -> None:
            await anyio.sleep(seconds)
            thread.thaw()

        self._tasks.start_soon(resume, self.rng.choice([1.0, LEASE_SECONDS + self.rng.uniform(0, 8)]), node.thread)

    async def _sleepwalk(self) -> None:
        """A process with calls in flight stands still until others have its emails, and wakes while they are at it."""
        for provider in self.providers:
            provider.is_slow = True
        await self._accept()
        await anyio.sleep(self.rng.uniform(0.1, 2))
        node = max(self._nodes, key=lambda n: n.mailer.in_flight)
        node.thread.freeze()
        await anyio.sleep(LEASE_SECONDS + self.rng.uniform(0, 5))
        node.thread.thaw()

    async def _storage_trouble(self) -> None:
        """At times a process starts just when it is over, and sees nothing of it."""
        seconds = self.rng.choice([0.2, 3.0, LEASE_SECONDS + 3])
        self.storage.is_away = True
        await anyio.sleep(seconds)
        self.storage.is_away = False
        if seconds > LEASE_SECONDS:
            await self._kill()

    async def _change_weather(self) -> None:
        provider = self.rng.choice(self.providers)
        provider.chances = self.rng.choice(
            [Chances(), CALM, Chances(unavailable=0.9), Chances(lost=0.5), Chances(rejected=1)]
        )
        provider.is_slow = self.rng.random() < 0.5

    async def _cancel(self) -> None:
        await self._person(lambda email_id: self.storage.cancel(Reach("p"), email_id))

    async def _resolve(self) -> None:
        decision = self.rng.choice(list(Decision))

        async def resolve(email_id: EmailId) -> None:
            await self.storage.resolve(Reach("p"), email_id, decision, "somebody")
            if decision is Decision.RESEND:
                self._told_to_resend[email_id] += 1

        await self._person(resolve)

    async def _event(self) -> None:
        """A provider tells, late or twice, that it has taken something."""
        accepted = [pair for provider in self.providers for pair in provider.accepted]
        news = [(e, a) for e, a in accepted if (known := self.storage.cases[e].attempt(a)) and not known.is_accepted]
        told = news if news and self.rng.random() < 0.8 else accepted
        if not told:
            return
        email_id, attempt_id = self.rng.choice(told)
        proof = Evidence(email_id=email_id, attempt_id=attempt_id, accepted=True, source="event")
        with contextlib.suppress(StorageUnavailable):
            await self.storage.evidence([proof])

    async def _person(self, do: Callable[[EmailId], Awaitable[None]]) -> None:
        """On a random email, preferring those that wait for a person."""
        ids = [i for i, c in self.storage.cases.items() if c.delivery.status in (Status.HELD, Status.IN_DOUBT)]
        ids = ids if ids and self.rng.random() < 0.5 else list(self.storage.cases)
        if not ids:
            return
        with contextlib.suppress(WrongState, StorageUnavailable):
            await do(self.rng.choice(ids))

    async def _heal(self) -> None:
        self.storage.is_away = False
        for provider in self.providers:
            provider.chances, provider.is_slow = CALM, False
        for _ in range(200):
            if not self._moving():
                return
            await anyio.sleep(10)
        self.broken(f"after the storm these never came to rest: {[c.delivery for c in self._moving()][:3]}")

    def _moving(self) -> list[Case]:
        return [c for c in self.storage.cases.values() if c.delivery.status in LIVE]

    # --- what must hold ------------------------------------------------------------------------------------------

    def broken(self, what: str) -> None:
        """Remember it: raised here it could end in an actor, which takes it for a bug of an adapter and goes on."""
        self._violation = self._violation or Violation(what)

    def check_hand_over(self, provider: str, email_id: EmailId, attempt_id: AttemptId) -> None:
        """A call begins now: I2 and I3."""
        case = self.storage.cases[email_id]
        attempt = case.attempt(attempt_id)
        if attempt is None or attempt.provider != provider or attempt.outcome is not None:
            self.broken(f"I3: handed to {provider} without an open attempt row: {case}")
        for earlier in case.attempts:
            if earlier.id == attempt_id:
                continue
            if earlier.outcome is None:
                self.broken(f"I2: handed to {provider} while attempt {earlier.number} is in flight: {case}")
            if earlier.is_open_doubt and case.delivery.on_doubt is not OnDoubt.RESEND:
                self.broken(f"I2: handed over with an open doubt under {case.delivery.on_doubt}: {case}")

    def check_claimed(self, claimed: Sequence[Asking]) -> None:
        """No question is given to two at once."""
        now = anyio.current_time()
        for asking in claimed:
            attempt_id = asking.search.attempt_id
            _, until = self._asking.get(attempt_id, (None, 0.0))
            if until > now:
                self.broken(f"{attempt_id} was given to two at once")
            self._asking[attempt_id] = (asking.search.lease, now + LEASE_SECONDS - 0.001)

    def note_answer(self, asked: Asked) -> None:
        """It is nobody's any more."""
        lease, _ = self._asking.get(asked.search.attempt_id, (None, 0.0))
        if lease == asked.search.lease:
            del self._asking[asked.search.attempt_id]

    def check_replay(self, provider: str, email_id: EmailId, attempt_id: AttemptId) -> None:
        """I2: a request is made again only while nothing else can have become of the email."""
        case = self.storage.cases[email_id]
        attempt = case.attempt(attempt_id)
        if attempt is None or attempt.provider != provider or attempt.outcome is not Outcome.IN_DOUBT:
            self.broken(f"I2: a replay at {provider} of what is no doubt there: {case}")
        if self.clock() >= case.delivery.expires_at:
            self.broken(f"expiry: a replay after the email's time: {case}")
        is_decided = attempt is not None and attempt.resolution is not None
        if case.attempts[-1].id != attempt_id and not is_decided:
            self.broken(f"I2: a replay of {attempt_id} while another attempt is made: {case}")

    def check_leases(self, rooms: dict[str, Room], leases: Leases) -> None:
        given = Counter(leased.provider for leased in leases.items)
        for provider, count in given.items():
            if count > rooms[provider].hands:
                self.broken(f"I3: {count} leased for {rooms[provider].hands} hands of {provider}")

    def leases_of(self, ended: Sequence[Ended]) -> dict[EmailId, AttemptId | None]:
        return {e.email_id: self.storage.cases[e.email_id].delivery.attempt_id for e in ended}

    def check_settled(self, before: dict[EmailId, AttemptId | None], ended: Sequence[Ended]) -> None:
        """I4: a lease ends by an outcome of the attempt that held it, and of no other."""
        told = {e.attempt_id for e in ended}
        for email_id, attempt_id in before.items():
            case = self.storage.cases[email_id]
            if attempt_id not in (None, case.delivery.attempt_id) and attempt_id not in told:
                self.broken(f"I4: an outcome of another attempt ended the lease of {attempt_id}: {case}")

    def leases(self) -> dict[AttemptId, EmailId]:
        """What is leased now."""
        deliveries = (case.delivery for case in self.storage.cases.values())
        return {d.attempt_id: d.email_id for d in deliveries if d.attempt_id is not None}

    def check_swept(self, leases: dict[AttemptId, EmailId]) -> None:
        """No doubt without need: what a process that is well has in hand does not lapse, whatever the storage did."""
        at_work = [node for node in self._nodes if node.thread.ran_for(LEASE_SECONDS)]
        for attempt_id in leases.keys() - self.leases().keys():
            if any(node.holds(attempt_id) for node in at_work):
                self.broken(f"{attempt_id} lapsed in the hands of a process that is well: {leases[attempt_id]}")

    def check_books(self) -> None:
        """I1 and I4, from the moves made since the last look."""
        for email_id, before, after in self.storage.moves[self._checked_moves :]:
            if before != after and (before, after) not in MAY_MOVE:
                self.broken(f"I1: {email_id} moved from {before} to {after}")
            delivery = self.storage.cases[email_id].delivery
            if (delivery.status is Status.SENDING) != (delivery.attempt_id is not None):
                self.broken(f"I4: a lease without sending, or the reverse: {delivery}")
        self._checked_moves = len(self.storage.moves)

    def check_end(self) -> None:
        """C1 to C4 of every email, when all has come to rest."""
        taken: dict[EmailId, list[AttemptId]] = {}
        for provider in self.providers:
            for email_id, attempt_id in provider.accepted:
                taken.setdefault(email_id, []).append(attempt_id)
        unknown = taken.keys() - self.storage.emails.keys()
        if unknown:
            self.broken(f"C3: never submitted: {unknown}")
        for email_id in self.storage.emails:
            self._check_one(email_id, taken.get(email_id, []))

    def _check_one(self, email_id: EmailId, copies: list[AttemptId]) -> None:
        case = self.storage.cases[email_id]
        delivery = case.delivery
        doubted = [a for a in case.attempts if a.outcome is Outcome.IN_DOUBT]
        if len(copies) > 1 + len(doubted):
            self.broken(f"C2: {len(copies)} copies, {len(doubted)} doubts: {case}")
        if delivery.on_doubt is not OnDoubt.RESEND and len(copies) > 1 + self._told_to_resend[email_id]:
            self.broken(f"I2: {len(copies)} copies under {delivery.on_doubt}: {case}")
        told = [event.type for _, event in self.storage.events[email_id]]
        ends = [type_ for type_ in told if type_ not in (EventType.ATTEMPT, EventType.FAILED_OVER)]
        if (EventType.NOT_TRIED, EventType.NOT_TRIED) in itertools.pairwise(ends):
            self.broken(f"not tried is told twice in a row: {told}")
        decided = any(a.resolution is Resolution.OPERATOR for a in case.attempts)
        if delivery.status is Status.SENT and not copies and not decided and not self._a_person_said_sent(email_id):
            self.broken(f"C4: sent, but nobody took it: {case}")
        if delivery.status is Status.FAILED and copies and delivery.reason is not Reason.OPERATOR and not decided:
            self.broken(f"C4: failed, but it was taken: {case}")

    def _a_person_said_sent(self, email_id: EmailId) -> bool:
        return any(e.data.get("decision") == Decision.SENT for _, e in self.storage.events[email_id])
