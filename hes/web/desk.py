"""What the handlers work with: one object, made by `hes.app`, handed to each of them."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from litestar import Request
from msgspec import Struct

from hes.model import Clock, EmailId, Millis, OnDoubt, ProviderStatus
from hes.storage.email_book import EmailBook
from hes.storage.inbox import Inbox
from hes.storage.key_records import Keys
from hes.storage.storage import Storage
from hes.told import Told
from hes.web.auth import Authenticator, Principal
from hes.web.backlog import Backlog
from hes.web.memory_budget import Charge, MemoryBudget, Owner
from hes.web.throttle import Rates

PROJECT_SHARE = 1 / 2
"""Of what the others leave of a budget. See `hes.web.memory_budget`."""
ADDRESS_SHARE = 7 / 8
"""Likewise of an address with keys. Larger than a project's: many may come through one proxy."""
EVENTS_SHARE = 1 / 2
"""Likewise of an address that sends events."""


class Readiness:
    """Whether this process wants traffic. A stop begins by turning it off, so that balancers look elsewhere."""

    def __init__(self) -> None:
        self.is_stopping = False


class Gates(Protocol):
    """The providers' gates, and the operator's hand on them. Names are known ones; `by`: who says so."""

    async def status(self) -> list[ProviderStatus]: ...

    async def pause(self, name: str, by: str) -> None: ...

    async def resume(self, name: str, by: str) -> None: ...

    async def reset(self, name: str, by: str) -> None: ...


ReadHook = Callable[[Mapping[str, str], bytes, Millis], Told]
"""Headers, the body as it came, and the time. Raises CallerError if it is not the provider's word, ConfigError."""


class Hook(Struct, frozen=True):
    """Takes the events of one provider."""

    read_events: ReadHook
    check_headers: Callable[[Mapping[str, str]], None] = lambda _: None
    """Before the body is read. Raises CallerError if it can't be the provider's word, whatever the body is."""


async def _keeps_nothing(_email_id: EmailId) -> None:
    return


class Desk(Struct, frozen=True, kw_only=True):
    """Parts, and the settings that hold where the caller says nothing."""

    storage: Storage
    emails: EmailBook
    authenticator: Authenticator
    keys: Keys
    inbox: Inbox
    hooks: Mapping[str, Hook]
    """By the name of the provider whose events are taken."""
    rates: Rates
    backlog: Backlog
    readiness: Readiness
    gates: Gates
    forget: Callable[[EmailId], Awaitable[None]] = _keeps_nothing
    """Removes what this process keeps of an erased email besides the storage. Raises StorageUnavailable."""
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
    client_name: Callable[[Request[Any, Any, Any]], str]
    """What the client of a request is counted under: `hes.web.throttle.client_name`."""
    bodies: MemoryBudget
    """Of whoever has a key."""
    body_seconds: float
    """How long a body may take to come."""
    answers: MemoryBudget
    """To whoever has a key: what is read from the storage, until it is written to the connection."""
    events: MemoryBudget
    """Of providers' events, which are read before anybody knows whose they are: they can't use up what emails need."""
    events_seconds: float

    def owners(self, request: Request[Any, Any, Any], principal: Principal) -> tuple[Owner, Owner]:
        """Whose bytes those of a request are."""
        address = self.client_name(request)
        return Owner(f"project {principal.project}", PROJECT_SHARE), Owner(f"address {address}", ADDRESS_SHARE)

    def hold_body(
        self, request: Request[Any, Any, Any], principal: Principal, count: int = 0
    ) -> AbstractContextManager[Charge]:
        """Around reading a body and doing what it asks for. `count`: so many bytes are read besides."""
        return self.bodies.hold(*self.owners(request, principal), count=count)

    def hold_events(self, request: Request[Any, Any, Any]) -> AbstractContextManager[Charge]:
        """Likewise around providers' events. Who sends them is not known before they are read: only from where."""
        return self.events.hold(Owner(f"address {self.client_name(request)}", EVENTS_SHARE))
