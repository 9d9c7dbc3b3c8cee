"""What each kind of key reaches: every operation is asked for with each of them, and docs/keys.md says what comes back.

The tables of that page are what is expected here: there is no second copy.
"""

import json
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from hes.model import Answer, Ended, Outcome, Room
from hes.web.routes import _document
from tests.web.service import KEY, LEAST, NOWHERE, Service, later, now, problem_in

PAGE = Path(__file__).parents[2] / "docs" / "keys.md"

OTHER_DOMAIN = "example.net"
"""The emails come from another one."""
SEND_AND_READ = ["emails:send", "emails:read"]
ALL = [*SEND_AND_READ, "providers", "admin"]

KINDS: dict[str, dict[str, Any]] = {
    "live, all scopes": {"scopes": ALL},
    "live, `emails:send`": {"scopes": ["emails:send"]},
    "live, `emails:read`": {"scopes": ["emails:read"]},
    "live, both, bound to another domain": {"scopes": SEND_AND_READ, "sender_domains": [OTHER_DOMAIN]},
    "test, both": {"scopes": SEND_AND_READ, "test": True},
    "test, `providers` and `admin`": {"scopes": ["providers", "admin"], "test": True},
    "live, all scopes, of another project": {"scopes": ALL, "project": "other"},
}


async def make_key(hes: Service, by: str = KEY, **fields: Any) -> str:
    answer = await hes.ask("POST", "/v1/keys", key=by, json=fields)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["key"])


# --- one email that another key made, in each of its states ----------------------------------------------------------

STATES: dict[str, tuple[dict[str, Any], Outcome | None]] = {
    "draft": ({"draft": True}, None),
    "scheduled": ({"send_at": later(hours=9)}, None),
    "queued": ({"providers": ["two"]}, None),
    "held": ({"on_doubt": "hold"}, Outcome.IN_DOUBT),
    "failed": ({}, Outcome.REJECTED),
    "sent": ({}, Outcome.ACCEPTED),
}


async def make_email(hes: Service, state: str) -> dict[str, Any]:
    """A new email that stands so, with a reference of its own."""
    special, outcome = STATES[state]
    sent = await hes.send(LEAST | special | {"reference": hes.desk.new_id()})
    email_id = sent.json()["id"]
    if outcome is not None:
        leases = await hes.storage.lease({"one": Room(hands=500)}, size_budget=10**9, is_idle=True, deadline=1e12)
        (leased,) = [one for one in leases.items if one.email.id == email_id]
        ended = Ended(
            attempt_id=leased.attempt_id,
            email_id=leased.email.id,
            provider=leased.provider,
            ended_at=now(),
            answer=Answer(outcome=outcome, detail="as it was wanted"),
        )
        await hes.storage.settle([ended], {})
    email = await hes.read(email_id)
    assert email["status"] == state
    return email


Ask = Callable[[Service, str, dict[str, Any]], Awaitable[str]]
"""Asks for something of an email with a key; returns what is told of the answer."""


def one(method: str, path: str, **sent: Any) -> Ask:
    """How it is answered, and how much of the email that shows."""

    async def ask(hes: Service, key: str, email: dict[str, Any]) -> str:
        answer = await hes.ask(method, path.replace("{email_id}", email["id"]), key=key, **sent)
        if not answer.is_success or not answer.content:
            return str(answer.status_code)
        shown = set(answer.json())
        assert shown == {"id", "status", "version"} or shown >= {"recipients", "subject", "events"}, shown
        return f"{answer.status_code} {'short' if len(shown) == 3 else 'whole'}"

    return ask


def some(path: str, **sent: Any) -> Ask:
    """What a filter that fits this one email leads to."""

    async def ask(hes: Service, key: str, email: dict[str, Any]) -> str:
        answer = await hes.ask("POST", path, key=key, json={"filter": {"reference": email["reference"]}, **sent})
        if not answer.is_success:
            return str(answer.status_code)
        return "changed" if answer.json()["changed"] else "left out"

    return ask


async def listed(hes: Service, key: str, email: dict[str, Any]) -> str:
    answer = await hes.ask("GET", f"/v1/emails?reference={email['reference']}", key=key)
    if not answer.is_success:
        return str(answer.status_code)
    return "listed" if [one["id"] for one in answer.json()["data"]] == [email["id"]] else "left out"


