"""A request's head is bounded in size and time, on real connections. The whole process: tests/faults/test_edge.py."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import uvicorn
from anyio.abc import SocketStream

from hes.serving import Server, listen
from hes.web.heads import HEAD_BYTES, BoundedHeads

pytestmark = pytest.mark.anyio

PATIENCE_SECONDS = 30.0
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
ROOM = HEAD_BYTES - len("/HostX: \r\n") - len("a: \r\n")
"""For the value of one more header, `a`."""


class Quick(BoundedHeads):
    head_seconds = 0.2


class Patient(BoundedHeads):
    """No test waits so long: what is closed was not closed for being late."""

    head_seconds = 10 * PATIENCE_SECONDS


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with how many bytes the body had."""
    count = 0
    while (event := await receive())["type"] == "http.request":
        count += len(event["body"])
        if not event["more_body"]:
            break
    body = f"{count} bytes".encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def served(protocol: type[BoundedHeads], app: Any = echo, keep_alive: int = 600) -> AsyncIterator[int]:
    """The port."""
    config = uvicorn.Config(app, http=protocol, lifespan="off", log_config=None, timeout_keep_alive=keep_alive)
    started = anyio.Event()
    server = Server(config, started.set)
    with listen("127.0.0.1", 0) as listener:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listener])
            with anyio.fail_after(PATIENCE_SECONDS):
                await started.wait()
                yield listener.getsockname()[1]
            server.should_exit = server.force_exit = True


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[SocketStream]:
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        yield stream


async def rest(stream: SocketStream) -> bytes:
    """All that comes until the other side ends the connection."""
    found = b""
    try:
        with anyio.fail_after(PATIENCE_SECONDS):
            async for part in stream:
                found += part
    except anyio.BrokenResourceError:
        pass  # reset: it was closed while we still wrote
    return found


async def answer(stream: SocketStream, count: int = 1) -> bytes:
    """All that comes until so many answers of `echo` are there."""
    found = b""
    while found.count(b" bytes") < count:
        found += await stream.receive()
    return found


async def ended(stream: SocketStream, within: float) -> bool:
    """Whether the other side ends the connection in so many seconds, without a word."""
    with anyio.move_on_after(within):
        assert await rest(stream) == b""
        return True
    return False


async def asked(port: int, *parts: bytes) -> bytes:
    """What is answered until the connection ends."""
    async with connected(port) as stream:
        try:
            for part in parts:
                await stream.send(part)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # what was answered before can still be read
        return await rest(stream)


async def test_a_head_of_just_the_size_is_taken_and_one_byte_more_is_a_431() -> None:
    async with served(Patient) as port:
        async with connected(port) as stream:
            await stream.send(GET[:-2] + b"a: " + b"y" * (ROOM - 1) + b"\r\n\r\n")
            assert await answer(stream)
        told = await asked(port, GET[:-2] + b"a: " + b"y" * (HEAD_BYTES + 1) + b"\r\n\r\n")
    head, _, body = told.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    problem = json.loads(body)
    assert (problem["status"], problem["type"]) == (431, "urn:hes:problem:head-too-large")


@pytest.mark.parametrize(
    "parts",
    [
        (GET[:-2], *[b"a: " + b"y" * 1000 + b"\r\n"] * 100),
        (GET[:-2], b"a: ", *[b"y" * 1000] * 300),
        (b"GET /", *[b"y" * 1000] * 300),
        (*[b"\r\n" * 500] * 300,),
    ],
    ids=["many headers", "one without an end", "an address without an end", "nothing but empty lines"],
)
async def test_whatever_has_no_end_is_refused_before_it_ends(parts: tuple[bytes, ...]) -> None:
    async with served(Patient) as port:
        told = await asked(port, *parts)
    assert told == b"" or told.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx",
        "GET / HTTP/1.\u0661\r\nHost: a\r\n\r\n".encode(),
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded: x\r\n\r\n",
    ],
)
async def test_what_can_be_read_in_two_ways_is_a_400_and_the_end(head: bytes) -> None:
    """Also for a second request, of which a proxy knows nothing, right behind it."""
    async with served(Patient) as port:
        told = await asked(port, head + GET)
    head, _, body = told.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert head.endswith(b"\r\nconnection: close")
    assert json.loads(body)["type"] == "urn:hes:problem:unreadable", "and nothing behind it"


async def test_http_1_0_needs_no_host() -> None:
    async with served(Patient) as port:
        assert b"200 OK" in await asked(port, b"GET / HTTP/1.0\r\n\r\n")


@pytest.mark.parametrize(
    "trailers", [[b"a: " + b"y" * 1000 + b"\r\n"] * 100, [b"a: ", *[b"y" * 1000] * 300]], ids=["many", "endless"]
)
async def test_trailers_count_too(trailers: list[bytes]) -> None:
    async with served(Patient) as port:
        told = await asked(port, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", *trailers)
    assert b"200 OK" not in told


async def test_bodies_are_not_counted() -> None:
    size = 10 * HEAD_BYTES
    async with served(Patient) as port, connected(port) as stream:
        await stream.send(f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode() + b"y" * size)
        assert f"{size} bytes".encode() in await answer(stream)
        await stream.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        await stream.send(b"1\r\ny\r\n" * HEAD_BYTES + b"0\r\n\r\n")
        assert f"{HEAD_BYTES} bytes".encode() in await answer(stream)


async def test_many_requests_on_one_connection_each_have_their_own_head() -> None:
    one = GET[:-2] + b"a: " + b"y" * 1000 + b"\r\n\r\n"
    async with served(Patient) as port, connected(port) as stream:
        await stream.send(one * 100)
        assert (await answer(stream, 100)).count(b"HTTP/1.1 200 OK") == 100


@pytest.mark.parametrize("start", [b"G", b"GET / HTTP/1.1\r\nHost:", GET[:-2], b"\r\n", GET + b"GET / HT"])
async def test_a_head_that_is_not_whole_in_time_ends_the_connection(start: bytes) -> None:
    async with served(Quick) as port:
        assert (await asked(port, start)).count(b"HTTP/1.1") == start.count(GET)


async def test_a_head_that_goes_on_coming_has_no_more_time_for_it() -> None:
    async with served(Quick) as port, connected(port) as stream:
        await stream.send(GET[:-2] + b"a: ")
        with anyio.fail_after(PATIENCE_SECONDS):
            while not await ended(stream, within=0.01):
                await stream.send(b"y")


async def test_an_idle_connection_is_not_cut_by_it() -> None:
    """The second connection is there to tell when the time is over."""
    async with served(Quick) as port, connected(port) as idle, connected(port) as fresh:
        await idle.send(GET)
        await answer(idle)
        await asked(port, b"GET / HT")
        for stream in (idle, fresh):
            await stream.send(GET)
            assert await answer(stream)


async def test_a_connection_on_which_nothing_is_asked_ends_as_an_idle_one() -> None:
    async with served(Patient, keep_alive=0) as port:
        assert await asked(port) == b""


async def test_while_an_answer_is_worked_on_the_next_head_may_wait() -> None:
    """Nothing is read then, so nobody can know whether the rest of it has come."""
    go = anyio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        await echo(scope, receive, send)

    async with served(Quick, slow) as port, connected(port) as stream:
        await stream.send(GET * 2 + GET[:20])
        await asked(port, b"GET / HT")
        await stream.send(GET[20:])
        go.set()
        assert (await answer(stream, 3)).count(b"HTTP/1.1 200 OK") == 3
