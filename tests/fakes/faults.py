"""A fake provider's server, and the faults that can be switched on in it. What a vendor checks is in its own file.

One request's way: *before reading* its body, *before storing* what it asks for, *after storing* it but before the
answer (the point that matters: HES can't know), *mid answer*. A fault strikes at one of these.

Runs in the test's loop (`async with fake:`) or as a process (`serve`), where `/_…` endpoints take the place of the
attributes: GET `/_accepted`, `/_counts`, `/_requests`; POST `/_fault`, `/_script`, `/_refuse`. The control port, if
there is one, answers these also while the provider's own port refuses.
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Literal, Protocol, Self

import msgspec
from aiohttp import web
from msgspec import Struct


class Point(StrEnum):
    """Where in a request's way."""

    BEFORE_READING = "before_reading"
    BEFORE_STORING = "before_storing"
    AFTER_STORING = "after_storing"
    MID_ANSWER = "mid_answer"


class Kind(StrEnum):
    """What happens there. Mid answer there are only `hang`, `reset` and `close`, which cut the body."""

    STATUS = "status"
    HANG = "hang"
    RESET = "reset"
    CLOSE = "close"
    LATE = "late"
    GARBAGE = "garbage"
    SLOW_BODY = "slow_body"
    HUGE_BODY = "huge_body"


