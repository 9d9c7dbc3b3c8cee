"""A link between HES and Postgres that fails on demand.

It reads along what HES says (postgresql.org/docs/current/protocol-message-formats.html), just enough to see a COMMIT:
a simple query, `Q`, as the driver sends it.
"""

import asyncio
import contextlib
import re
import urllib.parse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum

COMMIT = re.compile(rb"Q....COMMIT;?\0", re.DOTALL)
PORTION_BYTES = 65_536

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Lost(Enum):
    """What a COMMIT that is lost had come to."""

    BEFORE_THE_SERVER = "the server never sees it"
    ANSWER = "the server did it and said so, and nobody hears that"


class _Connection:
    """One of HES's, with what belongs to it on the server's side."""

    def __init__(self, hes: Stream, server: Stream, *, is_silent: bool) -> None:
        self.hes = hes
        self.server = server
        self.is_silent = is_silent
        self.waits_for_commit = False

    def cut(self) -> None:
        for _, writer in (self.hes, self.server):
            writer.transport.abort()


class Link:
    """Passes everything on, until it is told otherwise. `url` leads through it."""

    def __init__(self, server_url: str) -> None:
        self._server = urllib.parse.urlsplit(server_url)
        self.url = ""
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_down = False
        self._is_silent = False
        self._to_lose: Lost | None = None
        self._stays_down = False
        self.delay_seconds = 0.0
        """For each portion, in each direction."""
        self.commits = 0
        """How many HES sent."""

    def cut(self) -> None:
        """End all connections now; new ones are fine."""
        for connection in list(self._connections):
            connection.cut()

    def go_down(self) -> None:
        """End all connections, and let no new one through."""
        self._is_down = True
        self.cut()

    def go_silent(self) -> None:
        """Nothing comes through any more, and nobody is told. Who is connected stays silent for ever."""
        self._is_silent = True
        for connection in self._connections:
            connection.is_silent = True

    def come_back(self) -> None:
        """New connections are fine again."""
        self._is_down = self._is_silent = False

    def lose_commit(self, how: Lost, *, stay_down: bool = False) -> None:
        """The next COMMIT ends its connection; with `stay_down` all others too, until it comes back."""
        self._to_lose = how
        self._stays_down = stay_down

    def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        self.go_down()
        await asyncio.gather(*self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_down:
            writer.transport.abort()
            return
        connection = _Connection((reader, writer), await self._connect(), is_silent=self._is_silent)
        self._connections.add(connection)
        try:
            # Whoever ends first ends both.
            with contextlib.suppress(ConnectionError):
                pumps = self._pump_requests(connection), self._pump_answers(connection)
                await asyncio.gather(*pumps)
        finally:
            connection.cut()
            self._connections.discard(connection)

    async def _connect(self) -> Stream:
        query = urllib.parse.parse_qs(self._server.query)
        host = query.get("host", [self._server.hostname or "127.0.0.1"])[0]
        port = self._server.port or int(query.get("port", ["5432"])[0])
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def _pump_requests(self, connection: _Connection) -> None:
        reader, _ = connection.hes
        _, writer = connection.server
        while portion := await reader.read(PORTION_BYTES):
            await asyncio.sleep(self.delay_seconds)
            if connection.is_silent:
                continue
            if COMMIT.search(portion):
                self.commits += 1
                lost, self._to_lose = self._to_lose, None
                if lost is Lost.BEFORE_THE_SERVER:
                    self._lose(connection)
                    return
                connection.waits_for_commit = lost is Lost.ANSWER
            writer.write(portion)
            await writer.drain()
        connection.cut()

    async def _pump_answers(self, connection: _Connection) -> None:
        reader, _ = connection.server
        _, writer = connection.hes
        while portion := await reader.read(PORTION_BYTES):
            await asyncio.sleep(self.delay_seconds)
            if connection.waits_for_commit:
                self._lose(connection)
                return
            if not connection.is_silent:
                writer.write(portion)
                await writer.drain()
        connection.cut()

    def _lose(self, connection: _Connection) -> None:
        if self._stays_down:
            self.go_down()
        connection.cut()


@asynccontextmanager
async def link_to(server_url: str) -> AsyncIterator[Link]:
    """A link to that database, on a port of its own."""
    link = Link(server_url)
    listener = await asyncio.start_server(link.take, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    parts = urllib.parse.urlsplit(server_url)
    # The rest of the query says where the server is; and what the link is to read along can't be encrypted.
    who = f"{parts.username or 'postgres'}:{parts.password or ''}"
    link.url = f"postgresql://{who}@127.0.0.1:{port}{parts.path}?sslmode=disable"
    try:
        yield link
    finally:
        listener.close()
        await link.close()
