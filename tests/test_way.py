"""One email's way, told once and slowly: read this first.

Everything is real but the provider: SQLite on disk, HTTP in, HTTP out, the actors. First each step is made by hand, so
that it can be looked at; then the actors make the same steps by themselves.
"""

import random
import sqlite3
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx

from hes.app import Process, now, open_storage
from hes.ids import id_maker
from hes.model import EmailId, Ended, Room
from hes.providers import Surroundings, make_provider
from hes.settings import Settings, load
from hes.storage.records import Settled
from hes.storage.sql import SqlStorage
from tests.fakes.faults import FakeServer
from tests.fakes.sendgrid import KEY, SendGridRules

API_KEY = "an-api-key-of-at-least-thirty-two-characters"
RECEIPT = {
    "from": {"email": "shop@example.com", "name": "Shop"},
    "to": "ann@example.org",
    "subject": "Receipt 7",
    "text": "Thank you.",
}


def settings(folder: Path, fake: FakeServer) -> Settings:
    variables = {
        "HES_DATABASE_URL": f"sqlite:///{folder}/hes.db",
        "HES_BOOTSTRAP_KEY": API_KEY,
        "HES_PROVIDERS": f"sendgrid://{KEY}@default?base_url={fake.url}",
    }
    return load({}, variables, folder)


def make_process(settings: Settings, storage: SqlStorage) -> Process:
    return Process(settings, storage, id_maker(now, random.Random(2)), now, random.Random(3))


@asynccontextmanager
async def client(process: Process) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=process.web)
    headers = {"Authorization": f"Bearer {API_KEY}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://hes", headers=headers) as web:
        yield web


def on_disk(folder: Path, query: str) -> Mapping[str, Any] | None:
    """What another program sees in the file: only what was committed."""
    connection = sqlite3.connect(folder / "hes.db")
    connection.row_factory = sqlite3.Row
    try:
        row = connection.execute(query).fetchone()
        return None if row is None else dict(row)
    finally:
        connection.close()


async def test_the_way_of_one_email_step_by_step(tmp_path: Path) -> None:
    async with (
        FakeServer(SendGridRules()) as sendgrid,
        open_storage(
            set_up := settings(tmp_path, sendgrid), now, id_maker(now, random.Random(1)), random.Random(1)
        ) as storage,
        client(process := make_process(set_up, storage)) as web,  # its actors do not run
    ):
        # The email is handed in. The answer comes when it is on disk, and not before: another program sees it there.
        answer = await web.post("/v1/emails", json=RECEIPT)
        assert answer.status_code == 202
        email_id = EmailId(answer.json()["id"])
        assert answer.json()["status"] == "queued"
        assert answer.headers["Location"] == f"/v1/emails/{email_id}"
        delivery = on_disk(tmp_path, "SELECT * FROM deliveries")
        assert delivery is not None
        assert (delivery["email_id"], delivery["status"], delivery["attempt_id"]) == (email_id, "queued", None)

        # The intake leases it for a free hand of one provider. Before a byte goes there, it is on disk who will try.
        leases = await storage.lease(
            {"sendgrid": Room(hands=1, render_version=1)},
            size_budget=10_000,
            is_idle=True,
            deadline=time.monotonic() + 30,
        )
        (leased,) = leases.items
        assert (leased.email.id, leased.provider, leased.number) == (email_id, "sendgrid", 1)
        attempt = on_disk(tmp_path, "SELECT * FROM attempts")
        assert attempt is not None
        assert (attempt["id"], attempt["provider"], attempt["outcome"]) == (leased.attempt_id, "sendgrid", None)
        assert sendgrid.accepted == []

        # The sender hands it over. The provider's answer comes back in our words.
        around = Surroundings(clock=now, keep=storage.keep, outbox_dir=tmp_path)
        provider = make_provider(set_up.providers[0], around)
        answer_of_provider = await provider.send(leased.email, leased.attempt_id, leased.timeout_seconds)
        await provider.aclose()
        assert answer_of_provider.outcome == "accepted"
        (copy,) = sendgrid.accepted
        assert (copy.hes_id, copy.hes_attempt) == (email_id, leased.attempt_id)

        # The reporter settles: only the attempt that holds the lease can.
        ended = Ended(
            attempt_id=leased.attempt_id,
            email_id=email_id,
            provider="sendgrid",
            ended_at=now(),
            answer=answer_of_provider,
        )
        assert await storage.settle([ended], {}) == Settled()
        delivery = on_disk(tmp_path, "SELECT * FROM deliveries")
        assert delivery is not None
        assert (delivery["status"], delivery["attempt_id"], delivery["provider"]) == ("sent", None, "sendgrid")

        # And whoever asks is told all of it.
        email = (await web.get(f"/v1/emails/{email_id}")).json()
        assert (email["status"], email["provider"]) == ("sent", "sendgrid")
        assert [event["type"] for event in email["events"]] == ["created", "queued", "attempt", "sent"]
        assert [(a["number"], a["provider"], a["outcome"], a["status_code"]) for a in email["attempts"]] == [
            (1, "sendgrid", "accepted", 202)
        ]
        await process.aclose()


async def test_the_actors_make_the_same_way_by_themselves(tmp_path: Path) -> None:
    async with (
        FakeServer(SendGridRules()) as sendgrid,
        open_storage(
            set_up := settings(tmp_path, sendgrid), now, id_maker(now, random.Random(1)), random.Random(1)
        ) as storage,
    ):
        process = make_process(set_up, storage)
        async with client(process) as web, anyio.create_task_group() as tasks:
            tasks.start_soon(process.run)
            email_id = (await web.post("/v1/emails", json=RECEIPT)).json()["id"]
            with anyio.fail_after(10):
                while (email := (await web.get(f"/v1/emails/{email_id}")).json())["status"] != "sent":
                    pass
            process.stop()
        await process.aclose()
        assert [event["type"] for event in email["events"]] == ["created", "queued", "attempt", "sent"]
        assert sendgrid.copies(email_id) == 1


def test_the_way_can_be_read_in_one_sitting() -> None:
    """The files that the README names for it; any provider may stand for the outbox."""
    way = [
        "web/emails",
        "storage/storage",
        "actors/intake",
        "actors/sender",
        "providers/outbox",
        "actors/reporter",
        "routing",
        "policy",
        "mailer",
    ]
    hes = Path(__file__).parents[1] / "hes"
    assert sum(len((hes / f"{name}.py").read_text().splitlines()) for name in way) < 1500
