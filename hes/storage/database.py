"""What the verbs of a storage are written against: a kind of database, reduced to its transactions."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import sqlalchemy as sa

from hes.model import Millis

T = TypeVar("T")
Work = Callable[[sa.Connection, Millis], T]


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

    async def read(self, work: Work[T]) -> T:
        """Run the work on one snapshot."""
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
