"""What providers tell afterwards, in our words. `hes.providers.hook` reads it, `hes.reports` says what follows."""

from enum import StrEnum
from typing import Any

from msgspec import Struct

from hes.model import Millis


class EventKind(StrEnum):
    """What events mean to HES. All but `accepted` and `resubscribed` are timeline types too (`hes.model.EventType`)."""

    ACCEPTED = "accepted"
    DELIVERED = "delivered"
    DEFERRED = "deferred"
    BOUNCED = "bounced"
    COMPLAINED = "complained"
    OPENED = "opened"
    CLICKED = "clicked"
    UNSUBSCRIBED = "unsubscribed"
    RESUBSCRIBED = "resubscribed"
    REJECTED = "rejected"


class ProviderEvent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event. Events come late, twice and out of order; each with an attempt's id proves that it was accepted."""

    kind: EventKind | None
    """None: HES does not know what `vendor_type` means."""
    vendor_type: str
    at: Millis
    dedup_id: str
    """The same for the same event, however often it is told; unique within the provider."""
    recipient: str | None = None
    """None: the provider does not say which one."""
    provider_message_id: str | None = None
    """As the answer to the send had it."""
    hes_id: str | None = None
    hes_attempt: str | None = None
    data: dict[str, Any] = {}
    """Details for people, short and without addresses: `reason`, `code`, `url`. For `bounced` also `kind`, `hard` or
    `soft`."""
    providers: tuple[str, ...] = ()
    """Whose attempts it may be about: providers at one account. Empty: those of the one that it came to."""


class Told(Struct, frozen=True):
    """What one POST held."""

    events: tuple[ProviderEvent, ...]
    nonce: str = ""
    """Not empty where the signature covers this and not the events (Mailgun): of two POSTs with the same one, the
    second is a repetition or a forgery, and nothing in it may be believed."""
    signer: str = ""
    """A fingerprint of the key that signed it: whoever has that key, a nonce is good once."""
    providers: tuple[str, ...] = ()
    """Those that have this key now, by name. They speak for each other: what one tells is known from all of them."""
