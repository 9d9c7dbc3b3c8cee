"""HES as the provider of its own clients: `hes.client` says what it needs, and a running HES is held against that.

Clients are older or newer than the HES they talk to. What stands in the contract, an old client relies on.
"""

import json
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec import Struct
from pact import Verifier, match

from hes.client import Client, HesApiError
from hes.web.routes import _document
from tests import postgres
from tests.contracts.pacts import a_pact, check_committed, verify
from tests.fakes.faults import Fault, Kind, Point
from tests.faults.server import KEY, cold, fake_process, sendgrid_at
from tests.web.service import later

CONTRACT = "hes-client-hes.json"
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"
ID = "01890000-0000-7000-8000-000000000007"
NOWHERE = "01890000-0000-7000-8000-000000000000"

an_id = match.regex(ID, regex=UUID)
a_time = match.regex("2026-11-24T14:08:06.908Z", regex=TIME)
LEAST: dict[str, Any] = {"from": "shop@example.com", "to": "ann@example.org", "subject": "Receipt 7", "text": "Hi"}

READY = "HES is ready"
KEY_USED = "the idempotency key receipt-6 was used for another email"
SENT = "an email was sent"
SCHEDULED = "an email is scheduled"
DRAFT = "an email is a draft"
HELD = "an email is held, since nobody knows whether it was taken"
ONLY_SENDS = "an email is scheduled, and there is a key that only sends"
A_KEY = "there is a key of the shop"


def email(status: object, **more: Any) -> dict[str, Any]:
    """What clients read of every email."""
    return {
        "id": an_id,
        "status": status,
        "reason": None,
        "test": False,
        "from": {"email": "shop@example.com"},
        "subject": match.str("Receipt 7"),
        "tags": {},
        "stream": "default",
        "recipients": [{"email": "ann@example.org", "kind": "to", "status": match.str("queued")}],
        "created_at": a_time,
        "expires_at": a_time,
        "on_doubt": match.str("resend"),
        "version": match.int(1),
    } | more


def problem(status: int, **more: Any) -> dict[str, Any]:
    return {"status": status, "title": match.str("Not found"), "detail": match.str("There is no such email.")} | more


A_PROVIDER = {
    "name": "outbox",
    "kind": "outbox",
    "state": match.str("up"),
    "since": a_time,
    "weight": match.number(1),
    "in_flight": match.int(0),
    "in_flight_limit": match.int(64),
    "sent_last_minute": match.int(0),
    "error_rate": match.number(0),
}
AN_EVENT = {"id": an_id, "type": match.str("created"), "at": a_time, "data": match.like({})}
AN_ATTEMPT = {
    "number": match.int(1),
    "id": an_id,
    "provider": match.str("outbox"),
    "outcome": match.str("accepted"),
    "started_at": a_time,
    "ended_at": a_time,
}
A_KEY_VIEW = {
    "id": an_id,
    "name": match.str("shop"),
    "project": "default",
    "scopes": match.each_like("emails:send"),
    "test": False,
    "created_at": a_time,
}

MANY = {"changed": match.int(1), "skipped": match.int(0), "next_cursor": None}


class Call(Struct, frozen=True, kw_only=True):
    """One call of the client, the request that it makes, the answer that it needs.

    `{id}` in `path`: of what the state made. `raises`: the status of the HesApiError.
    """

    text: str
    state: str = READY
    do: Callable[[Client], Any]
    method: str
    path: str
    query: dict[str, str] = {}
    headers: dict[str, str] = {}
    body: Any = None
    status: int
    answer: Any = None
    raises: bool = False
    key: str = KEY
    is_key_made: bool = False
    """The state makes the key."""


def sending(body: Any, key: str = "receipt-7") -> dict[str, Any]:
    return {"method": "POST", "path": "/v1/emails", "headers": {"Idempotency-Key": key}, "body": body}


def send(hes: Client, key: str = "receipt-7", **fields: Any) -> object:
    return hes.send(LEAST | fields, idempotency_key=key)


