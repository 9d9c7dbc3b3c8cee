"""Group commit: whatever arrives while one transaction runs goes into the next one, together."""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import anyio

from hes.errors import StorageBroken, StorageUnavailable

Item = TypeVar("Item")
Result = TypeVar("Result")

PATIENCE_SECONDS = 1.0
"""Who has waited for longer behind a group that found the storage away is told so, and does not try by itself."""

Write = Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]]
"""One transaction over all items: a result for each, in order, where an exception is the answer to that item alone.
Raises: then nothing of it was written."""


class _Group(Generic[Item, Result]):
    """Items that go into one transaction, and what became of each."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.results: Sequence[Result | Exception] = ()
        self.done = anyio.Event()
        self.began_at = anyio.current_time()


class GroupCommit(Generic[Item, Result]):
    """Many callers, one transaction at a time.

    Nothing waits for company: with nothing else to do, a single item is written at once. The transaction runs in a
    task of its own (`run`), so that a caller who goes away cuts off nobody else's.
    """

    def __init__(self, write: Write[Item, Result], *, limit: int, queue_limit: int) -> None:
        self._write = write
        self._limit = limit
        self._queue_limit = queue_limit
        self._waiting: deque[_Group[Item, Result]] = deque()
        self._writing = 0
        self._arrived = anyio.Event()
        self._has_ended = False

    @property
    def waiting(self) -> int:
        """Items whose transaction has not begun."""
        return sum(len(group.items) for group in self._waiting)

    @property
    def in_flight(self) -> int:
        """All items that are not answered yet: those that wait, and those of the transaction that runs."""
        return self.waiting + self._writing

    async def submit(self, item: Item) -> Result:
        """Returns once it is on disk. Raises what the transaction, or this item in it, led to.

        With too many waiting already it raises StorageUnavailable before anything is stored.
        """
        if self._has_ended:
            raise StorageUnavailable("the storage is closed")
        if self.waiting >= self._queue_limit:
            raise StorageUnavailable("more requests are waiting to be written than the storage keeps up with")
        if not self._waiting or len(self._waiting[-1].items) >= self._limit:
            self._waiting.append(_Group())
        group = self._waiting[-1]
        place = len(group.items)
        group.items.append(item)
        self._arrived.set()
        await group.done.wait()
        if not group.results:
            raise StorageUnavailable("the storage was closed before this was written")
        result = group.results[place]
        if isinstance(result, Exception):
            raise result
        return result

    async def run(self) -> None:
        """Write group after group, for ever. Leaves with StorageBroken, which must end the process.

        Whoever still waits when it leaves, or comes later, gets StorageUnavailable: nothing of theirs was written.
        """
        try:
            while True:
                if not self._waiting:
                    self._arrived = anyio.Event()
                    await self._arrived.wait()
                group = self._waiting.popleft()
                self._writing = len(group.items)
                try:
                    group.results = await self._commit(group.items)
                except StorageBroken as error:
                    group.results = [error] * len(group.items)
                    raise
                finally:
                    self._writing = 0
                    group.done.set()
                if isinstance(group.results[0], StorageUnavailable):
                    self._turn_away()
        finally:
            self._has_ended = True
            for group in self._waiting:
                group.done.set()

    def _turn_away(self) -> None:
        """Nothing was written of those who have waited long enough."""
        while self._waiting and anyio.current_time() - self._waiting[0].began_at > PATIENCE_SECONDS:
            group = self._waiting.popleft()
            group.results = [StorageUnavailable("the storage is away, for those before this too")] * len(group.items)
            group.done.set()

    async def _commit(self, items: Sequence[Item]) -> Sequence[Result | Exception]:
        try:
            return await self._write(items)
        except StorageBroken:
            raise  # to end the process
        except StorageUnavailable as error:
            return [error] * len(items)
        except Exception as error:  # noqa: BLE001 (whatever one row does to its group, its neighbours must not suffer)
            if len(items) == 1:
                return [error]
            return [result for item in items for result in await self._commit([item])]
