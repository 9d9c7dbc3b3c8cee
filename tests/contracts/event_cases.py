"""What HES reads of a provider's event, written out by hand: the fields that it needs, and the words that it knows.

Each is one message of a contract, the body of a POST to /hooks/{name}.
"""

from collections.abc import Callable
from typing import Any

from msgspec import Struct
from pact import match

from hes.told import EventKind
from tests.fakes.hooks import MailgunHook, Post, ResendHook, SendGridHook

AT = 1_700_000_000
IDS = {"hes_id": "0190-email", "hes_attempt": "0190-attempt"}
TO = "ann@example.org"

a_name = match.regex("ev1", regex=r"[!-~]+")


class Hook(Struct, frozen=True):
    """How one vendor signs, and what it says."""

    secret: str
    sign: Callable[[bytes], Post]
    """Of the body as it stands; Mailgun's signature is in it already."""
    events: dict[str, tuple[EventKind, Any]]
    """By the fakes' name of the type: what HES makes of it, and the body."""


def _sendgrid(event: str) -> list[dict[str, Any]]:
    told = {"event": event, "sg_event_id": a_name, "timestamp": match.number(AT), "email": match.str(TO)}
    return [told | {name: match.str(value) for name, value in IDS.items()}]


def _mailgun(event: str, **more: str) -> dict[str, Any]:
    signed = MailgunHook().signature(AT)
    signature = {
        "timestamp": match.regex(str(AT), regex=r"\d+"),
        "token": match.regex(signed["token"], regex=r"\w+"),
        "signature": match.regex(signed["signature"], regex="[0-9a-f]{64}"),
    }
    told = {"event": event, "id": a_name, "timestamp": match.number(AT), "recipient": match.str(TO)} | more
    ids = {name: match.str(value) for name, value in IDS.items()}
    return {"signature": signature, "event-data": told | {"user-variables": ids}}


def _resend(event: str, **more: Any) -> dict[str, Any]:
    at = match.regex("2023-11-14T22:13:20+00:00", regex=r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d.*")
    ids = {name: match.str(value) for name, value in IDS.items()}
    return {"type": event, "created_at": at, "data": {"to": [match.str(TO)], "tags": ids} | more}


_SENDGRID, _MAILGUN, _RESEND = SendGridHook(), MailgunHook(), ResendHook()

HOOKS = {
    "sendgrid": Hook(
        _SENDGRID.secret,
        lambda body: _SENDGRID.sign(body, AT),
        {
            "delivered": (EventKind.DELIVERED, _sendgrid("delivered")),
            "bounced": (EventKind.BOUNCED, _sendgrid("bounce")),
            "complained": (EventKind.COMPLAINED, _sendgrid("spamreport")),
            "opened": (EventKind.OPENED, _sendgrid("open")),
        },
    ),
    "mailgun": Hook(
        _MAILGUN.secret,
        lambda body: ({}, body),
        {
            "delivered": (EventKind.DELIVERED, _mailgun("delivered")),
            "bounced": (EventKind.BOUNCED, _mailgun("failed", severity="permanent")),
            "complained": (EventKind.COMPLAINED, _mailgun("complained")),
            "opened": (EventKind.OPENED, _mailgun("opened")),
        },
    ),
    "resend": Hook(
        _RESEND.secret,
        lambda body: _RESEND.sign(body, AT),
        {
            "delivered": (EventKind.DELIVERED, _resend("email.delivered")),
            "bounced": (EventKind.BOUNCED, _resend("email.bounced", bounce={"type": "Permanent"})),
            "complained": (EventKind.COMPLAINED, _resend("email.complained")),
            "opened": (EventKind.OPENED, _resend("email.opened")),
        },
    ),
}
