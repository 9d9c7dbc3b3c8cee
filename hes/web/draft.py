"""Editing a draft: what is stored becomes a request again, with the caller's changes in it.

So an edited draft is checked as a whole, by the same code as a new email. No I/O, no Litestar.
"""

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from hes.errors import FieldError, InvalidEmail, WrongState
from hes.model import MIN_EXPIRES_IN, Address, Email, Millis, Status
from hes.storage.records import StoredEmail
from hes.web.email_request import AttachedFile, EmailRequest, Mailbox
from hes.web.requests import check_send_at
from hes.web.shape import decode
from hes.web.views import rfc3339

_ATTRIBUTES = {f.encode_name: f.name for f in msgspec.structs.fields(EmailRequest)}
_NAMES = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Changes(Struct, frozen=True):
    """The fields of an email that are to change; the others stay."""

    names: frozenset[str]
    """As the API calls them. A field that is named and `null` becomes as if it had never been given."""
    values: EmailRequest
    send_at: Millis | None

    def to_what_is_scheduled(self, status: Status) -> Millis:
        """The new time, if nothing else is to change. Raises: WrongState, InvalidEmail."""
        if self.names != {"send_at"}:
            raise WrongState(
                f"an email that is `{status}` can't be edited; a draft can, and what is scheduled can get another "
                "`send_at` and nothing else"
            )
        if self.send_at is None:
            raise InvalidEmail("`send_at` is required.", [FieldError("send_at", "is required")])
        return self.send_at


def read_changes(raw: bytes, now: Millis) -> Changes:
    """The body of a PATCH, checked for its shape. Raises: Unreadable, InvalidEmail, Invalid."""
    values = decode(raw)
    names = frozenset(_NAMES.decode(raw))
    if not names:
        raise InvalidEmail(
            "The body must name at least one field that is to change.", [FieldError("", "names no field")]
        )
    if "draft" in names and values.draft is not True:
        message = "can't be changed: POST /v1/emails/{id}/send sends a draft"
        raise InvalidEmail(f"`draft` {message}.", [FieldError("draft", message)])
    return Changes(names, values, None if values.send_at is None else check_send_at(values.send_at, now))


def edited(stored: StoredEmail, email: Email, changes: Changes) -> EmailRequest:
    """The request that would have made the draft as it is to be. `email`: its content."""
    changed = {_ATTRIBUTES[name]: getattr(changes.values, _ATTRIBUTES[name]) for name in changes.names}
    return replace(_request_of(stored, email), **changed)


def _request_of(stored: StoredEmail, email: Email) -> EmailRequest:
    delivery = stored.delivery
    return EmailRequest(
        sender=_mailbox(email.sender),
        to=[_mailbox(a) for a in email.to],
        cc=[_mailbox(a) for a in email.cc],
        bcc=[_mailbox(a) for a in email.bcc],
        reply_to=[_mailbox(a) for a in email.reply_to],
        subject=email.subject,
        text=email.text,
        html=email.html,
        headers=email.headers,
        attachments=[AttachedFile(a.filename, a.content, a.content_type, a.content_id) for a in email.attachments],
        tags=email.tags,
        reference=stored.reference,
        stream=stored.stream,
        on_doubt=delivery.on_doubt,
        # Shorter than any caller may ask for: it is the service's own, and goes on being that.
        expires_in=delivery.expires_in if delivery.expires_in >= MIN_EXPIRES_IN else None,
        attempt_timeout=delivery.attempt_timeout or None,
        providers=list(delivery.own_providers) or None,
        draft=True,
        send_at=None if delivery.send_at is None else rfc3339(delivery.send_at),
    )


def _mailbox(address: Address) -> Mailbox:
    return Mailbox(address.email, address.name)
