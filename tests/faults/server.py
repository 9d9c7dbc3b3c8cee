"""`hes serve` and the fake SendGrid as processes of their own, and a client that waits by asking, never by sleeping.

Two ways to start HES. `cold`: `python -m hes serve`, as people do. `Warm`: a process that has imported HES forks one
life after another; the same `main()` with the same environment, in a process of its own, but up in a tenth of the time.
For the test that kills it twenty times; how long imports take is not what that one is about.
"""

import contextlib
import os
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL
from typing import Any, Self, TypeVar
from urllib.parse import quote

import anyio
import httpx
import msgspec
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from tests.fakes.faults import Fault
from tests.fakes.sendgrid import KEY as SENDGRID_KEY

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
KEY = "bootstrap-key-of-more-than-32-characters"
SERVE = (sys.executable, "-m", "hes", "serve")
AT_REST = frozenset({"sent", "held", "failed", "cancelled"})
PATIENCE_SECONDS = 30.0
"""How long anything may take before a test gives up. Nothing waits so long unless something is broken."""


async def eventually(ask: Callable[[], Awaitable[T | None]], *, seconds: float = PATIENCE_SECONDS) -> T:
    """The first true answer."""
    deadline = time.monotonic() + seconds
    while not (answer := await ask()):
        assert time.monotonic() < deadline, f"after {seconds} s still {answer!r}"
        await anyio.sleep(0.01)
    return answer


def environment(**settings: object) -> dict[str, str]:
    """The environment of this process with these settings (`grace_seconds=3`), and no others of HES's."""
    rest = {name: value for name, value in os.environ.items() if not name.startswith(("HES_", "OTEL_"))}
    names = {name: name.upper() if name.startswith("otel_") else f"HES_{name.upper()}" for name in settings}
    ours = {names[name]: str(value) for name, value in settings.items()}
    return rest | {"PYTHONPATH": str(ROOT)} | ours


def sendgrid_at(url: str, **more: object) -> str:
    """HES_PROVIDERS for the fake at `url`."""
    parameters = "".join(f"&{key}={value}" for key, value in more.items())
    return f"sendgrid://{SENDGRID_KEY}@default?base_url={quote(url, safe='')}{parameters}"


class Hes:
    """One life of `hes serve`, in `folder`; its log is a file there, one JSON object a line."""

    def __init__(self, pid: int, log: Path, wait: Callable[[], Awaitable[int]]) -> None:
        self.pid = pid
        self.url = ""
        self._log = log
        self._wait = wait
        self._exit_code: int | None = None

    def stderr(self) -> str:
        return self._log.read_text()

    def log(self) -> list[dict[str, Any]]:
        """What it logged so far; a line that is only half there is left out."""
        return [msgspec.json.decode(line) for line in self.stderr().split("\n")[:-1] if line.startswith("{")]

    async def logged(self, words: str) -> re.Match[str]:
        """Wait for a log line with these words (a regular expression)."""

        async def ask() -> re.Match[str] | None:
            found = (re.search(words, entry["event"]) for entry in self.log())
            return next(filter(None, found), None)

        return await eventually(ask)

    async def ready(self) -> Self:
        """Wait until it says that it serves, and until /health/ready is 200."""
        self.url = (await self.logged(r"serves (http://\S+)"))[1]
        async with httpx.AsyncClient(trust_env=False) as http:

            async def ask() -> bool:
                return (await http.get(f"{self.url}/health/ready")).status_code == 200

            await eventually(ask)
        return self

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def ended(self) -> int:
        """Wait for its end. The exit code; negative: of which signal it died."""
        if self._exit_code is None:
            with anyio.fail_after(PATIENCE_SECONDS):
                self._exit_code = await self._wait()
        return self._exit_code

    async def kill(self) -> None:
        """`kill -9`, and wait until it is gone. It may be gone already."""
        if self._exit_code is None:
            self.signal(signal.SIGKILL)
            await self.ended()


@asynccontextmanager
async def cold(folder: Path, **settings: object) -> AsyncIterator[Hes]:
    """`python -m hes serve` on the database in `folder`, on any free port. Killed at the end if still there."""
    async with run(SERVE, folder, **settings) as hes:
        yield hes


@asynccontextmanager
async def run(command: Sequence[str], folder: Path, **settings: object) -> AsyncIterator[Hes]:
    """Any command that ends in `hes serve`, as one life."""
    log = fresh_log(folder)
    env = environment(**served(folder, **settings))
    with log.open("wb") as stderr:
        process = await anyio.open_process(command, stdin=DEVNULL, stdout=None, stderr=stderr, cwd=folder, env=env)
    async with process:
        hes = Hes(process.pid, log, process.wait)
        try:
            yield hes
        finally:
            if process.returncode is None:
                with anyio.CancelScope(shield=True):
                    await hes.kill()


