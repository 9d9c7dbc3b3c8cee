"""`hes db` on both databases: the schema by hand, and what to do with a backup that was put back."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import pytest

from hes.model import EmailId, Node, OnDoubt, Outcome, Reason, Status
from hes.storage.migrations import SCHEMA_VERSION
from hes.storage.postgres import PostgresUrl, open_postgres
from hes.storage.sql import SqlStorage
from hes.storage.sqlite import open_sqlite
from tests import postgres
from tests.faults.server import environment
from tests.storage.harness import Bench, FakeClock, new_policy, next_id


def db(url: str, *words: str, folder: Path) -> tuple[int, str]:
    """Exit code, and what it said."""
    command = [sys.executable, "-m", "hes", "db", *words]
    env = environment(database_url=url)
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=folder)
    return ran.returncode, ran.stderr + ran.stdout


@pytest.fixture(params=["sqlite", "postgres"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/hes.db"
        return
    async with postgres.database() as found:
        yield found


async def test_the_schema_goes_back_and_forward(url: str, tmp_path: Path) -> None:
    assert db(url, "upgrade", folder=tmp_path) == (0, f"schema {SCHEMA_VERSION}\n")
    assert db(url, "current", folder=tmp_path) == (0, f"schema {SCHEMA_VERSION}, needed {SCHEMA_VERSION}\n")
    assert db(url, "downgrade", "0003", folder=tmp_path) == (0, "schema 0003\n")
    assert db(url, "current", folder=tmp_path) == (0, f"schema 0003, needed {SCHEMA_VERSION}\n")
    assert db(url, "upgrade", folder=tmp_path)[0] == 0


async def test_what_a_backup_had_on_its_way_is_held_and_what_was_at_rest_stays(url: str, tmp_path: Path) -> None:
    clock = FakeClock()

    def opened() -> AbstractAsyncContextManager[SqlStorage]:
        if url.startswith("sqlite"):
            return open_sqlite(Path(url.removeprefix("sqlite:///")), new_policy(), clock, next_id)
        return open_postgres(PostgresUrl(url), new_policy(), next_id, clock)

    async with opened() as storage:
        bench = Bench(storage, clock)
        sent = await bench.leased()
        await bench.settle(sent, Outcome.ACCEPTED)
        doubted = await bench.doubted(on_doubt=OnDoubt.WAIT)
        sending = await bench.leased()
        queued = await bench.accept()
    code, said = db(url, "restored", folder=tmp_path)
    assert (code, said.splitlines()[-1]) == (0, "3 emails are held: decide about each with `hes emails resolve`")
    async with opened() as storage:
        bench = Bench(storage, clock)
        assert await bench.status(sent) == (Status.SENT, None)
        for email in (doubted, sending, queued):
            assert await bench.status(email) == (Status.HELD, Reason.RESTORED)
        assert [a.outcome for a in (await bench.read(sending)).attempts] == [Outcome.IN_DOUBT]
        assert (await bench.read(EmailId(queued))).attempts == ()
    assert db(url, "restored", folder=tmp_path)[1].startswith("0 emails")


ONE = Node(id="one", role="mailer", host="pod-1", version="1")


async def test_while_hes_runs_nothing_is_held(tmp_path: Path) -> None:
    async with (
        postgres.database() as url,
        open_postgres(PostgresUrl(url), new_policy(), next_id) as storage,
        anyio.create_task_group() as tasks,
    ):

        async def run() -> None:
            while True:
                await storage.appear(ONE)
                await anyio.sleep(0.05)

        tasks.start_soon(run)
        code, said = await anyio.to_thread.run_sync(lambda: db(url, "restored", folder=tmp_path))
        tasks.cancel_scope.cancel()
    assert code == 2
    assert "HES runs there: pod-1 (mailer). Stop it" in said


async def test_who_ran_when_the_backup_was_made_is_waited_for_and_not_taken_for_running(tmp_path: Path) -> None:
    """It is silent until it counts as gone; here that comes as soon as somebody waits for it."""
    async with postgres.database() as url:
        async with open_postgres(PostgresUrl(url), new_policy(), next_id) as storage:
            await storage.appear(ONE)
        command, env = [sys.executable, "-m", "hes", "db", "restored"], environment(database_url=url)
        async with await anyio.open_process(command, cwd=tmp_path, env=env) as process:
            assert process.stderr is not None
            assert process.stdout is not None
            assert b"looking whether it does" in await process.stderr.receive()
            await postgres.execute(url, "UPDATE nodes SET seen_at = seen_at - 20000")
            said = b"".join([part async for part in process.stdout])
    assert process.returncode == 0
    assert said.startswith(b"0 emails are held")


@pytest.mark.parametrize("command", [["current"], ["downgrade", "base"], ["restored"]])
def test_a_look_at_a_sqlite_file_makes_none(command: list[str], tmp_path: Path) -> None:
    code, said = db(f"sqlite:///{tmp_path}/hes.db", *command, folder=tmp_path)
    assert code == 2
    assert f"HES_DATABASE_URL: there is no {tmp_path}/hes.db" in said
    assert list(tmp_path.iterdir()) == []


async def test_a_password_is_in_no_error(tmp_path: Path) -> None:
    url = "postgresql://hes:hunter2@127.0.0.1:9/hes"
    code, said = db(url, "current", folder=tmp_path)
    assert (code, "the database can't be reached" in said, "hunter2" in said) == (2, True, False)
    assert os.sep not in said, "no traceback"


def test_a_password_in_a_flag_is_warned_about_here_too(tmp_path: Path) -> None:
    flag = ["--database-url", "postgresql://hes:hunter2@127.0.0.1:1/hes"]
    code, said = db("sqlite:///unused.db", "current", *flag, folder=tmp_path)
    assert code == 2
    assert said.count("--database-url holds a password") == 1
    assert "hunter2" not in said
