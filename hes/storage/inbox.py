"""What taking providers' events in needs of a storage. Only databases have it. Errors as in `hes.storage.storage`."""

from typing import Protocol

from msgspec import Struct

from hes.told import Told


class Taken(Struct, frozen=True):
    """What became of a POST's events."""

    new: int = 0
    """Not told before."""
    waiting: int = 0
    """Of these: about an email that is not known, or not known to have gone out. They are tried again."""


class Inbox(Protocol):
    """What providers tell."""

    async def take(self, provider: str, told: Told) -> Taken:
        """Commit the events and what follows from them, in batches. What was told before counts for nothing.

        With a nonce in one transaction, and nothing of it if the nonce was seen before, from whoever has that key.
        """
        ...

    async def match(self) -> int:
        """Try again those that wait and are due, at most 500. Returns how many were told now."""
        ...
