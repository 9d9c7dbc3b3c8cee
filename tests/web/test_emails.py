"""Reading, cancelling and resolving an email, end to end."""

import re
from typing import Any

import pytest

from hes.errors import StorageUnavailable
from hes.model import Answer, Decision, Outcome
from tests.web.service import LEAST, NOWHERE, Service, paths_in, problem_in
from tests.web.test_send import Somebody

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
EMAIL = [
    *("id", "status", "reason", "test", "provider", "from", "subject", "tags", "reference", "stream", "priority"),
    *("recipients", "created_at", "send_at", "expires_at", "on_doubt", "version", "attempts", "events"),
]
ATTEMPT = [
    *("number", "id", "provider", "outcome", "started_at", "ended_at", "status_code", "provider_message_id", "detail"),
    "resolution",
]
JSON = {"Content-Type": "application/json"}


async def resolve(hes: Service, email_id: str, decision: object = "sent", **more: Any) -> Any:
    return await hes.ask("POST", f"/v1/emails/{email_id}/resolve", json={"decision": decision}, **more)


async def cancel(hes: Service, email_id: str, **more: Any) -> Any:
    return await hes.ask("POST", f"/v1/emails/{email_id}/cancel", **more)


# --- reading


async def test_an_email_is_shown_as_the_design_says(hes: Service) -> None:
    email_id = await hes.accepted(to=[{"email": "ann@example.org", "name": "Ann"}])
    await hes.attempted(Answer(outcome=Outcome.UNAVAILABLE, status_code=503, detail="busy"))
    found = await hes.read(email_id)
    assert list(found) == EMAIL
    assert [list(attempt) for attempt in found["attempts"]] == [ATTEMPT]
    assert {tuple(event) for event in found["events"]} == {("id", "type", "at", "provider", "recipient", "data")}
    assert found["recipients"] == [
        {"email": "ann@example.org", "name": "Ann", "kind": "to", "status": "queued", "reason": None}
    ]
    assert (found["test"], found["priority"], found["send_at"], found["reason"]) == (False, "normal", None, None)


async def test_all_times_are_utc_to_the_millisecond(hes: Service) -> None:
    found = await hes.read(await hes.sent())
    (attempt,) = found["attempts"]
    times = [found["created_at"], found["expires_at"], attempt["started_at"], attempt["ended_at"]]
    assert all(TIME.fullmatch(time) for time in times + [event["at"] for event in found["events"]])


async def test_an_email_that_was_sent_tells_its_way(hes: Service) -> None:
    found = await hes.read(await hes.sent())
    (attempt,) = found["attempts"]
    assert (found["status"], found["provider"], found["recipients"][0]["status"]) == ("sent", "one", "sent")
    assert (attempt["number"], attempt["outcome"], attempt["status_code"]) == (1, "accepted", 202)
    assert (attempt["provider_message_id"], attempt["resolution"]) == ("m1", None)
    types = [event["type"] for event in found["events"]]
    assert types[:2] == ["created", "queued"]
    assert types[-1] == "sent"


async def test_an_attempt_in_flight_has_no_outcome(hes: Service) -> None:
    email_id = await hes.accepted()
    await hes.leased()
    found = await hes.read(email_id)
    (attempt,) = found["attempts"]
    assert (found["status"], attempt["outcome"], attempt["ended_at"]) == ("sending", None, None)


async def test_content_only_when_asked_for(hes: Service) -> None:
    email_id = await hes.accepted()
    assert "content" not in await hes.read(email_id)
    found = await hes.read(email_id, content=True)
    assert list(found) == [*EMAIL, "content"]
    assert list(found["content"]) == ["reply_to", "text", "html", "headers", "attachments"]


@pytest.mark.parametrize(
    ("query", "paths"),
    [
        ("include=bodies", ["include"]),
        ("include=", ["include"]),
        ("include=content&include=content", ["include"]),
        ("include=content,attempts", ["include"]),
        ("attempts_cursor=x&events_cursor=x", ["attempts_cursor", "events_cursor"]),
        ("attempts_cursor=-1&events_cursor=", ["attempts_cursor", "events_cursor"]),
        ("attempts_cursor=1000000000000000000", ["attempts_cursor"]),
        ("fields=id", ["fields"]),
        ("tenant=A&include=content", ["tenant"]),
        ("tenant_id[]=A", [""]),
    ],
)
async def test_an_unknown_query_is_422_and_named(hes: Service, query: str, paths: list[str]) -> None:
    assert paths_in(await hes.ask("GET", f"/v1/emails/{await hes.accepted()}?{query}")) == paths


# --- whose it is


