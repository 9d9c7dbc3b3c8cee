"""Says now and then that this process is there, and hears in return what time it is and with how many it sends."""

import logging
import random
from collections.abc import Awaitable, Callable

import anyio

from hes.actors.actor import Pulse, StorageTrouble
from hes.errors import StorageUnavailable
from hes.model import Millis, Monotonic, Node
from hes.storage.storage import Storage

_log = logging.getLogger("hes.membership")

PERIOD_SECONDS = 1.0


class Membership:
    """Mailbox: none; it works once per period, where several processes share a storage.

    `here`: this process as it is now. `set_clock` and `share` are told what it hears.
    """

    name = "membership"

    def __init__(
        self,
        storage: Storage,
        trouble: StorageTrouble,
        *,
        here: Callable[[], Awaitable[Node]],
        set_clock: Callable[[Millis], None],
        share: Callable[[float], None],
        monotonic: Monotonic,
        rng: random.Random,
    ) -> None:
        self._storage = storage
        self._trouble = trouble
        self._here = here
        self._set_clock = set_clock
        self._share = share
        self.pulse = Pulse(monotonic)
        self._rng = rng
        self._mailers = 1

    async def run(self) -> None:
        while True:
            try:
                with self.pulse:
                    presence = await self._storage.appear(await self._here())
            except StorageUnavailable:
                self._trouble.note()
            else:
                self._set_clock(presence.now)
                if presence.mailers != self._mailers:
                    _log.info("%d processes send now", presence.mailers)
                self._mailers = presence.mailers
                self._share(1 / max(1, presence.mailers))
            await anyio.sleep(PERIOD_SECONDS * self._rng.uniform(0.8, 1.2))

    async def leave(self) -> None:
        """Whoever stays need not wait until this process counts as gone."""
        try:
            await self._storage.leave((await self._here()).id)
        except StorageUnavailable:
            _log.debug("the others will find out by themselves")
