"""The intake leases for free hands only; the janitor sweeps only when that makes no false doubt."""

import random
from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Self

import anyio
import anyio.lowlevel

from hes.actors.actor import Mailbox, StorageTrouble
from hes.actors.intake import Intake
from hes.actors.janitor import Janitor
from hes.actors.sender import Sender
from hes.errors import StorageUnavailable
from hes.model import AttemptId, Ended, Leased, Room
from hes.storage.records import Leases, Swept
from tests.actors.parts import ScriptedProvider, a_gate, a_leased, an_ended, clock, in_virtual_time


class Queue:
    """A storage with so many due emails."""

    def __init__(self, due: int) -> None:
        self.due = due
        self.asked: list[int] = []
        self.is_away = False
        self.swept_at: list[float] = []
        self.idle: list[bool] = []
        self.dropped: list[tuple[int | None, int | None]] = []
        self.old_portions = 2

    async def lease(self, rooms: Mapping[str, Room], *, size_budget: int, is_idle: bool, deadline: float) -> Leases:
        if self.is_away:
            raise StorageUnavailable("away")
        hands = rooms["p"].hands
        self.asked.append(hands)
        self.idle.append(is_idle)
        first, count = self.due, min(hands, self.due)
        self.due -= count
        return Leases(tuple(a_leased(first - n) for n in range(count)), more=self.due > 0)

    async def sweep(self, held: Collection[AttemptId], *, reached_seconds: float) -> Swept:
        assert reached_seconds == 30, "one lease"
        self.swept_at.append(anyio.current_time())
        return Swept()

    async def prune(self) -> int:
        return 0

    async def drop_drafts(self) -> int:
        return 0

    async def drop_old(self, contents_ms: int | None, history_ms: int | None) -> int:
        self.dropped.append((contents_ms, history_ms))
        return max(0, 1 + self.old_portions - len(self.dropped))


class Setup:
    def __init__(self, due: int) -> None:
        self.queue = Queue(due)
        self.trouble = StorageTrouble(anyio.current_time)
        self.inbox = Mailbox[Leased](9)  # no sender runs that would read it
        self.report = Mailbox[Ended](2)
        self.sender = Sender(
            ScriptedProvider(),
            a_gate(hands=2),
            self.inbox,
            self.report,
            hands=2,
            timeout_seconds=10,
            clock=clock,
            monotonic=anyio.current_time,
        )
        self.intake = Intake(
            self.queue,  # type: ignore[arg-type]  # only leases
            {"p": self.sender},
            self.trouble,
            poll_seconds=1,
            lease_seconds=30,
            monotonic=anyio.current_time,
            rng=random.Random(1),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.inbox.discard()
        self.report.discard()


@in_virtual_time
async def test_nothing_is_leased_without_a_free_hand() -> None:
    with Setup(due=5) as setup:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(setup.intake.run)
            await anyio.sleep(10)
            assert (setup.queue.asked, setup.sender.in_flight) == ([2], 2)
            setup.sender.release(an_ended(5))
            setup.intake.wake()
            await anyio.sleep(0.001)
            assert setup.queue.asked == [2, 1]
            assert setup.queue.idle == [True, False]
            setup.intake.stop()


@in_virtual_time
async def test_without_a_wake_up_it_looks_once_per_period() -> None:
    with Setup(due=0) as setup:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(setup.intake.run)
            await anyio.sleep(60)
            setup.intake.stop()
        assert 60 <= len(setup.queue.asked) <= 76


@in_virtual_time
async def test_with_the_storage_away_it_goes_on_asking() -> None:
    with Setup(due=1) as setup:
        setup.queue.is_away = True
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(setup.intake.run)
            await anyio.sleep(5)
            assert setup.trouble.seconds_ago() <= 1
            setup.queue.is_away = False
            await anyio.sleep(1)
            assert setup.sender.in_flight == 1
            setup.intake.stop()


class Behind:
    """Stands for the reporter."""

    is_behind = False


def janitor(setup: Setup, reporter: Behind, keep_contents_days: int | None = None) -> Janitor:
    return Janitor(
        setup.queue,  # type: ignore[arg-type]  # only sweeps and prunes
        reporter,  # type: ignore[arg-type]
        setup.trouble,
        held=lambda: setup.sender.in_hand,
        period_seconds=1,
        lease_seconds=30,
        monotonic=anyio.current_time,
        rng=random.Random(1),
        keep_contents_days=keep_contents_days,
    )


@in_virtual_time
async def test_the_janitor_drops_what_is_old_until_there_is_no_more() -> None:
    with Setup(due=0) as setup:
        with anyio.move_on_after(90):
            await janitor(setup, Behind(), keep_contents_days=1).run()
        assert setup.queue.dropped == [(24 * 3600 * 1000, None)] * 3


@in_virtual_time
async def test_the_janitor_goes_on_sweeping_however_much_there_is_to_drop() -> None:
    with Setup(due=0) as setup:
        setup.queue.old_portions = 1_000_000
        with anyio.move_on_after(90):
            await janitor(setup, Behind(), keep_contents_days=1).run()
        assert len(setup.queue.dropped) > 100
        assert max(b - a for a, b in pairwise([*setup.queue.swept_at, 90])) <= 1.2


@in_virtual_time
async def test_the_janitor_drops_nothing_unless_it_is_told_to() -> None:
    with Setup(due=0) as setup:
        with anyio.move_on_after(200):
            await janitor(setup, Behind()).run()
        assert setup.queue.dropped == []


@in_virtual_time
async def test_the_janitor_sweeps_once_per_period() -> None:
    with Setup(due=0) as setup:
        with anyio.move_on_after(30):
            await janitor(setup, Behind()).run()
        assert 24 <= len(setup.queue.swept_at) <= 38


@in_virtual_time
async def test_the_janitor_sweeps_nothing_while_outcomes_are_unwritten() -> None:
    with Setup(due=0) as setup:
        reporter = Behind()
        reporter.is_behind = True
        with anyio.move_on_after(30):
            await janitor(setup, reporter).run()
        assert setup.queue.swept_at == []


@in_virtual_time
async def test_the_janitor_gives_others_one_lease_after_the_storage_was_away() -> None:
    with Setup(due=0) as setup:
        setup.trouble.note()
        with anyio.move_on_after(40):
            await janitor(setup, Behind()).run()
        assert min(setup.queue.swept_at) > 30
