"""docs/kubernetes.md, word for word: the two roles of the database, one that owns the tables and one for the pods."""

import os
import urllib.parse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from hes.model import Outcome, Status
from hes.storage import migrations
from hes.storage.postgres import PostgresUrl, open_postgres, run_schema
from tests import postgres
from tests.storage.harness import Bench, FakeClock, new_policy, next_id
from tests.test_readme import blocks

PAGE = Path(__file__).parents[2] / "docs/kubernetes.md"


@asynccontextmanager
async def roles(url: str) -> AsyncIterator[tuple[str, str]]:
    """URLs of the owner and of the pods, as the page makes them; other names, since roles are the whole server's."""
    (sql,) = [block for block in blocks(PAGE.read_text()) if block.startswith("CREATE ROLE")]
    owner, pods = f"hes_owner_{os.getpid()}", f"hes_pods_{os.getpid()}"
    database = urllib.parse.urlsplit(url).path.removeprefix("/")
    sql = sql.replace("hes_owner", owner).replace("ROLE hes ", f"ROLE {pods} ").replace("TO hes;", f"TO {pods};")
    sql = sql.replace(f"TO {owner}, hes;", f"TO {owner}, {pods};").replace("DATABASE hes ", f'DATABASE "{database}" ')
    await postgres.execute(url, *sql.split(";\n"))
    try:
        yield postgres.as_user(url, owner), postgres.as_user(url, pods)
    finally:
        for name in (pods, owner):
            await postgres.execute(url, f"DROP OWNED BY {name} CASCADE", f"DROP ROLE {name}")


async def test_the_owner_makes_the_tables_and_pods_write_rows_and_change_no_table() -> None:
    with postgres.empty_database() as url:
        async with roles(url) as (owner, pods):
            await run_schema(PostgresUrl(owner), migrations.upgrade)
            async with open_postgres(PostgresUrl(pods), new_policy(), next_id) as storage:
                await storage.check()
                bench = Bench(storage, FakeClock())
                leased = await bench.leased()
                await bench.settle(leased, Outcome.ACCEPTED)
                assert (await bench.status(leased))[0] is Status.SENT
            for statement in ("DROP TABLE emails", "ALTER TABLE emails ADD x text", "CREATE TABLE public.x (y text)"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await postgres.execute(pods, statement)
