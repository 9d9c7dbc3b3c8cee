"""What HES speaks of: emails, deliveries, attempts, and the closed sets of words for them. No I/O.

Times are `Millis`, whole milliseconds since 1970 in UTC, everywhere inside HES; they become RFC 3339 text only at
the edge (`hes.web`). Why not aware datetimes: the same number means the same in SQLite, Postgres and Python, sorts
and adds without a time zone, and costs nothing to convert on the hot path. Given up: a readable time in a database
shell.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Any, NewType

from msgspec import Struct, field

Millis = int
"""Milliseconds since 1970-01-01T00:00:00Z."""

EmailId = NewType("EmailId", str)
"""UUIDv7 as text; also the id of the email's one delivery."""

AttemptId = NewType("AttemptId", str)
"""UUIDv7 as text; the fence of the lease that it names, and what providers are told as `hes_attempt`."""

Clock = Callable[[], Millis]
"""The wall clock. Passed in, so that tests and the simulation own time."""

Monotonic = Callable[[], float]
"""Seconds that never go back; for deadlines within one process."""


MIN_EXPIRES_IN, MAX_EXPIRES_IN = 10, 31_536_000
"""Seconds: less leaves no time for one attempt; the most is a year."""


class Outcome(StrEnum):
    """What one attempt led to. Closed: what a provider's file does not list is `in_doubt`."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    DECLINED = "declined"
    REFUSED = "refused"
    THROTTLED = "throttled"
    UNAVAILABLE = "unavailable"
    IN_DOUBT = "in_doubt"


class Status(StrEnum):
    """Where an email stands."""

    DRAFT = "draft"
    SCHEDULED = "scheduled"
    QUEUED = "queued"
    SENDING = "sending"
    IN_DOUBT = "in_doubt"
    HELD = "held"
    SENT = "sent"
    DELIVERED = "delivered"
    BOUNCED = "bounced"
    COMPLAINED = "complained"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Reason(StrEnum):
    """Why an email is `failed` or `held`."""

    REJECTED = "rejected"
    EXPIRED = "expired"
    SUPPRESSED = "suppressed"
    NO_PROVIDER = "no_provider"
    DOUBT = "doubt"
    EXPIRED_IN_DOUBT = "expired_in_doubt"
    REJECTED_AFTER_DOUBT = "rejected_after_doubt"
    POISON = "poison"
    OPERATOR = "operator"
    RESTORED = "restored"


class EventType(StrEnum):
    """What a timeline entry tells. The last eight come from providers."""

    CREATED = "created"
    QUEUED = "queued"
    SCHEDULED = "scheduled"
    RESCHEDULED = "rescheduled"
    ATTEMPT = "attempt"
    NOT_TRIED = "not_tried"
    FAILED_OVER = "failed_over"
    IN_DOUBT = "in_doubt"
    RESOLVED = "resolved"
    HELD = "held"
    SENT = "sent"
    DUPLICATE = "duplicate"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUPPRESSED = "suppressed"
    DELIVERED = "delivered"
    DEFERRED = "deferred"
    BOUNCED = "bounced"
    COMPLAINED = "complained"
    OPENED = "opened"
    CLICKED = "clicked"
    UNSUBSCRIBED = "unsubscribed"
    REJECTED = "rejected"


class Resolution(StrEnum):
    """What was found out later about an attempt."""

    ACCEPTED = "accepted"
    NOT_ACCEPTED = "not_accepted"
    OPERATOR = "operator"


class OnDoubt(StrEnum):
    """The sender's policy once nobody can find out whether a provider took the email."""

    RESEND = "resend"
    HOLD = "hold"
    WAIT = "wait"


class Decision(StrEnum):
    """What a person says of an email that is `held` or `in_doubt`."""

    SENT = "sent"
    RESEND = "resend"
    FAILED = "failed"


class Scope(StrEnum):
    """What a `refused` answer is about."""

    PROVIDER = "provider"
    SENDER_DOMAIN = "sender_domain"


class Address(Struct, frozen=True, omit_defaults=True):
    """One mailbox. `email` is normalised: ASCII domain (IDNA), no CR, LF or NUL; `name` likewise free of them."""

    email: str
    name: str | None = None

    @property
    def domain(self) -> str:
        """What stands after the last `@`, in lower case."""
        return self.email.rpartition("@")[2].lower()


class Attachment(Struct, frozen=True, omit_defaults=True):
    """One file. With a `content_id` it is an inline image that the HTML names as `cid:<content_id>`."""

    filename: str
    content: bytes
    content_type: str
    content_id: str | None = None


