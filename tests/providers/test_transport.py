"""The transport: what went wrong at which stage, and that nothing an answer holds can hurt."""

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import aiohttp
import pytest
import uvloop
from aiohttp.client_reqrep import ConnectionKey
from hypothesis import given
from hypothesis import strategies as st

from hes.model import Outcome
from hes.providers import transport as transport_module
from hes.providers.transport import (
    NoReply,
    Reply,
    Transport,
    clean_id,
    retry_after,
    seconds_until,
    shorten,
)

pytestmark = pytest.mark.anyio

NOW = 1_700_000_000_000
OK = b"HTTP/1.1 202 Accepted\r\nX-Message-Id: m1\r\nContent-Length: 2\r\n\r\n{}"


@asynccontextmanager
async def speaking(*answers: bytes, then_close: bool = False) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that says one of `answers` after each request head; its URL, and the heads that it saw."""
    heads: list[bytes] = []
    left = list(answers)
    writers: list[asyncio.StreamWriter] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            while left:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(left.pop(0))
            if then_close:
                writer.close()
            else:
                await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heads
    finally:
        server.close()
        for writer in writers:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)


@asynccontextmanager
async def transport_to(url: str, max_in_flight: int = 4, connect: float = 2.0) -> AsyncIterator[Transport]:
    transport = Transport(url, max_in_flight=max_in_flight, connect_timeout_seconds=connect)
    try:
        yield transport
    finally:
        await transport.aclose()


async def post(url: str, timeout_seconds: float = 1.0, body: bytes = b"{}") -> Reply | NoReply:
    async with transport_to(url) as transport:
        return await transport.post("/send", body, {"Authorization": "Bearer k"}, timeout_seconds)


def outcome_of(reply: Reply | NoReply) -> Outcome:
    assert isinstance(reply, NoReply), reply
    return reply.outcome


async def test_a_whole_answer_is_returned_as_it_is() -> None:
    async with speaking(OK) as (url, _):
        reply = await post(url)
    assert isinstance(reply, Reply)
    assert (reply.status, reply.headers.get("x-message-id"), reply.body) == (202, "m1", b"{}")


async def test_it_asks_for_plain_answers_and_sends_no_cookie_back() -> None:
    with_cookie = OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=b; Path=/\r\n\r\n")
    async with speaking(with_cookie, with_cookie) as (url, heads), transport_to(url) as transport:
        for _ in range(2):
            await transport.post("/send", b"", {}, 1)
    assert b"Accept-Encoding: identity" in heads[1]
    assert b"cookie" not in heads[1].lower()


async def test_a_get_asks_for_exactly_the_path_it_was_given() -> None:
    async with speaking(OK, OK) as (url, heads), transport_to(url) as transport:
        reply = await transport.get("/v3/events?message-id=a%40b%2Bc&x=1%2F2", {"Authorization": "Basic k"}, 1.0)
        assert isinstance(reply, Reply)
        assert (reply.status, reply.body) == (202, b"{}")
        assert isinstance(await transport.get("/v3/logs/a%2Fb", {}, 1.0), Reply)
        assert transport._urls == {}  # each is another one: kept, they would pile up
    assert [head.split(b" HTTP")[0] for head in heads] == [
        b"GET /v3/events?message-id=a%40b%2Bc&x=1%2F2",
        b"GET /v3/logs/a%2Fb",
    ]
    assert b"Content-Length" not in heads[0]
    assert b"Authorization: Basic k" in heads[0]


async def test_connections_are_reused() -> None:
    async with speaking(OK, OK, OK) as (url, heads), transport_to(url) as transport:
        for _ in range(3):
            assert isinstance(await transport.post("/send", b"", {}, 1), Reply)
        assert transport._session is not None
        connector = transport._session.connector
        assert connector is not None
        assert sum(len(kept) for kept in connector._conns.values()) == 1
    assert len(heads) == 3


async def test_a_connection_that_just_ended_is_not_used_again() -> None:
    """Else each request that meets one is a false doubt. The loop gets no time to see the end by itself."""
    loop = asyncio.get_running_loop()

    async def answer_one() -> socket.socket:
        connection, _ = await loop.sock_accept(listener)
        await loop.sock_recv(connection, 65536)
        connection.sendall(OK)
        return connection

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        async with transport_to(f"http://127.0.0.1:{listener.getsockname()[1]}") as transport:
            first = asyncio.create_task(answer_one())
            assert isinstance(await transport.post("/send", b"", {}, 1), Reply)
            second = asyncio.create_task(answer_one())
            (await first).close()
            assert isinstance(await transport.post("/send", b"", {}, 1), Reply)
            (await second).close()


async def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next_one() -> None:
    """Else a doubled 202 would make an email `accepted` that the provider never saw."""
    stray_seen = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await stray_seen.wait()
        writer.write(OK.replace(b"m1", b"stray"))
        await reader.read()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with transport_to(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", max_in_flight=1) as transport:
        await transport.post("/send", b"", {}, 1)
        stray_seen.set()
        assert transport._session is not None
        (kept,) = transport._session.connector._conns.values()  # type: ignore[union-attr]
        while not kept[0][0].should_close:  # noqa: ASYNC110 - aiohttp tells nobody when something comes in
            await asyncio.sleep(0)
        reply = await transport.post("/send", b"", {}, 1)
        assert isinstance(reply, Reply)
        assert reply.headers["X-Message-Id"] == "m1"
    server.close()


async def test_a_redirect_is_an_answer_and_not_followed() -> None:
    async with speaking(b"HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n") as (url, heads):
        reply = await post(url)
    assert isinstance(reply, Reply)
    assert reply.status == 302
    assert len(heads) == 1


async def test_a_proxy_in_the_environment_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with speaking(OK) as (url, _):
        assert isinstance(await post(url), Reply)


async def test_a_compressed_answer_is_not_unpacked() -> None:
    async with speaking(b"HTTP/1.1 202 A\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b") as (url, _):
        assert outcome_of(await post(url)) is Outcome.IN_DOUBT


async def test_an_answer_without_end_is_cut_off() -> None:
    endless = b"HTTP/1.1 202 A\r\nContent-Length: 9999999999\r\n\r\n" + b" " * 1_000_001
    async with speaking(endless) as (url, _):
        reply = await post(url)
    assert isinstance(reply, NoReply)
    assert reply == NoReply(Outcome.IN_DOUBT, "202: the answer is longer than 1 MB")


async def test_an_early_answer_counts_though_the_upload_has_not_ended() -> None:
    """The server never reads the body, and keeps the connection open."""
    held = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await held.wait()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, limit=1024)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    reply = await post(url, 5.0, b"x" * 20_000_000)
    held.set()
    server.close()
    assert isinstance(reply, Reply)
    assert reply.status == 413


async def test_a_refused_connection_is_unavailable() -> None:
    async with speaking() as (url, _):
        pass
    assert await post(url) == NoReply(Outcome.UNAVAILABLE, "no connection: Connection refused")


async def test_an_unknown_host_is_unavailable() -> None:
    assert outcome_of(await post("http://no-such-host.invalid")) is Outcome.UNAVAILABLE


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["nothing", "plain HTTP"])
async def test_a_failed_tls_handshake_is_unavailable(says: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(says)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    reply = await post(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    server.close()
    assert outcome_of(reply) is Outcome.UNAVAILABLE
    assert "time" not in str(reply)


async def test_a_handshake_that_never_ends_is_unavailable() -> None:
    """Connecting has its own time-out; TLS counts as connecting."""
    async with silent() as port, transport_to(f"https://127.0.0.1:{port}", connect=0.1) as it:
        assert await it.post("/", b"", {}, 5) == NoReply(Outcome.UNAVAILABLE, "no connection in time")


async def test_out_of_time_before_anything_was_sent_is_unavailable() -> None:
    async with silent() as port, transport_to(f"https://127.0.0.1:{port}") as transport:
        reply = await transport.post("/", b"", {}, 0.1)
    assert reply == NoReply(Outcome.UNAVAILABLE, "out of time before the request was sent")


async def test_waiting_for_a_free_connection_is_unavailable() -> None:
    async with silent() as port, transport_to(f"http://127.0.0.1:{port}", 1, connect=0.1) as transport:
        replies = await asyncio.gather(transport.post("/", b"", {}, 0.3), transport.post("/", b"", {}, 0.3))
    assert [outcome_of(reply) for reply in replies] == [Outcome.IN_DOUBT, Outcome.UNAVAILABLE]


async def test_silence_after_the_request_is_in_doubt() -> None:
    async with silent() as port:
        assert outcome_of(await post(f"http://127.0.0.1:{port}", 0.5)) is Outcome.IN_DOUBT


UPLOAD = b"x" * 20_000_000
"""More than the kernel's buffers take."""


