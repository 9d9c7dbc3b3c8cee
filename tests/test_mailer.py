"""The wired actors, stopped in a bad moment: what was leased last still finds a hand, and no doubt is made."""

import os
import random
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import anyio
import pytest
from msgspec.structs import replace

from hes.app import make_operator, make_providers, now, open_storage
from hes.configured import rules_of
from hes.errors import ConfigError
from hes.ids import id_maker
from hes.mailer import Mailer
from hes.model import EmailId, Room
from hes.node import ThisNode
from hes.settings import Settings, load
from hes.storage.records import Leases, NewEmail, Reach
from hes.storage.sql import SqlStorage
from tests.fakes import an_email


class SlowToLease:
    """A storage whose leases take until they are let go."""

    def __init__(self, storage: SqlStorage) -> None:
        self._storage = storage
        self.leased = anyio.Event()
        self.let_go = anyio.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self._storage, name)

    async def lease(self, rooms: Mapping[str, Room], *, size_budget: int, is_idle: bool, deadline: float) -> Leases:
        leases = await self._storage.lease(rooms, size_budget=size_budget, is_idle=is_idle, deadline=deadline)
        if leases.items:
            self.leased.set()
            await self.let_go.wait()
        return leases


async def test_a_stop_while_a_lease_is_being_made_makes_no_doubt(tmp_path: Path) -> None:
    settings = load(
        {}, {"HES_DATABASE_URL": f"sqlite:///{tmp_path}/hes.db", "HES_OUTBOX_DIR": f"{tmp_path}/out"}, tmp_path
    )
    rng = random.Random(1)
    async with open_storage(settings, now, id_maker(now, rng), rng) as storage:
        slow = SlowToLease(storage)
        providers = make_providers(settings, storage, now)
        mailer = Mailer(settings, slow, providers, now, rng)  # type: ignore[arg-type]  # passes all else on
        email = an_email(id=EmailId("0190"))
        new = NewEmail(email=email, on_doubt=settings.on_doubt, expires_in=60, attempt_timeout=10)
        await storage.accept(new)
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(mailer.run)
                await slow.leased.wait()
                mailer.stop()
                slow.let_go.set()
        await mailer.aclose()
        stored = await storage.read(Reach(email.project), email.id)
        assert stored.delivery.status == "sent"
        assert [attempt.outcome for attempt in stored.attempts] == ["accepted"]


async def test_what_a_test_key_sends_goes_into_the_database_and_nowhere_else(tmp_path: Path) -> None:
    """Whatever providers are configured, and however they stand."""
    settings = load(
        {},
        {
            "HES_DATABASE_URL": f"sqlite:///{tmp_path}/hes.db",
            "HES_PROVIDERS": "sendgrid://K@default?base_url=http%3A%2F%2F127.0.0.1%3A9",
            "HES_OUTBOX_DIR": f"{tmp_path}/out",
        },
        tmp_path,
    )
    rng = random.Random(1)
    async with open_storage(settings, now, id_maker(now, rng), rng) as storage:
        mailer = Mailer(settings, storage, make_providers(settings, storage, now), now, rng)
        email = an_email(id=EmailId("0190"))
        await storage.accept(NewEmail(email=email, on_doubt=settings.on_doubt, expires_in=60, is_test=True))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(mailer.run)
            with anyio.fail_after(10):
                while (stored := await storage.read(Reach(email.project), email.id)).delivery.status != "sent":
                    pass
            operator = make_operator(settings, storage, ThisNode(settings, storage, mailer, now), now)
            assert [status.gate.name for status in await operator.status()] == ["sendgrid"]
            mailer.stop()
        await mailer.aclose()
        assert (stored.delivery.provider, stored.delivery.is_test) == ("outbox", True)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("attempt_timeout", [0, 20])
async def test_what_a_test_key_sends_goes_out_with_a_short_lease_too(tmp_path: Path, attempt_timeout: int) -> None:
    """The built-in outbox has the configured times, so that one call fits into a lease.

    So does that of an email whose own time-out was taken when leases were longer.
    """
    settings = load(
        {},
        {
            "HES_DATABASE_URL": f"sqlite:///{tmp_path}/hes.db",
            "HES_PROVIDERS": "sendgrid://K@default?base_url=http%3A%2F%2F127.0.0.1%3A9",
            "HES_LEASE_SECONDS": "6",
            "HES_ATTEMPT_TIMEOUT": "3",
            "HES_RETRY_CAP_SECONDS": "9",
        },
        tmp_path,
    )
    rng = random.Random(1)
    async with open_storage(settings, now, id_maker(now, rng), rng) as storage:
        mailer = Mailer(settings, storage, make_providers(settings, storage, now), now, rng)
        email = an_email(id=EmailId("0190"))
        new = NewEmail(email=email, on_doubt=settings.on_doubt, expires_in=60, is_test=True)
        await storage.accept(replace(new, attempt_timeout=attempt_timeout))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(mailer.run)
            with anyio.fail_after(10):
                while (stored := await storage.read(Reach(email.project), email.id)).delivery.status != "sent":
                    pass
            mailer.stop()
        await mailer.aclose()
        assert [event.type for _, event in stored.events] == ["created", "queued", "attempt", "sent"]
    assert rules_of(settings).backoffs["outbox"].cap_seconds == 9


def with_outbox_in(folder: Path, outbox: str) -> Settings:
    return load({}, {"HES_DATABASE_URL": f"sqlite:///{folder}/hes.db", "HES_OUTBOX_DIR": outbox}, folder)


async def test_an_outbox_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    rng = random.Random(1)
    (tmp_path / "file").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tmp").touch()
    wrong = {
        f"{tmp_path}/out": f"HES_OUTBOX_DIR: {tmp_path}/out can't be written: ",
        f"{tmp_path}/file": f"HES_OUTBOX_DIR: {tmp_path}/file is not a folder.",
        f"{tmp_path}/none/out": f"HES_OUTBOX_DIR: {tmp_path}/none does not exist.",
    }
    for outbox, text in wrong.items():
        settings = with_outbox_in(tmp_path, outbox)
        async with open_storage(settings, now, id_maker(now, rng), rng) as storage:
            with pytest.raises(ConfigError, match=re.escape(text)):
                make_providers(settings, storage, now)


async def test_the_start_leaves_an_empty_maildir(tmp_path: Path) -> None:
    settings = with_outbox_in(tmp_path, f"{tmp_path}/out")
    rng = random.Random(1)
    async with open_storage(settings, now, id_maker(now, rng), rng) as storage:
        make_providers(settings, storage, now)
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["cur", "new", "tmp"]


def test_what_stops_the_start_is_one_sentence(tmp_path: Path) -> None:
    environ = {"HES_OUTBOX_DIR": f"{tmp_path}/none/out", "HES_PORT": "0", "PATH": os.environ["PATH"]}
    start = [sys.executable, "-m", "hes", "serve"]
    root = Path(__file__).parents[1]
    environ |= {"PYTHONPATH": str(root), "HES_DATABASE_URL": f"sqlite:///{tmp_path}/hes.db"}
    done = subprocess.run(start, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert f"hes: HES_OUTBOX_DIR: {tmp_path}/none does not exist." in done.stderr
    assert "Traceback" not in done.stderr