CALLS = [
    Call(
        text="send an email",
        do=send,
        **sending(LEAST),
        status=202,
        answer={"id": an_id, "status": "queued", "created_at": a_time},
    ),
    Call(
        text="keep a draft",
        do=lambda hes: send(hes, "receipt-8", draft=True),
        **sending(LEAST | {"draft": True}, "receipt-8"),
        status=201,
        answer={"id": an_id, "status": "draft", "created_at": a_time},
    ),
    Call(
        text="send another email under a used key",
        state=KEY_USED,
        do=lambda hes: send(hes, "receipt-6"),
        **sending(LEAST, "receipt-6"),
        status=422,
        answer=problem(422),
        raises=True,
    ),
    Call(
        text="send to an address that is none",
        do=lambda hes: send(hes, "receipt-9", to="nobody"),
        **sending(LEAST | {"to": "nobody"}, "receipt-9"),
        status=422,
        answer=problem(422, errors=[{"path": "to", "message": match.str("is no address")}]),
        raises=True,
    ),
    Call(
        text="send with a wrong key",
        do=send,
        **sending(LEAST),
        status=401,
        answer=problem(401),
        raises=True,
        key="hes_live_wrong",
    ),
    Call(
        text="send a batch of which one is bad",
        do=lambda hes: hes.send_batch([LEAST, LEAST | {"to": "nobody"}], idempotency_key="batch-1"),
        method="POST",
        path="/v1/emails/batch",
        headers={"Idempotency-Key": "batch-1"},
        body={"emails": [LEAST, LEAST | {"to": "nobody"}]},
        status=202,
        answer={"data": [{"id": an_id, "status": "queued", "created_at": a_time}, {"problem": problem(422)}]},
    ),
    Call(
        text="read an email",
        state=SENT,
        do=lambda hes: hes.email(ID),
        method="GET",
        path="/v1/emails/{id}",
        status=200,
        answer=email("sent", provider="outbox", attempts=match.each_like(AN_ATTEMPT), events=match.each_like(AN_EVENT)),
    ),
    Call(
        text="read an email with its content",
        state=SENT,
        do=lambda hes: hes.email(ID, content=True),
        method="GET",
        path="/v1/emails/{id}",
        query={"include": "content"},
        status=200,
        answer=email("sent", content={"text": "Hi", "headers": {}, "attachments": []}),
    ),
    Call(
        text="read an email that is not there",
        do=lambda hes: hes.email(NOWHERE),
        method="GET",
        path=f"/v1/emails/{NOWHERE}",
        status=404,
        answer=problem(404),
        raises=True,
    ),
    Call(
        text="list what is scheduled",
        state=SCHEDULED,
        do=lambda hes: hes.page(status="scheduled", limit=1),
        method="GET",
        path="/v1/emails",
        query={"status": "scheduled", "limit": "1"},
        status=200,
        answer={"data": [email("scheduled", send_at=a_time)]},
    ),
    Call(
        text="cancel",
        state=SCHEDULED,
        do=lambda hes: hes.cancel(ID),
        method="POST",
        path="/v1/emails/{id}/cancel",
        status=200,
        answer=email("cancelled"),
    ),
    Call(
        text="cancel with a key that only sends",
        state=ONLY_SENDS,
        do=lambda hes: hes.cancel(ID),
        method="POST",
        path="/v1/emails/{id}/cancel",
        is_key_made=True,
        status=200,
        answer={"id": an_id, "status": "cancelled", "version": match.int(2)},
    ),
    Call(
        text="send now with a key that only sends",
        state=ONLY_SENDS,
        do=lambda hes: hes.send_again(ID),
        method="POST",
        path="/v1/emails/{id}/send",
        is_key_made=True,
        status=202,
        answer={"id": an_id, "status": match.regex("queued", regex="queued|sending|sent"), "version": match.int(2)},
    ),
    Call(
        text="cancel too late",
        state=SENT,
        do=lambda hes: hes.cancel(ID),
        method="POST",
        path="/v1/emails/{id}/cancel",
        status=409,
        answer=problem(409),
        raises=True,
    ),
    Call(
        text="send a draft",
        state=DRAFT,
        do=lambda hes: hes.send_again(ID),
        method="POST",
        path="/v1/emails/{id}/send",
        status=202,
        # A mailer is at it at once: how far it is when this is answered is not promised.
        answer=email(match.regex("queued", regex="queued|sending|sent|in_doubt")),
    ),
    Call(
        text="edit a draft of a known version",
        state=DRAFT,
        do=lambda hes: hes.edit(ID, subject="Receipt 8", version=1),
        method="PATCH",
        path="/v1/emails/{id}",
        headers={"If-Match": '"1"'},
        body={"subject": "Receipt 8"},
        status=200,
        answer=email("draft", subject="Receipt 8", version=match.int(2)),
    ),
    Call(
        text="edit a draft that somebody else has edited",
        state=DRAFT,
        do=lambda hes: hes.edit(ID, subject="Receipt 8", version=99),
        method="PATCH",
        path="/v1/emails/{id}",
        headers={"If-Match": '"99"'},
        body={"subject": "Receipt 8"},
        status=412,
        answer=problem(412),
        raises=True,
    ),
    Call(
        text="decide about a held email",
        state=HELD,
        do=lambda hes: hes.resolve(ID, "sent"),
        method="POST",
        path="/v1/emails/{id}/resolve",
        body={"decision": "sent"},
        status=200,
        answer=email("sent"),
    ),
    Call(
        text="decide about all that are held",
        state=HELD,
        do=lambda hes: hes.resolve_many("failed", status="held", tag="kind:receipt"),
        method="POST",
        path="/v1/emails/resolve",
        body={"decision": "failed", "filter": {"status": "held", "tag": "kind:receipt"}},
        status=200,
        answer=MANY,
    ),
    Call(
        text="cancel all that are scheduled",
        state=SCHEDULED,
        do=lambda hes: hes.cancel_many(status="scheduled", from_="shop@example.com"),
        method="POST",
        path="/v1/emails/cancel",
        body={"filter": {"status": "scheduled", "from": "shop@example.com"}},
        status=200,
        answer=MANY,
    ),
    Call(
        text="cancel by a filter that can't be",
        do=lambda hes: hes.cancel_many(status="lost"),
        method="POST",
        path="/v1/emails/cancel",
        body={"filter": {"status": "lost"}},
        status=422,
        answer=problem(422, errors=[{"path": "status", "message": match.str("must be one of")}]),
        raises=True,
    ),
    Call(
        text="erase",
        state=SENT,
        do=lambda hes: hes.erase(ID),
        method="DELETE",
        path="/v1/emails/{id}",
        status=204,
    ),
    Call(
        text="how providers stand",
        do=lambda hes: hes.providers(),
        method="GET",
        path="/v1/providers",
        status=200,
        answer={"data": match.each_like(A_PROVIDER)},
    ),
    *(
        Call(
            text=f"{how} a provider",
            do=turn,
            method="POST",
            path=f"/v1/providers/outbox/{how}",
            status=200,
            answer=A_PROVIDER | {"state": state},
        )
        for how, turn, state in (
            ("pause", lambda hes: hes.pause("outbox"), "paused"),
            ("resume", lambda hes: hes.resume("outbox"), "up"),
            ("reset", lambda hes: hes.reset("outbox"), "up"),
        )
    ),
    Call(
        text="make a key",
        do=lambda hes: hes.create_key(name="shop", scopes=["emails:send"]),
        method="POST",
        path="/v1/keys",
        body={"name": "shop", "scopes": ["emails:send"]},
        status=201,
        answer=A_KEY_VIEW | {"key": match.regex("hes_live_x_y", regex=r"hes_live_\S+")},
    ),
    Call(
        text="list keys",
        state=A_KEY,
        do=lambda hes: hes.key_page(limit=1),
        method="GET",
        path="/v1/keys",
        query={"limit": "1"},
        status=200,
        answer={"data": [A_KEY_VIEW]},
    ),
    Call(
        text="revoke a key",
        state=A_KEY,
        do=lambda hes: hes.revoke_key(ID),
        method="DELETE",
        path="/v1/keys/{id}",
        status=200,
    ),
    Call(
        text="is it ready",
        do=lambda hes: hes.health(),
        method="GET",
        path="/health/ready",
        status=200,
        answer={"status": "ready"},
    ),
]


