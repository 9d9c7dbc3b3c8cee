"""Times as callers write them: RFC 3339, with an offset."""

import re
from datetime import datetime

from hes.model import Millis

_WRITTEN = re.compile(r"[0-9A-Za-z:.,+-]+")
"""What a time is made of: `datetime.fromisoformat` does not see what stands behind a NUL."""
YEAR_MS = 366 * 24 * 3600 * 1000


def read_time(text: str) -> Millis:
    """Milliseconds since 1970. Raises ValueError with what is wrong, for people."""
    try:
        at = datetime.fromisoformat(text if _WRITTEN.fullmatch(text) else "")
    except ValueError:
        raise ValueError("must be a time as in RFC 3339, like 2026-12-24T18:00:00Z") from None
    if at.tzinfo is None or "T" not in text.upper():
        raise ValueError("must say its offset, like 2026-12-24T18:00:00Z or 2026-12-24T19:00:00+01:00")
    if at.timestamp() < 0:  # nothing here is that old, and the year 0 could not be shown again
        raise ValueError("must not be before 1970")
    return round(at.timestamp() * 1000)


def read_send_at(text: str, now: Millis) -> Millis:
    """At most a year ahead; what is past is fine, and means now. Raises ValueError."""
    at = read_time(text)
    if at > now + YEAR_MS:
        raise ValueError("must not be more than a year ahead")
    return at
