"""What providers tell afterwards: events that they POST to a webhook, made into our words.

Each kind has a `ReadEvents` (in the registry), a pure function: it checks the signature over the body as it came, and
reads nothing of what it has not checked. It needs no provider and no API key, so a process that sends nothing can take
events in. A type that HES does not know is handed on under its own name.

The five minutes are those of the Standard Webhooks specification, which Resend follows. SendGrid and Mailgun name no
number, and don't say whether a repeated POST is signed anew. If it were not, it would be refused here when it comes
late; a look-up, or the next event of the same email, then tells what it told.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from hes.errors import NotAuthenticated, Unreadable
from hes.model import Millis
from hes.providers.transport import clean_id, shorten
from hes.told import Told

FRESH_SECONDS = 300
MAX_ADDRESS_CHARS = 320
MAX_URL_CHARS = 1000


class BadSignature(NotAuthenticated):
    """The POST is not from the provider, or not of now, or `webhook_secret` is another webhook's."""

    title = "Bad signature"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Signature"})  # RFC 9110, section 15.5.2


class BadEvents(Unreadable):
    """The provider's signature, but nothing in it that could be an event."""

    title = "Unreadable events"


ReadEvents = Callable[[Mapping[str, str], bytes, str, Millis], Told]
"""Headers (`get` ignores case, or the names are in lower case), the body as it came, `webhook_secret`, and the time.

Raises BadSignature, BadEvents, and before either of these ConfigError if the secret can't be one.
"""

CheckHeaders = Callable[[Mapping[str, str]], None]
"""Raises BadSignature if no body could make these headers a provider's: then nobody need read it."""


def check_fresh(timestamp: str, now: Millis) -> None:
    """`timestamp`: Unix seconds, of which the signature is already known to be good."""
    is_number = re.fullmatch(r"[0-9]{1,12}", timestamp) is not None
    if not is_number or abs(now / 1000 - int(timestamp)) > FRESH_SECONDS:
        raise BadSignature("The signature is not from within the last 5 minutes.")


def dig(value: object, *path: str) -> Any:
    """What stands there in nested JSON objects; None if anything on the way is missing or no object."""
    for name in path:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def line(value: object, most: int) -> str | None:
    """A text that can be shown on one line, else None."""
    return value if isinstance(value, str) and 0 < len(value) <= most and value.isprintable() else None


def address(value: object) -> str | None:
    found = line(value, MAX_ADDRESS_CHARS)
    return found if found and "@" in found else None


def own_id(value: object) -> str | None:
    """One of our ids, or a provider's, if it can be one."""
    return clean_id(value) if isinstance(value, str) else None


def name_of(value: object) -> str:
    """A vendor's word for an event."""
    return shorten(value) if isinstance(value, str) and value else "nameless"


def details(**values: object) -> dict[str, Any]:
    """`ProviderEvent.data`: what is there, short and clean."""
    kept: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, str) and (short := shorten(value)):
            kept[name] = short
        elif isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
            kept[name] = value
    return kept


def seconds_at(value: object, now: Millis) -> Millis:
    """A Unix time in seconds; `now` if it is none, or still to come."""
    if isinstance(value, (int, float)) and 0 <= value * 1000 <= now:
        return int(value * 1000)
    return now


def fingerprint(event: object) -> str:
    """In place of an event's own id, where it has none."""
    return "sha256:" + hashlib.sha256(msgspec.json.encode(event, order="deterministic")).hexdigest()
