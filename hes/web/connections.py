"""How many connections there may be on which nobody has shown a key: connections cost nothing to whoever opens them.

Each takes a descriptor, of which a process has so many, and up to a head's size of memory. So there is a most; above it
the one that has been idle longest is closed, and never the new one refused: whoever comes last may be a caller with a
key. Idle ones can be closed at any time anyway (RFC 9112, section 9.5), and clients connect anew.

Not counted: connections that have carried a valid key or a provider's signature, since their holders are known; and
those of `HES_TRUSTED_PROXIES`, through which many come.
"""

import logging
import resource
import time
from asyncio import Transport

from hes.model import Monotonic
from hes.settings import Network
from hes.web.auth import BECAME_KNOWN
from hes.web.heads import BoundedHeads
from hes.web.log_limit import LogLimit
from hes.web.throttle import read_address

MOST_UNKNOWN = 1000
"""With heads of 64 KiB these are 64 MB."""
SHARE_OF_DESCRIPTORS = 0.5

_log = logging.getLogger("hes.web")


def most_unknown() -> int:
    """As many as this process may have: the rest of its descriptors is for those with keys, providers and storage."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return MOST_UNKNOWN
    return max(1, min(MOST_UNKNOWN, int(descriptors * SHARE_OF_DESCRIPTORS)))


class UnknownConnections:
    """The open connections on which nobody has shown a key yet, those first that were heard of longest ago."""

    def __init__(
        self, most: int, trusted_proxies: tuple[Network, ...] = (), monotonic: Monotonic = time.monotonic
    ) -> None:
        self._most = most
        self._trusted = trusted_proxies
        self._connections: dict[BoundedConnections, None] = {}
        self._log_limit = LogLimit(monotonic)

    def add(self, one: "BoundedConnections") -> None:
        """A new one. If there are too many with it, another one is closed."""
        if self._is_trusted(one):
            return
        if len(self._connections) >= self._most:
            self._close_one()
        self._connections[one] = None

    def remove(self, one: "BoundedConnections") -> None:
        """It is closed, or known."""
        self._connections.pop(one, None)

    def answered(self, one: "BoundedConnections") -> None:
        """From now on it is idle. That bytes came does not count: then one a second would be enough to stay."""
        if one in self._connections:
            self._connections[one] = self._connections.pop(one)

    def _is_trusted(self, one: "BoundedConnections") -> bool:
        address = read_address(one.client[0]) if one.client else None
        return address is not None and any(address in network for network in self._trusted)

    def _close_one(self) -> None:
        """One that waits for a request; else one that waits for the rest of it; else the oldest."""
        found = next(one for waits in (_is_idle, _is_unfinished, bool) for one in self._connections if waits(one))
        self.remove(found)
        found.transport.abort()
        if times := self._log_limit.count():
            _log.warning(
                "there are %d connections without a key, as many as may be: %d that were idle longest were closed "
                "since the last such line",
                *(self._most, times),
            )


def _is_idle(one: "BoundedConnections") -> bool:
    """Also one whose head is not whole."""
    return not one.is_answering()


def _is_unfinished(one: "BoundedConnections") -> bool:
    return one.cycle.more_body or one.flow.write_paused


class BoundedConnections(BoundedHeads):
    """One connection, which counts among the unknown ones until somebody shows a key on it."""

    unknown: UnknownConnections

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # TCP and TLS only, as uvicorn's own
        super().connection_made(transport)
        self.unknown.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.unknown.remove(self)
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[BECAME_KNOWN] = self._become_known  # type: ignore[typeddict-unknown-key]  # a key of ours

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.unknown.answered(self)

    def _become_known(self) -> None:
        self.unknown.remove(self)