OF_AN_EMAIL: dict[str, Ask] = {
    "GET /v1/emails": listed,
    "GET /v1/emails/{email_id}": one("GET", "/v1/emails/{email_id}?include=content"),
    "PATCH /v1/emails/{email_id}": one("PATCH", "/v1/emails/{email_id}", json={"send_at": later(hours=5)}),
    "POST /v1/emails/{email_id}/send": one("POST", "/v1/emails/{email_id}/send"),
    "POST /v1/emails/{email_id}/cancel": one("POST", "/v1/emails/{email_id}/cancel"),
    "POST /v1/emails/{email_id}/resolve": one("POST", "/v1/emails/{email_id}/resolve", json={"decision": "sent"}),
    "DELETE /v1/emails/{email_id}": one("DELETE", "/v1/emails/{email_id}"),
    "POST /v1/emails/cancel": some("/v1/emails/cancel"),
    "POST /v1/emails/resolve": some("/v1/emails/resolve", decision="sent"),
}


@pytest.mark.parametrize("operation", OF_AN_EMAIL)
async def test_what_a_key_may_do_to_an_email_of_another_is_what_the_page_says(hes: Service, operation: str) -> None:
    """What is refused changes nothing."""
    emails: dict[str, dict[str, Any]] = {}
    rows: dict[str, list[str]] = {}
    for kind, fields in KINDS.items():
        key = await make_key(hes, **fields)
        cells = rows[kind] = []
        for state in STATES:
            before = emails.get(state) or await make_email(hes, state)
            cells.append(await OF_AN_EMAIL[operation](hes, key, before))
            after = await hes.read(before["id"])
            if cells[-1][0] == "4" or cells[-1] in {"left out", "listed"}:
                assert after == before
            emails[state] = after if after == before else {}
    assert table(["key", *STATES], rows) == on_the_page(f"`{operation}`")


# --- what is of no single email --------------------------------------------------------------------------------------

_FIRST = LEAST | {"subject": "Under a key that is known"}


async def _new(hes: Service, key: str) -> str:
    return str((await hes.send(key=key)).status_code)


async def _new_from_the_other_domain(hes: Service, key: str) -> str:
    return str((await hes.send(LEAST | {"from": f"a@{OTHER_DOMAIN}"}, key=key)).status_code)


async def _the_same_idempotency_key(hes: Service, key: str) -> str:
    """As another key, live and of project default, did before."""
    header = {"Idempotency-Key": "order-7"}
    first = (await hes.send(_FIRST, headers=header)).json()["id"]
    answer = await hes.send(_FIRST, key=key, headers=header)
    if answer.status_code != 202:
        return str(answer.status_code)
    return f"202, {'that one' if answer.json()['id'] == first else 'a new one'}"


async def _batch(hes: Service, key: str) -> str:
    """One from each domain."""
    emails = [LEAST, LEAST | {"from": f"a@{OTHER_DOMAIN}"}]
    answer = await hes.ask("POST", "/v1/emails/batch", key=key, json={"emails": emails})
    refused = [item["problem"]["status"] for item in answer.json().get("data", ()) if "problem" in item]
    return "".join([str(answer.status_code), *(f", and {status} for one" for status in refused)])


async def _keys(hes: Service, key: str) -> str:
    """Which of them: of project default, or of the other one."""
    answer = await hes.ask("GET", "/v1/keys?limit=100", key=key)
    if answer.status_code != 200:
        return str(answer.status_code)
    found = {("test" if one["test"] else "live", one["project"]) for one in answer.json()["data"]}
    names = {("live", "default"): "live", ("test", "default"): "test", ("live", "other"): "the other project's"}
    return ", ".join(word for which, word in names.items() if which in found)


def _new_key(**fields: Any) -> Callable[[Service, str], Awaitable[str]]:
    async def ask(hes: Service, key: str) -> str:
        return str((await hes.ask("POST", "/v1/keys", key=key, json=fields)).status_code)

    return ask


def _revoke(**fields: Any) -> Callable[[Service, str], Awaitable[str]]:
    async def ask(hes: Service, key: str) -> str:
        made = (await hes.ask("POST", "/v1/keys", json=fields)).json()
        answer = await hes.ask("DELETE", f"/v1/keys/{made['id']}", key=key)
        listed = (await hes.ask("GET", "/v1/keys?limit=100")).json()["data"]
        (revoked_at,) = [one["revoked_at"] for one in listed if one["id"] == made["id"]]
        assert (revoked_at is not None) == answer.is_success
        return str(answer.status_code)

    return ask


def _providers(method: str, path: str) -> Callable[[Service, str], Awaitable[str]]:
    async def ask(hes: Service, key: str) -> str:
        before = list(hes.gates.told)
        answer = await hes.ask(method, path.replace("{name}", "one"), key=key)
        assert (hes.gates.told != before) == (answer.is_success and method == "POST")
        return str(answer.status_code)

    return ask


