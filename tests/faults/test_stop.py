"""How the process ends: on request without making a doubt, in a hurry at once, and by itself when a part is dead."""

import itertools
import signal
import sys
import time
from pathlib import Path

import anyio
import httpx
import pytest

from tests.fakes.faults import Fault, Kind, Point
from tests.faults.server import (
    Client,
    Hes,
    an_email,
    client,
    cold,
    event_types,
    eventually,
    fake_process,
    run,
    sendgrid_at,
    taken_port,
)

pytestmark = pytest.mark.anyio

CLIENTS = 8
GRACE_SECONDS = 12
HANGS = Fault(kind=Kind.HANG, at=Point.AFTER_STORING)


class Load:
    """Clients that hand emails in until one is not answered."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.unanswered: list[str] = []

    async def run(self, hes: Client, name: str) -> None:
        for number in itertools.count():
            if not await self.hand_in(hes, key := f"{name}-{number}"):
                self.unanswered.append(key)
                return

    async def hand_in(self, hes: Client, key: str) -> bool:
        try:
            answer = await hes.post("/v1/emails", an_email(subject=key), key)
        except httpx.TransportError:
            return False
        assert answer.status_code == 202, answer.text
        self.ids.add(answer.json()["id"])
        return True

    async def has(self, count: int) -> bool:
        return len(self.ids) >= count


async def readiness(url: str) -> list[int]:
    """What /health/ready says, asked on a new connection each time, until nobody listens any more."""
    statuses = []
    async with httpx.AsyncClient(trust_env=False, headers={"Connection": "close"}) as http:
        while True:
            try:
                statuses.append((await http.get(f"{url}/health/ready")).status_code)
            except httpx.TransportError:
                return statuses


async def test_a_stop_under_load_makes_no_doubt_and_loses_nothing(tmp_path: Path) -> None:
    load = Load()
    async with fake_process(latency_ms=200) as fake:
        settings: dict[str, object] = {
            "providers": sendgrid_at(fake.url),
            "attempt_timeout": 8,
            "grace_seconds": GRACE_SECONDS,
        }
        async with cold(tmp_path, **settings) as first, client(lambda: first.url) as hes:
            await first.ready()
            seen = await stop_under_load(first, hes, load)
            assert first.log()[-1]["event"] == "stopped"
        async with cold(tmp_path, **settings) as second, client(lambda: second.url) as hes:
            await second.ready()
            assert all([await load.hand_in(hes, key) for key in load.unanswered])
            emails = [await hes.until(email_id) for email_id in load.ids]
        copies = [copy["hes_id"] for copy in await fake.accepted()]
    assert set(seen[seen.index(503) :]) == {503}, "unready, and not ready again, before the socket closed"
    assert {email["status"] for email in emails} == {"sent"}
    assert not any("in_doubt" in event_types(email) for email in emails)
    assert sorted(copies) == sorted(load.ids), "each once"


async def stop_under_load(server: Hes, hes: Client, load: Load) -> list[int]:
    """What /health/ready said meanwhile."""
    seen: list[int] = []

    async def watch() -> None:
        seen.extend(await readiness(server.url))

    async with anyio.create_task_group() as tasks:
        for number in range(CLIENTS):
            tasks.start_soon(load.run, hes, f"client-{number}")
        await eventually(lambda: load.has(150))
        began = time.monotonic()
        tasks.start_soon(watch)
        server.signal(signal.SIGTERM)
        assert await server.ended() == 0
        assert time.monotonic() - began < GRACE_SECONDS
    return seen


async def test_a_call_that_hangs_ends_by_its_own_time_out_while_hes_stops(tmp_path: Path) -> None:
    """The doubt is the provider's doing, and is written down before the process ends. Ctrl-C is as good as SIGTERM."""
    async with fake_process() as fake:
        await fake.set_fault(HANGS)
        settings: dict[str, object] = {
            "providers": sendgrid_at(fake.url),
            "connect_timeout": 0.5,
            "attempt_timeout": 1.5,
            "grace_seconds": 5,
        }
        async with cold(tmp_path, **settings) as first, client(lambda: first.url) as hes:
            await first.ready()
            email_id = await hes.send(on_doubt="hold")
            await eventually(fake.accepted)
            first.signal(signal.SIGINT)
            assert await first.ended() == 0
        async with cold(tmp_path, **settings) as second, client(lambda: second.url) as hes:
            await second.ready()
            email = await hes.read(email_id)
    assert (email["status"], email["reason"]) == ("held", "doubt")
    assert email["attempts"][-1]["detail"] == "no whole answer in time after the request was sent"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once(tmp_path: Path, number: signal.Signals) -> None:
    async with fake_process() as fake:
        await fake.set_fault(HANGS)
        settings: dict[str, object] = {
            "providers": sendgrid_at(fake.url),
            "attempt_timeout": 25,
            "lease_seconds": 60,
            "grace_seconds": 60,
        }
        async with cold(tmp_path, **settings) as server, client(lambda: server.url) as hes:
            await server.ready()
            await hes.send()
            await eventually(fake.accepted)
            server.signal(signal.SIGTERM)
            await server.logged("stopping: no new leases, 1 calls in flight")
            began = time.monotonic()
            server.signal(number)
            assert await server.ended() > 0
            assert time.monotonic() - began < 5


def refused(stderr: str, *words: str) -> bool:
    """Whether that is one sentence with these words, and nothing else."""
    return stderr.startswith("hes: ") and stderr.count("\n") == 1 and all(word in stderr for word in words)


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("lease_seconds", "soon", ["HES_LEASE_SECONDS", "must be a number", "Example"]),
        ("providers", "sendgrid://default", ["HES_PROVIDERS", "api_key"]),
        ("database_url", "sqlite:////nowhere/hes.db", ["HES_DATABASE_URL", "No such file"]),
        ("host", "192.0.2.1", ["HES_HOST", "192.0.2.1"]),
    ],
)
async def test_a_bad_setting_is_one_sentence_and_exit_code_2(
    tmp_path: Path, setting: str, value: str, words: list[str]
) -> None:
    async with cold(tmp_path, **{"providers": "outbox://", setting: value}) as server:
        assert await server.ended() == 2
        assert refused(server.stderr(), *words), server.stderr()


async def test_a_taken_port_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    with taken_port() as port:
        async with cold(tmp_path, port=port) as server:
            assert await server.ended() == 2
            assert refused(server.stderr(), "HES_PORT", f"port {port}"), server.stderr()


async def test_a_second_process_on_the_same_database_is_refused(tmp_path: Path) -> None:
    async with cold(tmp_path) as first:
        await first.ready()
        async with cold(tmp_path) as second:
            assert await second.ended() == 2
            assert refused(second.stderr(), "HES_DATABASE_URL", "in use by another `hes` process"), second.stderr()


DIES = """
import hes.__main__
import hes.actors.{module} as module
import hes.actors.supervisor as supervisor

async def run(self):
    raise ValueError("a bug in {name}")

module.{name}.run = run
supervisor.FIRST_PAUSE_SECONDS = 0.001
hes.__main__.main()
"""


@pytest.mark.parametrize("name", ["Intake", "Reporter"])  # the others are the unit tests' matter
async def test_an_actor_that_goes_on_crashing_ends_the_process(tmp_path: Path, name: str) -> None:
    script = DIES.format(module=name.lower(), name=name)
    async with run([sys.executable, "-c", script, "serve"], tmp_path) as server:
        assert await server.ended() == 1
        assert "crashed 6 times in a row; HES ends" in server.stderr()
        assert f"a bug in {name}" in server.stderr()
