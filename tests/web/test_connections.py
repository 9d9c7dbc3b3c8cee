"""Connections without a key are bounded in number: those idle longest go, and no new one is refused."""

import logging
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_network
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream

from hes.web.auth import BECAME_KNOWN
from hes.web.connections import BoundedConnections, UnknownConnections, most_unknown
from tests.web.test_heads import GET, PATIENCE_SECONDS, answer, connected, echo, rest, served

pytestmark = pytest.mark.anyio

MOST = 3
KEYED = GET.replace(b"/ ", b"/with-a-key ")
SLOW = GET.replace(b"/ ", b"/slow ")
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """As `echo`. A path can show a key."""
    if scope["path"] == "/with-a-key":
        scope[BECAME_KNOWN]()
    await echo(scope, receive, send)


@asynccontextmanager
async def bounded(*trusted: str, application: Any = app) -> AsyncIterator[int]:
    """A port to which so few may connect."""

    class Few(BoundedConnections):
        head_seconds = 10 * PATIENCE_SECONDS
        unknown = UnknownConnections(MOST, tuple(map(ip_network, trusted)))

    async with served(Few, application) as port:
        yield port


class Callers(AsyncExitStack):
    """Connections, all closed at the end."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    async def connect(self, *sent: bytes) -> SocketStream:
        """A connection on which this was sent, and answered if there is an answer to it."""
        stream = await self.enter_async_context(connected(self._port))
        for one in sent:
            await stream.send(one)
            if one in {GET, KEYED}:
                await answer(stream)
        return stream


async def is_open(stream: SocketStream) -> bool:
    """Whether a request on it is answered."""
    try:
        await stream.send(GET)
        with anyio.fail_after(PATIENCE_SECONDS):
            await answer(stream)
    except (anyio.BrokenResourceError, anyio.EndOfStream):
        return False
    return True


@pytest.mark.parametrize(
    "sent", [(), (GET,), (b"GET / HT",), (GET, b"GET / HT")], ids=["nothing", "answered", "half a head", "both"]
)
async def test_above_the_most_the_one_that_is_idle_longest_is_closed(sent: tuple[bytes, ...]) -> None:
    async with bounded() as port, Callers(port) as callers:
        streams: list[SocketStream] = []
        for n in range(MOST + 2):
            streams.append(await callers.connect(*sent))
            if n >= MOST:
                await rest(streams[n - MOST])
        assert await is_open(await callers.connect())


async def test_whoever_was_answered_last_goes_last() -> None:
    """Else a scraper that connected first would go first, whatever comes."""
    async with bounded() as port, Callers(port) as callers:
        first, second, third = [await callers.connect(GET) for _ in range(MOST)]
        assert await is_open(first)
        await callers.connect(GET)
        await rest(second)
        assert await is_open(first)
        assert await is_open(third)


async def test_one_that_showed_a_key_does_not_count_and_stays() -> None:
    async with bounded() as port, Callers(port) as callers:
        keyed = [await callers.connect(KEYED) for _ in range(3 * MOST)]
        unknown = [await callers.connect(GET) for _ in range(3 * MOST)]
        await rest(unknown[0])
        assert [await is_open(stream) for stream in keyed] == [True] * len(keyed)
        assert [await is_open(stream) for stream in unknown[-MOST:]] == [True] * MOST


async def test_whoever_is_answered_just_now_is_not_idle() -> None:
    """The idle one goes first, then the one whose body does not come, and only then the oldest of all."""
    go, began = anyio.Event(), anyio.Semaphore(0)

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        began.release()
        if scope["path"] == "/slow":
            await go.wait()
        await echo(scope, receive, send)

    async with bounded(application=slow) as port, Callers(port) as callers:

        async def begun(sent: bytes) -> SocketStream:
            stream = await callers.connect(sent)
            with anyio.fail_after(PATIENCE_SECONDS):
                await began.acquire()
            return stream

        working, unfinished, idle = [await begun(sent) for sent in (SLOW, POST, GET)]
        others = [await begun(SLOW)]
        await rest(idle)
        others.append(await begun(SLOW))
        await rest(unfinished)
        others.append(await begun(SLOW))
        await rest(working)
        go.set()
        for stream in others:
            assert await answer(stream)


async def test_trusted_proxies_may_have_any_number() -> None:
    async with bounded("10.0.0.0/8", "127.0.0.0/8") as port, Callers(port) as callers:
        streams = [await callers.connect(GET) for _ in range(3 * MOST)]
        assert [await is_open(stream) for stream in streams] == [True] * len(streams)


async def test_it_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async with bounded() as port, Callers(port) as callers:
        for _ in range(3 * MOST):
            await callers.connect(GET)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "hes.web"]
    assert line.startswith(f"there are {MOST} connections without a key, as many as may be")
    assert caplog.records[0].levelno == logging.WARNING


@pytest.mark.parametrize(
    ("descriptors", "most"), [(64, 32), (256, 128), (1_048_576, 1000), (resource.RLIM_INFINITY, 1000)]
)
def test_half_of_the_descriptors_are_for_the_others(
    descriptors: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, descriptors))
    assert most_unknown() == most
