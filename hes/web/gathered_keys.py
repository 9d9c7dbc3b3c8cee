"""Keys that are looked up together: one question about all that were asked for within a moment."""

import anyio

from hes.errors import StorageUnavailable
from hes.storage.key_records import Keys, StoredKey


class _Batch:
    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.found: dict[str, StoredKey] | None = None
        self.is_over = anyio.Event()


class GatheredKeys:
    """So however many ask, the storage is asked no more often than once in `seconds`."""

    def __init__(self, keys: Keys, seconds: float) -> None:
        self._keys = keys
        self._seconds = seconds
        self._next: _Batch | None = None

    async def find(self, key_id: str) -> StoredKey | None:
        """One key, whatever has become of it. Raises: StorageUnavailable."""
        batch, is_first = self._next, False
        if batch is None:
            batch, is_first = _Batch(), True
            self._next = batch
        batch.ids.add(key_id)
        if is_first:
            await self._ask(batch)
        else:
            await batch.is_over.wait()
        if batch.found is None:
            raise StorageUnavailable("whoever looked up several keys together could not")
        return batch.found.get(key_id)

    async def _ask(self, batch: _Batch) -> None:
        try:
            await anyio.sleep(self._seconds)
            self._next = None  # who comes from now on might ask for a key that was made in this moment
            batch.found = await self._keys.find(list(batch.ids))
        finally:
            if self._next is batch:
                self._next = None
            batch.is_over.set()
