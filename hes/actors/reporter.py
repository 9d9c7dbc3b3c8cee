"""Writes down how attempts ended; the only actor that settles.

Outcomes are the one thing in this process that is nowhere else. So they are kept until they are written: when the
storage is away the same batch is tried again and again, no hand comes free, and sending stops by itself.
"""

import logging
from collections.abc import Callable, Mapping

import anyio

from hes.actors.actor import Mailbox, Pulse, StorageTrouble
from hes.actors.sender import Sender
from hes.errors import StorageError, StorageUnavailable
from hes.model import Ended, Monotonic
from hes.storage.storage import Storage

_log = logging.getLogger("hes.reporter")

BATCH = 500
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0


class Reporter:
    """Mailbox: Ended, one for each hand at most. Frees the hand and wakes the intake after the commit."""

    name = "reporter"

    def __init__(
        self,
        storage: Storage,
        mailbox: Mailbox[Ended],
        senders: Mapping[str, Sender],
        trouble: StorageTrouble,
        *,
        monotonic: Monotonic,
        wake: Callable[[], None],
    ) -> None:
        self._storage = storage
        self._mailbox = mailbox
        self._trouble = trouble
        self._senders = senders
        self._wake = wake
        self.pulse = Pulse(monotonic)
        self._in_hand: list[Ended] = []
        self.is_behind = False
        """Holds outcomes that the storage did not take yet."""

    async def run(self) -> None:
        """Ends when the mailbox is closed and all of it is written."""
        while True:
            if not self._in_hand:  # else the last run crashed over them
                try:
                    self._in_hand = [await self._mailbox.receive()]
                except anyio.EndOfStream:
                    return
                self._in_hand += self._mailbox.ready(BATCH - 1)
            await self._write()

    async def _write(self) -> None:
        try:
            await self._settle(self._in_hand)
        except StorageError:
            raise
        except Exception:  # noqa: BLE001 (whatever one row does to its batch, its neighbours must not suffer)
            _log.exception("a batch of %d outcomes can't be written; one by one", len(self._in_hand))
            for ended in self._in_hand:
                await self._write_alone(ended)
        done, self._in_hand = self._in_hand, []
        for ended in done:
            self._senders[ended.provider].release(ended)
        self._wake()

    async def _write_alone(self, ended: Ended) -> None:
        """One poisoned outcome harms no neighbour: its lease will lapse, and is told as the doubt that it is."""
        try:
            await self._settle([ended])
        except StorageError:
            raise
        except Exception:  # noqa: BLE001
            _log.exception("the outcome of attempt %s can't be written", ended.attempt_id)

    async def _settle(self, batch: list[Ended]) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                with self.pulse:
                    settled = await self._storage.settle(batch, {n: s.room() for n, s in self._senders.items()})
            except StorageUnavailable as error:
                self._trouble.note()
                if not self.is_behind:
                    _log.warning("outcomes can't be written and are kept, sending stops: %s", error)
                self.is_behind = True
                await anyio.sleep(pause)
                pause = min(LONGEST_PAUSE_SECONDS, pause * 2)
                continue
            if self.is_behind:
                _log.warning("outcomes are written again")
            self.is_behind = False
            if settled.lost:
                _log.warning("%d outcomes came after their lease was lost; kept as evidence", len(settled.lost))
            for verdict in settled.verdicts:
                if (sender := self._senders.get(verdict.provider)) is not None:
                    sender.gate.judge(is_liar=verdict.is_liar)
            return
