"""What claiming and settling cost on Postgres, however much waits: `make bench-queue`, or this module with --help.

A server of its own, out of the wheel, with fsync on. The queue is filled by SQL and kept as long as it is; what is
measured is `lease` and `settle` as a mailer calls them, one batch after the other, by one process. Each length is
measured without and with finished emails beside it, and without and with an old snapshot that another session holds
open, as a long dump does: while it is there, what was claimed leaves its traces, and vacuum can't take them away.

Times are those of the quicker quarter of the batches, so that it counts for less what else this machine does. Ends
with 1 if an email takes more than 1.5 times as much CPU, here and in the server, in the longest queue as in the
shortest, or with an old snapshot as without.
"""

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import msgspec
from msgspec import Struct

from benchmarks.end_to_end import TICKS, machine
from hes.case import Rules
from hes.ids import id_maker
from hes.model import Address, Answer, Email, EmailId, Ended, Outcome, Room
from hes.policy import Policy
from hes.storage import migrations
from hes.storage.postgres import PostgresUrl, open_postgres, run_schema
from hes.storage.sql import SqlStorage
from tests.postgres import start_server

MOST = 1.5
"""How many times as much an email may cost."""

ROOM = 1_000_000_000
EMAIL = msgspec.json.encode(
    Email(
        id=EmailId("@ID@"),
        project="shop",
        message_id="<@ID@@example.com>",
        date=0,
        sender=Address("shop@example.com"),
        to=(Address("ann@example.net"),),
        subject="Your receipt",
        text="Thank you, Ann. " * 20,
    )
).decode()
LANE = '["shop","default","example.com",[],[],[],false,false]'

# Ids that sort by time, as the real ones do. $1: the first number, $2: how many.
MADE = "(SELECT n, 'f-' || lpad(n::text, 12, '0') AS id FROM generate_series($1::bigint, $1::bigint + $2 - 1) n) made"
FILL_EMAILS = f"""
INSERT INTO emails (id, project, created_at, from_email, subject, tags, stream, message_id, content)
SELECT id, 'shop', 0, 'shop@example.com', 'Your receipt', '{{}}', 'default', id,
    convert_to(replace($3, '@ID@', id), 'UTF8')
FROM {MADE}"""
FILL_DELIVERIES = f"""
INSERT INTO deliveries (email_id, project, lane, status, due_at, expires_at, expires_in, on_doubt, attempt_timeout,
    own_providers, size_bytes, attempts, tried, declined_by, round, lapses, version, stream, sender_domain)
SELECT id, 'shop', $3, $4, n, 9e15::bigint, 86400, 'resend', 0, '', 600, 0, '', '', 0, 0, 1, 'default', 'example.com'
FROM {MADE}"""


class Cost(Struct):
    """Of one email, in milliseconds."""

    claim: float
    settle: float
    client_cpu: float
    server_cpu: float
    slowest_claim: float
    """Of a whole batch."""

    @property
    def wall(self) -> float:
        return self.claim + self.settle

    @property
    def cpu(self) -> float:
        return self.client_cpu + self.server_cpu


