"""What goes to the API and what comes back, as typed dictionaries.

Dictionaries and no classes: an answer is exactly what the server said, so that a client loses nothing of what a newer
server tells. Times are RFC 3339 in UTC. The README says what each status, reason and outcome means.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NotRequired, TypedDict, final

Mailbox = str | Mapping[str, str | None]
"""`ann@example.org`, `Ann <ann@example.org>`, or `{"email": ..., "name": ...}`."""
Mailboxes = Mailbox | Sequence[Mailbox]
Time = str | datetime
"""RFC 3339, or a datetime that knows its time zone."""
Decision = Literal["sent", "resend", "failed"]


class AttachmentFields(TypedDict):
    """One file to attach."""

    filename: str
    content: bytes | str
    """Bytes, or what is base64 already."""
    content_type: NotRequired[str]
    content_id: NotRequired[str]


class EmailFields(TypedDict, total=False):
    """The fields of an email, as in the README; `from_` is `from`, which Python keeps for itself."""

    from_: Mailbox
    to: Mailboxes
    cc: Mailboxes
    bcc: Mailboxes
    reply_to: Mailboxes
    subject: str
    text: str
    html: str
    headers: Mapping[str, str]
    attachments: Sequence[AttachmentFields]
    tags: Mapping[str, str]
    reference: str
    stream: str
    on_doubt: Literal["resend", "hold", "wait"]
    expires_in: int
    attempt_timeout: float
    providers: Sequence[str]
    draft: bool
    send_at: Time
    template: str
    variables: Mapping[str, Any]
    raw: bytes | str
    priority: Literal["high", "normal", "low"]
    store_content: bool


class Which(TypedDict, total=False):
    """Which emails are meant."""

    status: str
    reason: str
    to: str
    from_: str
    tag: str
    reference: str
    provider: str
    created_after: Time
    created_before: Time


class Filters(Which, total=False):
    """Which emails are listed."""

    limit: int
    """How many come with one answer, 1 to 100."""


class KeyFields(TypedDict, total=False):
    """What a new key may do."""

    name: str
    project: str
    scopes: Sequence[str]
    sender_domains: Sequence[str]
    rate_per_second: float
    expires_at: Time
    test: bool


class Accepted(TypedDict):
    """The email is on the server's disk."""

    id: str
    status: str
    created_at: str


class FieldError(TypedDict):
    """What is wrong with one field."""

    path: str
    message: str


class Problem(TypedDict):
    """An error as in RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    errors: NotRequired[list[FieldError]]


class BatchItem(TypedDict):
    """What became of one email of a batch: accepted (`id`, and `status` as of a single send), or not (`problem`)."""

    id: NotRequired[str]
    status: NotRequired[str]
    created_at: NotRequired[str]
    problem: NotRequired[Problem]


class Address(TypedDict):
    """One mailbox."""

    email: str
    name: str | None


class Recipient(Address):
    """One recipient, and what became of the email there."""

    kind: Literal["to", "cc", "bcc"]
    status: str
    reason: str | None


class Attempt(TypedDict):
    """One try at one provider. `outcome` is None while it is in flight."""

    number: int
    id: str
    provider: str
    outcome: str | None
    started_at: str
    ended_at: str | None
    status_code: int | None
    provider_message_id: str | None
    detail: str | None
    resolution: str | None


class Event(TypedDict):
    """One entry of a timeline."""

    id: str
    type: str
    at: str
    provider: str | None
    recipient: str | None
    data: dict[str, Any]


class Content(TypedDict):
    """What was handed in."""

    reply_to: list[Address]
    text: str | None
    html: str | None
    headers: dict[str, str]
    attachments: list[dict[str, Any]]


_From = TypedDict("_From", {"from": Address})


class Email(_From):
    """One email. In lists it comes without attempts and events."""

    id: str
    status: str
    reason: str | None
    test: bool
    provider: str | None
    subject: str
    tags: dict[str, str]
    reference: str | None
    stream: str
    priority: str
    recipients: list[Recipient]
    created_at: str
    send_at: str | None
    expires_at: str | None
    on_doubt: str
    version: int
    attempts: NotRequired[list[Attempt]]
    events: NotRequired[list[Event]]
    next_attempts_cursor: NotRequired[str]
    next_events_cursor: NotRequired[str]
    content: NotRequired[Content | None]


@final
class EmailState(TypedDict):
    """What a change to an email is answered to a key without `emails:read`; `"recipients" in email`: it is an Email."""

    id: str
    status: str
    version: int


class EmailPage(TypedDict):
    """Some emails, newest first, and where the next ones begin."""

    data: list[Email]
    next_cursor: str | None


class Many(TypedDict):
    """How many emails changed, how many fit but could not, and where the others begin, if there are more."""

    changed: int
    skipped: int
    next_cursor: str | None


class Provider(TypedDict):
    """How one provider stands."""

    name: str
    kind: str
    state: str
    reason: str | None
    since: str
    until: str | None
    weight: float
    effective_weight: float
    in_flight: int
    in_flight_limit: int
    rate_limit: float | None
    sent_last_minute: int
    error_rate: float
    daily_quota: int | None
    quota_left: int | None
    refused_sender_domains: list[str]


class Key(TypedDict, total=False):
    """One API key. `key` itself comes once, with the answer to its creation."""

    id: str
    key: str
    name: str | None
    project: str
    scopes: list[str]
    sender_domains: list[str]
    rate_per_second: float | None
    expires_at: str | None
    test: bool
    created_at: str
    revoked_at: str | None


class KeyPage(TypedDict):
    """Some keys, newest first, and where the next ones begin."""

    data: list[Key]
    next_cursor: str | None


class Health(TypedDict):
    """The answer of /health/ready."""

    status: str
