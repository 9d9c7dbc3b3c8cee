"""How answers leave and connections end, on real connections."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from hes.web.answers import PIECE_BYTES, BoundedAnswers
from tests.web.test_heads import GET, PATIENCE_SECONDS, Patient, asked, connected, rest, served

pytestmark = pytest.mark.anyio

HALF = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000000\r\n\r\nxx"
LARGE = bytes(range(256)) * 40_000
"""More than the buffers of two sockets take."""


class Hasty(Patient):
    """Nobody has time."""

    answer_seconds = 0.2
    linger_seconds = 0.2


class Slow(Patient):
    answer_seconds = linger_seconds = 10 * PATIENCE_SECONDS


async def refuse(_scope: Any, _receive: Any, send: Any) -> None:
    """Answers without reading the body."""
    await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"no"})


def large(sent: Callable[[], object], body: bytes = LARGE) -> Any:
    """Answers with a lot; `sent`: is called when the server has taken it."""

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        length = str(len(body)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": body})
        sent()

    return app


async def goes_on(stream: anyio.abc.SocketStream) -> None:
    """Sends a body for ever, until the other side ends the connection."""
    try:
        with anyio.fail_after(PATIENCE_SECONDS):
            while True:
                await stream.send(b"x" * PIECE_BYTES)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass


@asynccontextmanager
async def unread(port: int) -> AsyncIterator[socket.socket]:
    """A connection of which nothing is read unless somebody does it."""
    with socket.socket() as stream:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stream.setblocking(False)
        await asyncio.get_running_loop().sock_connect(stream, ("127.0.0.1", port))
        yield stream


async def send(stream: socket.socket, data: bytes) -> None:
    with anyio.fail_after(PATIENCE_SECONDS):
        await asyncio.get_running_loop().sock_sendall(stream, data)


async def receive(stream: socket.socket, least: int) -> bytes:
    """So many bytes at least."""
    found = bytearray()
    with anyio.fail_after(PATIENCE_SECONDS):
        while len(found) < least:
            part = await asyncio.get_running_loop().sock_recv(stream, 1_000_000)
            if not part:
                raise ConnectionError("it ended")
            found += part
    return bytes(found)


@pytest.mark.parametrize("begun", [HALF, HALF.replace(b"\r\n\r\nxx", b"\r\nExpect: 100-continue\r\n\r\n")])
async def test_an_answer_before_the_body_is_read_says_that_it_is_the_last(begun: bytes) -> None:
    async with served(Slow, refuse) as port, connected(port) as stream:
        await stream.send(begun)
        told = await rest(stream)
    head, _, body = told.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 401")
    assert head.count(b"connection: close") == 1
    assert body == b"no"


async def test_who_goes_on_sending_is_cut_and_reads_the_answer_before() -> None:
    async with served(Hasty, refuse) as port, connected(port) as stream, anyio.create_task_group() as tasks:
        await stream.send(HALF)
        assert (await stream.receive()).startswith(b"HTTP/1.1 401")
        tasks.start_soon(goes_on, stream)


async def test_what_comes_behind_the_last_answer_is_not_answered() -> None:
    async with served(Slow, refuse) as port, connected(port) as stream:
        await stream.send(HALF.replace(b"1000000000000000", b"3"))
        assert (await stream.receive()).startswith(b"HTTP/1.1 401")
        await stream.send(b"x" + GET)
        assert b"HTTP" not in await rest(stream)


async def test_after_a_body_that_came_the_connection_stays() -> None:
    """Also if nobody read it."""
    whole = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nxx"
    async with served(Slow, refuse) as port, connected(port) as stream:
        for _ in range(3):
            await stream.send(whole)
            told = b""
            while not told.endswith(b"no"):
                told += await stream.receive()
            assert b"connection: close" not in told


async def test_an_answer_is_out_when_it_was_read_and_arrives_whole() -> None:
    """So long its memory counts."""
    out: list[int] = []
    async with served(Slow, large(lambda: out.append(1))) as port, unread(port) as stream:
        await send(stream, GET)
        assert LARGE in await asked(port, GET.replace(b"1.1", b"1.0"))
        assert len(out) == 1, "the other one"
        told = await receive(stream, len(LARGE) + 50)
        assert told.endswith(LARGE)
        with anyio.fail_after(PATIENCE_SECONDS):
            while len(out) < 2:
                await anyio.lowlevel.checkpoint()
        await send(stream, GET)
        assert await receive(stream, 50)


async def test_an_answer_that_nobody_reads_ends_its_connection() -> None:
    is_out = anyio.Event()
    async with served(Hasty, large(is_out.set)) as port, unread(port) as stream:
        await send(stream, GET)
        with anyio.fail_after(PATIENCE_SECONDS):
            await is_out.wait()
        with pytest.raises(ConnectionError):
            await receive(stream, len(LARGE))


async def test_so_do_small_ones() -> None:
    """Many that are asked for at once, and none of them read."""
    ended = anyio.Event()

    class Watched(Hasty):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            ended.set()

    async with served(Watched, large(lambda: None, LARGE[:50_000])) as port, unread(port) as stream:
        await send(stream, GET * 300)
        with anyio.fail_after(PATIENCE_SECONDS):
            await ended.wait()
        with pytest.raises(ConnectionError):
            await receive(stream, 300 * 50_000)


async def test_who_reads_has_no_end_of_time() -> None:
    """Each answer has its own."""
    async with served(Hasty, large(lambda: None)) as port, connected(port) as stream:
        begun_at = anyio.current_time()
        while anyio.current_time() < begun_at + 3 * Hasty.answer_seconds:
            await stream.send(GET)
            got = 0
            while got < len(LARGE):
                got += len(await stream.receive(1_000_000))


def test_the_times_are_seconds() -> None:
    assert 0 < BoundedAnswers.linger_seconds <= 5
    assert 0 < BoundedAnswers.answer_seconds <= 60
