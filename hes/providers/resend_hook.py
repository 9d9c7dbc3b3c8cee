"""Resend's events: https://resend.com/docs/dashboard/webhooks/introduction (read 2026-11-24).

One event in each POST, signed as Svix and the Standard Webhooks do it: HMAC-SHA256 over id, timestamp and body.
`webhook_secret` is the signing secret, `whsec_...`. By hand, and not with their packages: it is four lines.

An email with several recipients gets an event for each, which does not say whose it is (django-anymail's page on
Resend): `recipient` is only there where the email has one in `to`, and may then still be about one in `cc` or `bcc`.
"""

import binascii
import hmac
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parseaddr
from typing import Any

import msgspec

from hes.errors import ConfigError
from hes.model import Millis
from hes.providers.hook import (
    MAX_URL_CHARS,
    BadEvents,
    BadSignature,
    address,
    check_fresh,
    details,
    dig,
    line,
    name_of,
    own_id,
    seconds_at,
)
from hes.told import EventKind, ProviderEvent, Told

_KINDS = {
    "email.sent": EventKind.ACCEPTED,
    "email.delivered": EventKind.DELIVERED,
    "email.delivery_delayed": EventKind.DEFERRED,
    "email.bounced": EventKind.BOUNCED,
    "email.complained": EventKind.COMPLAINED,
    "email.opened": EventKind.OPENED,
    "email.clicked": EventKind.CLICKED,
    "email.failed": EventKind.REJECTED,
    "email.suppressed": EventKind.REJECTED,
}


def read_events(headers: Mapping[str, str], body: bytes, secret: str, now: Millis) -> Told:
    """A `ReadEvents`."""
    key = _key(secret)
    event_id, timestamp, signatures = _signed(headers)
    signed = f"{event_id}.{timestamp}.".encode() + body
    expected = b"v1," + b64encode(hmac.digest(key, signed, "sha256"))
    # Several while a secret is being changed; one that fits is enough.
    if not any(hmac.compare_digest(expected, given.encode()) for given in signatures.split()):
        raise BadSignature("The signature does not fit the body and webhook_secret.")
    check_fresh(timestamp, now)
    try:
        event = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadEvents("The body is no JSON object.") from None
    return Told((_read(event, event_id, now),))


def check_headers(headers: Mapping[str, str]) -> None:
    """A `CheckHeaders`."""
    _signed(headers)


def _signed(headers: Mapping[str, str]) -> tuple[str, str, str]:
    event_id, timestamp = own_id(headers.get("svix-id")), headers.get("svix-timestamp")
    signatures = headers.get("svix-signature")
    if not (event_id and timestamp and signatures):
        raise BadSignature("The signature is missing.")
    return event_id, timestamp, signatures


def _key(secret: str) -> bytes:
    try:
        key = b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ConfigError("webhook_secret is not a signing secret of Resend's. Example: whsec_MfKQ9r8G...")
    return key


def _read(event: dict[str, Any], event_id: str, now: Millis) -> ProviderEvent:
    name = event.get("type")
    kind = _KINDS.get(name) if isinstance(name, str) else None
    told = dig(event, "data")
    data = details(
        reason=dig(told, "bounce", "message") or dig(told, "failed", "reason") or dig(told, "suppressed", "message"),
        code=dig(told, "bounce", "subType") or dig(told, "suppressed", "reason"),
    )
    if kind is EventKind.BOUNCED:
        data["kind"] = "hard" if dig(told, "bounce", "type") == "Permanent" else "soft"
    if kind is EventKind.CLICKED and (url := line(dig(told, "click", "link"), MAX_URL_CHARS)):
        data["url"] = url
    return ProviderEvent(
        kind=kind,
        vendor_type=name_of(name),
        at=_at(event.get("created_at"), now),
        dedup_id=event_id,
        recipient=_recipient(dig(told, "to")),
        provider_message_id=own_id(dig(told, "email_id")),
        hes_id=own_id(dig(told, "tags", "hes_id")),
        hes_attempt=own_id(dig(told, "tags", "hes_attempt")),
        data=data,
    )


def _at(value: object, now: Millis) -> Millis:
    try:
        at = datetime.fromisoformat(value if isinstance(value, str) else "")
        return seconds_at((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp(), now)
    except (ValueError, OverflowError):
        return now


def _recipient(to: object) -> str | None:
    match to:
        case [str(only)]:
            return address(parseaddr(only)[1])
        case _:
            return None