async def test_a_long_history_comes_in_pages_and_a_short_one_names_none(
    hes: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    email_id = await hes.sent()
    whole = await hes.read(email_id)
    assert not {"next_attempts_cursor", "next_events_cursor"} & whole.keys()
    monkeypatch.setattr("hes.storage.book.HISTORY_PAGE", 3)
    newest = await hes.read(email_id)
    assert newest["events"] == whole["events"][1:]
    assert newest["attempts"] == whole["attempts"]
    assert "next_attempts_cursor" not in newest
    older = await hes.ask(
        "GET", f"/v1/emails/{email_id}?events_cursor={newest['next_events_cursor']}&attempts_cursor=2"
    )
    assert (older.json()["events"], older.json()["attempts"]) == (whole["events"][:1], whole["attempts"])
    assert "next_events_cursor" not in older.json()
    assert (await hes.ask("GET", f"/v1/emails/{email_id}?attempts_cursor=1")).json()["attempts"] == []


@pytest.mark.parametrize("verb", ["", "?include=content", "/cancel", "/resolve"])
@pytest.mark.parametrize("whose", ["nobody's", "another project's"])
async def test_what_is_not_the_callers_is_404(hes: Service, verb: str, whose: str) -> None:
    """S1. An email that is somebody else's is told from none by nothing."""
    email_id = NOWHERE if whose == "nobody's" else await hes.held()
    other = {"authenticator": Somebody(project="other")}
    body: dict[str, Any] = {"json": {"decision": "sent"}} if verb == "/resolve" else {}
    method = "POST" if body or verb == "/cancel" else "GET"
    response = await hes.ask(method, f"/v1/emails/{email_id}{verb}", desk=other, **body)
    assert problem_in(response, 404) == {
        "type": "urn:hes:problem:not-found",
        "title": "Not found",
        "status": 404,
        "detail": f"there is no email {email_id!r}",
    }


@pytest.mark.parametrize("email_id", ["x", "%00", "..%2f", "' OR 1=1--", "%ff", "[]", '{"a":1}', "0" * 5_000])
async def test_what_no_id_can_be_is_404(hes: Service, email_id: str) -> None:
    """S22."""
    problem_in(await hes.ask("GET", f"/v1/emails/{email_id}"), 404)
    problem_in(await cancel(hes, email_id), 404)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("POST", "/cancel"), ("POST", "/resolve")], ids=["read", "cancel", "resolve"]
)
async def test_a_key_is_needed_and_its_scope(hes: Service, method: str, path: str) -> None:
    email_id = await hes.accepted()
    url = f"/v1/emails/{email_id}{path}"
    response = await hes.ask(method, url, key=None)
    problem_in(response, 401)
    assert "www-authenticate" in response.headers
    wrong = Somebody("emails:send" if method == "GET" else "emails:read", "admin")
    problem_in(await hes.ask(method, url, desk={"authenticator": wrong}), 403)
    assert (await hes.read(email_id))["status"] == "queued"


# --- cancelling


async def test_an_email_is_cancelled_once_and_again_is_the_same(hes: Service) -> None:
    email_id = await hes.accepted()
    first = await cancel(hes, email_id)
    assert (first.status_code, first.json()["status"]) == (200, "cancelled")
    again = await cancel(hes, email_id)
    assert (again.status_code, again.json()) == (200, first.json())
    assert first.json() == await hes.read(email_id)


@pytest.mark.parametrize("state", ["sent", "held", "in_doubt", "failed"])
async def test_what_left_or_may_have_left_is_not_cancelled(hes: Service, state: str) -> None:
    email_id = await getattr(hes, state)()
    before = await hes.read(email_id)
    assert problem_in(await cancel(hes, email_id), 409)["type"] == "urn:hes:problem:wrong-state"
    assert await hes.read(email_id) == before
    assert before["status"] == state


async def test_what_a_provider_holds_is_not_cancelled(hes: Service) -> None:
    email_id = await hes.accepted()
    await hes.leased()
    problem_in(await cancel(hes, email_id), 409)


async def test_a_cancel_takes_no_fields(hes: Service) -> None:
    email_id = await hes.accepted()
    assert paths_in(await cancel(hes, email_id, json={"reason": "x"})) == ["reason"]
    assert paths_in(await hes.ask("POST", f"/v1/emails/{email_id}/cancel?force=1")) == ["force"]
    problem_in(await cancel(hes, email_id, content=b"{", headers=JSON), 400)
    problem_in(await cancel(hes, email_id, content=b"a=b"), 415)
    assert (await hes.read(email_id))["status"] == "queued"
    assert (await cancel(hes, email_id, json={})).status_code == 200


# --- resolving