async def test_an_upload_that_nobody_reads_ends_with_the_deadline() -> None:
    async with silent() as port:
        assert outcome_of(await post(f"http://127.0.0.1:{port}", 1.0, UPLOAD)) is Outcome.IN_DOUBT


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x00\x01\x02\r\n\r\n",
        b"HTTP/1.1 999999 What\r\n\r\n",
        b"HTTP/1.1 202 Accep",
        b"HTTP/1.1 202 A\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 202 A\r\nX-Message-Id: " + b"a" * 100_000 + b"\r\n\r\n",
    ],
    ids=["nothing", "garbage", "status", "cut head", "cut body", "huge header"],
)
async def test_an_answer_that_is_lost_or_unreadable_is_in_doubt(answer: bytes) -> None:
    async with speaking(answer, then_close=True) as (url, _):
        assert outcome_of(await post(url)) is Outcome.IN_DOUBT


# --- the loop stands still, and time is up when it goes on ----------------------------------------------------------


class ShiftedLoop(asyncio.SelectorEventLoop):
    """Its time can be put forward: timers are late, as after a pause."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


class Provider:
    """One connection in a thread: it goes on when the loop does not."""

    def __init__(self, *says: bytes) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._says = says
        self.may_answer = threading.Event()
        self.has_answered = threading.Event()
        self.asked = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.may_answer.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # else a thread that nobody asked would wait for ever
        self._listener.close()
        self._thread.join()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            with connection:
                while connection.recv(65536):
                    self.asked.set()
                    self.may_answer.wait()
                    for part in self._says:
                        connection.sendall(part)
                    self.has_answered.set()

    def answer(self) -> None:
        """Returns once it has; the loop of the caller stands still meanwhile."""
        self.may_answer.set()
        assert self.has_answered.wait(10)


LONG = b"HTTP/1.1 202 A\r\nContent-Length: 300000\r\n\r\n"
BODY = b"x" * 300_000


@pytest.mark.parametrize("says", [(OK,), (LONG, BODY)], ids=["short", "long"])
def test_an_answer_that_came_while_the_loop_stood_still_counts(says: tuple[bytes, ...]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ShiftedLoop)
        async with transport_to(provider.url) as transport:
            call = asyncio.create_task(transport.post("/", b"{}", {}, 3.0))
            await asyncio.to_thread(provider.asked.wait)
            provider.answer()
            loop.ahead += 3.8
            reply = await call
        assert isinstance(reply, Reply), reply
        assert reply.status == 202

    with Provider(*says) as provider, asyncio.Runner(loop_factory=ShiftedLoop) as runner:
        runner.run(main())


def test_an_answer_that_came_while_the_loop_was_blocked_counts_on_uvloop() -> None:
    """It runs its timers before it reads. Its time can't be put forward, so it is really blocked."""
    timeout_seconds = 0.3

    async def main() -> None:
        async with transport_to(provider.url) as transport:
            began_at = time.monotonic()
            call = asyncio.create_task(transport.post("/", b"{}", {}, timeout_seconds))
            await asyncio.to_thread(provider.asked.wait)
            provider.answer()
            time.sleep(began_at + timeout_seconds + 0.05 - time.monotonic())  # noqa: ASYNC251 (that is the point)
            assert isinstance(reply := await call, Reply), reply

    with Provider(OK) as provider, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_a_connection_that_came_while_the_loop_stood_still_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_still_while_connecting(monkeypatch, 2.5)
    with Provider(OK) as provider, asyncio.Runner(loop_factory=ShiftedLoop) as runner:
        provider.may_answer.set()
        assert isinstance(reply := runner.run(post(provider.url, 10.0)), Reply), reply