def served(folder: Path, **settings: object) -> dict[str, object]:
    """Settings of a server for tests."""
    database = f"sqlite:///{folder / 'hes.db'}"
    fixed = {"database_url": database, "port": 0, "bootstrap_key": KEY, "log_format": "json", "poll_seconds": 0.2}
    fixed["doubt_seconds"] = 0  # nothing is searched unless a test says so
    return fixed | settings


def fresh_log(folder: Path) -> Path:
    return folder / f"hes-{len(list(folder.glob('hes-*.log'))):03}.log"


class Warm:
    """Starts one life after the other by forking; see `tests.faults.warm`."""

    def __init__(self, process: Process, folder: Path) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin = process.stdin
        self._stdout = BufferedByteReceiveStream(process.stdout)
        self._folder = folder
        self._life: Hes | None = None

    async def start(self, **settings: object) -> Hes:
        """The last one must have ended."""
        log = fresh_log(self._folder)
        env = environment(**served(self._folder, **settings))
        order = {"environ": env, "folder": str(self._folder), "log": str(log)}
        await self._stdin.send(msgspec.json.encode(order) + b"\n")
        pid = await self._number()
        log.touch()
        self._life = Hes(pid, log, self._number)
        return self._life

    async def stop(self) -> None:
        """Kill the last one, if it is still there."""
        if self._life is not None:
            await self._life.kill()
        await self._stdin.aclose()

    async def _number(self) -> int:
        return int(await self._stdout.receive_until(b"\n", 100))


@asynccontextmanager
async def warm(folder: Path) -> AsyncIterator[Warm]:
    """A `Warm`, and the end of what it started."""
    command = [sys.executable, "-m", "tests.faults.warm"]
    async with await anyio.open_process(command, stderr=None, cwd=ROOT) as process:
        starter = Warm(process, folder)
        try:
            yield starter
        finally:
            with anyio.CancelScope(shield=True):
                await starter.stop()


class Fake:
    """A fake SendGrid in a process of its own, which survives whatever HES does."""

    def __init__(self, url: str, http: httpx.AsyncClient) -> None:
        self.url = url
        self._http = http

    async def accepted(self) -> list[dict[str, Any]]:
        """One dict with `hes_id`, `hes_attempt` and `at` for each copy that was taken, in order."""
        copies: list[dict[str, Any]] = (await self._http.get(f"{self.url}/_accepted")).json()
        return copies

    async def set_fault(self, fault: Fault | None) -> None:
        answer = await self._http.post(f"{self.url}/_fault", content=msgspec.json.encode(fault))
        assert answer.status_code == 200


@asynccontextmanager
async def fake_process(*, latency_ms: float = 0) -> AsyncIterator[Fake]:
    command = [sys.executable, "-m", "tests.fakes.sendgrid", "--latency-ms", str(latency_ms)]
    async with await anyio.open_process(command, stdin=DEVNULL, stderr=None, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            stdout = BufferedByteReceiveStream(process.stdout)
            with anyio.fail_after(PATIENCE_SECONDS):
                url = (await stdout.receive_until(b"\n", 100)).decode()
            async with httpx.AsyncClient(trust_env=False) as http:
                yield Fake(url, http)
        finally:
            process.send_signal(signal.SIGTERM)
            with anyio.CancelScope(shield=True):
                await process.wait()


class Client:
    """What talks to HES. `url` is looked up for each request, so that it may move."""

    def __init__(self, http: httpx.AsyncClient, url: Callable[[], str]) -> None:
        self._http = http
        self._url = url

    async def post(self, path: str, body: Mapping[str, object], key: str | None = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {KEY}"} | ({"Idempotency-Key": key} if key else {})
        return await self._http.post(self._url() + path, json=body, headers=headers)

    async def get(self, path: str) -> httpx.Response:
        answer = await self._http.get(self._url() + path, headers={"Authorization": f"Bearer {KEY}"})
        assert answer.status_code == 200, answer.text
        return answer

    async def send(self, **fields: object) -> str:
        """The id of an email that was accepted."""
        answer = await self.post("/v1/emails", an_email(**fields))
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    async def read(self, email_id: str) -> dict[str, Any]:
        email: dict[str, Any] = (await self.get(f"/v1/emails/{email_id}")).json()
        return email

    async def until(self, email_id: str, *statuses: str) -> dict[str, Any]:
        """Wait until it is there; without statuses: until nothing more will happen to it by itself."""

        async def ask() -> dict[str, Any] | None:
            email = await self.read(email_id)
            return email if email["status"] in (statuses or AT_REST) else None

        return await eventually(ask)


@asynccontextmanager
async def client(url: Callable[[], str]) -> AsyncIterator[Client]:
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as http:
        yield Client(http, url)


def an_email(**fields: object) -> dict[str, object]:
    return {"from": "shop@example.com", "to": "ann@example.org", "subject": "Receipt", "text": "Hi"} | fields


def event_types(email: Mapping[str, Any]) -> list[str]:
    """The timeline's entries, in order."""
    return [event["type"] for event in email["events"]]


@contextlib.contextmanager
def taken_port() -> Iterator[int]:
    """A port on which somebody else listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]
