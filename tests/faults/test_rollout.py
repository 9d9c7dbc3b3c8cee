"""A roll-out as docs/upgrade.md tells it: the schema first, then every process in turn, and nobody who sends notices.

Old and new are the same version in the suite. ROLLOUT_FROM=FOLDER takes the old ones from a checkout of another
version (with a .venv of its own); ROLLOUT_SECONDS=10 lets them live together for longer, and ROLLOUT_RATE=40 sends more
(`make rollout`).
"""

import collections
import itertools
import os
import signal
import statistics
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import httpx

from tests import postgres
from tests.faults.server import (
    KEY,
    PATIENCE_SECONDS,
    ROOT,
    SERVE,
    Hes,
    an_email,
    client,
    environment,
    eventually,
    fake_process,
    run,
    sendgrid_at,
)
from tests.faults.test_cluster import QUICK

OLD = Path(os.environ.get("ROLLOUT_FROM", ROOT)).resolve()
SECONDS = float(os.environ.get("ROLLOUT_SECONDS", "0.5"))
"""How long all goes on as it is before, between and after the steps."""
RATE = float(os.environ.get("ROLLOUT_RATE", "15"))
"""Emails per second."""
SLOW_MS = 1300
"""A provider's answer: longer than a stopping process waits for balancers, so that calls are in flight after that."""
PATIENT = QUICK | {"lease_seconds": 6, "attempt_timeout": 3, "grace_seconds": 6}
PROBE_SECONDS = 0.25
"""How old at most is what the service knows. Kubernetes asks less often, but waits 5 s before it stops a process."""


def python_of(checkout: Path) -> list[str]:
    """Runs that checkout's HES: its packages, its code."""
    if checkout == ROOT:
        return [SERVE[0]]
    return ["env", f"PYTHONPATH={checkout}", str(checkout / ".venv/bin/python")]


class Service:
    """What a Kubernetes Service does for callers: a request goes to one of those that were ready when last asked."""

    def __init__(self) -> None:
        self.ready: list[str] = []
        self.apis: list[str] = []
        self._turn = itertools.count()

    def add(self, url: str) -> None:
        self.apis.append(url)

    async def has_two(self) -> bool:
        return len(self.ready) == 2

    def pick(self) -> str:
        return self.ready[next(self._turn) % len(self.ready)]

    async def probe(self) -> None:
        """Until it is cancelled. Each probe has a connection of its own, as a kubelet's has."""
        async with httpx.AsyncClient(trust_env=False, timeout=2, headers={"Connection": "close"}) as http:
            while True:
                self.ready = [url for url in self.apis if await self._is_ready(http, url)]
                await anyio.sleep(PROBE_SECONDS)

    async def _is_ready(self, http: httpx.AsyncClient, url: str) -> bool:
        try:
            return (await http.get(f"{url}/health/ready")).status_code == 200
        except httpx.TransportError:
            return False


class Load:
    """Emails at a steady rate, whatever becomes of those before; each until it is answered."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.statuses: collections.Counter[int] = collections.Counter()
        self.retries: collections.Counter[str] = collections.Counter()
        self.ids: set[str] = set()
        self.seconds: list[float] = []
        """From the first try to the answer."""

    async def run(self, stop: anyio.Event) -> None:
        """Raises the client's error for all but a connection that ended without an answer."""
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=50)
        async with (
            httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS, limits=limits) as http,
            anyio.create_task_group() as tasks,
        ):
            begun = anyio.current_time()
            for number in itertools.count():
                if stop.is_set():
                    return
                tasks.start_soon(self._hand_in, http, number)
                await anyio.sleep_until(begun + (number + 1) / RATE)

    async def _hand_in(self, http: httpx.AsyncClient, number: int) -> None:
        begun = anyio.current_time()
        headers = {"Authorization": f"Bearer {KEY}", "Idempotency-Key": f"key-{number}"}
        while True:
            body = an_email(subject=f"Receipt {number}")
            try:
                answer = await http.post(f"{self._service.pick()}/v1/emails", json=body, headers=headers)
            except (httpx.ConnectError, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError) as error:
                self.retries[type(error).__name__] += 1
                await anyio.sleep(0.02)
                continue
            self.statuses[answer.status_code] += 1
            if answer.status_code == 202:
                self.ids.add(answer.json()["id"])
                self.seconds.append(anyio.current_time() - begun)
            return


