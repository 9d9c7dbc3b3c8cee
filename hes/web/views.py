"""What callers see of an email, to the letter of the API."""

from datetime import UTC, datetime
from typing import Any

from msgspec import UNSET, Struct, UnsetType, field

from hes.model import Attachment, Email, Millis
from hes.storage.storage import Accepted, StoredEmail


class AcceptedView(Struct, frozen=True):
    """The answer to a send."""

    id: str
    status: str
    created_at: str


class AddressView(Struct, frozen=True):
    """One mailbox."""

    email: str
    name: str | None


class RecipientView(Struct, frozen=True):
    """One recipient: `kind` is to, cc or bcc."""

    email: str
    name: str | None
    kind: str
    status: str
    reason: str | None


class AttemptView(Struct, frozen=True):
    """One try at one provider. `outcome` is null while it is in flight."""

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


class EventView(Struct, frozen=True):
    """One entry of the timeline."""

    id: str
    type: str
    at: str
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


class EmailView(Struct, frozen=True, kw_only=True):
    """One email with its attempts and its timeline."""

    id: str
    status: str
    reason: str | None
    test: bool
    provider: str | None
    sender: AddressView = field(name="from")
    subject: str
    tags: dict[str, str]
    reference: str | None
    stream: str
    priority: str
    recipients: list[RecipientView]
    created_at: str
    send_at: str | None
    expires_at: str
    on_doubt: str
    version: int
    attempts: list[AttemptView]
    events: list[EventView]
    content: ContentView | UnsetType | None = UNSET
    """Only with `?include=content`; null once the content was erased."""


def rfc3339(at: Millis) -> str:
    """`2026-01-31T12:00:00.000Z`."""
    return datetime.fromtimestamp(at / 1000, tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _rfc3339_or_none(at: Millis | None) -> str | None:
    return None if at is None else rfc3339(at)


def accepted_view(accepted: Accepted) -> AcceptedView:
    return AcceptedView(accepted.id, accepted.status, rfc3339(accepted.created_at))


def email_view(stored: StoredEmail, *, with_content: bool = False) -> EmailView:
    delivery = stored.delivery
    return EmailView(
        id=delivery.email_id,
        status=delivery.status,
        reason=delivery.reason,
        test=False,  # test keys are not built yet
        provider=delivery.provider,
        sender=AddressView(stored.sender.email, stored.sender.name),
        subject=stored.subject,
        tags=stored.tags,
        reference=stored.reference,
        stream=stored.stream,
        priority="normal",  # nor are priorities
        recipients=[
            RecipientView(
                r.address.email, r.address.name, r.kind, r.status or delivery.status, r.reason or delivery.reason
            )
            for r in stored.recipients
        ],
        created_at=rfc3339(stored.created_at),
        send_at=None,  # nor is scheduling
        expires_at=rfc3339(delivery.expires_at),
        on_doubt=delivery.on_doubt,
        version=delivery.version,
        attempts=[
            AttemptView(
                number=a.number,
                id=a.id,
                provider=a.provider,
                outcome=a.outcome,
                started_at=rfc3339(a.started_at),
                ended_at=_rfc3339_or_none(a.ended_at),
                status_code=a.status_code,
                provider_message_id=a.provider_message_id,
                detail=a.detail,
                resolution=a.resolution,
            )
            for a in stored.attempts
        ],
        events=[EventView(i, e.type, rfc3339(e.at), e.provider, e.recipient, e.data) for i, e in stored.events],
        content=_content_view(stored.email) if with_content else UNSET,
    )


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
