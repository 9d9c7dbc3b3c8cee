"""Group commit: whatever arrives while one transaction runs goes into the next one, together."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import anyio

from hes.errors import StorageBroken, StorageError, StorageUnavailable

Item = TypeVar("Item")
Result = TypeVar("Result")

Write = Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]]
"""One transaction over all items: a result for each, in order, where an exception is the answer to that item alone.
Raises: then nothing of it was written."""


class _Entry(Generic[Item, Result]):
    __slots__ = ("done", "item", "result")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.done = anyio.Event()
        self.result: Result | Exception = StorageUnavailable("not written yet")


class GroupCommit(Generic[Item, Result]):
    """Many callers, one transaction at a time.

    Nothing waits for company: with nothing else to do, a single item is written at once. The transaction runs in a
    task of its own (`run`), so that a caller who goes away cuts off nobody else's.
    """

    def __init__(self, write: Write[Item, Result], *, limit: int, queue_limit: int) -> None:
        self._write = write
        self._limit = limit
        self._queue_limit = queue_limit
        self._waiting: list[_Entry[Item, Result]] = []
        self._arrived = anyio.Event()
        self._has_ended = False

    async def submit(self, item: Item) -> Result:
        """Returns once it is on disk. Raises what the transaction, or this item in it, led to.

        With too many waiting already it raises StorageUnavailable before anything is stored.
        """
        if self._has_ended:
            raise StorageUnavailable("the storage is closed")
        if len(self._waiting) >= self._queue_limit:
            raise StorageUnavailable("more requests are waiting to be written than the storage keeps up with")
        entry = _Entry[Item, Result](item)
        self._waiting.append(entry)
        self._arrived.set()
        await entry.done.wait()
        if isinstance(entry.result, Exception):
            raise entry.result
        return entry.result

    async def run(self) -> None:
        """Write group after group, for ever. Leaves with StorageBroken, which must end the process.

        Whoever still waits when it leaves, or comes later, gets StorageUnavailable: nothing of theirs was written.
        """
        try:
            while True:
                if not self._waiting:
                    self._arrived = anyio.Event()
                    await self._arrived.wait()
                group, self._waiting = self._waiting[: self._limit], self._waiting[self._limit :]
                try:
                    await self._commit(group)
                finally:
                    for entry in group:
                        entry.done.set()
        finally:
            self._has_ended = True
            for entry in self._waiting:
                entry.done.set()

    async def _commit(self, group: list[_Entry[Item, Result]]) -> None:
        try:
            results = await self._write([entry.item for entry in group])
        except StorageError as error:
            for entry in group:
                entry.result = error
            if isinstance(error, StorageBroken):
                raise
        except Exception as error:  # noqa: BLE001 (whatever one row does to its group, its neighbours must not suffer)
            if len(group) == 1:
                group[0].result = error
                return
            for entry in group:
                await self._commit([entry])
        else:
            for entry, result in zip(group, results, strict=True):
                entry.result = result
