"""A process among the others over its storage: what time they agree on, and what it tells of itself."""

import socket
import time

from msgspec.structs import replace

from hes import __version__
from hes.mailer import Mailer
from hes.model import Clock, Millis, Monotonic, Node
from hes.settings import Settings
from hes.storage.hints import Hint
from hes.storage.storage import Storage


class SharedClock:
    """The database's time as it was last heard, so that processes on several machines agree; until then the wall's."""

    def __init__(self, wall: Clock, monotonic: Monotonic = time.monotonic) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._ahead: float | None = None

    def __call__(self) -> Millis:
        return self._wall() if self._ahead is None else round(self._monotonic() * 1000 + self._ahead)

    def set(self, now: Millis) -> None:
        self._ahead = now - self._monotonic() * 1000


class ThisNode:
    """The process as it is told to others. `mailer` None: it does not send."""

    def __init__(self, settings: Settings, storage: Storage, mailer: Mailer | None, clock: Clock) -> None:
        self._storage = storage
        self._mailer = mailer
        self._itself = Node(
            id=storage.node_id,
            role=settings.role,
            host=socket.gethostname(),
            version=__version__,
            started_at=clock(),
        )
        self._clock = clock

    async def __call__(self) -> Node:
        gates = tuple(await self._mailer.gatekeeper.status()) if self._mailer is not None else ()
        return replace(self._itself, seen_at=self._clock(), gates=gates)

    async def if_it_sends(self) -> Node | None:
        return await self() if self._mailer is not None else None

    async def told(self) -> None:
        """An operator's word is on disk: the gates of this process hear it now, those of others soon."""
        if self._mailer is not None:
            await self._mailer.gatekeeper.listen()
        self._storage.hints.tell(Hint.FACTS)

    def wake(self) -> None:
        """Something may be due."""
        if self._mailer is not None:
            self._mailer.intake.wake()
        self._storage.hints.tell(Hint.DUE)
