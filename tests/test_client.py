"""The Python client: the same tests for the blocking and the async one.

Against the real HTTP application where it has the endpoint, and else, and for trouble, against a stub.
"""

import inspect
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from hes.client import AsyncClient, Client, HesApiError, HesUnreachable
from hes.client.types import EmailFields
from hes.errors import ConfigError
from hes.web.email_request import EmailRequest
from hes.web.routes import create_web
from tests.cli.stub import ACCEPTED, ID, Stub, Told, an_email, an_event
from tests.web.service import KEY, LEAST, open_service

pytestmark = pytest.mark.anyio

URL = "http://hes.example.com"
REFUSED = httpx.ConnectError("[Errno 111] Connection refused")
BUSY = Told(503, {"type": "x", "title": "Unavailable", "status": 503, "detail": "Try again."}, {"Retry-After": "5"})


class Caller:
    """Calls either client, and says how long it slept and what it told."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.told: list[str] = []
        self.client: Any = None

    def on_repeat(self, why: str, seconds: float) -> None:
        assert seconds > 0
        self.told.append(why)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def __call__(self, method: str, *words: Any, **fields: Any) -> Any:
        found = getattr(self.client, method)(*words, **fields)
        if inspect.isawaitable(found):
            return await found
        if hasattr(found, "__aiter__"):
            return [item async for item in found]
        return list(found) if inspect.isgenerator(found) else found


@pytest.fixture
def stub() -> Stub:
    return Stub(Told(202, ACCEPTED))


@pytest.fixture(params=["blocking", "async"])
async def call(request: pytest.FixtureRequest, stub: Stub) -> AsyncIterator[Caller]:
    transport = httpx.MockTransport(stub.handle)
    caller = Caller()
    if request.param == "blocking":
        with Client(URL, KEY, transport=transport, sleep=caller.slept.append, on_repeat=caller.on_repeat) as hes:
            caller.client = hes
            yield caller
    else:
        async with AsyncClient(
            URL, KEY, transport=transport, sleep=caller.sleep, on_repeat=caller.on_repeat
        ) as async_hes:
            caller.client = async_hes
            yield caller


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        found = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(inspect.signature(f).parameters) for name, f in found if not name.startswith("__")}

    assert methods(Client) == methods(AsyncClient)


# --- what is asked ---------------------------------------------------------------------------------------------------

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("words", "fields", "asked", "body"),
    [
        (("email", ID), {"content": True}, f"GET /v1/emails/{ID}?include=content", None),
        (("email", "../keys?x"), {}, "GET /v1/emails/..%2Fkeys%3Fx", None),
        (("cancel", ID), {}, f"POST /v1/emails/{ID}/cancel", None),
        (("resolve", ID, "sent"), {}, f"POST /v1/emails/{ID}/resolve", {"decision": "sent"}),
        (("cancel_many",), {"tag": "a:b"}, "POST /v1/emails/cancel", {"filter": {"tag": "a:b"}}),
        (
            ("resolve_many", "failed", "c1"),
            {"from_": "shop@example.com", "created_before": NOON},
            "POST /v1/emails/resolve",
            {
                "decision": "failed",
                "filter": {"from": "shop@example.com", "created_before": "2026-01-31T12:00:00+00:00", "cursor": "c1"},
            },
        ),
        (("send_again", ID), {}, f"POST /v1/emails/{ID}/send", None),
        (("send_again", ID), {"send_at": NOON}, f"POST /v1/emails/{ID}/send", {"send_at": "2026-01-31T12:00:00Z"}),
        (("reschedule", ID, NOON), {}, f"PATCH /v1/emails/{ID}", {"send_at": "2026-01-31T12:00:00Z"}),
        (
            ("edit", ID),
            {"from_": "a@b.example", "send_at": NOON},
            f"PATCH /v1/emails/{ID}",
            {"from": "a@b.example", "send_at": "2026-01-31T12:00:00Z"},
        ),
        (
            ("edit", ID, {"from_": "a@b.example", "reference": None, "text": "x"}),
            {"text": "y"},
            f"PATCH /v1/emails/{ID}",
            {"from": "a@b.example", "reference": None, "text": "y"},
        ),
        (("erase", ID), {}, f"DELETE /v1/emails/{ID}", None),
        (("pause", "mg-eu"), {}, "POST /v1/providers/mg-eu/pause", None),
        (("resume", "mg-eu"), {}, "POST /v1/providers/mg-eu/resume", None),
        (("reset", "mg-eu"), {}, "POST /v1/providers/mg-eu/reset", None),
        (("create_key",), {"scopes": ["admin"]}, "POST /v1/keys", {"scopes": ["admin"]}),
        (("revoke_key", "k1"), {}, "DELETE /v1/keys/k1", None),
        (("health",), {}, "GET /health/ready", None),
    ],
)
async def test_each_method_asks(
    call: Caller, stub: Stub, words: tuple[str, ...], fields: dict[str, Any], asked: str, body: object
) -> None:
    stub.answers = [Told(200, {"id": "it"})]
    nothing = words[0] in {"erase", "revoke_key"}
    assert await call(*words, **fields) == (None if nothing else {"id": "it"})
    (request,) = stub.asked
    assert f"{request.method} {request.path}" == asked
    assert (request.json() if request.body else None) == body
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert "idempotency-key" not in request.headers


async def test_a_send_by_fields_or_as_in_the_api(call: Caller, stub: Stub) -> None:
    file = {"filename": "a.bin", "content": b"\x00\xff"}
    assert await call("send", from_="shop@example.com", to=["ann@example.org"], attachments=[file]) == ACCEPTED
    assert stub.asked[0].json() == {
        "from": "shop@example.com",
        "to": ["ann@example.org"],
        "attachments": [{"filename": "a.bin", "content": "AP8="}],
    }
    await call("send", {"from": "shop@example.com", "to": "x"}, to="y", idempotency_key="receipt-7")
    assert stub.asked[1].json() == {"from": "shop@example.com", "to": "y"}
    assert stub.asked[1].headers["idempotency-key"] == "receipt-7"


async def test_each_send_has_a_key_of_its_own(call: Caller, stub: Stub) -> None:
    await call("send", LEAST)
    await call("send", LEAST)
    one, two = (asked.headers["idempotency-key"] for asked in stub.asked)
    assert one != two


async def test_a_batch_tells_of_each_email(call: Caller, stub: Stub) -> None:
    items = [{"status": "queued", "id": ID}, {"problem": {"title": "Invalid email", "status": 422}}]
    stub.answers = [REFUSED, Told(202, {"data": items})]
    assert await call("send_batch", [LEAST, {"from_": "x"}]) == items
    assert stub.asked[1].path == "/v1/emails/batch"
    assert stub.asked[1].json() == {"emails": [LEAST, {"from": "x"}]}
    assert stub.asked[0].headers["idempotency-key"] == stub.asked[1].headers["idempotency-key"]


async def test_lists_go_on_page_by_page(call: Caller, stub: Stub) -> None:
    one, two = an_email(subject="1"), an_email(subject="2")
    stub.answers = [Told(200, {"data": [one], "next_cursor": "a b"}), Told(200, {"data": [two], "next_cursor": None})]
    assert await call("emails", status="held", from_="x@y", created_after=NOON) == [one, two]
    query = "status=held&from=x%40y&created_after=2026-01-31T12%3A00%3A00%2B00%3A00"
    assert [a.path for a in stub.asked] == [f"/v1/emails?{query}", f"/v1/emails?{query}&cursor=a+b"]


async def test_keys_go_on_page_by_page_too(call: Caller, stub: Stub) -> None:
    stub.answers = [
        Told(200, {"data": [{"id": "2"}], "next_cursor": "a"}),
        Told(200, {"data": [{"id": "1"}], "next_cursor": None}),
    ]
    assert await call("keys") == [{"id": "2"}, {"id": "1"}]
    assert [a.path for a in stub.asked] == ["/v1/keys?limit=100", "/v1/keys?limit=100&cursor=a"]


async def test_providers_are_a_list(call: Caller, stub: Stub) -> None:
    stub.answers = [Told(200, {"data": [{"name": "one"}], "more": "than we know"})]
    assert await call("providers") == [{"name": "one"}]


@pytest.mark.parametrize("words", [("email", ""), ("erase", ""), ("revoke_key", ""), ("pause", "")])
async def test_an_empty_id_asks_nothing(call: Caller, stub: Stub, words: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        await call(*words)
    assert stub.asked == []


# --- no answer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [
        REFUSED,
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("Server disconnected"),
        BUSY,
        Told(409, {"title": "Wrong state", "detail": "In hand."}, {"Retry-After": "1"}),
        Told(502, b"<html>"),
        Told(429, {"title": "Too many", "detail": ""}),
    ],
)
async def test_an_unanswered_send_is_repeated_with_the_same_key(
    call: Caller, stub: Stub, trouble: Told | Exception
) -> None:
    stub.answers = [trouble, trouble, Told(202, ACCEPTED)]
    assert await call("send", LEAST) == ACCEPTED
    assert len({(a.headers["idempotency-key"], a.body) for a in stub.asked}) == 1
    assert len(stub.asked) == 3
    assert len(call.slept) == len(call.told) == 2


async def test_pauses_grow_and_end(call: Caller, stub: Stub) -> None:
    stub.answers = [REFUSED]
    with pytest.raises(HesUnreachable) as caught:
        await call("send", LEAST, idempotency_key="receipt-7")
    assert len(stub.asked) == 6
    for slept, most in zip(call.slept, (0.5, 1, 2, 4, 8), strict=True):
        assert most / 2 <= slept <= most
    assert str(caught.value).startswith(f"no answer from {URL}: Connection refused.")
    assert "HES_URL" in str(caught.value)
    assert "receipt-7" in str(caught.value)
    assert caught.value.idempotency_key == "receipt-7"


@pytest.mark.parametrize(("asked_for", "slept"), [("7", 7.0), ("999999", 60.0), ("Sat, 31 Jan 2026 12:00:00 GMT", 0.5)])
async def test_it_waits_as_long_as_asked_within_reason(call: Caller, stub: Stub, asked_for: str, slept: float) -> None:
    stub.answers = [Told(503, b"", {"Retry-After": asked_for}), Told(202, ACCEPTED)]
    await call("send", LEAST)
    assert slept / 2 <= call.slept[0] <= slept
    assert asked_for.isdecimal() is (call.slept[0] == slept)


@pytest.mark.parametrize("words", [("email", ID), ("resolve", ID, "resend"), ("send_again", ID), ("create_key",)])
async def test_nothing_else_is_repeated(call: Caller, stub: Stub, words: tuple[str, ...]) -> None:
    stub.answers = [BUSY]
    with pytest.raises(HesApiError, match=r"^Unavailable: Try again\.$"):
        await call(*words)
    assert len(stub.asked) == 1


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (BUSY, "503 Service Unavailable (Try again.)"),
        (Told(502, b"<html>"), "502 Bad Gateway"),
        (Told(429, {"title": "Too many", "detail": ""}), "429 Too Many Requests"),
        (Told(408, {"title": "Too slow", "detail": ""}), "408 Request Timeout"),
    ],
)
async def test_a_repeat_says_why(call: Caller, stub: Stub, answer: Told, why: str) -> None:
    stub.answers = [answer, Told(202, ACCEPTED)]
    await call("send", LEAST)
    assert call.told == [why]


async def test_a_send_that_is_refused_is_not_repeated(call: Caller, stub: Stub) -> None:
    errors = [{"path": "to[2]", "message": "is no address"}, {"path": "subject", "message": "is required"}]
    stub.answers = [
        Told(422, {"type": "x", "title": "Invalid email", "status": 422, "detail": "No.", "errors": errors})
    ]
    with pytest.raises(HesApiError) as caught:
        await call("send", LEAST)
    error = caught.value
    assert (len(stub.asked), error.status, error.title, error.detail) == (1, 422, "Invalid email", "No.")
    assert [(e.path, e.message) for e in error.errors] == [("to[2]", "is no address"), ("subject", "is required")]
    assert str(error) == "Invalid email: No.\n  to[2]: is no address\n  subject: is required"
    assert error.idempotency_key is None


@pytest.mark.parametrize(("detail", "says"), [("`to` is required.", ""), ("`errors` names it.", "\n  to: is required")])
async def test_the_wrong_field_is_told_once(call: Caller, stub: Stub, detail: str, says: str) -> None:
    errors = [{"path": "to", "message": "is required"}]
    stub.answers = [Told(422, {"type": "x", "title": "Invalid", "status": 422, "detail": detail, "errors": errors})]
    with pytest.raises(HesApiError) as caught:
        await call("send", LEAST)
    assert str(caught.value) == f"Invalid: {detail}{says}"


@pytest.mark.parametrize(
    "told",
    [Told(200, b"<html>"), Told(200, []), Told(200, b"\xff"), Told(404, b"nginx"), Told(302), Told(599, {"no": 1})],
)
async def test_somebody_else_at_the_url_is_told(call: Caller, stub: Stub, told: Told) -> None:
    stub.answers = [told]
    with pytest.raises(HesApiError, match=f"{URL} answered {told.status}, but not as HES does. Is HES_URL right"):
        await call("email", ID)


# --- watching --------------------------------------------------------------------------------------------------------


async def test_watching_tells_each_change_and_ends_at_rest(call: Caller, stub: Stub) -> None:
    queued = an_email(status="queued", events=[an_event(1, "created")])
    sent = an_email(status="sent", events=[an_event(1, "created"), an_event(2, "sent")])
    stub.answers = [Told(200, queued), Told(200, queued), REFUSED, Told(200, queued), Told(200, sent)]
    assert await call("watch", ID) == [queued, sent]
    assert call.told == ["Connection refused"]


async def test_looks_grow_rare_while_nothing_happens_and_start_anew(call: Caller, stub: Stub) -> None:
    scheduled, queued = (Told(200, an_email(status=status)) for status in ("scheduled", "queued"))
    stub.answers = [*[scheduled] * 20, queued, Told(200, an_email())]
    await call("watch", ID)
    assert call.slept[0] == 0.1
    assert call.slept[1:19] == sorted(call.slept[1:19])
    assert call.slept[19] == 5
    assert call.slept[20] == 0.1


# --- where, and who --------------------------------------------------------------------------------------------------


def test_where_hes_is_and_the_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HES_URL", "https://mail.example.com/hes/")
    monkeypatch.setenv("HES_API_KEY", "hes_live_from_the_environment")
    stub = Stub(Told(200, {"status": "ready"}))
    with Client(transport=httpx.MockTransport(stub.handle)) as hes:
        assert hes.health() == {"status": "ready"}
        assert hes.url == "https://mail.example.com/hes"
        assert "environment" not in repr(vars(hes))
    assert stub.asked[0].path == "/hes/health/ready"
    assert stub.asked[0].headers["authorization"] == "Bearer hes_live_from_the_environment"


def test_the_key_may_stand_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hes_live_of_the_file\n")
    monkeypatch.setenv("HES_API_KEY", f"file:{tmp_path}/key")
    stub = Stub(Told(200, {"status": "ready"}))
    with Client(URL, transport=httpx.MockTransport(stub.handle)) as hes:
        hes.health()
    assert stub.asked[0].headers["authorization"] == "Bearer hes_live_of_the_file"
    monkeypatch.setenv("HES_API_KEY", f"file:{tmp_path}/none")
    with pytest.raises(ConfigError, match=f"HES_API_KEY: cannot read {tmp_path}/none: No such file"):
        Client(URL)


@pytest.mark.parametrize(("url", "key"), [("mail.example.com", "k"), ("http://u:p@x", "k"), (URL, "two\nlines")])
def test_a_bad_url_or_key_is_refused_and_not_shown(url: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Client(url, key)
    assert url not in str(caught.value)
    assert "lines" not in str(caught.value)


# --- the real one ----------------------------------------------------------------------------------------------------


async def test_against_the_real_application(tmp_path: Path) -> None:
    async with open_service(tmp_path / "hes.db") as service:
        transport = httpx.ASGITransport(app=create_web(service.desk))  # type: ignore[arg-type]
        async with AsyncClient("http://hes", KEY, transport=transport) as hes:
            assert await hes.health() == {"status": "ready"}
            accepted = await hes.send(LEAST, idempotency_key="one", text="Thank you.")
            assert await hes.send(LEAST, idempotency_key="one", text="Thank you.") == accepted
            email = await hes.email(accepted["id"], content=True)
            assert email["content"] is not None
            assert email["content"]["text"] == "Thank you."
            assert (await hes.cancel(accepted["id"]))["status"] == "cancelled"
            assert [email["status"] async for email in hes.watch(accepted["id"])] == ["cancelled"]
            with pytest.raises(HesApiError) as caught:
                await hes.resolve(accepted["id"], "sent")
            assert caught.value.status == 409
            with pytest.raises(HesApiError, match=r"from: is required\n"):
                await hes.send(to="nobody")
            draft = await hes.email((await hes.send(LEAST, draft=True, reference="7"))["id"])
            edited = await hes.edit(draft["id"], {"reference": None}, subject="New", version=draft["version"])
            assert "recipients" in edited  # this key may read
            assert (edited["status"], edited["subject"], edited["reference"]) == ("draft", "New", None)
            with pytest.raises(HesApiError) as caught:
                await hes.edit(draft["id"], subject="Newer", version=draft["version"])
            assert caught.value.status == 412
            assert [provider["name"] for provider in await hes.providers()] == ["one", "two"]
            assert (await hes.pause("one"))["state"] == "paused"
            assert (await hes.resume("one"))["state"] == "up"
            assert (await hes.reset("one"))["state"] == "up"


def test_what_the_client_sends_is_what_the_document_says() -> None:
    """Each field has a name in the API, and each of the API's has one here."""
    names = {field.encode_name for field in msgspec.structs.fields(EmailRequest)}
    assert {name.rstrip("_") for name in EmailFields.__annotations__} == names
