"""The watchdog: late loops are measured and told, stuck actors are named, and whoever gets on again too."""

import logging
import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from hes.actors.actor import Mailbox, Pulse
from hes.actors.vitals import MailerVitals
from hes.actors.watchdog import Watchdog
from hes.errors import StorageUnavailable
from hes.model import AttemptId, Ended, Status
from hes.storage.records import Queue
from hes.telemetry import names
from hes.telemetry.names import Metric
from hes.telemetry.telemetry import Telemetry, Values
from tests.actors.parts import a_leased, clock, in_virtual_time


class Heard(Telemetry):
    """Keeps what it is told."""

    has_metrics = True

    def __init__(self) -> None:
        self.shown: dict[str, Values] = {}
        self.recorded: list[tuple[str, float]] = []

    def show(self, metric: Metric, values: Values) -> None:
        self.shown[metric.name] = values

    def record(self, metric: Metric, value: float, *attributes: str | int) -> None:
        self.recorded.append((metric.name, value))


class Book:
    """Only counts, and may be away."""

    is_away = False
    counted = 0

    async def queue(self) -> Queue:
        self.counted += 1
        if self.is_away:
            raise StorageUnavailable("away")
        return Queue({Status.QUEUED: 3, Status.HELD: 1}, 300, oldest_due_at=clock() - 5000)


class Setup:
    def __init__(self) -> None:
        self.heard = Heard()
        self.book = Book()
        self.busy: dict[str, float] = {}
        self.blocked = 0.0
        """So long somebody kept the loop from everything: in virtual time nobody can, so the clock is moved on."""
        self.dog = Watchdog(
            self.book,  # type: ignore[arg-type]  # only counts
            self.heard,
            vitals=[self._vitals],
            busy_seconds=lambda: self.busy,
            queue_limit=7,
            clock=clock,
            monotonic=lambda: anyio.current_time() + self.blocked,
            rng=random.Random(1),
        )

    def _vitals(self) -> Iterator[tuple[Metric, Values]]:
        yield names.COMMITS, [(2, {})]


@in_virtual_time
async def test_it_shows_how_things_stand_and_counts_the_queue_rarely() -> None:
    setup = Setup()
    with anyio.move_on_after(60):
        await setup.dog.run()
    shown = setup.heard.shown
    assert shown[names.COMMITS.name] == [(2, {})]
    assert shown[names.QUEUE_LIMIT.name] == [(7, {})]
    assert shown[names.QUEUE.name] == [(3, {names.STATUS: "queued"}), (1, {names.STATUS: "held"})]
    [(oldest, _)] = shown[names.OLDEST_DUE.name]
    assert oldest == pytest.approx(5)
    assert 60 / 9 <= setup.book.counted <= 60 / 5
    lags = [value for name, value in setup.heard.recorded if name == names.LOOP_LAG.name]
    assert len(lags) >= 500
    assert max(lags) == pytest.approx(0, abs=1e-6)


@in_virtual_time
async def test_a_storage_that_is_away_does_not_end_it() -> None:
    setup = Setup()
    setup.book.is_away = True
    with anyio.move_on_after(30):
        await setup.dog.run()
    assert setup.book.counted > 2
    assert names.QUEUE.name not in setup.heard.shown


def test_a_stuck_actor_is_named_once_and_so_is_that_it_gets_on(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    setup = Setup()
    for busy in (29.0, 31.0, 45.0, 0.0, 1.0):
        setup.busy = {"intake": 0.0, "janitor": busy}
        setup.dog.look()
        assert setup.heard.shown[names.ACTOR_BUSY.name] == [
            (0.0, {names.ACTOR: "intake"}),
            (busy, {names.ACTOR: "janitor"}),
        ]
    assert caplog.messages == ["janitor is stuck: it has been at one piece of work for 31 s", "janitor gets on again"]


@pytest.mark.parametrize(("blocked", "told"), [(0.0, 0), (0.006, 0), (0.2, 0), (0.4, 1)])
def test_a_loop_that_comes_late_is_measured_and_told_once(
    blocked: float, told: int, caplog: pytest.LogCaptureFixture
) -> None:
    setup = Setup()

    @in_virtual_time
    async def compute() -> None:
        with anyio.move_on_after(3):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(setup.dog.run)
                await anyio.sleep(1.05)  # the watchdog sleeps, and somebody computes
                setup.blocked = blocked

    compute()
    lags = [value for name, value in setup.heard.recorded if name == names.LOOP_LAG.name]
    assert max(lags) == pytest.approx(blocked, abs=1e-6)
    assert sum(lag > 1e-6 for lag in lags) == (blocked > 0)
    assert [m for m in caplog.messages if "late" in m] == [
        f"the event loop was {blocked:.2f} s late: something kept it from everything else"
    ] * told


def test_a_pulse_says_for_how_long_an_actor_has_been_at_it() -> None:
    now = 0.0
    pulse = Pulse(lambda: now)
    assert pulse.busy_seconds() == 0
    with pulse:
        now = 5
        assert pulse.busy_seconds() == 5
        pulse.beat()
        assert pulse.busy_seconds() == 0
    now = 9
    assert pulse.busy_seconds() == 0


def test_a_sender_is_busy_for_as_long_as_a_call_goes_on_beyond_its_lease() -> None:
    now = 5.0
    begun = {AttemptId("1"): a_leased(deadline=10.0), AttemptId("2"): a_leased(deadline=20.0)}
    calling: Any = SimpleNamespace(name="sender p", begun=begun)
    outcomes = Mailbox[Ended](1)
    vitals = MailerVitals({"p": calling}, outcomes, (), lambda: now)
    outcomes.discard()
    assert vitals.busy_seconds() == {"sender p": 0.0}
    now = 45.0
    assert vitals.busy_seconds() == {"sender p": 35.0}
