"""Looking an attempt up in Mailgun's events.

https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/events (read 2026-11-24).

They are searched by the Message-ID, which is ours, and then told apart by the attempt's id, since all attempts of an
email have the same Message-ID. They are kept for 3 days at least, and a page of them is only called complete half an
hour later. Marked as deprecated there; its successor (`/v1/analytics/logs`) wants a key of the whole account.
"""

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from hes.model import Millis
from hes.providers.finding import Doubt, Finding, Found, not_answered
from hes.providers.mailgun_hook import read_event
from hes.providers.transport import Reply

KEPT_SECONDS = 3 * 24 * 3600.0
_SKEW_SECONDS = 300  # between our clock and theirs
_MOST = 100  # events: together they must stay below the 1 MB that the transport takes


class _Page(Struct):
    items: list[dict[str, Any]]


_decode = msgspec.json.Decoder(_Page).decode


def query_for(doubt: Doubt) -> str:
    """What follows the `?`. Oldest first: an attempt's events begin soon after its start."""
    return urlencode(
        {
            "message-id": doubt.email.message_id.strip("<>"),  # events have it without brackets
            "begin": doubt.started_at // 1000 - _SKEW_SECONDS,
            "ascending": "yes",
            "limit": _MOST,
        }
    )


def read_finding(reply: Reply, doubt: Doubt, now: Millis, secrets: Iterable[str]) -> Finding:
    """What the events say of this attempt. Any of them proves that it was accepted."""
    try:
        page = _decode(reply.body) if reply.status == 200 else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        page = None
    if page is None:
        return not_answered(reply, now, secrets)
    events = [read_event(item, now) for item in page.items]
    own = [event for event in events if event.hes_attempt == doubt.attempt_id]
    if not own:
        detail = f"{len(events)} events have this Message-ID, none is of this attempt"
        return Finding(found=Found.NOTHING, detail=detail)
    return Finding(
        found=Found.ACCEPTED,
        provider_message_id=own[0].provider_message_id,
        detail=f"the events show this attempt: {', '.join(dict.fromkeys(event.vendor_type for event in own))}",
    )
