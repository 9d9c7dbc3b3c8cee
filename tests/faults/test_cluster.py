"""Split roles over one Postgres: processes are killed, stopped and started again, the database goes and comes back.

CHAOS_EMAILS=5000 makes the first one long (`make chaos`).
"""

import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import httpx
import pytest
from anyio.streams.memory import MemoryObjectReceiveStream

from hes.storage import migrations
from hes.storage.postgres import PostgresUrl, run_schema
from tests import postgres
from tests.faults.server import Client, Hes, an_email, client, cold, event_types, eventually, fake_process, sendgrid_at
from tests.faults.test_kill import check_copies

SEED = 20261124
EMAILS = int(os.environ.get("CHAOS_EMAILS", "300"))
CLIENTS = 8
LEASE_SECONDS = 3.0
QUICK = {
    "lease_seconds": LEASE_SECONDS,
    "attempt_timeout": 1,
    "connect_timeout": 0.9,
    "grace_seconds": 4,
    "retry_base_seconds": 0.05,
    "gate_open_seconds": 0.3,
}


class Cluster:
    """Processes over one database; each can be killed and started again in its place."""

    def __init__(self, folder: Path, stack: AsyncExitStack, settings: dict[str, object]) -> None:
        self._folder = folder
        self._stack = stack
        self._settings = settings
        self.roles: list[str] = []
        self.lives: list[Hes] = []

    async def start(self, role: str) -> int:
        """One more process; its number."""
        self.roles.append(role)
        self.lives.append(await self._life(role))
        return len(self.lives) - 1

    async def _life(self, role: str) -> Hes:
        hes = await self._stack.enter_async_context(cold(self._folder, **self._settings, role=role))
        return await hes.ready()

    async def kill_and_start(self, number: int) -> None:
        await self.lives[number].kill()
        self.lives[number] = await self._life(self.roles[number])

    @property
    def apis(self) -> list[Hes]:
        return [life for life, role in zip(self.lives, self.roles, strict=True) if role != "mailer"]


@asynccontextmanager
async def cluster(folder: Path, url: str, providers: str, **settings: object) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        yield Cluster(folder, stack, QUICK | {"database_url": url, "providers": providers} | settings)


async def hand_in(
    numbers: MemoryObjectReceiveStream[int], hes: Client, body: Callable[[int], dict[str, object]], ids: set[str]
) -> None:
    """Repeat under its key what was not answered, or not with 202."""
    async for number in numbers:
        while True:
            try:
                answer = await hes.post("/v1/emails", body(number), key=f"key-{number}")
            except httpx.TransportError:
                await anyio.sleep(0.05)
                continue
            if answer.status_code == 202:
                ids.add(answer.json()["id"])
                break
            assert answer.status_code == 503, answer.text
            assert "Retry-After" in answer.headers
            await anyio.sleep(0.05)