class RollOut:
    """The processes of one installation, each replaced in turn."""

    def __init__(self, folder: Path, stack: AsyncExitStack, service: Service, settings: dict[str, object]) -> None:
        self._folder = folder
        self._stack = stack
        self._service = service
        self._settings = settings
        self._number = itertools.count()
        self.lives: list[Hes] = []

    async def upgrade_schema(self, checkout: Path) -> str:
        """`hes db upgrade` with that version; what it says."""
        command = [*python_of(checkout), "-m", "hes", "db", "upgrade"]
        done = await anyio.run_process(command, cwd=self._folder, env=environment(**self._settings))
        return done.stdout.decode().strip()

    async def start(self, role: str, checkout: Path) -> Hes:
        folder = self._folder / f"{next(self._number)}-{role}"
        folder.mkdir()
        command = [*python_of(checkout), *SERVE[1:]]
        hes = await (await self._stack.enter_async_context(run(command, folder, **self._settings, role=role))).ready()
        self.lives.append(hes)
        if role == "api":
            self._service.add(hes.url)
        return hes

    async def replace(self, old: Hes, role: str) -> None:
        """As a Deployment with `maxUnavailable: 0`: the new one is ready before the old one is told to go."""
        await self.start(role, ROOT)
        old.signal(signal.SIGTERM)
        assert await old.ended() == 0, old.stderr()


@asynccontextmanager
async def rolling(folder: Path, service: Service, providers: str, url: str) -> AsyncIterator[RollOut]:
    settings: dict[str, object] = PATIENT | {"database_url": url, "providers": providers, "bootstrap_key": KEY}
    async with AsyncExitStack() as stack:
        yield RollOut(folder, stack, service, settings)


async def test_replacing_every_process_under_load_fails_no_request_and_makes_no_doubt(tmp_path: Path) -> None:
    service, stop = Service(), anyio.Event()
    load = Load(service)
    with postgres.empty_database() as url:
        async with (
            fake_process(latency_ms=SLOW_MS) as fake,
            rolling(tmp_path, service, sendgrid_at(fake.url), url) as processes,
            anyio.create_task_group() as tasks,
        ):
            schemas = [await processes.upgrade_schema(OLD)]
            olds = [(await processes.start(role, OLD), role) for role in ("api", "mailer", "api", "mailer")]
            tasks.start_soon(service.probe)
            await eventually(service.has_two)
            async with anyio.create_task_group() as sending:
                sending.start_soon(load.run, stop)
                await anyio.sleep(SECONDS)
                schemas.append(await processes.upgrade_schema(ROOT))
                for old, role in olds:
                    await anyio.sleep(SECONDS)
                    await processes.replace(old, role)
                await anyio.sleep(SECONDS)
                stop.set()
            async with client(service.pick) as hes:
                emails = [await hes.until(email_id) for email_id in sorted(load.ids)]
            copies = await fake.accepted()
            tasks.cancel_scope.cancel()
    tell(schemas, load, emails)
    assert list(load.statuses) == [202], load.statuses
    assert len(load.ids) == load.statuses[202]
    check_all_sent_once(emails, copies)
    for life in processes.lives:
        assert [line for line in life.log() if line["level"] == "error"] == [], life.stderr()


def check_all_sent_once(emails: Sequence[dict[str, Any]], copies: Sequence[dict[str, Any]]) -> None:
    """In one attempt each, of which there was never a doubt."""
    for email in emails:
        assert (email["status"], [a["outcome"] for a in email["attempts"]]) == ("sent", ["accepted"]), email
    assert sorted(copy["hes_attempt"] for copy in copies) == sorted(email["attempts"][0]["id"] for email in emails)


def tell(schemas: Sequence[str], load: Load, emails: Sequence[dict[str, Any]]) -> None:
    """The figures of docs/upgrade.md."""
    waited = [when(email["attempts"][-1]["ended_at"]) - when(email["created_at"]) for email in emails]
    print(  # noqa: T201
        f"from {OLD.name}: {', then '.join(schemas)}; "
        f"{len(emails)} emails, answers {dict(load.statuses)}, retries {dict(load.retries)}; "
        f"answered after {statistics.median(load.seconds):.3f} s (slowest {max(load.seconds):.3f}), "
        f"sent after {statistics.median(waited):.3f} s (slowest {max(waited):.3f})"
    )


def when(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
