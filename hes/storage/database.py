"""What the verbs of a storage are written against: a kind of database, reduced to its transactions."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import Enum
from typing import Protocol, TypeVar

import anyio
import sqlalchemy as sa

from hes.errors import StorageUnavailable
from hes.model import Millis

T = TypeVar("T")
Work = Callable[[sa.Connection, Millis], T]

TURN_SECONDS = 20.0
"""How long a read of low priority waits for its turn."""


class Priority(Enum):
    """What a read may take from the others."""

    HIGH = "high"
    """Keys and readiness: they have a connection of their own, so that they wait for nobody else."""
    NORMAL = "normal"
    LOW = "low"
    """What may look at many rows: only a few at a time, so that there is always a connection for the others."""


class Turns:
    """For reads of low priority: so many at once."""

    def __init__(self, at_once: int) -> None:
        self._free = anyio.Semaphore(at_once)

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Raises StorageUnavailable if it does not come in time."""
        try:
            with anyio.fail_after(TURN_SECONDS):
                await self._free.acquire()
        except TimeoutError:
            raise StorageUnavailable("as many lists are being read as may be at once") from None
        try:
            yield
        finally:
            self._free.release()


class Database(Protocol):
    """One kind of database."""

    name: str
    """Of the kind, for people."""

    def connections(self) -> tuple[int, int, int]:
        """How many of the pool are used, how many are there besides, and how many there may be at most."""
        ...

    def started_at(self, connection: sa.Connection) -> Millis:
        """When it last began to take connections, by its own time; 0 where that keeps nobody from anything."""
        ...

    async def write(self, work: Work[T]) -> T:
        """Run the work in one write transaction, committed to disk on return; it is given the database's time.

        The work is a plain function: where it runs is the database's affair (SQLite: in a thread of its own, as a
        whole). It is not cut off when the caller is cancelled. Raises StorageUnavailable, StorageBroken.
        """
        ...

    async def read(self, work: Work[T], priority: Priority = Priority.NORMAL) -> T:
        """Run the work on one snapshot. Raises StorageUnavailable, StorageBroken."""
        ...


def is_of_a_lock(error: sa.exc.DBAPIError) -> bool:
    """Whether another transaction was in the way for too long. On SQLite there is none."""
    return getattr(error.orig, "sqlstate", None) == "55P03"


def is_of_a_row(error: sa.exc.DBAPIError) -> bool:
    """Whether the database refused what a row holds, and would take others.

    Integrity and data errors; SQLSTATE classes 22 and 23 on Postgres, whose driver has no class of its own for some.
    """
    sqlstate: str = getattr(error.orig, "sqlstate", None) or ""
    return isinstance(error, sa.exc.IntegrityError | sa.exc.DataError) or sqlstate[:2] in ("22", "23")
