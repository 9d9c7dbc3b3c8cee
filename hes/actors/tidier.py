"""Takes out of the outbox's Maildir what the storage has forgotten."""

import logging
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping

import anyio
from anyio import to_thread

from hes.errors import StorageUnavailable
from hes.model import Clock, EmailId, Millis

PERIOD_SECONDS = 60.0
AT_ONCE = 500

_log = logging.getLogger("hes.tidier")


class Tidier:
    """Mailbox: none; it works once per period, since emails are erased by other processes too, and by their age.

    `kept` and `remove`: messages of the Maildir by the ids of their emails; both block, both raise OSError.
    `keep_history_days`: after so long the storage forgets that there was an email. Without it what the storage does not
    know stays: it may be of another storage that shares the Maildir.
    """

    name = "tidier"

    def __init__(
        self,
        has_content: Callable[[Collection[EmailId]], Awaitable[Mapping[EmailId, bool]]],
        *,
        kept: Callable[[], Iterable[EmailId]],
        remove: Callable[[Collection[EmailId]], None],
        keep_history_days: int | None,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._has_content = has_content
        self._kept = kept
        self._remove = remove
        self._keep_history_days = keep_history_days
        self._clock = clock
        self._rng = rng

    async def run(self) -> None:
        while True:
            await anyio.sleep(PERIOD_SECONDS * self._rng.uniform(0.8, 1.2))
            try:
                await self.tidy()
            except StorageUnavailable:
                continue  # those whose work it is to send say so
            except OSError as error:
                _log.warning("HES_OUTBOX_DIR: what was erased may still be there: %s", error.strerror)

    async def tidy(self) -> None:
        """Remove the messages of all emails whose content is gone. Raises: StorageUnavailable, OSError."""
        kept = sorted(await to_thread.run_sync(self._kept))
        for first in range(0, len(kept), AT_ONCE):
            some = kept[first : first + AT_ONCE]
            known = await self._has_content(some)
            if gone := {one for one in some if not known.get(one, not self._is_forgotten(one))}:
                await to_thread.run_sync(self._remove, gone)

    async def forget(self, email_id: EmailId) -> None:
        """Remove the messages of one that was erased just now. Raises: StorageUnavailable, to be asked again."""
        try:
            await to_thread.run_sync(self._remove, {email_id})
        except OSError as error:
            why = f"HES_OUTBOX_DIR: the message of an erased email can't be removed: {error.strerror}"
            raise StorageUnavailable(why) from error

    def _is_forgotten(self, email_id: EmailId) -> bool:
        """Whether it is so old that the storage need not know it any more."""
        if self._keep_history_days is None:
            return False
        return _made_at(email_id) < self._clock() - self._keep_history_days * 24 * 3600 * 1000


def _made_at(email_id: EmailId) -> Millis:
    """Out of the id (RFC 9562, section 5.7)."""
    return int(email_id[:8] + email_id[9:13], 16)
