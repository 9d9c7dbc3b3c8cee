"""Hints to the other processes over one database: "something is due", "something is known of a provider".

A hint carries nothing and may get lost: whoever waits for one looks by itself once per period. So they cost little: at
most one a process every 50 ms, in a transaction of its own, never inside of what they are about.
"""

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any, Protocol

import anyio
import asyncpg
import sqlalchemy as sa

from hes.errors import StorageUnavailable
from hes.ids import NewId
from hes.model import Millis
from hes.storage.database import Database

CHANNEL = "hes"
SHORTEST_PAUSE_SECONDS = 0.05
TEST_SECONDS = 3.0
"""How long a hint to ourselves may take before we say that hints don't get through."""
TEST_AGAIN_SECONDS = 30.0
"""A connection that went silent, or one that works again, is noticed after so long."""

AWAY = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, StorageUnavailable)

_log = logging.getLogger("hes.hints")
_notify = sa.text("SELECT pg_notify(:channel, :payload)")


class Hint(StrEnum):
    DUE = "due"
    """An email may be due that a process of its own accord would look for only after a poll period."""
    FACTS = "facts"
    """Something about a provider's account was written down."""


class Hints(Protocol):
    def tell(self, hint: Hint) -> None:
        """Tell the others, soon. Returns at once; may be called any number of times."""
        ...

    def listen(self, hint: Hint, heard: Callable[[], None]) -> None:
        """Have this called, which must return at once, when another process tells."""
        ...


class NoHints:
    """Where there is no other process."""

    def tell(self, hint: Hint) -> None: ...

    def listen(self, hint: Hint, heard: Callable[[], None]) -> None: ...


class PostgresHints:
    """By LISTEN and NOTIFY (postgresql.org/docs/current/sql-notify.html), on a connection of its own.

    `run` must run beside it. It tests whether what is told is heard, since a pooler in between loses it; then it says
    so and goes on testing.
    """

    def __init__(self, connect: Callable[[], Awaitable[Any]], database: Database, new_id: NewId) -> None:
        """`connect`: to the database, as asyncpg does it."""
        self._connect = connect
        self._database = database
        self._node = new_id()
        self._told: set[Hint] = set()
        self._is_told = anyio.Event()
        self._listeners: defaultdict[str, list[Callable[[], None]]] = defaultdict(list)
        self._heard_myself = anyio.Event()
        self._works: bool | None = None
        """None: not tested yet."""

    def tell(self, hint: Hint) -> None:
        self._told.add(hint)
        self._is_told.set()

    def listen(self, hint: Hint, heard: Callable[[], None]) -> None:
        self._listeners[hint.value].append(heard)

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._tell_on, name="hints: telling")
            while True:
                try:
                    await self._hear()
                    self._lament("they are not heard: is there a pooler in between?")
                except AWAY as error:
                    self._lament(f"no connection to hear them: {error}")
                await anyio.sleep(TEST_SECONDS)

    async def _hear(self) -> None:
        """Listen until a test fails. Raises one of `AWAY`, also when the connection ends."""
        connection = await self._connect()
        try:
            await connection.add_listener(CHANNEL, self._on_notify)
            while not connection.is_closed():
                self._heard_myself = anyio.Event()
                await self._notify()
                with anyio.move_on_after(TEST_SECONDS):
                    await self._heard_myself.wait()
                if self._heard_myself.is_set():
                    self._rejoice()
                    await anyio.sleep(TEST_AGAIN_SECONDS)
                elif not connection.is_closed():
                    return
            raise ConnectionError("it ended")
        finally:
            connection.terminate()

    def _on_notify(self, _connection: object, _pid: int, _channel: str, payload: str) -> None:
        told_by, _, words = payload.partition(" ")
        if told_by == self._node:
            self._heard_myself.set()
            return
        for word in words.split():
            for heard in self._listeners[word]:
                heard()

    async def _tell_on(self) -> None:
        while True:
            await self._is_told.wait()
            self._is_told = anyio.Event()
            told, self._told = self._told, set()
            try:
                await self._notify(*told)
            except StorageUnavailable as error:
                _log.debug("a hint is lost: %s", error)
            await anyio.sleep(SHORTEST_PAUSE_SECONDS)

    async def _notify(self, *told: Hint) -> None:
        payload = " ".join([self._node, *told])

        def work(connection: sa.Connection, _now: Millis) -> None:
            connection.execute(_notify, {"channel": CHANNEL, "payload": payload})

        await self._database.write(work)

    def _lament(self, why: str) -> None:
        if self._works is not False:
            _log.warning("hints from other processes don't come, HES looks by itself each poll period: %s", why)
        self._works = False

    def _rejoice(self) -> None:
        if self._works is False:
            _log.info("hints from other processes come again")
        self._works = True
