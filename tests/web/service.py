"""The real HTTP application over a real SQLite file, without actors: the storage is what drives an email on."""

import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa
from litestar import Litestar
from msgspec.structs import replace

from hes.case import Rules
from hes.ids import id_maker
from hes.model import (
    Answer,
    Decision,
    EmailId,
    Ended,
    GateState,
    GateStatus,
    Leased,
    Node,
    OnDoubt,
    Outcome,
    ProviderStatus,
    Room,
)
from hes.policy import Policy
from hes.providers import mailgun_hook
from hes.storage import tables
from hes.storage.records import Reach, Waiting
from hes.storage.sql import SqlStorage
from hes.storage.sqlite import open_sqlite
from hes.web.api_keys import ApiKeys, StoredKeys
from hes.web.backlog import Backlog
from hes.web.desk import Desk, Hook, Readiness
from hes.web.hooks import HOOK_BODY_BYTES
from hes.web.memory_budget import SMALL_BYTES, MemoryBudget
from hes.web.problems import MEDIA_TYPE
from hes.web.routes import create_web
from hes.web.throttle import Rates, WrongKeys, client_name
from tests.fakes.hooks import MailgunHook

KEY = "bootstrap-key-of-more-than-32-characters"
LEAST = {"from": "shop@example.com", "to": "ann@example.org", "subject": "Hello", "text": "Hello"}
MAX_BODY_BYTES = 200_000
NOWHERE = "01890000-0000-7000-8000-000000000000"
"""An id that no email has."""


A_NODE = Node(
    id="01890000-0000-7000-8000-00000000000a",
    role="all",
    host="here",
    version="1",
    started_at=1_800_000_000_000,
    seen_at=1_800_000_000_000,
)