class Email(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the caller handed in, checked and normalised. Never changed once sending began.

    This struct, as JSON, is the stored payload: a process of an older version must be able to read what a newer
    one wrote, so fields are only ever added, with a default. At least one of `text` and `html` is not empty.
    """

    id: EmailId
    project: str
    message_id: str
    """The RFC 5322 Message-ID with its angle brackets; the same for every attempt at every provider."""
    date: Millis
    """When it was handed in, by the accepting process's clock: what the Date header says."""
    sender: Address = field(name="from")
    to: tuple[Address, ...] = ()
    cc: tuple[Address, ...] = ()
    bcc: tuple[Address, ...] = ()
    reply_to: tuple[Address, ...] = ()
    subject: str = ""
    text: str | None = None
    html: str | None = None
    headers: dict[str, str] = {}
    attachments: tuple[Attachment, ...] = ()
    tags: dict[str, str] = {}
    trace: str = ""
    """The traceparent of the request that handed it in; "" if nothing was traced. Stays the last field: storage reads
    it off the end of the JSON."""


class Delivery(Struct, frozen=True, kw_only=True):
    """The one order to get one Email out: the narrow, hot row that all decisions of `hes.policy` work on."""

    email_id: EmailId
    project: str
    stream: str = "default"
    """The caller's label that chooses the route."""
    sender_domain: str = ""
    is_test: bool = False
    """Goes into the outbox, whatever else is said."""
    send_at: Millis | None = None
    """When the caller wants it sent."""
    status: Status
    reason: Reason | None = None
    due_at: Millis
    """Not leased before. For `in_doubt`: when the search is over."""
    expires_at: Millis
    expires_in: int
    """Seconds; what `expires_at` is counted anew from when a person says that it is to be sent again."""
    on_doubt: OnDoubt
    attempt_timeout: float = 0.0
    """Seconds, over the whole call to the provider; 0: as the provider is set."""
    own_providers: tuple[str, ...] = ()
    """The caller's own list: restricts and orders. Empty: any."""
    size_bytes: int = 0
    attempt_id: AttemptId | None = None
    """The fence: which attempt holds the lease. None: nobody does."""
    lease_ends_at: Millis | None = None
    attempts: int = 0
    """How many attempt rows there are; the newest one's number."""
    provider: str | None = None
    """Who took it, else who was tried last."""
    tried: tuple[str, ...] = ()
    """Who was tried in this round without having taken it."""
    declined_by: tuple[str, ...] = ()
    """Who can never take this email."""
    round: int = 0
    """How often all usable providers were gone through after trouble of theirs; what the backoff grows with."""
    is_retry: bool = False
    """A later round after `unavailable`: each try takes from the provider's retry budget."""
    lapses: int = 0
    """In how many crashes this was in flight."""
    not_tried: int = 0
    """How often in a row it was leased, and given back without a try."""
    version: int = 1


class Attempt(Struct, frozen=True, kw_only=True):
    """One try of one Delivery at one Provider. `outcome` is None while it is in flight."""

    id: AttemptId
    email_id: EmailId
    number: int
    provider: str
    started_at: Millis
    render_version: int = 1
    """Which version of the provider's rendering the request was made with; a replay needs the same."""
    outcome: Outcome | None = None
    ended_at: Millis | None = None
    status_code: int | None = None
    provider_message_id: str | None = None
    detail: str | None = None
    resolution: Resolution | None = None

    @property
    def is_open_doubt(self) -> bool:
        return self.outcome is Outcome.IN_DOUBT and self.resolution is None

    @property
    def is_accepted(self) -> bool:
        """Known to have been taken, by its own answer or by evidence."""
        return self.outcome is Outcome.ACCEPTED or self.resolution is Resolution.ACCEPTED

    @property
    def is_surely_not_accepted(self) -> bool:
        if self.resolution is not None:
            return self.resolution is Resolution.NOT_ACCEPTED
        return self.outcome not in {None, Outcome.ACCEPTED, Outcome.IN_DOUBT}


class Event(Struct, frozen=True, kw_only=True):
    """One timeline entry."""

    email_id: EmailId
    type: EventType
    at: Millis
    provider: str | None = None
    recipient: str | None = None
    data: dict[str, Any] = {}


class Answer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one call to a provider led to, in our words. Providers return it; they do not raise for what is normal."""

    outcome: Outcome
    status_code: int | None = None
    provider_message_id: str | None = None
    retry_after_seconds: float | None = None
    """For `throttled`, and for `refused` by a used-up quota: when to ask again. Already clamped to an hour."""
    scope: Scope = Scope.PROVIDER
    quota: bool = False
    """A `refused` that is about a used-up quota or allowance."""
    detail: str = ""
    """For people: what the provider said, shortened, without secrets, addresses or bodies of ours."""

    @property
    def is_ours(self) -> bool:
        """`declined` by HES before a byte went out: the provider does not know of it."""
        return self.outcome is Outcome.DECLINED and self.status_code is None


class Ended(Struct, frozen=True, kw_only=True):
    """An attempt that is over, as the sender tells it. `answer` None: not tried, no byte went out."""

    attempt_id: AttemptId
    email_id: EmailId
    provider: str
    ended_at: Millis
    answer: Answer | None
    note: str = ""
    """Why it was not tried."""
    is_believed: bool = True
    """False: a `rejected` from a provider that has rejected everything of late; another is asked before it counts."""
    trace: str = ""
    """The traceparent of the attempt; "" if nothing was traced."""


class Evidence(Struct, frozen=True, kw_only=True):
    """What somebody found out about a named attempt."""

    email_id: EmailId
    attempt_id: AttemptId
    accepted: bool
    source: str
    """Who says so: `late outcome`, `event`, `look-up`, `replay`."""
    provider_message_id: str | None = None
    detail: str = ""


class Leased(Struct, frozen=True, kw_only=True):
    """A delivery in a sender's hand: the lease is on disk and names provider and attempt."""

    email: Email
    attempt_id: AttemptId
    number: int
    provider: str
    timeout_seconds: float
    size_bytes: int
    deadline: float
    """On this process's monotonic clock: by then the outcome must be known, or no byte may go out."""
    failed_over_from: str | None = None
    """Who had it before in this round."""
    is_retry: bool = False
    """It takes from the provider's retry budget."""


class Room(Struct, frozen=True, kw_only=True):
    """What one provider's sender can take now."""

    hands: int
    """Free ones, as far as gate, concurrency, rate and quota allow."""
    render_version: int = 1
    timeout_seconds: float = 10.0
    """Over one call, for emails that have no time-out of their own."""
    weight: float = 1.0
    """Its share of the traffic now: the configured one, less while it fails or answers slowly."""
    is_shut: bool = False
    """Nobody can go there for a while, and not only because all hands are busy or the rate is used up."""
    is_probe: bool = False
    """Its one hand is to find out whether it works again."""
    is_refused: bool = False
    """What is to be found out is whether it wants our account again: among all nodes only one may ask."""
    closed_domains: frozenset[str] = frozenset()
    """Sender domains that it does not take now."""
    probing_domains: frozenset[str] = frozenset()
    """Sender domains of which one email may find out whether it takes them again."""
    retries: int = 100
    """How many emails of later rounds it may get: what is left of the retry budget."""


class FactKind(StrEnum):
    """What is known of a provider's account, by the word of the provider or of an operator."""

    REFUSED = "refused"
    PAUSED = "paused"
    THROTTLED = "throttled"
    RESET = "reset"
    """An operator wants all forgotten that was learned of it before."""


class Fact(Struct, frozen=True, kw_only=True):
    """A provider takes nothing of ours, or nothing from one sender domain. It outlives the process."""

    provider: str
    kind: FactKind
    sender_domain: str = ""
    """Empty: all of them."""
    reason: str
    since: Millis
    until: Millis | None = None
    """When it is asked again; None: when an operator says so."""
    by: str
    """Who says so: an operator's key, or the provider."""

    @property
    def key(self) -> "FactKey":
        return self.provider, self.kind, self.sender_domain


FactKey = tuple[str, FactKind, str]
"""Provider, kind, and sender domain or ""."""


class GateState(StrEnum):
    """How a provider stands, for people."""

    UP = "up"
    SLOWED = "slowed"
    PROBING = "probing"
    DOWN = "down"
    REFUSED = "refused"
    PAUSED = "paused"


class GateStatus(Struct, frozen=True, kw_only=True):
    """How a provider's gate stands, for people."""

    name: str
    kind: str
    state: GateState
    reason: str | None
    since: Millis
    until: Millis | None
    """When it is asked again by itself."""
    weight: float
    effective_weight: float
    """Less than the weight while it fails or answers slowly."""
    in_flight: int
    in_flight_limit: int
    rate_limit: float | None
    """Emails a second; None: none is known."""
    sent_last_minute: int
    error_rate: float
    """Of late, between 0 and 1; fades within half a minute."""
    retries_left: int
    """What is left of the retry budget."""
    refused_sender_domains: tuple[str, ...]
    daily_quota: int | None = None
    quota_left: int | None = None


class Node(Struct, frozen=True, kw_only=True):
    """One process over the storage, as it tells of itself."""

    id: str
    """Fresh with each start."""
    role: str
    host: str
    version: str
    started_at: Millis = 0
    seen_at: Millis = 0
    gates: tuple[GateStatus, ...] = ()
    """How it sees the providers. What it found out by failures is its own: another's network may be well."""


class ProviderStatus(Struct, frozen=True, kw_only=True):
    """How a provider stands: all in all, and as each process that sends sees it."""

    gate: GateStatus
    nodes: tuple[tuple[Node, GateStatus], ...] = ()