OF_NO_EMAIL: dict[str, Callable[[Service, str], Awaitable[str]]] = {
    "`POST /v1/emails`": _new,
    "`POST /v1/emails`, from the other domain": _new_from_the_other_domain,
    "`POST /v1/emails`, an email and its `Idempotency-Key` that another key sent": _the_same_idempotency_key,
    "`POST /v1/emails/batch`, one from each domain": _batch,
    "`GET /v1/keys`": _keys,
    "`POST /v1/keys`, a live one": _new_key(),
    "`POST /v1/keys`, a test one": _new_key(test=True),
    "`DELETE /v1/keys/{key_id}`, a live one": _revoke(),
    "`DELETE /v1/keys/{key_id}`, a test one": _revoke(test=True),
    "`GET /v1/providers`": _providers("GET", "/v1/providers"),
    "`POST /v1/providers/{name}/pause`": _providers("POST", "/v1/providers/{name}/pause"),
    "`POST /v1/providers/{name}/resume`": _providers("POST", "/v1/providers/{name}/resume"),
    "`POST /v1/providers/{name}/reset`": _providers("POST", "/v1/providers/{name}/reset"),
}


async def test_what_a_key_may_do_besides_is_what_the_page_says(hes: Service) -> None:
    keys = [await make_key(hes, **fields) for fields in KINDS.values()]
    rows = {name: [await ask(hes, key) for key in keys] for name, ask in OF_NO_EMAIL.items()}
    assert table(["operation", *KINDS], rows) == on_the_page("Without an email")


def test_the_page_has_every_operation_that_wants_a_key() -> None:
    tried = {*OF_AN_EMAIL, *(name.split("`")[1] for name in OF_NO_EMAIL)}
    paths = json.loads(_document())["paths"]
    there_are = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert tried == {name for name in there_are if " /v1/" in name}


def table(head: list[str], rows: dict[str, list[str]]) -> str:
    lines = [head, ["---"] * len(head), *([name, *cells] for name, cells in rows.items())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def on_the_page(heading: str) -> str:
    """The table below that heading."""
    section = PAGE.read_text().partition(f"\n### {heading}\n")[2].partition("\n#")[0]
    return "\n".join(line for line in section.splitlines() if line.startswith("|"))


# --- beside the page -------------------------------------------------------------------------------------------------


async def status(hes: Service, method: str, email_id: str, key: str, verb: str = "", **sent: Any) -> int:
    return (await hes.ask(method, f"/v1/emails/{email_id}{verb}", key=key, **sent)).status_code


async def test_what_is_outside_is_answered_as_what_is_not_there(hes: Service) -> None:
    live = (await make_email(hes, "draft"))["id"]
    key = await make_key(hes, scopes=SEND_AND_READ, test=True)
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "", {}),
        ("PATCH", "", {"json": {"subject": "New"}, "headers": {"If-Match": '"7"'}}),
        ("POST", "/send", {}),
        ("POST", "/cancel", {}),
        ("POST", "/resolve", {"json": {"decision": "sent"}}),
        ("DELETE", "", {}),
    ]
    for method, verb, sent in asked:
        found = [await hes.ask(method, f"/v1/emails/{id_}{verb}", key=key, **sent) for id_ in (live, NOWHERE)]
        outside, nowhere = (problem_in(answer, 404) for answer in found)
        assert outside | {"detail": outside["detail"].replace(live, NOWHERE)} == nowhere


async def test_a_live_key_reaches_test_emails_and_they_stay_tests(hes: Service) -> None:
    test, live = [await make_key(hes, scopes=SEND_AND_READ, test=is_test) for is_test in (True, False)]
    draft = (await hes.send(LEAST | {"draft": True}, key=test)).json()["id"]
    for key in (test, live):
        assert await status(hes, "GET", draft, key) == 200
        assert await status(hes, "PATCH", draft, key, json={"subject": "New"}) == 200
    assert await status(hes, "POST", draft, live, "/send") == 202
    assert (await hes.read(draft))["test"] is True


async def test_a_key_that_only_sends_has_its_own_drafts_in_hand(hes: Service) -> None:
    key = await make_key(hes, scopes=["emails:send"])
    draft = (await hes.send(LEAST | {"draft": True}, key=key)).json()["id"]
    edited = await hes.ask("PATCH", f"/v1/emails/{draft}", key=key, json={"subject": "New"})
    assert edited.json() == {"id": draft, "status": "draft", "version": 2}
    assert await status(hes, "POST", draft, key, "/cancel") == 200
    sent = await hes.ask("POST", f"/v1/emails/{draft}/send", key=key)
    assert sent.json() == {"id": draft, "status": "queued", "version": 4}
    assert sent.headers["etag"] == '"4"'


