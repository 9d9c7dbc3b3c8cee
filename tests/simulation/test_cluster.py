"""Several mailers over one storage, in virtual time: what they share, what is each one's own, what operators see."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio

from hes.actors.membership import Membership
from hes.app import make_operator
from hes.errors import StorageUnavailable
from hes.mailer import Mailer
from hes.model import Answer, AttemptId, Email, GateState, Outcome, ProviderStatus, Room
from hes.node import SharedClock, ThisNode
from hes.storage.hints import Hints, NoHints
from hes.storage.records import Leases
from tests.actors.parts import in_virtual_time
from tests.simulation.fleet import BAD_GATEWAY, Fleet, Model
from tests.simulation.memory import MemoryStorage
from tests.simulation.world import World

REFUSED = Answer(outcome=Outcome.REFUSED, detail="bad key")


class Shared:
    """The storage as one node sees it."""

    is_shared = True
    hints: Hints = NoHints()

    def __init__(self, storage: MemoryStorage, node_id: str) -> None:
        self._storage = storage
        self.node_id = node_id
        self.is_cut = False
        """This node does not reach it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reached(), name)

    def _reached(self) -> MemoryStorage:
        if self.is_cut:
            raise StorageUnavailable("this node's connections lead nowhere")
        return self._storage

    async def lease(self, rooms: Mapping[str, Room], *, size_budget: int, is_idle: bool, deadline: float) -> Leases:
        return await self._reached().lease(
            rooms, size_budget=size_budget, is_idle=is_idle, deadline=deadline, node_id=self.node_id
        )


class Line:
    """A provider, over one node's network."""

    kind = "model"
    render_version = 1

    def __init__(self, model: Model) -> None:
        self.name = model.name
        self._model = model
        self.is_cut = False
        self.calls = 0

    async def send(self, email: Email, attempt_id: AttemptId, timeout_seconds: float) -> Answer:
        self.calls += 1
        if self.is_cut:
            return BAD_GATEWAY
        return await self._model.send(email, attempt_id, timeout_seconds)

    async def aclose(self) -> None: ...


