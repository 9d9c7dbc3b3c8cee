"""What the handlers work with: one object, made by `hes.app`, handed to each of them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

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


class Readiness:
    """Whether this process wants traffic. A stop begins by turning it off, so that balancers look elsewhere."""

    def __init__(self) -> None:
        self.is_stopping = False


class Budget:
    """How many bytes of emails may be in hand at once, from the first byte read until they are on disk."""

    def __init__(self, total_bytes: int) -> None:
        self._total = total_bytes
        self._held = 0

    @contextmanager
    def hold(self, count: int) -> Iterator[None]:
        """Raises Overloaded if that is too much together with what others hold. One alone may be larger."""
        if self._held and self._held + count > self._total:
            raise Overloaded("HES has as many emails in hand as fit into its memory")
        self._held += count
        try:
            yield
        finally:
            self._held -= count


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