def test_every_operation_for_clients_is_in_the_contract() -> None:
    """What providers call (`/hooks`) has a contract of its own: what HES reads of their events."""
    operations = {
        (method.upper(), path)
        for path, methods in json.loads(_document())["paths"].items()
        for method in methods
        if path.startswith("/v1/")
    }
    called = {(call.method, re.sub(r"/[0-9a-f-]{36}", "/{id}", call.path)) for call in CALLS}
    assert {(method, _nameless(path)) for method, path in operations} == {
        (method, _nameless(path).replace("/providers/outbox", "/providers/{}"))
        for method, path in called
        if path.startswith("/v1/")
    }


def _nameless(path: str) -> str:
    return re.sub(r"{\w+}", "{}", path)


def test_what_clients_ask_and_need_is_the_contract(tmp_path: Path) -> None:
    for call in CALLS:
        pact = a_pact("hes-client", "hes")
        told = pact.upon_receiving(call.text).given(call.state)
        told.with_request(call.method, call.path.replace("{id}", ID))
        told.with_headers({"Authorization": f"Bearer {call.key}"} | call.headers)
        told.with_query_parameters(call.query)
        made: dict[str, Any] = {}
        if "{id}" in call.path:
            made["path"] = {"type": "ProviderState", "expression": call.path.replace("{id}", "${id}")}
        if call.is_key_made:
            made["header"] = {"Authorization": {"type": "ProviderState", "expression": "Bearer ${key}"}}
        if made:
            told.with_generators(made, "Request")
        if call.body is not None:
            told.with_body(call.body, content_type="application/json")
        told.will_respond_with(call.status)
        if call.answer is not None:
            kind = "application/problem+json" if call.raises else "application/json"
            told.with_body(call.answer, content_type=kind)
        with pact.serve(addr="127.0.0.1") as server, Client(str(server.url), call.key, repeats=0) as hes:
            if call.raises:
                with pytest.raises(HesApiError) as caught:
                    call.do(hes)
                assert caught.value.status == call.status
            else:
                call.do(hes)
        pact.write_file(tmp_path)
    check_committed(tmp_path, CONTRACT)


