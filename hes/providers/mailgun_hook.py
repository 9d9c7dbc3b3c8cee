"""Mailgun's events: https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks (read 2026-11-24).

One event in each POST, as JSON. The signature is an HMAC-SHA256 over a timestamp and a random token which stand in the
body, and covers nothing else: whoever sees one POST could send another event under it. So the token comes back as
`Told.nonce`, to be used once. `webhook_secret` is the HTTP webhook signing key, not the API key.

An event's id is unique only within a day, so the day belongs to `dedup_id`. The events of Mailgun's search have the
same shape (`hes.providers.mailgun_records`).
"""

import hmac
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from hes.model import Millis
from hes.providers.hook import (
    MAX_URL_CHARS,
    BadEvents,
    BadSignature,
    address,
    check_fresh,
    details,
    dig,
    fingerprint,
    line,
    name_of,
    own_id,
    seconds_at,
)
from hes.told import EventKind, ProviderEvent, Told

_DAY = 86_400_000

_KINDS = {
    "accepted": EventKind.ACCEPTED,
    "delivered": EventKind.DELIVERED,
    "complained": EventKind.COMPLAINED,
    "opened": EventKind.OPENED,
    "clicked": EventKind.CLICKED,
    "unsubscribed": EventKind.UNSUBSCRIBED,
    "rejected": EventKind.REJECTED,
}


class _Signature(Struct, frozen=True):
    timestamp: str | int = ""
    token: str = ""
    signature: str = ""


class _Posted(Struct, rename="kebab"):
    """The event stays unread until the signature is known to be good."""

    signature: _Signature = _Signature()
    event_data: msgspec.Raw = msgspec.Raw(b"null")


_decode = msgspec.json.Decoder(_Posted).decode


def read_events(_headers: Mapping[str, str], body: bytes, secret: str, now: Millis) -> Told:
    """A `ReadEvents`."""
    try:
        posted = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadEvents("The body is not JSON as Mailgun's webhooks send it.") from None
    signed, timestamp = posted.signature, str(posted.signature.timestamp)
    if not (timestamp and signed.token and signed.signature):
        raise BadSignature("The signature is missing.")
    expected = hmac.new(secret.encode(), f"{timestamp}{signed.token}".encode(), "sha256").hexdigest()
    if not hmac.compare_digest(expected.encode(), signed.signature.encode()):
        raise BadSignature("The signature does not fit webhook_secret, the HTTP webhook signing key.")
    check_fresh(timestamp, now)
    try:
        event = msgspec.json.decode(posted.event_data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadEvents("event-data is no JSON object.") from None
    return Told((read_event(event, now),), nonce=signed.token)


def read_event(event: dict[str, Any], now: Millis) -> ProviderEvent:
    """One event, of a webhook or of the search."""
    kind = _kind(event)
    reason = dig(event, "delivery-status", "message") or dig(event, "delivery-status", "description")
    data = details(
        reason=reason or dig(event, "reject", "reason") or event.get("reason"),
        code=dig(event, "delivery-status", "code"),
    )
    if kind is EventKind.BOUNCED:
        data["kind"] = "soft" if _has_given_up(event) else "hard"
    if kind is EventKind.CLICKED and (url := line(event.get("url"), MAX_URL_CHARS)):
        data["url"] = url
    at = seconds_at(event.get("timestamp"), now)
    event_id = own_id(event.get("id"))
    message_id = own_id(dig(event, "message", "headers", "message-id"))
    return ProviderEvent(
        kind=kind,
        vendor_type=name_of(event.get("event")),
        at=at,
        dedup_id=f"{event_id}/{at // _DAY}" if event_id else fingerprint(event),
        recipient=address(event.get("recipient")),
        provider_message_id=f"<{message_id.strip('<>')}>" if message_id else None,  # events have it without brackets
        hes_id=own_id(dig(event, "user-variables", "hes_id")),
        hes_attempt=own_id(dig(event, "user-variables", "hes_attempt")),
        data=data,
    )


def _kind(event: dict[str, Any]) -> EventKind | None:
    match event.get("event"), event.get("severity"), event.get("reason"):
        case "failed", "temporary", _:
            return EventKind.DEFERRED
        # "Not delivering to previously bounced address": Mailgun's own list, nothing was tried.
        case "failed", "permanent", str(reason) if reason.startswith("suppress-"):
            return EventKind.REJECTED
        case "failed", "permanent", _:
            return EventKind.BOUNCED
        case str(name), _, _:
            return _KINDS.get(name)
        case _:
            return None


def _has_given_up(event: dict[str, Any]) -> bool:
    """Permanent only because the time for temporary failures is over."""
    code = dig(event, "delivery-status", "code")
    return event.get("reason") == "old" or (isinstance(code, int) and 400 <= code < 500)