def test_no_request_begins_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """There would be no time left for its answer, and perhaps no lease: a doubt for nothing."""
    stand_still_while_connecting(monkeypatch, 11)
    with Provider(OK) as provider, asyncio.Runner(loop_factory=ShiftedLoop) as runner:
        reply = runner.run(post(provider.url, 10.0))
        assert not provider.asked.is_set()
    assert outcome_of(reply) is Outcome.UNAVAILABLE


def stand_still_while_connecting(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Time is put forward once the connection is being made."""
    create = aiohttp.TCPConnector._create_connection

    async def creating(self: aiohttp.TCPConnector, *args: Any) -> Any:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ShiftedLoop)
        loop.call_soon(setattr, loop, "ahead", seconds)
        return await create(self, *args)

    monkeypatch.setattr(aiohttp.TCPConnector, "_create_connection", creating)


async def test_being_cancelled_passes_through() -> None:
    async with silent() as port, transport_to(f"http://127.0.0.1:{port}") as transport:
        call = asyncio.create_task(transport.post("/", b"", {}, 5))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_it_can_be_closed_twice_and_before_any_call() -> None:
    transport = Transport("http://127.0.0.1:9", max_in_flight=1)
    await transport.aclose()
    await transport.aclose()


@asynccontextmanager
async def silent() -> AsyncIterator[int]:
    """A port that takes connections and neither reads nor writes."""
    over = asyncio.Event()
    writers: list[asyncio.StreamWriter] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await over.wait()
        writer.transport.abort()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, limit=1024)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        over.set()
        server.close()
        for writer in writers:
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)


KEY = ConnectionKey("h", 443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None)


@pytest.mark.parametrize(
    ("error", "sent", "outcome"),
    [
        (aiohttp.ClientConnectorDNSError(KEY, OSError(1, "x")), False, Outcome.UNAVAILABLE),
        (aiohttp.ClientConnectorCertificateError(KEY, ssl.CertificateError("x")), False, Outcome.UNAVAILABLE),
        (aiohttp.ClientConnectorSSLError(KEY, OSError(1, "x")), False, Outcome.UNAVAILABLE),
        (aiohttp.ClientConnectorError(KEY, OSError(1, "x")), False, Outcome.UNAVAILABLE),
        (aiohttp.ConnectionTimeoutError(), False, Outcome.UNAVAILABLE),
        (TimeoutError(), False, Outcome.UNAVAILABLE),
        (TimeoutError(), True, Outcome.IN_DOUBT),
        (aiohttp.SocketTimeoutError(), True, Outcome.IN_DOUBT),
        (aiohttp.ServerDisconnectedError(), True, Outcome.IN_DOUBT),
        (aiohttp.ClientOSError(104, "reset"), True, Outcome.IN_DOUBT),
        (aiohttp.ClientPayloadError(), True, Outcome.IN_DOUBT),
        (aiohttp.ClientError(), True, Outcome.IN_DOUBT),
        (ValueError(), True, Outcome.IN_DOUBT),
        # Before the first byte nothing is in doubt.
        (aiohttp.ServerDisconnectedError(), False, Outcome.UNAVAILABLE),
        (aiohttp.ClientOSError(104, "reset"), False, Outcome.UNAVAILABLE),
        (aiohttp.ClientError(), False, Outcome.UNAVAILABLE),
        (ValueError(), False, Outcome.UNAVAILABLE),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_each_row_of_the_table(error: Exception, sent: bool, outcome: Outcome) -> None:  # noqa: FBT001
    assert transport_module.why(error, sent=sent)[0] is outcome


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0),
        ("7", 7),
        ("1.5", 1.5),
        ("1e9", 3600),
        ("inf", 3600),
        ("-1", None),
        ("nan", None),
        ("", None),
        ("soon", None),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30),
        ("Tue, 14 Nov 2033 22:13:50 GMT", 3600),
        ("Tue, 14 Nov 2013 22:13:50 GMT", 0),
        ("Fri, 99 Foo", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, None), ("", None), ("x", None), ("nan", None), ("1700000030", 30), ("1", 0), ("1e99", 3600), ("-5", 0)],
)
def test_seconds_until(value: str | None, seconds: float | None) -> None:
    assert seconds_until(value, NOW) == seconds


@given(st.text())
def test_no_header_breaks_the_readers(value: str) -> None:
    for seconds in (retry_after(value, NOW), seconds_until(value, NOW)):
        assert seconds is None or 0 <= seconds <= 3600


@pytest.mark.parametrize(
    ("value", "kept"),
    [(None, False), ("", False), ("abc-1_2.=", True), ("a" * 256, False), ("a b", False), ("ä", False), ("a\r", False)],
)
def test_an_id_is_kept_only_if_it_is_clean(value: str | None, kept: bool) -> None:  # noqa: FBT001
    assert clean_id(value) == (value if kept else None)


def test_shorten_takes_out_addresses_secrets_and_control_characters() -> None:
    text = "The key SG.abc of <ann@example.org> is\x1b[2J bad,\r\nsee \u202ehere"
    assert shorten(text, ["SG.abc"]) == r"The key [secret] of [address] is\x1b[2J bad, see \u202ehere"


def test_shorten_cuts() -> None:
    assert len(shorten("long " * 100)) == 300


@given(st.text())
def test_shortened_text_is_one_printable_line_without_addresses(text: str) -> None:
    line = shorten(text)
    assert line.isprintable()
    assert "@" not in line