async def test_a_draft_is_of_the_key_that_wrote_it_last(hes: Service) -> None:
    """Else whoever made it could send itself what the other one wrote."""
    first, last = [await make_key(hes, scopes=scopes) for scopes in (["emails:send"], SEND_AND_READ)]
    draft = (await hes.send(LEAST | {"draft": True}, key=first)).json()["id"]
    assert await status(hes, "PATCH", draft, last, json={"text": "Between us"}) == 200
    problem = problem_in(await hes.ask("PATCH", f"/v1/emails/{draft}", key=first, json={"to": "me@example.org"}), 403)
    assert "`emails:read`" in problem["detail"]
    assert await status(hes, "POST", draft, first, "/send") == 403
    assert await status(hes, "POST", draft, last, "/send") == 202


async def test_a_draft_of_another_stays_one_though_it_is_cancelled(hes: Service) -> None:
    key = await make_key(hes, scopes=["emails:send"])
    draft, failed = [(await make_email(hes, state))["id"] for state in ("draft", "failed")]
    assert await status(hes, "POST", draft, key, "/cancel") == 200
    assert await status(hes, "POST", draft, key, "/send") == 403
    assert await status(hes, "POST", failed, key, "/send") == 202
    assert await status(hes, "POST", failed, key, "/cancel") == 200
    assert await status(hes, "POST", failed, key, "/send") == 202


async def test_a_draft_of_before_writers_were_kept_is_anothers(hes: Service) -> None:
    key = await make_key(hes, scopes=["emails:send"])
    draft = (await hes.send(LEAST | {"draft": True}, key=key)).json()["id"]
    with sqlite3.connect(hes.path) as database:
        database.execute("UPDATE emails SET written_by = NULL")
    assert await status(hes, "PATCH", draft, key, json={"subject": "New"}) == 403
    assert await status(hes, "PATCH", draft, KEY, json={"subject": "New"}) == 200


async def test_a_bound_key_has_what_comes_from_its_domains_in_hand_also_once_it_is_erased(hes: Service) -> None:
    key = await make_key(hes, scopes=SEND_AND_READ, sender_domains=[OTHER_DOMAIN, "example.org"])
    theirs, ours = [(await hes.send(LEAST | {"from": f"a@{d}"})).json()["id"] for d in ("example.com", OTHER_DOMAIN)]

    async def found() -> list[str]:
        return [one["id"] for one in (await hes.ask("GET", "/v1/emails", key=key)).json()["data"]]

    assert await found() == [ours]
    cancelled = await hes.ask("POST", "/v1/emails/cancel", key=key, json={"filter": {}})
    assert cancelled.json() == {"changed": 1, "skipped": 0, "next_cursor": None}
    assert await status(hes, "DELETE", ours, key) == 204
    assert (await hes.read(ours))["from"]["email"] == ""
    assert await found() == [ours]
    assert (await hes.read(theirs))["status"] == "queued"


async def test_lists_of_a_test_key_are_whole_pages_of_what_it_reaches(hes: Service) -> None:
    key = await make_key(hes, scopes=SEND_AND_READ, test=True)
    ids = []
    for _ in range(3):
        ids.append((await hes.send(key=key)).json()["id"])
        await hes.accepted()
    first = (await hes.ask("GET", "/v1/emails?limit=2", key=key)).json()
    second = (await hes.ask("GET", f"/v1/emails?limit=2&cursor={first['next_cursor']}", key=key)).json()
    assert [one["id"] for page in (first, second) for one in page["data"]] == ids[::-1]
    assert second["next_cursor"] is None
    assert [one["test"] for one in (await hes.ask("GET", "/v1/emails")).json()["data"]] == [False, True] * 3


async def test_of_one_idempotency_key_live_and_test_requests_know_nothing_of_each_other(hes: Service) -> None:
    test, live = [await make_key(hes, scopes=["emails:send"], test=is_test) for is_test in (True, False)]
    for path, bodies in (
        ("/v1/emails", [LEAST, LEAST | {"subject": "Another"}]),
        ("/v1/emails/batch", [{"emails": [LEAST]}, {"emails": [LEAST, LEAST]}]),
    ):
        header = {"Idempotency-Key": path}
        of_test, of_live = [
            [(await hes.ask("POST", path, key=key, json=body, headers=header)).json() for _ in range(2)]
            for key, body in zip((test, live), bodies, strict=True)
        ]
        assert of_test[0] == of_test[1] != of_live[0] == of_live[1]
    listed = (await hes.ask("GET", "/v1/emails")).json()["data"]
    assert [one["test"] for one in listed] == [False, False, True, False, True]
