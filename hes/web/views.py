"""What callers see of an email, to the letter of the API."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from hes.model import (
    Attachment,
    Delivery,
    Email,
    Event,
    EventType,
    Millis,
    OnDoubt,
    Outcome,
    Reason,
    Resolution,
    Status,
)
from hes.storage.records import Accepted, Recipient, StoredEmail
from hes.web.paging import cursor_behind

Time = Annotated[str, Meta(extra_json_schema={"format": "date-time", "examples": ["2026-01-31T12:00:00.000Z"]})]
"""RFC 3339, UTC, milliseconds."""


class AcceptedView(Struct, frozen=True):
    """The answer to a send."""

    id: str
    status: Status
    created_at: Time


class AddressView(Struct, frozen=True):
    """One mailbox."""

    email: str
    name: str | None


class RecipientView(Struct, frozen=True):
    """One recipient."""

    email: str
    name: str | None
    kind: Annotated[str, Meta(extra_json_schema={"enum": ["to", "cc", "bcc"]})]
    status: Status
    reason: Reason | None


class AttemptView(Struct, frozen=True):
    """One try at one provider. `outcome` is null while it is in flight."""

    number: int
    id: str
    provider: str
    outcome: Outcome | None
    started_at: Time
    ended_at: Time | None
    status_code: int | None
    provider_message_id: str | None
    detail: str | None
    resolution: Resolution | None


class EventView(Struct, frozen=True):
    """One entry of the timeline."""

    id: str
    type: EventType
    at: Time
    provider: str | None
    recipient: str | None
    data: dict[str, Any]


class ContentView(Struct, frozen=True):
    """What was handed in, with `?include=content`."""

    reply_to: list[AddressView]
    text: str | None
    html: str | None
    headers: dict[str, str]
    attachments: list[Attachment]


class EmailSummary(Struct, frozen=True, kw_only=True):
    """One email, as lists have it."""

    id: str
    status: Status
    reason: Reason | None
    test: bool
    provider: Annotated[str | None, Meta(description="The one that took it, else the one that was tried last.")]
    sender: AddressView = field(name="from")
    subject: str
    tags: dict[str, str]
    reference: str | None
    stream: str
    priority: Literal["high", "normal", "low"]
    recipients: list[RecipientView]
    created_at: Time
    send_at: Time | None
    expires_at: Annotated[
        Time | None,
        Meta(
            description="When it is given up. Of a draft: when it is cancelled and its content goes, counted from its "
            "last edit, or from its `send_at` where that is later; null: never."
        ),
    ]
    on_doubt: OnDoubt
    version: int


class EmailView(EmailSummary, frozen=True, kw_only=True):
    """One email with its attempts and its timeline."""

    attempts: list[AttemptView]
    events: list[EventView]
    content: Annotated[
        ContentView | UnsetType | None,
        Meta(description="Only with `?include=content`; null once the content was erased."),
    ] = UNSET
    next_attempts_cursor: Annotated[
        str | UnsetType,
        Meta(description="There are older attempts than these: `attempts_cursor` leads to them. Else it is not there."),
    ] = UNSET
    next_events_cursor: Annotated[
        str | UnsetType,
        Meta(description="Likewise of the timeline, by `events_cursor`."),
    ] = UNSET


class EmailState(Struct, frozen=True, forbid_unknown_fields=True):
    """What a key without `emails:read` is told of an email."""

    id: str
    status: Status
    version: int


class Health(Struct, frozen=True):
    """The answer of /health/live and /health/ready."""

    status: str


def rfc3339(at: Millis) -> str:
    """`2026-01-31T12:00:00.000Z`."""
    return datetime.fromtimestamp(at / 1000, tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def rfc3339_or_none(at: Millis | None) -> str | None:
    return None if at is None else rfc3339(at)


def accepted_view(accepted: Accepted) -> AcceptedView:
    return AcceptedView(accepted.id, accepted.status, rfc3339(accepted.created_at))


def email_state(stored: StoredEmail) -> EmailState:
    delivery = stored.delivery
    return EmailState(delivery.email_id, delivery.status, delivery.version)


def email_summary(stored: StoredEmail) -> EmailSummary:
    return EmailSummary(**_summary(stored))


def _summary(stored: StoredEmail) -> dict[str, Any]:
    delivery = stored.delivery
    return {
        "id": delivery.email_id,
        "status": delivery.status,
        "reason": delivery.reason,
        "test": delivery.is_test,
        "provider": delivery.provider,
        "sender": AddressView(stored.sender.email, stored.sender.name),
        "subject": stored.subject,
        "tags": stored.tags,
        "reference": stored.reference,
        "stream": stored.stream,
        "priority": "normal",  # priorities are not built yet
        "recipients": [
            RecipientView(r.address.email, r.address.name, r.kind, *_standing(r, delivery)) for r in stored.recipients
        ],
        "created_at": rfc3339(stored.created_at),
        "send_at": rfc3339_or_none(delivery.send_at),
        "expires_at": rfc3339_or_none(stored.expires_at),
        "on_doubt": delivery.on_doubt,
        "version": delivery.version,
    }


def email_view(stored: StoredEmail, *, with_content: bool = False) -> EmailView:
    return EmailView(
        **_summary(stored),
        attempts=[
            AttemptView(
                number=a.number,
                id=a.id,
                provider=a.provider,
                outcome=a.outcome,
                started_at=rfc3339(a.started_at),
                ended_at=rfc3339_or_none(a.ended_at),
                status_code=a.status_code,
                provider_message_id=a.provider_message_id,
                detail=a.detail,
                resolution=a.resolution,
            )
            for a in stored.attempts
        ],
        events=[EventView(i, e.type, rfc3339(e.at), e.provider, e.recipient, _told(e)) for i, e in stored.events],
        next_attempts_cursor=str(stored.attempts[0].number) if stored.has_older_attempts else UNSET,
        next_events_cursor=cursor_behind(stored.events[0][0]) if stored.has_older_events else UNSET,
        content=_content_view(stored.email) if with_content else UNSET,
    )


def _told(event: Event) -> dict[str, Any]:
    if (at := event.data.get("send_at")) is None:
        return event.data
    return event.data | {"send_at": rfc3339(at)}


def _standing(recipient: Recipient, delivery: Delivery) -> tuple[Status, Reason | None]:
    """What became of this one: its own, or what became of the email."""
    if recipient.status is None:
        return delivery.status, delivery.reason
    return recipient.status, recipient.reason


def _content_view(email: Email | None) -> ContentView | None:
    if email is None:
        return None
    return ContentView(
        reply_to=[AddressView(a.email, a.name) for a in email.reply_to],
        text=email.text,
        html=email.html,
        headers=email.headers,
        attachments=list(email.attachments),
    )
