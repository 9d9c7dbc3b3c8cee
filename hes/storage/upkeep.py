"""What becomes too old in a storage, and goes. Errors as in `hes.storage.storage`."""

from typing import Protocol

from hes.model import Millis


class Upkeep(Protocol):
    """In small batches, so that nobody waits for a long lock."""

    async def prune(self) -> int:
        """Forget idempotency keys older than 24 hours, old events of providers, searches that are over.

        At most 500 each. Returns how many.
        """
        ...

    async def drop_old(self, contents_ms: Millis | None, history_ms: Millis | None) -> int:
        """Drop the contents of emails handed in so long ago, and all of those handed in so long ago, if at rest.

        None: never. At most some hundreds of each; returns how many, 0 when there are no more.
        """
        ...

    async def drop_drafts(self) -> int:
        """Cancel drafts that nobody edited or sent for as long as they are kept, and drop their contents.

        At most some hundreds; returns how many, 0 when there are no more.
        """
        ...
