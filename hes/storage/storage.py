"""What HES needs of a storage. The docstrings here are the specification; `tests/storage` runs it against each kind.

All times are the storage's own: on Postgres the database's clock, on SQLite this process's. Every method may raise
`StorageUnavailable`, and then nothing was written and the same call may be made again; `StorageBroken` ends the
process. Nothing here is called with a lock or a transaction held, and none is held when a call returns.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from hes.case import Change
from hes.model import (
    Address,
    Attempt,
    AttemptId,
    Decision,
    Delivery,
    Email,
    EmailId,
    Ended,
    Event,
    Evidence,
    Fact,
    FactKey,
    Leased,
    Millis,
    OnDoubt,
    Reason,
    Room,
    Status,
)


class IdempotencyKey(Struct, frozen=True):
    """The caller's name for one request, kept 24 hours, and what that request said."""

    value: str
    request_hash: bytes


class NewEmail(Struct, frozen=True, kw_only=True):
    """An email that was checked and is to be accepted."""

    email: Email
    on_doubt: OnDoubt
    expires_in: int
    attempt_timeout: float = 0.0
    """Seconds; 0: as the provider is set."""
    own_providers: tuple[str, ...] = ()
    reference: str | None = None
    stream: str = "default"
    key: IdempotencyKey | None = None


class Accepted(Struct, frozen=True):
    """What the caller is answered; the same again, to the letter, for the same idempotency key."""

    id: EmailId
    status: Status
    created_at: Millis


class Leases(Struct, frozen=True):
    """What `lease` gave out."""

    items: tuple[Leased, ...] = ()
    more: bool = False
    """More is due than these hands could take."""


class Verdict(Struct, frozen=True):
    """Another provider's word about an email that this one rejected."""

    provider: str
    is_liar: bool
    """The other one took it; else it rejected it as well."""


class Settled(Struct, frozen=True):
    """What `settle` found."""

    lost: tuple[AttemptId, ...] = ()
    """Attempts whose lease was lost meanwhile: their outcome became evidence and moved a delivery only as that may."""
    verdicts: tuple[Verdict, ...] = ()


class Swept(Struct, frozen=True):
    """What `sweep` did."""

    lapsed: int = 0
    expired: int = 0
    more: bool = False


class Recipient(Struct, frozen=True):
    """One address the email goes to. `status` None: the same as the email's."""

    address: Address
    kind: str
    status: Status | None = None
    reason: Reason | None = None


class StoredEmail(Struct, frozen=True, kw_only=True):
    """All that is known of one email."""

    delivery: Delivery
    created_at: Millis
    sender: Address
    subject: str
    tags: dict[str, str]
    reference: str | None
    stream: str
    email: Email | None
    """None once the content was erased, or when it was not asked for."""
    recipients: tuple[Recipient, ...]
    attempts: tuple[Attempt, ...]
    events: tuple[tuple[str, Event], ...]
    """With their ids, oldest first."""


class Storage(Protocol):
    """Where emails are safe."""

    async def accept(self, new: NewEmail) -> Accepted:
        """Commit the email, its delivery (due now), its timeline and its idempotency key, in one transaction.

        Concurrent calls share a transaction; when it fails because of one of them, the others do not suffer.
        Promise: it is on disk when this returns. The same key with the same request: the first answer again, nothing
        written. A key older than 24 hours is as good as new.
        Raises: KeyReused for another request under the same key.
        """
        ...

    async def lease(self, rooms: Mapping[str, Room], *, size_budget: int, is_idle: bool, deadline: float) -> Leases:
        """Give due deliveries into free hands; leases and attempt rows are on disk on return.

        Lanes with room take turns; within a lane the longest due goes first. Never more for a provider than its
        hands and what is left of its daily quota, nor content of more than `size_budget` bytes together (but one
        always, if `is_idle`: nothing is in flight in this process). Who takes what is decided by `Routing.give_out`;
        what nobody can take now stays untouched. What has expired is not leased.
        A delivery that was in flight at two crashes is leased alone, and only if `is_idle`.
        `deadline`: handed through to what is leased.
        """
        ...

    async def settle(self, ended: Sequence[Ended], rooms: Mapping[str, Room]) -> Settled:
        """Write outcomes and what follows from them, in one transaction.

        Shape: at most 500. `rooms`: how the providers stand now, so that nothing waits for one that is shut.
        Promise: an attempt settles once, a delivery only by the attempt that leases it; settling again what was
        settled before changes nothing.
        """
        ...

    async def pull_forward(self, providers: Collection[str]) -> int:
        """Make due now what waits for its next round and may go to one of these, at most 500. Returns how many."""
        ...

    async def disbelieve(self, provider: str, email_ids: Collection[EmailId]) -> int:
        """Put back into the queue what failed by the word of a provider that rejects everything. Returns how many."""
        ...

    async def facts(self) -> list[Fact]:
        """What is known of the providers' accounts."""
        ...

    async def state_facts(self, stated: Collection[Fact], withdrawn: Collection[FactKey] = ()) -> None:
        """Write down what became known, in place of what was known before of the same, and what holds no more."""
        ...

    async def quotas_used(self) -> dict[str, int]:
        """How many emails were given to each provider today (UTC). Only those with a daily quota are counted."""
        ...

    async def evidence(self, proofs: Sequence[Evidence]) -> None:
        """Write what was found out about named attempts, and what follows from it. Unknown attempts are passed over."""
        ...

    async def sweep(self, held: Collection[AttemptId] = ()) -> Swept:
        """Turn lapsed leases into doubt and end what has expired: at most 500 each, in one transaction.

        `held`: attempts that are in this process's hands. Their outcomes are known here or will be, so however late
        it is, their leases do not lapse here.
        """
        ...

    async def cancel(self, project: str, email_id: EmailId) -> None:
        """Cancel what was not handed to anybody; what is cancelled already stays so.

        Raises: NotFound, WrongState.
        """
        ...

    async def resolve(self, project: str, email_id: EmailId, decision: Decision, by: str) -> None:
        """Write down what a person decided about an email that is held or in doubt, and who it was.

        Raises: NotFound, WrongState (also for `resend` when the content is gone).
        """
        ...

    async def read(self, project: str, email_id: EmailId, *, with_content: bool = False) -> StoredEmail:
        """One email with all that is known of it. Raises: NotFound, also for another project's."""
        ...

    async def keep(self, email_id: EmailId, attempt_id: AttemptId, mime: bytes) -> None:
        """Put a message into the outbox. Again for the same attempt: nothing changes."""
        ...

    async def prune(self) -> int:
        """Forget idempotency keys older than 24 hours, at most 500. Returns how many."""
        ...

    async def check(self) -> None:
        """Return if the storage answers and its schema is the one that this version needs."""
        ...


def leased(change: Change, email: Email, room: Room, deadline: float) -> Leased:
    """What a sender gets of a lease that was written."""
    delivery = change.delivery
    attempt = change.attempts[0]
    return Leased(
        email=email,
        attempt_id=attempt.id,
        number=attempt.number,
        provider=attempt.provider,
        timeout_seconds=delivery.attempt_timeout or room.timeout_seconds,
        size_bytes=delivery.size_bytes,
        deadline=deadline,
        failed_over_from=delivery.tried[-1] if delivery.tried and attempt.provider not in delivery.tried else None,
        is_retry=delivery.is_retry,
    )
