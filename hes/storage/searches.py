"""What finding out about doubts needs of a storage. Promises and errors as in `hes.storage.storage`.

A doubt that can be looked into has a search from the moment it is written down (`hes.policy`). It ends by itself: once
the attempt is settled, by whatever road, or nothing more can be asked, the next claim forgets it.
"""

from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct

from hes.case import Search
from hes.model import Email, Millis
from hes.searching import Way


class Asking(Struct, frozen=True, kw_only=True):
    """A question that is this process's to ask, until `seconds` after the claim was made."""

    search: Search
    way: Way
    seconds: float
    email: Email
    started_at: Millis
    render_version: int


class Asked(Struct, frozen=True, kw_only=True):
    """What the provider answered."""

    search: Search
    """As it was claimed."""
    way: Way
    answer: str
    """For the timeline: `accepted`, `nothing`, `unavailable`."""
    accepted: bool = False
    """The attempt was taken. All else says nothing about it."""
    provider_message_id: str | None = None
    ask_again_seconds: float | None = None
    detail: str = ""


class Searches(Protocol):
    """The doubts that providers are asked about."""

    async def claim(self, hands: Mapping[str, int], may_replay: Mapping[str, bool]) -> list[Asking]:
        """Take due questions, at most so many for each provider, the longest due first; nobody else is given them.

        Whoever does not come back with an answer until the lease is over (`Rules.lease_seconds`) has lost it.
        `may_replay`: False for a provider that nothing may be sent to now.
        """
        ...

    async def answer(self, asked: Asked) -> None:
        """Write down what was answered, and what follows: an acceptance is evidence, however late it comes.

        Anything else sets the time of the next question, if the search is still this process's, and is told in the
        timeline if it is news.
        """
        ...