class FakeGates:
    """What an operator told the gates, and how they stand."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, str]] = []
        self.standing = dict.fromkeys(("one", "two"), GateState.UP)

    async def status(self) -> list[ProviderStatus]:
        gates = [a_status(name, state) for name, state in self.standing.items()]
        return [ProviderStatus(gate=gate, nodes=((A_NODE, gate),)) for gate in gates]

    async def pause(self, name: str, by: str) -> None:
        self.told.append(("pause", name, by))
        self.standing[name] = GateState.PAUSED

    async def resume(self, name: str, by: str) -> None:
        self.told.append(("resume", name, by))
        self.standing[name] = GateState.UP

    async def reset(self, name: str, by: str) -> None:
        self.told.append(("reset", name, by))


def a_status(name: str, state: GateState, **fields: Any) -> GateStatus:
    known: dict[str, Any] = {
        "kind": "sendgrid",
        "reason": None if state is GateState.UP else "because",
        "since": 1_800_000_000_000,
        "until": None,
        "weight": 2.0,
        "effective_weight": 2.0,
        "in_flight": 3,
        "in_flight_limit": 64,
        "rate_limit": None,
        "sent_last_minute": 17,
        "error_rate": 0.0,
        "retries_left": 100,
        "refused_sender_domains": (),
    }
    return GateStatus(name=name, state=state, **(known | fields))


MAILGUN_HOOK = MailgunHook()
HOOKS = {"one": Hook(lambda headers, body, at: mailgun_hook.read_events(headers, body, MAILGUN_HOOK.secret, at))}


class Service:
    """What a test needs of HES."""

    def __init__(self, storage: SqlStorage, path: Path) -> None:
        self.storage = storage
        self.path = path
        self.wakes = 0
        self.gates = FakeGates()
        self.desk = Desk(
            storage=storage,
            emails=storage,
            authenticator=ApiKeys(StoredKeys(storage.keys, now), WrongKeys(time.monotonic), KEY),
            keys=storage.keys,
            inbox=storage.inbox,
            hooks=HOOKS,
            rates=Rates(time.monotonic),
            backlog=Backlog(storage, Waiting(), time.monotonic),
            readiness=Readiness(),
            gates=self.gates,
            wake=self._wake,
            new_id=id_maker(now, random.Random(1)),
            clock=now,
            provider_names=frozenset({"one", "two"}),
            outbox_only=False,
            on_doubt=OnDoubt.RESEND,
            expires_in=86_400,
            attempt_timeout_limit=18.0,
            max_body_bytes=MAX_BODY_BYTES,
            client_name=partial(client_name, trusted=()),
            bodies=MemoryBudget("emails", 4 * MAX_BODY_BYTES, 10 * SMALL_BYTES, time.monotonic),
            body_seconds=30.0,
            answers=MemoryBudget("answers", 4 * MAX_BODY_BYTES, 10 * SMALL_BYTES, time.monotonic),
            events=MemoryBudget("events of providers", 4 * HOOK_BODY_BYTES, 10 * SMALL_BYTES, time.monotonic),
            events_seconds=10.0,
        )

        self._app = create_web(self.desk)

    def _wake(self) -> None:
        self.wakes += 1

    def app_with(self, desk: dict[str, Any] | None) -> Litestar:
        """`desk`: parts of it that are others."""
        return create_web(replace(self.desk, **desk)) if desk else self._app

    async def ask(
        self, method: str, path: str, *, key: str | None = KEY, desk: dict[str, Any] | None = None, **sent: Any
    ) -> httpx.Response:
        """One request. `desk`: parts of the desk that are others this once."""
        transport = httpx.ASGITransport(app=self.app_with(desk))  # type: ignore[arg-type]
        auth = [] if key is None else [("Authorization", f"Bearer {key}")]
        headers = sent.pop("headers", {})
        headers = [*auth, *(headers.items() if isinstance(headers, dict) else headers)]
        async with httpx.AsyncClient(transport=transport, base_url="http://hes") as client:
            return await client.request(method, path, headers=headers, **sent)

    async def send(self, body: object = LEAST, **sent: Any) -> httpx.Response:
        """POST /v1/emails; bytes go as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **sent.pop("headers", {})}
        return await self.ask("POST", "/v1/emails", content=content, headers=headers, **sent)

    async def accepted(self, **fields: Any) -> EmailId:
        response = await self.send(LEAST | fields)
        assert response.status_code == 202, response.text
        return EmailId(response.json()["id"])

    async def read(self, email_id: str, *, content: bool = False) -> dict[str, Any]:
        response = await self.ask("GET", f"/v1/emails/{email_id}{'?include=content' if content else ''}")
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    async def leased(self) -> Leased:
        """The one email that is due, in the hands of provider `one`."""
        leases = await self.storage.lease({"one": Room(hands=1)}, size_budget=10**9, is_idle=True, deadline=1e12)
        (leased,) = leases.items
        return leased

    async def attempted(self, answer: Answer) -> None:
        """The one email that is due is tried, and this came of it."""
        leased = await self.leased()
        ended = Ended(
            attempt_id=leased.attempt_id, email_id=leased.email.id, provider="one", ended_at=now(), answer=answer
        )
        assert (await self.storage.settle([ended], {})).lost == ()

    async def in_doubt(self) -> EmailId:
        """An email of which nobody knows whether it was taken."""
        return await self._doubted("wait")

    async def held(self) -> EmailId:
        return await self._doubted("hold")

    async def _doubted(self, on_doubt: str) -> EmailId:
        email_id = await self.accepted(on_doubt=on_doubt)
        await self.attempted(Answer(outcome=Outcome.IN_DOUBT, detail="connection lost"))
        return email_id

    async def sent(self) -> EmailId:
        email_id = await self.accepted()
        await self.attempted(Answer(outcome=Outcome.ACCEPTED, status_code=202, provider_message_id="m1"))
        return email_id

    async def failed(self) -> EmailId:
        email_id = await self.in_doubt()
        await self.storage.resolve(Reach("default"), email_id, Decision.FAILED, "test")
        return email_id

    def count_rows(self) -> dict[str, int]:
        """How many rows each table has, as another program sees them."""
        engine = sa.create_engine(sa.URL.create("sqlite", database=str(self.path)))
        try:
            with engine.connect() as connection:
                return {
                    name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
                    for name, table in tables.metadata.tables.items()
                    if table is not tables.schema_readers  # filled by the migrations
                }
        finally:
            engine.dispose()


def now() -> int:
    return time.time_ns() // 1_000_000


def later(**time: float) -> str:
    """As a request says it: `later(hours=2)`."""
    return (datetime.now(UTC) + timedelta(**time)).isoformat()


@asynccontextmanager
async def open_service(path: Path) -> AsyncIterator[Service]:
    rng = random.Random(1)
    policy = Policy(Rules(providers=("one", "two"), keep_drafts_ms=30 * 24 * 3600 * 1000), rng)
    async with open_sqlite(path, policy, now, id_maker(now, rng)) as storage:
        yield Service(storage, path)


def problem_in(response: httpx.Response, status: int) -> dict[str, Any]:
    """The problem, after checking what is true of all."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == MEDIA_TYPE
    found: dict[str, Any] = response.json()
    assert found["status"] == status
    assert found["type"].startswith("urn:hes:problem:")
    return found


def paths_in(response: httpx.Response) -> list[str]:
    """Which fields a 422 names."""
    return [error["path"] for error in problem_in(response, 422)["errors"]]
