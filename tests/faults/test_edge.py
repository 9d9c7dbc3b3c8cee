"""Who has no key can neither stop the sends nor fill the memory: raw sockets against `hes serve`."""

import contextlib
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
from anyio import to_thread

from tests import postgres
from tests.fakes.hooks import MailgunHook
from tests.faults.server import PATIENCE_SECONDS, SERVE, Hes, client, cold, run
from tests.faults.test_finding import mailgun_at

pytestmark = pytest.mark.anyio

MB = 1_000_000
NOT_WHOLE = (
    b"POST /hooks/mailgun HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 4194304\r\n\r\n{"
)


def connect(hes: Hes) -> socket.socket:
    host, port = hes.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS)


def memory(pid: int) -> int:
    """Bytes of it that are in RAM."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def send_headers(hes: Hes) -> tuple[int, bytes]:
    """How many headers of a megabyte went out, of 300, and what was answered."""
    with connect(hes) as stream:
        stream.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n")
        sent = 0
        try:
            while sent < 300:
                stream.sendall(b"a: " + b"y" * MB + b"\r\n")
                sent += 1
            return sent, stream.recv(100)
        except ConnectionError:
            return sent, b""


async def check_that_headers_are_not_kept(hes: Hes) -> None:
    await hes.ready()
    before = memory(hes.pid)
    for _ in range(3):
        sent, answer = await to_thread.run_sync(send_headers, hes)
        assert sent < 50, "what buffers on the way hold, and no more"
        assert answer == b"" or answer.startswith(b"HTTP/1.1 431")
    assert memory(hes.pid) < before + 20 * MB


async def test_endless_headers_are_not_kept(tmp_path: Path) -> None:
    async with cold(tmp_path) as hes:
        await check_that_headers_are_not_kept(hes)


async def test_nor_by_a_mailer_that_only_tells_its_health(tmp_path: Path) -> None:
    providers = mailgun_at("http://127.0.0.1:1")
    async with (
        postgres.database() as url,
        cold(tmp_path, role="mailer", database_url=url, providers=providers) as hes,
    ):
        await check_that_headers_are_not_kept(hes)


def go_on_sending(hes: Hes) -> bytes:
    """What is answered to a body without a key and without an end, which is cut."""
    with connect(hes) as stream:
        stream.sendall(b"POST /v1/emails HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n")
        told = stream.recv(10_000)
        with contextlib.suppress(ConnectionError):
            while True:
                stream.sendall(b"y" * MB)
        return told


async def test_a_body_that_was_refused_goes_on_for_seconds_only(tmp_path: Path) -> None:
    async with cold(tmp_path) as hes:
        await hes.ready()
        told = await to_thread.run_sync(go_on_sending, hes)
    assert told.startswith(b"HTTP/1.1 401")
    assert b"connection: close" in told


async def test_connections_without_a_key_keep_nobody_away(tmp_path: Path) -> None:
    """There are fewer descriptors than connections: those that are idle go."""
    async with run(("prlimit", "--nofile=128", *SERVE), tmp_path) as hes, client(lambda: hes.url) as caller:
        await hes.ready()
        with ExitStack() as opened:
            for _ in range(300):
                opened.enter_context(connect(hes))
            for _ in range(3):
                await caller.send()
        await hes.logged("there are 64 connections without a key")


async def test_bodies_that_are_not_finished_keep_no_events_away(tmp_path: Path) -> None:
    providers = f"{mailgun_at('http://127.0.0.1:1')}&webhook_secret={MailgunHook.secret}"
    async with cold(tmp_path, providers=providers) as hes, client(lambda: hes.url) as caller:
        await hes.ready()
        with ExitStack() as opened:
            for _ in range(8):
                stream = opened.enter_context(connect(hes))
                with contextlib.suppress(ConnectionError):
                    await to_thread.run_sync(stream.sendall, NOT_WHOLE + b" " * 4_194_302)
            assert (await caller.post("/hooks/mailgun", {})).status_code == 401, "read, and found not to be signed"


async def test_bodies_that_do_not_come_keep_nobody_away(tmp_path: Path) -> None:
    providers = f"{mailgun_at('http://127.0.0.1:1')}&webhook_secret={MailgunHook.secret}"
    async with cold(tmp_path, providers=providers) as hes, client(lambda: hes.url) as caller:
        await hes.ready()
        with ExitStack() as opened:
            for _ in range(32):
                opened.enter_context(connect(hes)).sendall(NOT_WHOLE)
            for _ in range(10):
                await caller.send()
            assert (await caller.post("/hooks/mailgun", {})).status_code == 401, "read, and found not to be signed"
