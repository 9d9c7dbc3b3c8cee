"""How much may wait: HES_QUEUE_LIMIT and HES_QUEUE_LIMIT_BYTES, before sends are answered 503.

No request costs a count: what waits is counted in the storage about once a second, by one query over an index of what
waits, and what this process took since then is added.

How far it may overshoot. One process alone: by one request, as the one that finds a little room is taken whole. Of
several processes on one database each learns of the others' emails only by the next count: together by what the others
take within a period, and a request each. What has left is likewise noticed by the next count: until then there is a 503
too many, which the caller repeats. Bytes are those of the request until they are counted as they are stored.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import anyio

from hes.errors import Overloaded, StorageUnavailable
from hes.model import Monotonic
from hes.storage.email_book import EmailBook
from hes.storage.records import IdempotencyKey, Reach, Waiting

T = TypeVar("T")

PERIOD_SECONDS = 1.0
SHARE_OF_TIME = 0.1
"""Of a backlog so large that counting it takes long, it is counted less often: for a tenth of the time at most."""

_log = logging.getLogger("hes.web")


class Backlog:
    """What waits, and whether more may. `most`: 0 is no limit. `refresh` must have returned once before it is asked."""

    def __init__(self, book: EmailBook, most: Waiting, monotonic: Monotonic) -> None:
        self._book = book
        self._most = most
        self._monotonic = monotonic
        self._counted = Waiting()
        self._taken = Waiting()
        """On disk since the last count began."""
        self._in_hand = Waiting()
        """Let in, and perhaps on disk already."""
        self._was_full = False

    @property
    def is_limited(self) -> bool:
        return self._most != Waiting()

    async def run(self) -> None:
        """Count for ever."""
        while True:
            began = self._monotonic()
            try:
                await self.refresh()
            except StorageUnavailable as error:
                _log.warning("what waits can't be counted: %s", error)
            await anyio.sleep(max(PERIOD_SECONDS, (self._monotonic() - began) / SHARE_OF_TIME))

    async def refresh(self) -> None:
        """Count now. Raises: StorageUnavailable, and then what was known before goes on being true."""
        before = self._taken
        self._counted = await self._book.waiting()
        self._taken -= before  # what came while it was being counted may be in the count or not: it stays
        why = self._why_full()
        if why and not self._was_full:
            _log.warning("%s; sends are answered 503", why)
        self._was_full = why is not None

    @contextmanager
    def room(self, load: Waiting) -> Iterator[None]:
        """Around storing so much more. No emails: always. Raises: Overloaded, before anything is stored."""
        if load.count and (why := self._why_full()):
            raise Overloaded(why)
        self._in_hand += load
        is_stored = True  # also for a caller that went away
        try:
            yield
        except Exception:
            is_stored = False
            raise
        finally:
            self._in_hand -= load
            if is_stored:
                self._taken += load

    async def take_in(
        self, reach: Reach, key: IdempotencyKey | None, load: Waiting, store: Callable[[], Awaitable[T]], kind: type[T]
    ) -> T:
        """What `store` answers, if there is room; if not, what the same request was answered first.

        Raises: Overloaded, KeyReused, and whatever `store` raises.
        """
        try:
            with self.room(load):
                return await store()
        except Overloaded:
            first = None if key is None else await self._book.first_answer(reach, key, kind)
            if first is None:
                raise
            return first

    def _why_full(self) -> str | None:
        waiting = self._counted + self._taken + self._in_hand
        if 0 < self._most.count <= waiting.count:
            return f"As many emails wait as may (HES_QUEUE_LIMIT: {self._most.count:,})"
        if 0 < self._most.size_bytes <= waiting.size_bytes:
            return f"As many bytes wait as may (HES_QUEUE_LIMIT_BYTES: {self._most.size_bytes:,})"
        return None
