"""Takes in due deliveries: leases them for free hands and puts them there.

This is not the HTTP side; emails were accepted and committed long before. The intake looks at the storage when it is
woken (an email was accepted, a hand came free) and once per poll period, which is what counts: a lost wake-up costs
one period, never an email.
"""

import logging
import random
from collections.abc import Mapping

import anyio

from hes.actors.actor import Pulse, StorageTrouble
from hes.actors.sender import Sender
from hes.errors import StorageUnavailable
from hes.model import Monotonic
from hes.storage.storage import Storage

_log = logging.getLogger("hes.intake")

BYTES_IN_FLIGHT = 128 * 1024 * 1024
"""How much content may be in all hands together. One email alone may be larger."""


SHORTEST_PAUSE_SECONDS = 0.02
"""What trickles in, such as leave to send so many a second, is worth a look together."""


class Intake:
    """Asks each sender for its room and leases no more than that. Mailbox: none, only `wake`."""

    name = "intake"

    def __init__(
        self,
        storage: Storage,
        senders: Mapping[str, Sender],
        trouble: StorageTrouble,
        *,
        poll_seconds: float,
        lease_seconds: float,
        monotonic: Monotonic,
        rng: random.Random,
    ) -> None:
        self._storage = storage
        self._senders = senders
        self._trouble = trouble
        self._poll_seconds = poll_seconds
        self._lease_seconds = lease_seconds
        self._monotonic = monotonic
        self._rng = rng
        self.pulse = Pulse(monotonic)
        self._woken = anyio.Event()
        self.is_stopped = False

    def wake(self) -> None:
        """Something may be due, or a hand free. Carries nothing, may be called any number of times."""
        self._woken.set()

    def stop(self) -> None:
        """Lease nothing more. `run` ends."""
        self.is_stopped = True
        self.wake()

    async def run(self) -> None:
        while not self.is_stopped:
            self._woken = anyio.Event()  # whatever comes from here on is seen by the next look
            if await self._look():
                continue
            with anyio.move_on_after(self._pause()):
                await self._woken.wait()

    def _pause(self) -> float:
        """One poll period, or less if by time alone a sender can take more before that."""
        soonest = min(sender.gate.seconds_to_next() for sender in self._senders.values())
        return min(self._poll_seconds * self._rng.uniform(0.8, 1.0), max(SHORTEST_PAUSE_SECONDS, soonest))

    async def _look(self) -> bool:
        """Lease what can be taken now. Returns whether there may be more."""
        rooms = {name: sender.room() for name, sender in self._senders.items()}
        if not any(room.hands for room in rooms.values()):
            return False
        senders = self._senders.values()
        # The lease began, by our clock, at the latest when we asked for it.
        deadline = self._monotonic() + self._lease_seconds
        try:
            with self.pulse:
                leases = await self._storage.lease(
                    rooms,
                    size_budget=BYTES_IN_FLIGHT - sum(sender.bytes_in_flight for sender in senders),
                    is_idle=not any(sender.in_flight for sender in senders),
                    deadline=deadline,
                )
        except StorageUnavailable as error:
            self._trouble.note()
            _log.warning("nothing can be leased: %s", error)
            return False
        for leased in leases.items:
            self._senders[leased.provider].take(leased)
        return leases.more