async def test_mailers_that_are_killed_lose_nothing_and_double_only_what_was_in_doubt(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    policies = [rng.choice(["resend", "hold"]) for _ in range(EMAILS)]
    ids: set[str] = set()
    give, take = anyio.create_memory_object_stream[int](EMAILS)
    for number in range(EMAILS):
        give.send_nowait(number)
    give.close()
    async with (
        take,
        postgres.database() as url,
        fake_process(latency_ms=100) as fake,
        cluster(tmp_path, url, sendgrid_at(fake.url, max_in_flight=8)) as processes,
    ):
        for role in ("api", "api", "mailer", "mailer", "mailer"):
            await processes.start(role)
        turn = random.Random(1)
        async with client(lambda: turn.choice(processes.apis).url) as hes:
            async with anyio.create_task_group() as tasks:
                for _ in range(CLIENTS):
                    tasks.start_soon(hand_in, take, hes, lambda n: an_email(subject=f"{n}", on_doubt=policies[n]), ids)
                for mailer in (2, 3, 4):
                    await anyio.sleep(rng.uniform(0.2, 0.6))
                    await processes.kill_and_start(mailer)
            emails = [await hes.until(email_id) for email_id in sorted(ids)]
        copies = await fake.accepted()
    doubts = sum(a["outcome"] == "in_doubt" for email in emails for a in email["attempts"])
    second = len(copies) - len({copy["hes_id"] for copy in copies})
    print(f"{EMAILS} emails, 3 mailers killed: {doubts} attempts in doubt, {second} second copies")  # noqa: T201
    assert len(emails) == EMAILS, "under each key there is one email"
    check_copies(emails, copies)
    for email in emails:
        is_held = (email["status"], email["reason"]) == ("held", "doubt")
        assert email["status"] == "sent" or (is_held and email["on_doubt"] == "hold"), email


async def test_a_mailer_that_stands_still_loses_its_leases_and_its_late_word_is_evidence(tmp_path: Path) -> None:
    """SIGSTOP after the provider has answered and before that is on disk, until others have taken over.

    What it says later changes no delivery, and shows that there are two copies.
    """
    async with (
        postgres.database() as url,
        fake_process(latency_ms=500) as fake,
        cluster(tmp_path, url, sendgrid_at(fake.url, max_in_flight=10)) as processes,
    ):
        api = processes.lives[await processes.start("api")]
        frozen = processes.lives[await processes.start("mailer")]
        async with client(lambda: api.url) as hes:
            email_id = await hes.send()
            await hes.until(email_id, "sending")
            async with locked_deliveries(url) as somebody_waits:
                await eventually(somebody_waits)  # it has the provider's answer, and wants to write it down
                frozen.signal(signal.SIGSTOP)
            await processes.start("mailer")
            email = await hes.until(email_id, "sent")
            assert [a["outcome"] for a in email["attempts"]] == ["in_doubt", "accepted"], email
            frozen.signal(signal.SIGCONT)

            async def told() -> dict[str, Any] | None:
                late = await hes.read(email_id)
                return late if late["attempts"][0]["resolution"] == "accepted" else None

            late = await eventually(told)
            await frozen.logged("came after their lease was lost")
        copies = await fake.accepted()
    assert late["status"] == "sent"
    assert "duplicate" in event_types(late), late
    check_copies([late], copies)


async def test_a_process_that_stands_still_for_less_than_its_lease_reads_the_answers_that_came(tmp_path: Path) -> None:
    """SIGSTOP for longer than a call may take: its time is up when it goes on, and the answers are in its sockets."""
    count = 20
    async with (
        fake_process(latency_ms=400) as fake,
        cold(
            tmp_path, providers=sendgrid_at(fake.url, max_in_flight=count), attempt_timeout=1, connect_timeout=0.9
        ) as hes_process,
        client(lambda: hes_process.url) as hes,
    ):
        await hes_process.ready()
        ids = [await hes.send() for _ in range(count)]
        await hes.until(ids[-1], "sending")
        hes_process.signal(signal.SIGSTOP)
        stopped_at = time.time()
        await anyio.sleep(2.5)  # longer than the call's own time-out and the sender's around it
        hes_process.signal(signal.SIGCONT)
        going_on_at = time.time()
        emails = [await hes.until(email_id) for email_id in ids]
        copies = await fake.accepted()
    assert any(stopped_at < copy["at"] + 0.4 < going_on_at for copy in copies), "nothing was answered meanwhile"
    assert [[a["outcome"] for a in email["attempts"]] for email in emails] == [["accepted"]] * count
    assert len(copies) == count


@asynccontextmanager
async def locked_deliveries(url: str) -> AsyncIterator[Callable[[], Awaitable[bool]]]:
    """Nobody can write an outcome meanwhile. Yields how to ask whether somebody wants to."""
    locking, looking = await asyncpg.connect(url), await asyncpg.connect(url)

    async def somebody_waits() -> bool:
        ours = "datname = current_database() AND wait_event_type = 'Lock'"
        return bool(await looking.fetchval(f"SELECT count(*) FROM pg_stat_activity WHERE {ours}"))

    try:
        async with locking.transaction():
            await locking.execute("SELECT email_id FROM deliveries FOR UPDATE")
            yield somebody_waits
    finally:
        await locking.close()
        await looking.close()


@contextmanager
def a_server_of_ones_own() -> Iterator[Path]:
    """A folder for a Postgres that syncs to disk, and that a test may stop and start."""
    folder = Path(tempfile.mkdtemp(prefix="hes-pg-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def test_while_postgres_is_stopped_the_api_says_so_and_then_all_recovers(tmp_path: Path) -> None:
    """Without a doubt, though a mailer comes that never saw it away: what the other one holds is waited for."""
    ids: set[str] = set()
    give, take = anyio.create_memory_object_stream[int](EMAILS)
    with a_server_of_ones_own() as data:
        server = await anyio.to_thread.run_sync(lambda: postgres.start_server(data, keep=True))
        url = server.get_uri()
        await run_schema(PostgresUrl(url), migrations.upgrade)
        async with (
            take,
            fake_process(latency_ms=50) as fake,
            cluster(tmp_path, url, sendgrid_at(fake.url)) as processes,
        ):
            api = processes.lives[await processes.start("api")]
            await processes.start("mailer")
            async with client(lambda: api.url) as hes:
                async with anyio.create_task_group() as tasks:
                    for _ in range(CLIENTS):
                        tasks.start_soon(hand_in, take, hes, lambda n: an_email(subject=f"{n}"), ids)
                    for number in range(100):
                        await give.send(number)
                    await anyio.to_thread.run_sync(server.cleanup)
                    answer = await hes.post("/v1/emails", an_email(), key="away")
                    assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
                    for number in range(100, 200):
                        await give.send(number)
                    server = await anyio.to_thread.run_sync(lambda: postgres.start_server(data, keep=True))
                    await processes.start("mailer")
                    give.close()
                emails = [await hes.until(email_id) for email_id in sorted(ids)]
            copies = await fake.accepted()
        await anyio.to_thread.run_sync(server.cleanup)
    assert len(emails) == 200
    assert {email["status"] for email in emails} == {"sent"}
    assert {a["outcome"] for email in emails for a in email["attempts"]} == {"accepted"}
    check_copies(emails, copies)


@pytest.mark.parametrize("workers", [2])
async def test_several_workers_share_a_port_and_each_is_a_node(tmp_path: Path, workers: int) -> None:
    async with (
        postgres.database() as url,
        cluster(tmp_path, url, "outbox://", workers=workers, outbox_dir=tmp_path / "out") as processes,
    ):
        hes_process = processes.lives[await processes.start("all")]
        async with client(lambda: hes_process.url) as hes:

            async def nodes() -> list[dict[str, Any]]:
                [provider] = (await hes.get("/v1/providers")).json()["data"]
                return provider["nodes"] if len(provider["nodes"]) == workers else []

            assert {node["role"] for node in await eventually(nodes)} == {"all"}
            for _ in range(10):
                await hes.until(await hes.send(), "sent")
            hes_process.signal(signal.SIGTERM)
            assert await hes_process.ended() == 0
