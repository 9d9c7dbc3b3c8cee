"""Looks whether this process gets on: says so in the log and in the metrics when it does not.

What it sees: an event loop that comes late (somebody computes where everybody waits), an actor that does not come to an
end with one piece of work, an email in a hand whose lease is over. It names them and mends nothing: what to do about a
process that is stuck is for those who run it, and a restart is safe at any time.

It also shows how things stand, for the gauges of the metrics. The queue's state costs a query, so it is asked for
rarely, and here only.
"""

import logging
import random
from collections.abc import Callable, Iterable, Mapping

import anyio

from hes.errors import StorageUnavailable
from hes.model import Clock, Monotonic
from hes.storage.email_book import EmailBook
from hes.telemetry import names
from hes.telemetry.names import Metric
from hes.telemetry.telemetry import Telemetry, Values

_log = logging.getLogger("hes.watchdog")

PERIOD_SECONDS = 0.1
SHOW_SECONDS = 1.0
COUNT_SECONDS = 7.0
SHARE_OF_TIME = 0.1
"""Of a queue so large that counting it takes long, it is counted less often: for a tenth of the time at most."""
LATE_SECONDS = 0.25
"""The log tells of a loop that was so late; the metrics of less."""
STUCK_SECONDS = 30.0
"""Longer than any one piece of work takes, time-outs and repetitions of the storage included."""

Vitals = Callable[[], Iterable[tuple[Metric, Values]]]
"""How some part of the process stands, gauge by gauge."""


class Watchdog:
    """Mailbox: none; it looks ten times a second. `busy_seconds`: for how long each actor has been at its work."""

    name = "watchdog"

    def __init__(
        self,
        book: EmailBook,
        telemetry: Telemetry,
        *,
        vitals: Iterable[Vitals],
        busy_seconds: Callable[[], Mapping[str, float]],
        queue_limit: int,
        clock: Clock,
        monotonic: Monotonic,
        rng: random.Random,
    ) -> None:
        self._book = book
        self._telemetry = telemetry
        self._vitals = tuple(vitals)
        self._busy_seconds = busy_seconds
        self._clock = clock
        self._monotonic = monotonic
        self._rng = rng
        self._stuck: frozenset[str] = frozenset()
        telemetry.show(names.QUEUE_LIMIT, [(queue_limit, {})])

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch)
            if self._telemetry.has_metrics:
                tasks.start_soon(self._count)

    async def _watch(self) -> None:
        show_at = began_at = self._monotonic()
        while True:
            asleep_at = self._monotonic()
            await anyio.sleep(PERIOD_SECONDS)
            late = max(0.0, self._monotonic() - asleep_at - PERIOD_SECONDS)
            self._telemetry.record(names.LOOP_LAG, late)
            if late > LATE_SECONDS:
                _log.warning("the event loop was %.2f s late: something kept it from everything else", late)
            if self._monotonic() >= show_at:
                show_at = self._monotonic() + SHOW_SECONDS
                self._telemetry.show(names.UPTIME, [(self._monotonic() - began_at, {})])
                self.look()

    def look(self) -> None:
        """Show how things stand, and tell who is stuck."""
        for part in self._vitals:
            for metric, values in part():
                self._telemetry.show(metric, values)
        busy = self._busy_seconds()
        self._telemetry.show(names.ACTOR_BUSY, [(seconds, {names.ACTOR: name}) for name, seconds in busy.items()])
        stuck = frozenset(name for name, seconds in busy.items() if seconds > STUCK_SECONDS)
        for name in sorted(stuck - self._stuck):
            _log.error("%s is stuck: it has been at one piece of work for %.0f s", name, busy[name])
        for name in sorted(self._stuck - stuck):
            _log.warning("%s gets on again", name)
        self._stuck = stuck

    async def _count(self) -> None:
        while True:
            began = self._monotonic()
            try:
                await self.count()
            except StorageUnavailable as error:
                _log.debug("the queue can't be counted: %s", error)
            took = self._monotonic() - began
            await anyio.sleep(max(COUNT_SECONDS * self._rng.uniform(0.8, 1.2), took / SHARE_OF_TIME))

    async def count(self) -> None:
        """Show how the queue stands. Raises: StorageUnavailable."""
        with self._telemetry.batch("count"):
            queue = await self._book.queue()
        show = self._telemetry.show
        show(names.QUEUE, [(count, {names.STATUS: status.value}) for status, count in queue.counts.items()])
        show(names.QUEUE_BYTES, [(queue.size_bytes, {})])
        waited = 0 if queue.oldest_due_at is None else max(0, self._clock() - queue.oldest_due_at)
        show(names.OLDEST_DUE, [(waited / 1000, {})])
