"""What the handlers work with: one object, made by `hes.app`, handed to each of them."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn, Protocol

from msgspec import Struct

from hes.errors import Overloaded
from hes.model import Clock, Millis, OnDoubt, ProviderStatus
from hes.storage.email_book import EmailBook
from hes.storage.inbox import Inbox
from hes.storage.key_records import Keys
from hes.storage.storage import Storage
from hes.told import Told
from hes.web.auth import Authenticator
from hes.web.backlog import Backlog
from hes.web.throttle import Rates

QUIET_SECONDS = 60.0
"""Between two lines in the log about the same budget that refuses."""

_log = logging.getLogger("hes.web")


class Readiness:
    """Whether this process wants traffic. A stop begins by turning it off, so that balancers look elsewhere."""

    def __init__(self) -> None:
        self.is_stopping = False


class Budget:
    """How many bytes of one kind may be in hand at once, from the first byte read until they are on disk."""

    def __init__(self, of_what: str, total_bytes: int, monotonic: Callable[[], float]) -> None:
        """`of_what`: for people, as in `emails`."""
        self._of_what = of_what
        self._total = total_bytes
        self._monotonic = monotonic
        self._held = 0
        self._refused = 0
        self._quiet_until = -math.inf

    @contextmanager
    def hold(self, count: int = 0) -> Iterator[Callable[[int], None]]:
        """Hold so many bytes, and more by calling what it yields, until the end.

        Both raise Overloaded if it is too much together with what others hold. One alone may be larger.
        """
        own = 0

        def more(count: int) -> None:
            nonlocal own
            if self._held > own and self._held + count > self._total:
                self._refuse()
            self._held += count
            own += count

        try:
            more(count)
            yield more
        finally:
            self._held -= own

    def _refuse(self) -> NoReturn:
        self._refused += 1
        now = self._monotonic()
        if now >= self._quiet_until:
            _log.warning(
                "%s are refused with 503, %d since the last such line: %d bytes of them are in hand, of at most %d",
                *(self._of_what, self._refused, self._held, self._total),
            )
            self._refused = 0
            self._quiet_until = now + QUIET_SECONDS
        raise Overloaded(f"HES has as many {self._of_what} in hand as fit into its memory")


class Gates(Protocol):
    """The providers' gates, and the operator's hand on them. Names are known ones; `by`: who says so."""

    async def status(self) -> list[ProviderStatus]: ...

    async def pause(self, name: str, by: str) -> None: ...

    async def resume(self, name: str, by: str) -> None: ...

    async def reset(self, name: str, by: str) -> None: ...


ReadHook = Callable[[Mapping[str, str], bytes, Millis], Told]
"""Headers, the body as it came, and the time. Raises CallerError if it is not the provider's word, ConfigError."""


class Desk(Struct, frozen=True, kw_only=True):
    """Parts, and the settings that hold where the caller says nothing."""

    storage: Storage
    emails: EmailBook
    authenticator: Authenticator
    keys: Keys
    inbox: Inbox
    hooks: Mapping[str, ReadHook]
    """By the name of the provider whose events are taken."""
    rates: Rates
    backlog: Backlog
    readiness: Readiness
    gates: Gates
    wake: Callable[[], None]
    """Tells the intake, if it runs in this process, that something is due."""
    new_id: Callable[[], str]
    clock: Clock
    provider_names: frozenset[str]
    outbox_only: bool
    """Nothing leaves this machine: `user@localhost` is an address."""
    on_doubt: OnDoubt
    expires_in: int
    attempt_timeout_limit: float
    max_body_bytes: int
    bodies: Budget
    """Of whoever has a key."""
    body_seconds: float
    """How long a body may take to come."""
    events: Budget
    """Of providers' events, which are read before anybody knows whose they are: they can't use up what emails need."""
    events_seconds: float
