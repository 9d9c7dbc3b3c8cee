"""How much may wait: HES_QUEUE_LIMIT, HES_QUEUE_LIMIT_BYTES, HES_PROJECT_LIMIT_BYTES, before sends are answered 503.

No request costs a count: what waits, drafts included, and what each project holds, is counted in the storage about once
a second, by queries over indexes of just that, and what this process took since then is added. Of what is at rest a
project holds what was cancelled or failed, as long as its content is there: there is no more of it than the limit lets
in, and without a limit nobody counts it.

How far it may overshoot. One process alone: by one request, as the one that finds a little room is taken whole. Of
several processes on one database each learns of the others' emails only by the next count: together by what the others
take within a period, and a request each. What has left is likewise noticed by the next count: until then there is a 503
too many, which the caller repeats. Bytes are those of the request until they are counted as they are stored.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import anyio

from hes.errors import Overloaded, StorageUnavailable, TooMany
from hes.model import Monotonic
from hes.storage.email_book import EmailBook
from hes.storage.records import IdempotencyKey, Reach, Waiting

T = TypeVar("T")

PERIOD_SECONDS = 1.0
SHARE_OF_TIME = 0.1
"""Of a backlog so large that counting it takes long, it is counted less often: for a tenth of the time at most."""

_log = logging.getLogger("hes.web")


class Backlog:
    """What waits, and whether more may. `refresh` must have returned once before it is asked.

    `most`, and `project_bytes` of what one project holds: 0 is no limit.
    """

    def __init__(self, book: EmailBook, most: Waiting, monotonic: Monotonic, project_bytes: int = 0) -> None:
        self._book = book
        self._most = most
        self._project_bytes = project_bytes
        self._monotonic = monotonic
        self._counted = Waiting()
        self._taken = Waiting()
        """On disk since the last count began."""
        self._in_hand = Waiting()
        """Let in, and perhaps on disk already."""
        self._held: Mapping[str, int] = {}
        """By each project, in bytes; likewise the two below."""
        self._held_taken: Counter[str] = Counter()
        self._held_in_hand: Counter[str] = Counter()
        self._told: frozenset[str] = frozenset()
        """What is full, as the log has it."""

    @property
    def is_limited(self) -> bool:
        return self._most != Waiting() or self._project_bytes > 0

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
        before, held_before = self._taken, Counter(self._held_taken)
        if self._most != Waiting():
            self._counted = await self._book.waiting()
        if self._project_bytes:
            self._held = await self._book.stored_bytes()
        self._taken -= before  # what came while it was being counted may be in the count or not: it stays
        self._held_taken -= held_before
        self._tell()

    def _tell(self) -> None:
        full = {f"project {name}: {why}" for name in self._held if (why := self._why_project_full(name))}
        if why := self._why_full(Waiting(1, 1)):
            full.add(why)
        for why in sorted(full - self._told):
            _log.warning("%s; sends are answered 503", why)
        self._told = frozenset(full)

    @contextmanager
    def room(self, load: Waiting, project: str, *, is_held: bool = False) -> Iterator[None]:
        """Around so much more that is to wait. Nothing: always. Raises: Overloaded, before anything is stored.

        `is_held`: the project holds it already.
        """
        size_bytes = 0 if is_held else load.size_bytes
        why = self._why_full(load) or (self._why_project_full(project) if size_bytes else None)
        if why is not None:
            raise Overloaded(why)
        self._in_hand += load
        self._held_in_hand[project] += size_bytes
        is_stored = True  # also for a caller that went away
        try:
            yield
        except Exception:
            is_stored = False
            raise
        finally:
            self._in_hand -= load
            self._held_in_hand -= Counter({project: size_bytes})
            if is_stored:
                self._taken += load
                self._held_taken[project] += size_bytes

    async def take_in(
        self,
        reach: Reach,
        key: IdempotencyKey | None,
        load: Waiting,
        spending: AbstractContextManager[None],
        store: Callable[[], Awaitable[T]],
        kind: type[T],
    ) -> T:
        """What `store` answers, if there is room; if not, what the same request was answered first.

        `spending`: around it, what takes from the key's rate. Raises: Overloaded, TooMany, KeyReused, and whatever
        `store` raises.
        """
        try:
            with spending, self.room(load, reach.project):
                return await store()
        except (Overloaded, TooMany):
            first = None if key is None else await self._book.first_answer(reach, key, kind)
            if first is None:
                raise
            return first

    def _why_full(self, load: Waiting) -> str | None:
        waiting = self._counted + self._taken + self._in_hand
        if load.count and 0 < self._most.count <= waiting.count:
            return f"As many emails wait as may (HES_QUEUE_LIMIT: {self._most.count:,})"
        if load.size_bytes and 0 < self._most.size_bytes <= waiting.size_bytes:
            return f"As many bytes wait as may (HES_QUEUE_LIMIT_BYTES: {self._most.size_bytes:,})"
        return None

    def _why_project_full(self, project: str) -> str | None:
        held = self._held.get(project, 0) + self._held_taken[project] + self._held_in_hand[project]
        if 0 < self._project_bytes <= held:
            return (
                "This project's drafts, waiting, cancelled and failed emails hold as many bytes as they may "
                f"(HES_PROJECT_LIMIT_BYTES: {self._project_bytes:,})"
            )
        return None