@pytest.mark.parametrize("state", ["held", "in_doubt"])
@pytest.mark.parametrize(("decision", "status"), [("sent", "sent"), ("resend", "queued"), ("failed", "failed")])
async def test_a_person_decides(hes: Service, state: str, decision: str, status: str) -> None:
    email_id = await getattr(hes, state)()
    hes.wakes = 0
    response = await resolve(hes, email_id, decision)
    assert (response.status_code, response.json()["status"], hes.wakes) == (200, status, 1)
    found = await hes.read(email_id)
    assert found == response.json()
    assert found["attempts"][0]["resolution"] == "operator"
    assert found["reason"] == ("operator" if decision == "failed" else None)
    (told,) = [event for event in found["events"] if event["type"] == "resolved"]
    assert "bootstrap" in told["data"].values()


@pytest.mark.parametrize("state", ["accepted", "sent", "failed"])
@pytest.mark.parametrize("decision", list(Decision))
async def test_where_nothing_is_in_doubt_there_is_nothing_to_decide(
    hes: Service, state: str, decision: Decision
) -> None:
    email_id = await getattr(hes, state)()
    before = await hes.read(email_id)
    problem_in(await resolve(hes, email_id, decision), 409)
    assert await hes.read(email_id) == before


@pytest.mark.parametrize(
    ("content", "status"),
    [
        *((raw, 400) for raw in (b"", b"{", b'{"decision":"sent"} x', b"\xff", b"[" * 60_000)),
        *((raw, 422) for raw in (b"{}", b"[]", b'{"decision":"Sent"}', b'{"decision":["sent"]}')),
        (b'{"decision":"sent","by":"root"}', 422),
        (b'{"decision":"sent"}' + b" " * 65_536, 413),
    ],
    ids=lambda value: repr(value)[:24],
)
async def test_a_decision_that_is_none_changes_nothing(hes: Service, content: bytes, status: int) -> None:
    email_id = await hes.held()
    before = await hes.read(email_id)
    problem_in(await hes.ask("POST", f"/v1/emails/{email_id}/resolve", content=content, headers=JSON), status)
    assert await hes.read(email_id) == before


async def test_a_decision_comes_as_json_and_without_a_query(hes: Service) -> None:
    email_id = await hes.held()
    problem_in(await hes.ask("POST", f"/v1/emails/{email_id}/resolve", data={"decision": "sent"}), 415)
    response = await hes.ask("POST", f"/v1/emails/{email_id}/resolve?decision=sent", json={"decision": "sent"})
    assert paths_in(response) == ["decision"]


# --- no storage, no route


class Away:
    def __getattr__(self, name: str) -> Any:
        raise StorageUnavailable("secret inside")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("POST", "/cancel"), ("POST", "/resolve")], ids=["read", "cancel", "resolve"]
)
async def test_without_storage_it_is_503_and_says_when_to_try_again(hes: Service, method: str, path: str) -> None:
    body: dict[str, Any] = {"json": {"decision": "sent"}} if path == "/resolve" else {}
    response = await hes.ask(method, f"/v1/emails/{NOWHERE}{path}", desk={"storage": Away()}, **body)
    problem_in(response, 503)
    assert int(response.headers["retry-after"]) > 0
    assert "secret" not in response.text


@pytest.mark.parametrize(
    "path", ["/", "/nowhere", "/v1", "/v1/email", "/v2/emails", f"/v1/emails/{NOWHERE}/x", "/nothing"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "HEAD"])
async def test_where_there_is_no_route_it_is_404(hes: Service, method: str, path: str) -> None:
    response = await hes.ask(method, path)
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/emails", {"GET", "POST", "OPTIONS"}),
        ("PUT", "/v1/emails", {"GET", "POST", "OPTIONS"}),
        ("PUT", f"/v1/emails/{NOWHERE}", {"GET", "PATCH", "DELETE", "OPTIONS"}),
        ("GET", f"/v1/emails/{NOWHERE}/cancel", {"POST", "OPTIONS"}),
        ("POST", "/health/live", {"GET", "HEAD", "OPTIONS"}),
    ],
)
async def test_a_wrong_method_is_405_and_says_which_are_right(
    hes: Service, method: str, path: str, allowed: set[str]
) -> None:
    response = await hes.ask(method, path, json=LEAST)
    problem_in(response, 405)
    assert set(response.headers["allow"].split(", ")) == allowed


async def test_head_of_an_email_is_405_and_says_so(hes: Service) -> None:
    response = await hes.ask("HEAD", f"/v1/emails/{NOWHERE}")
    assert response.status_code == 405
    assert set(response.headers["allow"].split(", ")) == {"GET", "PATCH", "DELETE", "OPTIONS"}
