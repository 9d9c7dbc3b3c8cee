"""What goes into a storage and comes out of it: the structs that the protocol's methods take and give."""

from typing import Any

from msgspec import Struct

from hes.case import Change
from hes.model import (
    Address,
    Attempt,
    AttemptId,
    Delivery,
    Email,
    EmailId,
    Event,
    Leased,
    Millis,
    OnDoubt,
    Reason,
    Room,
    Status,
)

HISTORY_PAGE = 500
"""So many attempts, and entries of a timeline, are read at a time."""


class Reach(Struct, frozen=True):
    """Which emails somebody may see and change; the others are to them as if they were not there.

    What of an email is shown, and what may be done to it, is not decided by this.
    """

    project: str
    only_test: bool = False
    """Only test emails."""
    sender_domains: tuple[str, ...] = ()
    """Only what comes from one of these, in lower case. Empty: any."""

    def holds(self, delivery: Delivery) -> bool:
        """Looks at the delivery alone: that knows the sender's domain also once the address was erased."""
        return (
            delivery.project == self.project
            and (delivery.is_test or not self.only_test)
            and (not self.sender_domains or delivery.sender_domain in self.sender_domains)
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
    send_at: Millis | None = None
    """Not sent before, by the storage's clock."""
    is_draft: bool = False
    """Only stored, until somebody says that it is to be sent."""
    is_test: bool = False
    written_by: str | None = None
    """The id of the key that hands it in, or that edits the draft."""
    key: IdempotencyKey | None = None


class Accepted(Struct, frozen=True):
    """What the caller is answered; the same again, to the letter, for the same idempotency key."""

    id: EmailId
    status: Status
    created_at: Millis


class Waiting(Struct, frozen=True):
    """How much waits or is under way: drafts, scheduled, queued, sending, in doubt."""

    count: int = 0
    size_bytes: int = 0
    """Of the emails as they are stored."""

    def __add__(self, other: "Waiting") -> "Waiting":
        return Waiting(self.count + other.count, self.size_bytes + other.size_bytes)

    def __sub__(self, other: "Waiting") -> "Waiting":
        return Waiting(self.count - other.count, self.size_bytes - other.size_bytes)


class Queue(Struct, frozen=True):
    """How the queue stands, of all projects."""

    counts: dict[Status, int]
    """Of drafts, of what is scheduled, queued, sending, in doubt, held."""
    size_bytes: int
    """Of all of these but what is held."""
    oldest_due_at: Millis | None
    """Since when the longest waiting email has been due; None: none is due."""


class BatchItem(Struct, frozen=True, omit_defaults=True):
    """What became of one email of a batch: it was accepted, or there is a problem with it, as the caller is told."""

    accepted: Accepted | None = None
    problem: dict[str, Any] | None = None


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
    searched: int = 0
    """In doubt for as long as they were to be."""
    more: bool = False


class Recipient(Struct, frozen=True):
    """One address the email goes to. `status` None: the same as the email's."""

    address: Address
    kind: str
    status: Status | None = None
    reason: Reason | None = None


class ListQuery(Struct, frozen=True, kw_only=True):
    """Which emails of a project, newest first. None: any."""

    status: Status | None = None
    reason: Reason | None = None
    to: str | None = None
    """An address among the recipients; likewise `sender`: as it is stored, lower case does not matter."""
    sender: str | None = None
    tag: str | None = None
    """`key:value`, or a key alone."""
    reference: str | None = None
    provider: str | None = None
    created_after: Millis | None = None
    """From then on."""
    created_before: Millis | None = None
    """Before then."""
    limit: int = 50
    before: EmailId | None = None
    """Only those that are older than this one."""


class Page(Struct, frozen=True):
    """Some emails, without attempts, events and content."""

    emails: tuple["StoredEmail", ...]
    behind: EmailId | None
    """Where the next page goes on; None: there are no more. A page may have few, or none, and there may be more."""


class Many(Struct, frozen=True):
    """What became of a batch of emails that a filter fits."""

    changed: int
    skipped: int
    """They fit, but it could not be done to them."""
    behind: EmailId | None
    """Where to go on; None: there are no more. There may be some though none of these fitted."""


class StoredEmail(Struct, frozen=True, kw_only=True):
    """All that is known of one email."""

    delivery: Delivery
    expires_at: Millis | None
    """When it is given up, or a draft dropped; None: never."""
    created_at: Millis
    sender: Address
    subject: str
    tags: dict[str, str]
    reference: str | None
    stream: str
    written_by: str | None
    """The id of the key that handed it in, or edited it last; None: a version of HES that did not keep it."""
    email: Email | None
    """None once the content was erased, or when it was not asked for."""
    recipients: tuple[Recipient, ...]
    attempts: tuple[Attempt, ...]
    """Oldest first, as the entries; the newest `HISTORY_PAGE` of each, or of those before what was asked for."""
    events: tuple[tuple[str, Event], ...]
    """With their ids."""
    has_older_attempts: bool = False
    has_older_events: bool = False


def leased(change: Change, email: Email, room: Room, deadline: float, call_seconds: float) -> Leased:
    """What a sender gets of a lease that was written.

    `call_seconds`: what a lease leaves for a call. An email's own time-out may date from when leases were longer; it
    would never fit into one.
    """
    delivery = change.delivery
    attempt = change.attempts[0]
    return Leased(
        email=email,
        attempt_id=attempt.id,
        number=attempt.number,
        provider=attempt.provider,
        timeout_seconds=min(delivery.attempt_timeout or room.timeout_seconds, call_seconds),
        size_bytes=delivery.size_bytes,
        deadline=deadline,
        failed_over_from=delivery.tried[-1] if delivery.tried and attempt.provider not in delivery.tried else None,
        is_retry=delivery.is_retry,
    )


class Presence(Struct, frozen=True):
    """What a node hears when it says that it is there."""

    now: Millis
    """By the storage's clock."""
    mailers: int
    """How many nodes send, this one included if it does."""
