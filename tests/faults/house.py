"""HES in this process as `hes.serving` wires it, without socket and signals: real storage, actors, adapters and API."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import anyio
import httpx

from hes import app, settings
from hes.ids import id_maker
from hes.storage.sql import SqlStorage
from hes.telemetry.telemetry import OFF, Telemetry
from tests.fakes.faults import FakeServer, Fault
from tests.fakes.sendgrid import fake_sendgrid
from tests.faults.server import KEY, Client, sendgrid_at

QUICK = {
    "HES_BOOTSTRAP_KEY": KEY,
    "HES_POLL_SECONDS": "0.05",
    "HES_ATTEMPT_TIMEOUT": "1.0",
    "HES_CONNECT_TIMEOUT": "0.9",
    "HES_GATE_OPEN_SECONDS": "0.3",
    "HES_RETRY_BASE_SECONDS": "0.05",
    "HES_RETRY_CAP_SECONDS": "0.1",
    "HES_DOUBT_SECONDS": "0",
}
"""Nothing is searched unless a test says so: what the policies do about a doubt is seen best where nobody finds out."""


class House(Client):
    """A client, and what stands behind the API."""

    def __init__(self, http: httpx.AsyncClient, storage: SqlStorage) -> None:
        super().__init__(http, lambda: "http://hes")
        self.storage = storage

    async def hook(self, name: str, headers: Mapping[str, str], body: bytes) -> int:
        """A POST of the provider of that name; the status of the answer."""
        answer = await self._http.post(f"{self._url()}/hooks/{name}", headers=headers, content=body)
        return answer.status_code

    async def resolve(self, email_id: str, decision: str) -> dict[str, Any]:
        answer = await self.post(f"/v1/emails/{email_id}/resolve", {"decision": decision})
        assert answer.status_code == 200, answer.text
        email: dict[str, Any] = answer.json()
        return email

    async def provider(self, name: str) -> dict[str, Any]:
        """How it stands, by GET /v1/providers."""
        answer = await self.get("/v1/providers")
        return next(provider for provider in answer.json()["data"] if provider["name"] == name)

    async def turn(self, name: str, how: str) -> dict[str, Any]:
        """Pause, resume or reset a provider."""
        answer = await self.post(f"/v1/providers/{name}/{how}", {})
        assert answer.status_code == 200, answer.text
        provider: dict[str, Any] = answer.json()
        return provider


@asynccontextmanager
async def house(folder: Path, *fakes: FakeServer | str, **flags: object) -> AsyncIterator[House]:
    """With a SendGrid for each fake; a text is a provider's URL."""
    async with measured_house(OFF, folder, *fakes, **flags) as hes:
        yield hes


@asynccontextmanager
async def measured_house(
    telemetry: Telemetry, folder: Path, *fakes: FakeServer | str, **flags: object
) -> AsyncIterator[House]:
    """The same, and what it does is recorded."""
    urls = (fake if isinstance(fake, str) else sendgrid_at(fake.url) for fake in fakes)
    flags |= {"database_url": f"sqlite:///{folder / 'hes.db'}"}
    loaded = settings.load(flags, QUICK | {"HES_PROVIDERS": " ".join(urls)}, folder)
    rng, new_id = Random(1), id_maker(app.now, Random(2))
    async with app.open_storage(loaded, app.now, new_id, rng, telemetry) as storage, anyio.create_task_group() as tasks:
        process = app.Process(loaded, storage, new_id, app.now, rng, telemetry)
        tasks.start_soon(process.run)
        transport = httpx.ASGITransport(app=process.web)
        try:
            async with httpx.AsyncClient(transport=transport) as http:
                yield House(http, storage)
        finally:
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await process.aclose()


@asynccontextmanager
async def one_provider(folder: Path, fault: Fault | None, **flags: object) -> AsyncIterator[tuple[House, FakeServer]]:
    async with fake_sendgrid() as fake, house(folder, fake, **flags) as hes:
        fake.fault = fault
        yield hes, fake