class Peer:
    """One mailer of several."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.storage = Shared(fleet.storage, name)
        storage: Any = self.storage
        self.scope = anyio.CancelScope()
        self.lines = {name: Line(model) for name, model in fleet.models.items()}
        clock = SharedClock(World.clock, anyio.current_time)
        lines: Any = list(self.lines.values())
        self.mailer = Mailer(fleet.settings, storage, lines, clock, fleet.rng, anyio.current_time)
        node = ThisNode(fleet.settings, storage, self.mailer, clock)
        self.membership = Membership(
            storage,
            self.mailer.trouble,
            here=node,
            set_clock=clock.set,
            share=self.mailer.share,
            monotonic=anyio.current_time,
            rng=fleet.rng,
        )
        self.operator = make_operator(fleet.settings, storage, node, clock)

    async def run(self) -> None:
        """Until `scope` is cancelled, which is as good as a kill."""
        with self.scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.mailer.run)
                tasks.start_soon(self.membership.run)

    async def status(self, name: str) -> ProviderStatus:
        return next(one for one in await self.operator.status() if one.gate.name == name)


@asynccontextmanager
async def two_mailers(fleet: Fleet) -> AsyncIterator[tuple[Peer, Peer]]:
    peers = Peer(fleet, "one"), Peer(fleet, "two")
    try:
        async with anyio.create_task_group() as tasks:
            for peer in peers:
                tasks.start_soon(peer.run)
            await anyio.sleep(2)
            yield peers
            tasks.cancel_scope.cancel()
    finally:
        for mailer in (fleet.mailer, *(peer.mailer for peer in peers)):  # its own has not run
            await mailer.aclose()


@in_virtual_time
async def test_what_one_finds_out_of_an_account_all_know_and_one_asks_again() -> None:
    fleet = Fleet("a", "b", gate_open_seconds=10)
    async with two_mailers(fleet) as peers:
        fleet.models["a"].says = lambda _: REFUSED
        began_at = anyio.current_time()
        await fleet.offer(20, 2)
        early = len(fleet.models["a"].seen(began_at))
        await fleet.offer(20, 35)
        assert [(await peer.status("a")).gate.state for peer in peers] == [GateState.REFUSED] * 2
        later = fleet.models["a"].seen(began_at)[early:]
        assert 1 <= len(later) <= 4, "growing intervals of 10 s and more, for both together"
        fleet.models["a"].says = lambda _: None
        await fleet.offer(20, 90)
        assert [(await peer.status("a")).gate.state for peer in peers] == [GateState.UP] * 2
        before = [peer.lines["a"].calls for peer in peers]
        await fleet.offer(20, 10)
        assert all(peer.lines["a"].calls > calls for peer, calls in zip(peers, before, strict=True))
        await fleet.drained()
    assert fleet.statuses() == {"sent": len(fleet.handed_in)}


@in_virtual_time
async def test_a_node_whose_network_is_broken_shuts_a_provider_for_itself_only() -> None:
    fleet = Fleet("a", gate_open_seconds=10)
    async with two_mailers(fleet) as (broken, well):
        broken.lines["a"].is_cut = True
        await fleet.offer(20, 30)
        while (standing := await well.status("a")).gate.state is GateState.PROBING:
            await fleet.offer(20, 1)
        assert standing.gate.state is GateState.SLOWED
        assert (standing.gate.reason or "").startswith("down at 1 of 2 processes that send")
        assert {node.id: gate.state for node, gate in standing.nodes} == {"one": GateState.DOWN, "two": GateState.UP}
        await fleet.drained()
    assert fleet.statuses() == {"sent": len(fleet.handed_in)}
    assert max(fleet.delays()) < 3


@in_virtual_time
async def test_an_operators_word_to_one_is_heard_by_all() -> None:
    fleet = Fleet("a", "b")
    async with two_mailers(fleet) as peers:
        await peers[0].operator.pause("a", "ann")
        await anyio.sleep(1.5)
        await fleet.offer(20, 5)
        assert fleet.models["a"].calls == []
        assert (await peers[1].status("a")).gate.reason == "paused by ann"
        await peers[1].operator.resume("a", "ann")
        await anyio.sleep(1.5)
        await fleet.offer(20, 5)
        assert len(fleet.models["a"].calls) > 30
        assert all(peer.lines["a"].calls for peer in peers)


@in_virtual_time
async def test_a_reset_is_for_all() -> None:
    fleet = Fleet("a", gate_open_seconds=300)
    async with two_mailers(fleet) as peers:
        fleet.models["a"].says = lambda _: REFUSED
        await fleet.send()
        await anyio.sleep(3)
        fleet.models["a"].says = lambda _: None
        await peers[0].operator.reset("a", "ann")
        await anyio.sleep(1.5)
        assert [(await peer.status("a")).gate.state for peer in peers] == [GateState.UP] * 2
        await fleet.drained(within=2)


@in_virtual_time
async def test_a_rate_is_shared_and_who_is_left_has_all_of_it() -> None:
    fleet = Fleet("a", rate_per_second=10)
    async with two_mailers(fleet) as (one, two):
        for _ in range(700):
            await fleet.send()
        began_at = anyio.current_time()
        await anyio.sleep(10)
        assert 85 <= fleet.took(began_at) <= 110
        one.scope.cancel()
        await anyio.sleep(17)  # until it counts as gone
        began_at = anyio.current_time()
        await anyio.sleep(10)
        assert 85 <= fleet.took(began_at) <= 110
        assert two.lines["a"].calls > one.lines["a"].calls


@in_virtual_time
async def test_who_does_not_send_tells_how_those_stand_who_do() -> None:
    fleet = Fleet("a", "b", daily_quota=1)
    storage: Any = Shared(fleet.storage, "api")
    clock = World.clock
    operator = make_operator(fleet.settings, storage, ThisNode(fleet.settings, storage, None, clock), clock)
    standing = {one.gate.name: one for one in await operator.status()}
    assert (standing["a"].gate.state, standing["a"].nodes) == (GateState.DOWN, ())
    assert standing["a"].gate.reason == "no process that sends is there"
    async with two_mailers(fleet):
        await fleet.send()
        await anyio.sleep(2)
        standing = {one.gate.name: one for one in await operator.status()}
        assert [len(one.nodes) for one in standing.values()] == [2, 2]
        assert sorted(one.gate.state for one in standing.values()) == [GateState.REFUSED, GateState.UP]
        [used_up] = [one.gate for one in standing.values() if one.gate.state is GateState.REFUSED]
        assert used_up.reason == "its daily quota of 1 is used up"


@in_virtual_time
async def test_a_late_coming_mailer_takes_no_unwritten_outcome_for_a_doubt() -> None:
    """It starts just as the storage is back after more than a lease, and sees nothing of its having been away.

    The one that holds the outcomes reaches the storage again a little later.
    """
    fleet = Fleet("a")
    fleet.models["a"].latency_seconds = 3
    async with two_mailers(fleet) as (one, two), anyio.create_task_group() as later:
        two.scope.cancel()
        for _ in range(10):
            await fleet.send()
        one.mailer.intake.wake()
        await anyio.sleep(1)
        assert one.mailer.in_flight == 10
        fleet.storage.is_away = one.storage.is_cut = True
        await anyio.sleep(40)
        assert one.mailer.in_flight == 10, "the outcomes are in its hands"
        fleet.storage.is_away = False
        late_comer = Peer(fleet, "late-comer")
        later.start_soon(late_comer.run)
        await anyio.sleep(10)
        one.storage.is_cut = False
        await fleet.drained()
        late_comer.scope.cancel()
        await late_comer.mailer.aclose()
    assert fleet.statuses() == {"sent": 10}
    assert fleet.took() == 10
    assert {a.outcome for case in fleet.storage.cases.values() for a in case.attempts} == {Outcome.ACCEPTED}
