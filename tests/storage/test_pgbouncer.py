"""Behind pgbouncer in transaction mode: a connection to the server is one's own for one transaction only."""

import os
import shutil
import tempfile
import urllib.parse
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import Any

import anyio
import pytest

from hes.model import EmailId, Outcome, Status
from hes.storage.postgres import PostgresUrl, open_postgres
from tests import postgres
from tests.storage.harness import Bench, FakeClock, ended, new_policy, next_id, rooms

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")

SETTINGS = """
[databases]
* = {server}
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = {folder}
auth_type = any
pool_mode = transaction
default_pool_size = {connections}
"""
CONNECTIONS = 3
"""Which it has to the server."""


def server_of(url: str) -> dict[str, Any]:
    """Where that is, in pgbouncer's words."""
    parts = urllib.parse.urlsplit(url)
    query = dict(urllib.parse.parse_qsl(parts.query))
    words = {
        "host": query.get("host") or parts.hostname,
        "port": parts.port or query.get("port"),
        "user": parts.username,
        "password": parts.password,
    }
    return {name: value for name, value in words.items() if value}


def somebody(host: str) -> str | None:
    """Who may reach the server's socket: as root pgbouncer refuses to run. None: we ourselves."""
    if os.geteuid() != 0:
        return None
    return Path(host).owner() if host.startswith("/") else "nobody"


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """A database behind a pgbouncer."""
    with tempfile.TemporaryDirectory(prefix="hes-pgb-") as folder:  # a socket's path must be short
        Path(folder).chmod(0o777)
        async with postgres.database() as server_url:
            server = server_of(server_url)
            settings = Path(folder) / "pgbouncer.ini"
            settings.write_text(
                SETTINGS.format(
                    server=" ".join(f"{k}={v}" for k, v in server.items()), folder=folder, connections=CONNECTIONS
                )
            )
            settings.chmod(0o644)
            command = [str(PGBOUNCER), str(settings)]
            async with await anyio.open_process(
                command, stdout=PIPE, stderr=STDOUT, user=somebody(server["host"])
            ) as process:
                assert process.stdout is not None
                told = b""
                while b"process up" not in told:
                    told += await process.stdout.receive()
                name = urllib.parse.urlsplit(server_url).path
                yield f"postgresql://postgres@{name}?host={folder}&port=6432&statement_cache=off"
                process.terminate()


async def test_every_process_works_behind_it(url: str, clock: FakeClock) -> None:
    """More connections than it has to the server, so that each transaction gets another."""
    given: list[EmailId] = []

    async def work(bench: Bench) -> None:
        accepted = [await bench.accept(key=f"order-{n}") for n in range(10)]
        assert len(accepted) == 10
        while (leases := await bench.give_out(rooms(a=2, b=2))).items:
            given.extend(leased.email.id for leased in leases.items)
            await bench.storage.settle([ended(leased, Outcome.ACCEPTED) for leased in leases.items], {})
            assert {(await bench.status(leased))[0] for leased in leases.items} == {Status.SENT}

    async with (
        open_postgres(PostgresUrl(url), new_policy(), next_id, clock) as one,
        open_postgres(PostgresUrl(url), new_policy(), next_id, clock) as two,
        anyio.create_task_group() as workers,
    ):
        for storage in (one, two) * 5:
            workers.start_soon(work, Bench(storage, clock))
    assert len(given) == len(set(given)) == 10, "all of them used the same ten keys"


async def test_each_transaction_may_land_on_another_connection(url: str, clock: FakeClock) -> None:
    """The first ones are taken by somebody else meanwhile, so what was prepared there is out of reach."""
    async with open_postgres(PostgresUrl(url), new_policy(), next_id, clock) as storage, AsyncExitStack() as strangers:
        bench = Bench(storage, clock)
        for _ in range(CONNECTIONS):
            assert await bench.settle(await bench.leased(), Outcome.ACCEPTED) == []
            stranger = await PostgresUrl(url).connect()
            strangers.push_async_callback(stranger.close)
            await strangers.enter_async_context(stranger.transaction())


async def test_what_a_transaction_sets_stays_in_it(url: str, clock: FakeClock) -> None:
    """The next one on that connection may be somebody else's."""
    async with open_postgres(PostgresUrl(url), new_policy(), next_id, clock) as storage:
        await storage.check()
        stranger = await PostgresUrl(url).connect()
        limits = await stranger.fetchrow("SELECT current_setting('statement_timeout'), current_setting('lock_timeout')")
        assert tuple(limits) == ("0", "0")
        await stranger.close()