class Fault(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fault: with `probability` at each request, for the next `count` requests that it strikes (None: for good)."""

    kind: Kind
    at: Point = Point.BEFORE_STORING
    status: int = 503
    """For `status`, `slow_body` and `huge_body`."""
    shape: Literal["own", "foreign", "empty"] = "own"
    """For `status`: the vendor's own error shape, a front proxy's HTML, or no body."""
    message: str | None = None
    """For the own shape, instead of the vendor's usual words."""
    headers: dict[str, str] = {}
    seconds: float = 0.1
    """How late, or how long between two bytes of a slow body."""
    probability: float = 1.0
    count: int | None = None

    def __post_init__(self) -> None:
        if self.at is Point.MID_ANSWER and self.kind not in {Kind.HANG, Kind.RESET, Kind.CLOSE}:
            raise ValueError(f"{self.kind} can't happen mid answer")


class Seen(Struct, frozen=True):
    """A request. `headers.get` ignores case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    query: Mapping[str, str] = {}


class Said(Struct, frozen=True):
    """An answer."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = {}


class Copy(Struct, frozen=True, kw_only=True):
    """One email that was taken: what would really go out."""

    hes_id: str
    hes_attempt: str
    at: float
    envelope: tuple[str, ...]
    content: Any


class Vendor(Protocol):
    """What one kind of provider checks and says."""

    def judge(self, seen: Seen) -> tuple[Said, Copy | None]:
        """The answer, and what is stored if it is taken."""
        ...

    def error(self, status: int, message: str | None) -> Said:
        """An error in the vendor's own shape."""
        ...


PROXY_PAGE = b"<html><head><title>Error</title></head><body><center><h1>nginx</h1></center></body></html>"


class FakeServer:
    """A provider on loopback. `fault` strikes until it is used up or taken away; a script goes first."""

    def __init__(self, vendor: Vendor, *, rng: random.Random | None = None, latency_seconds: float = 0.0) -> None:
        self.vendor = vendor
        self.latency_seconds = latency_seconds
        self.accepted: list[Copy] = []
        self.requests: list[Seen] = []
        self._rng = rng or random.Random(0)
        self._fault: Fault | None = None
        self._left: int | None = None
        self._script: deque[Fault | None] = deque()
        self._stopped = asyncio.Event()
        self._listeners: dict[str, asyncio.Server] = {}
        self._servers: dict[str, web.Server] = {}
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def fault(self) -> Fault | None:
        return self._fault

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        self._fault = fault
        self._left = fault.count if fault else None

    def script(self, faults: Iterable[Fault | None]) -> None:
        """One entry for each of the next requests; None: no fault."""
        self._script = deque(faults)

    def copies(self, hes_id: str) -> int:
        """How often this email was taken."""
        return sum(copy.hes_id == hes_id for copy in self.accepted)

    async def start(self, port: int = 0, control_port: int | None = None) -> None:
        self._servers["provider"] = web.Server(self._serve, access_log=None)
        self._port = await self._listen("provider", port)
        if control_port is not None:
            self._servers["control"] = web.Server(self._control, access_log=None)
            await self._listen("control", control_port)

    async def stop(self) -> None:
        self._stopped.set()
        for listener in self._listeners.values():
            listener.close()
        for server in self._servers.values():
            await server.shutdown(0.1)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def refuse(self, *, refuse: bool = True) -> None:
        """Stop listening and drop all connections, or listen again on the same port."""
        if not refuse:
            self._port = await self._listen("provider", self._port)
            return
        self._listeners.pop("provider").close()
        for connection in self._servers["provider"].connections:
            if connection.transport is not None:
                connection.transport.abort()
        for _ in range(100):  # they are gone a few turns of the loop later, and nobody tells when
            if self._servers["provider"].connections:
                await asyncio.sleep(0)

    async def _listen(self, which: str, port: int) -> int:
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(self._servers[which], "127.0.0.1", port, backlog=1024)
        self._listeners[which] = listener
        bound: int = listener.sockets[0].getsockname()[1]
        return bound

    async def _control(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        answer: object = None
        match request.method, request.path:
            case "GET", "/_accepted":
                answer = [{"hes_id": c.hes_id, "hes_attempt": c.hes_attempt, "at": c.at} for c in self.accepted]
            case "GET", "/_counts":
                answer = Counter(copy.hes_id for copy in self.accepted)
            case "GET", "/_requests":
                answer = len(self.requests)
            case "POST", "/_fault":
                self.fault = msgspec.json.decode(body, type=Fault | None)
            case "POST", "/_script":
                self.script(msgspec.json.decode(body, type=list[Fault | None]))
            case "POST", "/_refuse":
                await self.refuse(refuse=msgspec.json.decode(body, type=bool))
            case _:
                return web.Response(status=404)
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path.startswith("/_"):
            return await self._control(request)
        fault = self._draw()
        if (done := await self._strike(request, fault, Point.BEFORE_READING)) is not None:
            return done
        seen = Seen(request.method, request.path, request.headers, await request.content.read(), request.query)
        self.requests.append(seen)
        if (done := await self._strike(request, fault, Point.BEFORE_STORING)) is not None:
            return done
        said, copy = self.vendor.judge(seen)
        if copy is not None:
            self.accepted.append(copy)
        if self.latency_seconds:
            await asyncio.sleep(self.latency_seconds)
        if (done := await self._strike(request, fault, Point.AFTER_STORING)) is not None:
            return done
        if fault is not None and fault.at is Point.MID_ANSWER:
            _transport(request).write(b"HTTP/1.1 %d X\r\nContent-Length: 100\r\n\r\n{" % said.status)
            await self._strike(request, fault, Point.MID_ANSWER)
        return web.Response(status=said.status, body=said.body, headers=said.headers)

    def _draw(self) -> Fault | None:
        """The fault that strikes this request."""
        if self._script:
            return self._script.popleft()
        fault = self._fault
        if fault is None or self._left == 0 or self._rng.random() >= fault.probability:
            return None
        if self._left is not None:
            self._left -= 1
        return fault

    async def _strike(self, request: web.BaseRequest, fault: Fault | None, at: Point) -> web.StreamResponse | None:
        """What takes the answer's place; None: the request goes on."""
        if fault is None or fault.at is not at:
            return None
        match fault.kind:
            case Kind.LATE:
                await asyncio.sleep(fault.seconds)
                return None
            case Kind.STATUS:
                said = self._status(fault)
                return web.Response(status=said.status, body=said.body, headers=said.headers | fault.headers)
            case Kind.SLOW_BODY | Kind.HUGE_BODY:
                return await self._stream(request, fault)
            case Kind.HANG:
                await self._stopped.wait()
            case Kind.RESET:
                _reset(_transport(request))
            case Kind.CLOSE:
                _transport(request).close()
            case Kind.GARBAGE:
                _transport(request).write(b"\x00\x01 what is this\r\n\r\n")
                _transport(request).close()
        return web.Response()  # nobody gets it: the connection is gone

    def _status(self, fault: Fault) -> Said:
        match fault.shape:
            case "own":
                return self.vendor.error(fault.status, fault.message)
            case "foreign":
                return Said(fault.status, PROXY_PAGE, {"Content-Type": "text/html"})
            case "empty":
                return Said(fault.status)

    async def _stream(self, request: web.BaseRequest, fault: Fault) -> web.StreamResponse:
        response = web.StreamResponse(status=fault.status, headers=fault.headers)
        slow = fault.kind is Kind.SLOW_BODY
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            while not self._stopped.is_set():
                await response.write(b" " if slow else b" " * 65536)
                await asyncio.sleep(fault.seconds if slow else 0)
        return response


def _transport(request: web.BaseRequest) -> asyncio.Transport:
    """The request's connection (uvloop's are no asyncio.Transport, but the same in all that is used here)."""
    if request.transport is None:
        raise ConnectionResetError
    return request.transport


def _reset(transport: asyncio.Transport) -> None:
    """A TCP reset, not an end: what comes of closing with nothing allowed to linger."""
    with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def arguments(description: str) -> argparse.ArgumentParser:
    """What every fake takes as a process."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--control-port", type=int, help="answers /_… also while --port refuses")
    parser.add_argument("--latency-ms", type=float, default=0, help="between storing and answering")
    parser.add_argument("--seed", type=int, default=0, help="of the faults' probabilities")
    return parser


def serve(vendor: Vendor, given: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT. The first line of stdout, once it listens, is the URL."""

    async def run() -> None:
        server = FakeServer(vendor, rng=random.Random(given.seed), latency_seconds=given.latency_ms / 1000)
        await server.start(given.port, given.control_port)
        print(server.url, flush=True)  # noqa: T201
        over = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, over.set)
        await over.wait()
        await server.stop()

    asyncio.run(run())


def now() -> float:
    """Unix time, for `Copy.at`."""
    return time.time()
