"""Keeps house: turns lapsed leases into doubt, ends what has expired, drops what is old."""

import logging
import random
from collections.abc import Callable, Collection

import anyio

from hes.actors.actor import Pulse, StorageTrouble
from hes.actors.reporter import Reporter
from hes.errors import StorageUnavailable
from hes.model import AttemptId, Millis, Monotonic
from hes.storage.storage import Storage

_log = logging.getLogger("hes.janitor")

PRUNE_SECONDS = 60.0
BREATH_SECONDS = 0.05
"""Between two portions that nobody waits for: others write too."""


class Janitor:
    """Mailbox: none; it works once per period. `held`: the attempts that are in this process's hands."""

    name = "janitor"

    def __init__(
        self,
        storage: Storage,
        reporter: Reporter,
        trouble: StorageTrouble,
        *,
        held: Callable[[], Collection[AttemptId]],
        period_seconds: float,
        lease_seconds: float,
        keep_contents_days: int | None = None,
        keep_history_days: int | None = None,
        monotonic: Monotonic,
        rng: random.Random,
    ) -> None:
        self._storage = storage
        self._reporter = reporter
        self._trouble = trouble
        self._held = held
        self._period_seconds = period_seconds
        self._lease_seconds = lease_seconds
        self._ages = (_millis(keep_contents_days), _millis(keep_history_days))
        self._monotonic = monotonic
        self._rng = rng
        self._pruned_at = monotonic()
        self._has_more = False
        """To prune: the last portion was not the last."""
        self.pulse = Pulse(monotonic)

    async def run(self) -> None:
        while True:
            period = self._period_seconds * self._rng.uniform(0.8, 1.2)
            await anyio.sleep(min(BREATH_SECONDS, period) if self._has_more else period)
            try:
                await self._sweep()
                await self._prune()
            except StorageUnavailable:
                self._trouble.note()

    async def _sweep(self) -> None:
        # While the storage is away everybody's leases run out with the outcomes still in hand: those are no doubts.
        # So whoever holds some writes them first, and gives the others one lease's time to do the same; who was not
        # there to see it away asks the storage itself whether it was.
        while not self._reporter.is_behind and self._trouble.seconds_ago() > self._lease_seconds:
            with self.pulse:
                swept = await self._storage.sweep(self._held(), reached_seconds=self._lease_seconds)
            if swept.lapsed:
                _log.warning("%d leases lapsed; their emails are in doubt", swept.lapsed)
            if swept.expired:
                _log.info("%d emails expired", swept.expired)
            if swept.searched:
                _log.info("%d emails were in doubt for long enough; their policies act", swept.searched)
            if not swept.more:
                return

    async def _prune(self) -> None:
        """One portion of each kind: however much there is, the sweeping goes on between two of them."""
        if not self._has_more and self._monotonic() - self._pruned_at < PRUNE_SECONDS:
            return
        self._pruned_at = self._monotonic()
        self._has_more = False
        with self.pulse:
            done = await self._storage.prune()
        with self.pulse:
            dropped = await self._storage.drop_drafts()
        if dropped:
            _log.info(
                "%d drafts were neither edited nor sent for as long as they are kept; they are cancelled", dropped
            )
            done += dropped
        if self._ages != (None, None):
            with self.pulse:
                done += await self._storage.drop_old(*self._ages)
        self._has_more = done > 0


def _millis(days: int | None) -> Millis | None:
    return None if days is None else days * 24 * 3600 * 1000