class Queue:
    """A filled database and the storage on it."""

    def __init__(self, storage: SqlStorage, shell: asyncpg.Connection, batch: int) -> None:
        self._storage = storage
        self._shell = shell
        self._batch = batch
        self._next = 1
        self._waiting = 0

    async def fill(self, count: int, status: str) -> None:
        for first in range(self._next, self._next + count, 250_000):
            most = min(250_000, self._next + count - first)
            await self._shell.execute(FILL_EMAILS, first, most, EMAIL)
            await self._shell.execute(FILL_DELIVERIES, first, most, LANE, status)
        self._next += count

    async def tidy(self) -> None:
        await self._shell.execute("VACUUM (ANALYZE) deliveries, emails, attempts, events")
        await self._shell.execute("CHECKPOINT")

    async def top_up(self, waiting: int) -> None:
        if waiting > self._waiting:
            await self.fill(waiting - self._waiting, "queued")
            self._waiting = waiting

    async def measure(self, waiting: int, emails: int, rounds: int) -> Cost:
        """So many emails in each round, with the queue full again before the next."""
        claims: list[float] = []
        settles: list[float] = []
        client = server = 0.0
        for _ in range(rounds):
            await self.top_up(waiting)
            began, began_server = time.process_time(), await self._server_cpu()
            for _ in range(emails // self._batch):
                claimed, settled = await self._one_batch()
                claims.append(claimed)
                settles.append(settled)
            client += time.process_time() - began
            server += await self._server_cpu() - began_server
            self._waiting -= emails
        done = rounds * emails
        return Cost(
            claim=statistics.quantiles(claims, n=4)[0] / self._batch * 1000,
            settle=statistics.quantiles(settles, n=4)[0] / self._batch * 1000,
            client_cpu=client / done * 1000,
            server_cpu=server / done * 1000,
            slowest_claim=statistics.quantiles(claims, n=100)[98] * 1000,
        )

    async def _one_batch(self) -> tuple[float, float]:
        rooms = {"a": Room(hands=self._batch)}
        began = time.perf_counter()
        leases = await self._storage.lease(rooms, size_budget=ROOM, is_idle=True, deadline=1e9)
        claimed = time.perf_counter()
        if len(leases.items) != self._batch:
            sys.exit(f"a claim brought {len(leases.items)} of {self._batch}")
        answer = Answer(outcome=Outcome.ACCEPTED, status_code=202)
        ended = [
            Ended(attempt_id=one.attempt_id, email_id=one.email.id, provider="a", ended_at=1, answer=answer)
            for one in leases.items
        ]
        await self._storage.settle(ended, rooms)
        return claimed - began, time.perf_counter() - claimed

    async def _server_cpu(self) -> float:
        """Of those who serve the storage."""
        pids = await self._shell.fetch("SELECT pid FROM pg_stat_activity WHERE application_name = 'hes'")
        return sum(cpu_seconds(row["pid"]) for row in pids)


def cpu_seconds(pid: int) -> float:
    """User and system time (proc_pid_stat(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@asynccontextmanager
async def old_snapshot(url: str) -> AsyncIterator[None]:
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.fetch("SELECT count(*) FROM api_keys")
            yield
    finally:
        await connection.close()


@asynccontextmanager
async def queue(server: Any, name: str, batch: int) -> AsyncIterator[tuple[Queue, str]]:
    shell = await asyncpg.connect(server.get_uri())
    await shell.execute(f"CREATE DATABASE {name}")
    await shell.close()
    url = server.get_uri(database=name)
    await run_schema(PostgresUrl(url), migrations.upgrade)
    shell = await asyncpg.connect(url)
    policy = Policy(Rules(providers=("a",)), random.Random(1))
    new_id = id_maker(lambda: time.time_ns() // 1_000_000, random.Random(2))
    async with open_postgres(PostgresUrl(url), policy, new_id) as storage:
        yield Queue(storage, shell, batch), url
    await shell.close()


async def run(server: Any, given: argparse.Namespace) -> bool:
    """Whether all is as cheap as it must be."""
    is_fine = True
    print(f"{'waiting':>9} {'finished':>9}  {'':12} claim ms  settle ms  CPU ms here  CPU ms there  slowest claim ms")
    for finished in given.finished:
        async with queue(server, f"with_{finished}", given.batch) as (filled, url):
            await filled.fill(finished, "sent")
            costs: dict[tuple[bool, int], Cost] = {}
            for waiting in given.waiting:
                await filled.top_up(waiting)
                await filled.tidy()
                await filled.measure(waiting, given.batch * 5, 2)  # warm: caches of statements and pages
                costs[False, waiting] = await filled.measure(waiting, given.emails, given.rounds)
                show(costs[False, waiting], waiting, finished, "")
                async with old_snapshot(url):
                    await filled.measure(waiting, given.batch * 10, given.aged // (given.batch * 10))
                    costs[True, waiting] = await filled.measure(waiting, given.emails, given.rounds)
                show(costs[True, waiting], waiting, finished, "old snapshot")
        for is_old in (False, True):
            kind = "with an old snapshot" if is_old else "without an old snapshot"
            name = f"{given.waiting[-1]} : {given.waiting[0]} waiting, {finished} finished, {kind}"
            is_fine &= compare(name, costs[is_old, given.waiting[-1]], costs[is_old, given.waiting[0]])
        for waiting in given.waiting:
            name = f"with : without an old snapshot, {waiting} waiting, {finished} finished"
            is_fine &= compare(name, costs[True, waiting], costs[False, waiting])
    return is_fine


def compare(name: str, one: Cost, other: Cost) -> bool:
    """Whether one costs not much more than the other."""
    print(f"{name}: CPU {one.cpu / other.cpu:.2f}, time {one.wall / other.wall:.2f}", flush=True)
    return one.cpu / other.cpu <= MOST


def show(cost: Cost, waiting: int, finished: int, kind: str) -> None:
    print(
        f"{waiting:9} {finished:9}  {kind:12} {cost.claim:8.3f} {cost.settle:10.3f} {cost.client_cpu:12.3f} "
        f"{cost.server_cpu:13.3f} {cost.slowest_claim:17.1f}",
        flush=True,
    )


async def configure(url: str) -> None:
    connection = await asyncpg.connect(url)
    for setting in ("max_wal_size = '8GB'", "shared_buffers = '1GB'"):
        await connection.execute(f"ALTER SYSTEM SET {setting}")
    await connection.close()


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what claiming and settling cost on Postgres.")
    parser.add_argument("--waiting", type=numbers, default=[10_000, 100_000, 1_000_000], help="lengths of the queue")
    parser.add_argument("--finished", type=numbers, default=[0, 5_000_000], help="how many finished emails beside it")
    parser.add_argument("--emails", type=int, default=2000, help="in each round")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--aged", type=int, default=100_000, help="emails that go before an old snapshot is measured")
    parser.add_argument("--batch", type=int, default=100, help="emails in one claim")
    given = parser.parse_args()
    os.chdir("/")  # the server runs as another user, who may not see this folder
    with tempfile.TemporaryDirectory(prefix="hes-bench-") as folder:
        server = start_server(Path(folder), keep=True)
        asyncio.run(configure(server.get_uri()))
        server.cleanup()
        server = start_server(Path(folder))
        try:
            print(machine())
            print(
                f"Postgres out of the wheel, fsync on; {given.rounds} rounds of {given.emails}, {given.batch} a claim"
            )
            is_fine = anyio.run(run, server, given)
        finally:
            server.cleanup()
    sys.exit(0 if is_fine else 1)


if __name__ == "__main__":
    main()
