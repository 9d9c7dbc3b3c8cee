"""Finding out what became of an attempt in doubt: what a provider that has a way offers besides `send`.

Only `Found.ACCEPTED` settles anything. All else says nothing about the attempt, however often it is said: what a
provider does not show may be on its way still, and a request that it refuses now it may have taken before.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Protocol, runtime_checkable

from msgspec import Struct

from hes.model import AttemptId, Email, Millis
from hes.providers.transport import Reply, retry_after, seconds_until, shorten

_MAX_SAID_BYTES = 2000  # more than is quoted


class Doubt(Struct, frozen=True, kw_only=True):
    """An attempt of which nobody knows whether it was accepted, with the email that it was made of."""

    email: Email
    attempt_id: AttemptId
    started_at: Millis
    render_version: int
    """Which version of the provider's rendering the request was made with."""

    def cannot_replay(self, render_version: int, window_seconds: float, now: Millis, timeout_seconds: float) -> str:
        """Why the same request can't safely be made again; "" if it can. Its time-out too must end in the window."""
        if self.render_version != render_version:
            return f"the request was made by rendering {self.render_version}, and {render_version} makes other bytes"
        age_seconds = (now - self.started_at) / 1000
        if age_seconds + timeout_seconds > window_seconds:
            return f"the attempt is older than the {window_seconds / 3600:g} hours within which it can be repeated"
        return ""


class Found(StrEnum):
    """What a search led to."""

    ACCEPTED = "accepted"
    """The provider took this attempt."""
    NOTHING = "nothing"
    """The provider was asked and shows nothing. It may tomorrow."""
    UNAVAILABLE = "unavailable"
    """The provider could not be asked, or did not answer the question."""


class Finding(Struct, frozen=True, kw_only=True):
    """The result of one search."""

    found: Found
    provider_message_id: str | None = None
    """As an accepted `Answer` would have had it."""
    ask_again_seconds: float | None = None
    """The provider says that it takes no such question before. At most an hour."""
    detail: str = ""
    """For people: what was asked and said. No secrets, no addresses."""


@runtime_checkable
class Replays(Protocol):
    """A provider that can be given the same request again without taking the email twice."""

    replay_seconds: float
    """For how long after an attempt began it can be repeated."""

    async def replay(self, doubt: Doubt, timeout_seconds: float) -> Finding:
        """Make the attempt's own request again, byte for byte, under its idempotency key.

        If the provider never saw the first one, it takes the email now: then too it is this attempt that was accepted.
        Nothing goes out (`unavailable`) when the attempt is too old or was rendered by another version.
        """
        ...


@runtime_checkable
class LooksUp(Protocol):
    """A provider whose records can be searched by our ids."""

    look_up_seconds: float
    """For how long after an attempt began the provider surely keeps records of it."""

    async def look_up(self, doubt: Doubt, timeout_seconds: float) -> Finding:
        """Search the provider's records for this attempt. The time-out is over all requests that it takes."""
        ...


def not_answered(reply: Reply, now: Millis, secrets: Iterable[str]) -> Finding:
    """What a search's answer means that holds no result."""
    match reply.status:
        case 401 | 403:
            why = "the API key may not read these records"
        case 429:
            why = "asked too often"
        case 200:
            return Finding(found=Found.UNAVAILABLE, detail="200: the records can't be read")
        case _:
            why = "no records"
    waits = (
        retry_after(reply.headers.get("Retry-After"), now),
        seconds_until(reply.headers.get("X-RateLimit-Reset"), now),
    )
    said = shorten(reply.body[:_MAX_SAID_BYTES].decode(errors="replace"), secrets)
    return Finding(
        found=Found.UNAVAILABLE,
        ask_again_seconds=max((wait for wait in waits if wait is not None), default=None),
        detail=f"{reply.status}: {why}" + (f": {said}" if said and not said.startswith("<") else ""),
    )