# --- a running HES ---------------------------------------------------------------------------------------------------


class States:
    """Brings a running HES into the states that the contract names, by its own API. Each makes something new."""

    def __init__(self, hes: Client) -> None:
        self._hes = hes

    def enter(self, state: str) -> dict[str, Any]:
        """What the interaction needs to know: `id`."""
        self._hes.resume("outbox")
        made: dict[str, Callable[[], str]] = {
            READY: lambda: "",
            KEY_USED: self._key_used,
            SENT: lambda: self._until("sent"),
            SCHEDULED: lambda: self._send(send_at=later(days=1)),
            ONLY_SENDS: lambda: self._send(send_at=later(days=1)),
            DRAFT: lambda: self._send(draft=True),
            HELD: lambda: self._until("held", providers=["sendgrid"], on_doubt="hold"),
            A_KEY: lambda: self._hes.create_key(name="shop", scopes=["emails:send"])["id"],
        }
        found = {"id": made[state]()}
        if state == ONLY_SENDS:
            found["key"] = self._hes.create_key(scopes=["emails:send"])["key"]
        return found

    def _send(self, **fields: Any) -> str:
        return self._hes.send(LEAST | fields)["id"]

    def _until(self, status: str, **fields: Any) -> str:
        email_id = self._send(**({"providers": ["outbox"]} | fields))
        last = [email["status"] for email in self._hes.watch(email_id)][-1]
        assert last == status, last
        return email_id

    def _key_used(self) -> str:
        return self._hes.send(LEAST | {"subject": "Receipt 6"}, idempotency_key="receipt-6")["id"]


@contextmanager
def served(states: States) -> Iterator[str]:
    """The URL at which the verifier changes states. Pact's own server for that can't tell what came of it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps(states.enter(asked["state"])).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@asynccontextmanager
async def running(kind: str, folder: Path) -> AsyncIterator[str]:
    """A HES on this kind of storage. Its SendGrid takes each email, and its answer is lost each time."""
    async with fake_process() as lossy, _database(kind, folder) as settings:
        await lossy.set_fault(Fault(kind=Kind.RESET, at=Point.AFTER_STORING))
        providers = f"outbox:// {sendgrid_at(lossy.url)}"
        async with cold(folder, providers=providers, **settings) as hes:
            yield (await hes.ready()).url


@asynccontextmanager
async def _database(kind: str, folder: Path) -> AsyncIterator[dict[str, str]]:
    if kind == "sqlite":
        yield {}
        return
    async with postgres.database() as url:
        yield {"database_url": url}


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_a_running_hes_keeps_the_contract(kind: str, tmp_path: Path) -> None:
    def check(url: str) -> None:
        with Client(url, KEY) as client, served(States(client)) as states:

            def prepare(verifier: Verifier) -> Verifier:
                return verifier.add_transport(url=url).state_handler(states, body=True)

            verify(CONTRACT, "hes", prepare)

    async with running(kind, tmp_path) as url:
        await anyio.to_thread.run_sync(check, url)
