"""SendGrid's events: https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event (read 2026-11-24).

A JSON array in each POST, signed with ECDSA (P-256, SHA-256) over the timestamp and the body. `webhook_secret` is the
verification key that SendGrid shows for the webhook. Our ids stand among an event's own fields.
"""

import binascii
from base64 import b64decode
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hes.errors import ConfigError
from hes.model import Millis
from hes.providers.hook import (
    MAX_URL_CHARS,
    BadEvents,
    BadSignature,
    address,
    check_fresh,
    details,
    fingerprint,
    line,
    name_of,
    own_id,
    seconds_at,
)
from hes.told import EventKind, ProviderEvent, Told

SIGNATURE = "x-twilio-email-event-webhook-signature"
TIMESTAMP = "x-twilio-email-event-webhook-timestamp"

_KINDS = {
    "processed": EventKind.ACCEPTED,
    "delivered": EventKind.DELIVERED,
    "deferred": EventKind.DEFERRED,
    "bounce": EventKind.BOUNCED,
    "spamreport": EventKind.COMPLAINED,
    "open": EventKind.OPENED,
    "click": EventKind.CLICKED,
    "unsubscribe": EventKind.UNSUBSCRIBED,
    "group_unsubscribe": EventKind.UNSUBSCRIBED,
    "group_resubscribe": EventKind.RESUBSCRIBED,
    "dropped": EventKind.REJECTED,
}


def read_events(headers: Mapping[str, str], body: bytes, secret: str, now: Millis) -> Told:
    """A `ReadEvents`."""
    key = _public_key(secret)
    signature, timestamp = _signed(headers)
    try:
        key.verify(b64decode(signature, validate=True), timestamp.encode() + body, ec.ECDSA(SHA256()))
    except (InvalidSignature, binascii.Error, ValueError):  # ValueError: not ASCII
        raise BadSignature("The signature does not fit the body and webhook_secret.") from None
    check_fresh(timestamp, now)
    try:
        events = msgspec.json.decode(body, type=list[dict[str, Any]])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadEvents("The body is no JSON array of objects.") from None
    return Told(tuple(_read(event, now) for event in events))


def check_headers(headers: Mapping[str, str]) -> None:
    """A `CheckHeaders`."""
    _signed(headers)


def _signed(headers: Mapping[str, str]) -> tuple[str, str]:
    signature, timestamp = headers.get(SIGNATURE), headers.get(TIMESTAMP)
    if not signature or not timestamp:
        raise BadSignature("The signature is missing. Is the signed event webhook switched on at SendGrid?")
    return signature, timestamp


@lru_cache(maxsize=16)
def _public_key(secret: str) -> ec.EllipticCurvePublicKey:
    """From base64 (DER, SubjectPublicKeyInfo), with the lines of PEM around it or without."""
    text = "".join(part for part in secret.splitlines() if not part.startswith("-----"))
    try:
        key = load_der_public_key(b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError("webhook_secret is not a verification key of SendGrid's. Example: MFkwEwYHKoZIzj0CAQ...")
    return key


def _read(event: dict[str, Any], now: Millis) -> ProviderEvent:
    name = event.get("event")
    kind = _KINDS.get(name) if isinstance(name, str) else None
    # `reason`: bounces and drops; `response`: deferrals and deliveries; `status`: the enhanced code.
    data = details(reason=event.get("reason") or event.get("response"), code=event.get("status"))
    if kind is EventKind.BOUNCED:
        data["kind"] = "soft" if event.get("type") == "blocked" else "hard"
    if kind is EventKind.CLICKED and (url := line(event.get("url"), MAX_URL_CHARS)):
        data["url"] = url
    message_id = event.get("sg_message_id")
    return ProviderEvent(
        kind=kind,
        vendor_type=name_of(name),
        at=seconds_at(event.get("timestamp"), now),
        dedup_id=own_id(event.get("sg_event_id")) or fingerprint(event),
        recipient=address(event.get("email")),
        provider_message_id=sent_id(message_id) if isinstance(message_id, str) else None,
        hes_id=own_id(event.get("hes_id")),
        hes_attempt=own_id(event.get("hes_attempt")),
        data=data,
    )


def sent_id(sg_message_id: str) -> str | None:
    """The X-Message-Id that the answer had, of the id of one recipient's message, which has a dot and more behind."""
    return own_id(sg_message_id.partition(".")[0])
