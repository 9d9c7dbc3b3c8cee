"""Drafts, scheduling, lists, batches, erasing."""

from datetime import datetime, timedelta
from typing import Any

import anyio.lowlevel
import httpx
import pytest
from msgspec.structs import replace

from hes.model import EmailId, Leased, Room
from hes.storage.records import BatchItem, NewEmail
from hes.web import many
from hes.web.many import _item
from tests.storage.harness import new_email
from tests.web.service import LEAST, MAX_BODY_BYTES, NOWHERE, Service, later, paths_in, problem_in


async def accepted(hes: Service, **fields: Any) -> str:
    answer = await hes.send(LEAST | fields)
    assert answer.status_code in {201, 202}, answer.text
    return str(answer.json()["id"])


async def read(hes: Service, email_id: str) -> dict[str, Any]:
    email: dict[str, Any] = (await hes.ask("GET", f"/v1/emails/{email_id}")).json()
    return email


def types(email: dict[str, Any]) -> list[str]:
    return [event["type"] for event in email["events"]]


# --- drafts and times ------------------------------------------------------------------------------------------------


async def test_a_draft_is_only_stored_until_it_is_sent(hes: Service) -> None:
    answer = await hes.send(LEAST | {"draft": True})
    assert (answer.status_code, answer.json()["status"]) == (201, "draft")
    email_id = answer.json()["id"]
    assert types(await read(hes, email_id)) == ["created"]
    sent = await hes.ask("POST", f"/v1/emails/{email_id}/send")
    assert (sent.status_code, sent.json()["status"]) == (202, "queued")
    assert types(sent.json()) == ["created", "queued"]
    assert (await hes.ask("POST", f"/v1/emails/{email_id}/send")).status_code == 409


async def test_a_draft_says_when_it_will_be_dropped_and_once_sent_when_it_is_given_up(hes: Service) -> None:
    email_id = await accepted(hes, draft=True, expires_in=60)
    draft = await read(hes, email_id)
    made, over = (datetime.fromisoformat(draft[name]) for name in ("created_at", "expires_at"))
    assert over - made == timedelta(days=30)
    [listed] = (await hes.ask("GET", "/v1/emails")).json()["data"]
    assert listed["expires_at"] == draft["expires_at"]
    sent = (await hes.ask("POST", f"/v1/emails/{email_id}/send")).json()
    assert datetime.fromisoformat(sent["expires_at"]) - made < timedelta(minutes=2)


async def test_an_email_for_later_is_scheduled_moved_and_promoted(hes: Service) -> None:
    email_id = await accepted(hes, send_at=later(hours=2))
    email = await read(hes, email_id)
    assert email["status"] == "scheduled"
    assert email["send_at"] == email["events"][-1]["data"]["send_at"]
    assert email["expires_at"] > email["send_at"]
    moved = await hes.ask("PATCH", f"/v1/emails/{email_id}", json={"send_at": later(hours=5)})
    assert (moved.status_code, moved.json()["status"]) == (200, "scheduled")
    assert moved.json()["send_at"] > email["send_at"]
    promoted = await hes.ask("POST", f"/v1/emails/{email_id}/send")
    assert (promoted.status_code, promoted.json()["status"]) == (202, "queued")
    assert types(promoted.json()) == ["created", "scheduled", "rescheduled", "queued"]


async def test_a_draft_keeps_the_time_that_it_was_given(hes: Service) -> None:
    email_id = await accepted(hes, draft=True, send_at=later(hours=2))
    assert (await hes.ask("POST", f"/v1/emails/{email_id}/send")).json()["status"] == "scheduled"


async def test_a_time_in_the_past_means_now(hes: Service) -> None:
    assert (await read(hes, await accepted(hes, send_at="2020-01-01T00:00:00Z")))["status"] == "queued"


@pytest.mark.parametrize(
    "send_at",
    [
        "0001-01-01T00:00:00+14:00",
        "tomorrow",
        "",
        "2026-12-24",
        "2026-12-24T18:00:00",
        "2199-01-01T00:00:00Z",
        17,
        "2026-13-24T18:00:00Z",
        "2026-01-01T00:00:00Z\0",
        "2026-01-01T00:00:00\0Z",
        "2026-01-01T00:00:00+01:00\0\0x",
    ],
)
async def test_what_is_no_time_or_too_far_is_422(hes: Service, send_at: object) -> None:
    for answer in (
        await hes.send(LEAST | {"send_at": send_at}),
        await hes.ask("PATCH", f"/v1/emails/{NOWHERE}", json={"send_at": send_at}),
    ):
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["path"] == "send_at"


async def test_what_was_cancelled_is_sent_again_with_a_new_life(hes: Service) -> None:
    email_id = await accepted(hes, expires_in=60)
    assert (await hes.ask("POST", f"/v1/emails/{email_id}/cancel")).json()["status"] == "cancelled"
    again = await hes.ask("POST", f"/v1/emails/{email_id}/send", json={"send_at": later(days=3)})
    assert (again.status_code, again.json()["status"]) == (202, "scheduled")
    assert again.json()["expires_at"] > again.json()["send_at"]


async def test_another_version_than_the_one_named_is_412(hes: Service) -> None:
    email_id = await accepted(hes, send_at=later(hours=2))
    tag = (await hes.ask("GET", f"/v1/emails/{email_id}")).headers["etag"]
    path, body = f"/v1/emails/{email_id}", {"send_at": later(hours=3)}
    assert (await hes.ask("PATCH", path, json=body, headers={"If-Match": tag})).status_code == 200
    assert (await hes.ask("PATCH", path, json=body, headers={"If-Match": tag})).status_code == 412
    assert (await hes.ask("PATCH", path, json=body, headers={"If-Match": "today"})).status_code == 400


async def test_what_has_no_time_can_not_get_another(hes: Service) -> None:
    answer = await hes.ask("PATCH", f"/v1/emails/{await accepted(hes)}", json={"send_at": later(hours=1)})
    assert answer.status_code == 409


# --- editing a draft -------------------------------------------------------------------------------------------------

FULL = {
    "from": {"email": "shop@example.com", "name": "Shop"},
    "to": ["ann@example.org", "Bob <bob@example.org>"],
    "cc": "eve@example.org",
    "bcc": "boss@example.com",
    "reply_to": "help@example.com",
    "subject": "Receipt 7",
    "text": "Thank you.",
    "html": "<p>Thank you.</p>",
    "headers": {"X-Order": "7"},
    "attachments": [{"filename": "a.txt", "content": "Nw==", "content_id": "seven"}],
    "tags": {"kind": "receipt"},
    "reference": "order-7",
    "stream": "bulk",
    "on_doubt": "hold",
    "expires_in": 3600,
    "attempt_timeout": 7.5,
    "providers": ["two", "one"],
    "draft": True,
}
OTHER: dict[str, Any] = {
    "from": "other@example.net",
    "to": "zoe@example.org",
    "cc": ["cc@example.org"],
    "bcc": None,
    "reply_to": None,
    "subject": "Another",
    "text": None,
    "html": "<p>Other</p>",
    "headers": None,
    "attachments": [{"filename": "b.txt", "content": "OA==", "content_type": "text/csv"}],
    "tags": {"x": "y"},
    "reference": None,
    "stream": None,
    "on_doubt": None,
    "expires_in": 60,
    "attempt_timeout": None,
    "providers": ["one"],
    "send_at": "2020-01-01T00:00:00Z",
}


async def edit(hes: Service, email_id: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    return await hes.ask("PATCH", f"/v1/emails/{email_id}", json=body, headers=headers)


async def sent(hes: Service, email_id: str) -> Leased:
    """The draft is sent: what a sender is given then."""
    assert (await hes.ask("POST", f"/v1/emails/{email_id}/send")).status_code == 202
    rooms = {name: Room(hands=1) for name in ("one", "two")}
    (found,) = (await hes.storage.lease(rooms, size_budget=10**9, is_idle=True, deadline=1e12)).items
    return found


def told(email: dict[str, Any]) -> dict[str, Any]:
    """All but what every email has of its own."""
    return {name: value for name, value in email.items() if name not in {"id", "created_at", "expires_at", "version"}}


@pytest.mark.parametrize("field", list(OTHER))
async def test_each_field_of_a_draft_can_be_changed_and_the_others_stay(hes: Service, field: str) -> None:
    """An edited draft is what would be there had it been handed in like that."""
    edited, fresh = await accepted(hes, **FULL), await accepted(hes, **FULL | {field: OTHER[field]})
    before = await hes.read(edited)
    answer = await edit(hes, edited, {field: OTHER[field]})
    assert (answer.status_code, answer.json()["status"]) == (200, "draft")
    assert answer.headers["etag"] == '"2"'
    one, two = await hes.read(edited, content=True), await hes.read(fresh, content=True)
    assert one["created_at"] == before["created_at"]
    assert {e["type"] for e in (*one.pop("events"), *two.pop("events"))} == {"created"}
    assert told(one) == told(two)
    first, second = await sent(hes, edited), await sent(hes, fresh)
    own = {"id": EmailId(""), "message_id": "", "date": 0}
    assert replace(first.email, **own) == replace(second.email, **own)
    assert (first.provider, first.timeout_seconds) == (second.provider, second.timeout_seconds)
    assert first.email.message_id.endswith(f"@{first.email.sender.domain}>")


async def test_what_is_listed_is_what_the_draft_says_now(hes: Service) -> None:
    email_id = await accepted(hes, draft=True, to=["ann@example.org", "bob@example.org"], reference="old")
    await edit(hes, email_id, {"to": "zoe@example.org", "reference": "new"})
    assert await listed(hes, "to=zoe@example.org&reference=new") == [email_id]
    assert await listed(hes, "to=bob@example.org") == await listed(hes, "reference=old") == []


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, ""),
        ({"to": "nobody"}, "to"),
        ({"text": None}, "text"),
        ({"subject": None}, "subject"),
        ({"cc": "Ann <a\n@example.org>"}, "cc"),
        ({"providers": ["three"]}, "providers[0]"),
        ({"draft": False}, "draft"),
        ({"draft": None}, "draft"),
        ({"template": "x"}, "template"),
        ({"status": "queued"}, "status"),
        ({"send_at": "soon"}, "send_at"),
    ],
)
async def test_an_edit_that_makes_no_email_is_422_and_changes_nothing(
    hes: Service, body: dict[str, Any], path: str
) -> None:
    email_id = await accepted(hes, draft=True)
    before = await hes.read(email_id, content=True)
    assert paths_in(await edit(hes, email_id, body)) == [path]
    assert await hes.read(email_id, content=True) == before


async def test_an_edit_needs_the_version_that_it_names(hes: Service) -> None:
    email_id = await accepted(hes, draft=True)
    tag = (await hes.ask("GET", f"/v1/emails/{email_id}")).headers["etag"]
    changed = await edit(hes, email_id, {"subject": "One"}, **{"If-Match": tag})
    assert changed.status_code == 200
    assert (await edit(hes, email_id, {"subject": "Two"}, **{"If-Match": tag})).status_code == 412
    assert (await hes.read(email_id))["subject"] == "One"
    again = await edit(hes, email_id, {"subject": "Two"}, **{"If-Match": changed.headers["etag"]})
    assert (again.status_code, again.json()["subject"]) == (200, "Two")


async def test_edits_at_the_same_time_all_take_effect(hes: Service) -> None:
    """Each is of the draft as the ones before it left it."""
    email_id = await accepted(hes, draft=True)
    fields: list[dict[str, Any]] = [{"subject": "New"}, {"text": "New"}, {"reference": "new"}, {"tags": {"a": "b"}}]
    async with anyio.create_task_group() as callers:
        for body in fields:
            callers.start_soon(edit, hes, email_id, body)
    email = await hes.read(email_id, content=True)
    assert (email["subject"], email["content"]["text"], email["reference"]) == ("New", "New", "new")
    assert (email["tags"], email["version"]) == ({"a": "b"}, 5)


@pytest.mark.parametrize("body", [{"subject": "New"}, {"send_at": later(hours=3), "subject": "New"}])
async def test_what_is_no_draft_any_more_is_not_edited(hes: Service, body: dict[str, Any]) -> None:
    scheduled, queued = await accepted(hes, send_at=later(hours=2)), await accepted(hes)
    for email_id, status in ((scheduled, "scheduled"), (queued, "queued")):
        before = await hes.read(email_id)
        assert f"`{status}` can't be edited" in problem_in(await edit(hes, email_id, body), 409)["detail"]
        assert await hes.read(email_id) == before
    assert paths_in(await edit(hes, scheduled, {"send_at": None})) == ["send_at"]


async def test_an_edited_draft_may_not_grow_beyond_what_a_request_may_hold(hes: Service) -> None:
    half = "x" * (MAX_BODY_BYTES // 2)
    email_id = await accepted(hes, draft=True, text=half)
    problem_in(await edit(hes, email_id, {"html": half}), 413)
    assert (await edit(hes, email_id, {"html": half, "text": None})).status_code == 200


async def test_a_key_edits_only_what_it_may_send(hes: Service) -> None:
    made = {"scopes": ["emails:send"], "sender_domains": ["example.com"]}
    key = (await hes.ask("POST", "/v1/keys", json=made)).json()["key"]
    draft = (await hes.send(LEAST | {"draft": True}, key=key)).json()
    path = f"/v1/emails/{draft['id']}"
    problem_in(await hes.ask("PATCH", path, key=key, json={"from": "shop@example.net"}), 403)
    assert (await read(hes, draft["id"]))["version"] == 1
    assert (await hes.ask("PATCH", path, key=key, json={"subject": "New"})).status_code == 200


# --- lists -----------------------------------------------------------------------------------------------------------


async def listed(hes: Service, query: str = "") -> list[str]:
    answer = await hes.ask("GET", f"/v1/emails?{query}")
    assert answer.status_code == 200, answer.text
    return [email["id"] for email in answer.json()["data"]]


async def test_a_list_is_newest_first_and_its_pages_never_shift(hes: Service) -> None:
    ids = [await accepted(hes) for _ in range(5)]
    first = (await hes.ask("GET", "/v1/emails?limit=2")).json()
    assert [email["id"] for email in first["data"]] == ids[:2:-1]
    assert "attempts" not in first["data"][0]
    await accepted(hes)
    second = (await hes.ask("GET", f"/v1/emails?limit=2&cursor={first['next_cursor']}")).json()
    assert [email["id"] for email in second["data"]] == ids[2:0:-1]
    third = (await hes.ask("GET", f"/v1/emails?limit=2&cursor={second['next_cursor']}")).json()
    assert ([email["id"] for email in third["data"]], third["next_cursor"]) == (ids[:1], None)


async def test_where_looking_takes_long_a_page_may_be_empty_and_its_cursor_leads_on(
    hes: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = new_email(project="default", tags={"kind": "rare"}, id=EmailId("018bcfe5-6800-7000-8000-000000000001"))
    rare = (await hes.storage.accept(older)).id
    for _ in range(2):
        await accepted(hes)
    monkeypatch.setattr("hes.storage.sql.SEARCH_SECONDS", -1.0)
    page = (await hes.ask("GET", "/v1/emails?tag=kind:rare&limit=1")).json()
    assert page["data"] == []
    page = (await hes.ask("GET", f"/v1/emails?tag=kind:rare&limit=1&cursor={page['next_cursor']}")).json()
    assert [email["id"] for email in page["data"]] == [rare]
    assert page["next_cursor"] is None


async def test_each_filter_finds_what_it_names(hes: Service) -> None:
    plain = await accepted(hes)
    other = await accepted(
        hes,
        **{"from": "Other <other@example.com>"},
        to="bob@example.org",
        cc=["eve@example.org"],
        tags={"kind": "welcome", "x": 'a"b%'},
        reference="order-7",
        send_at=later(hours=1),
    )
    finds_other = ["status=scheduled", "to=bob@example.org", "to=eve@example.org", "from=other@example.com"]
    finds_other += ["to=bob@EXAMPLE.org", "from=OTHER@Example.com"]
    finds_other += ["tag=kind:welcome", "tag=kind", "reference=order-7", "tag=x:a%22b%25"]
    for query in finds_other:
        assert await listed(hes, query) == [other], query
    assert await listed(hes, "status=queued") == [plain]
    for query in (
        "tag=kind:Welcome",
        "tag=elcome",
        "to=BOB@example.org",
        "provider=one",
        "reason=doubt",
        "created_after=2099-01-01T00:00:00Z",
    ):
        assert await listed(hes, query) == [], query
    assert await listed(hes, "created_before=2099-01-01T00:00:00Z&created_after=2020-01-01T00:00:00Z") == [other, plain]


async def test_an_address_is_found_as_it_was_written(hes: Service) -> None:
    """Also where it is stored in another form."""
    email_id = await accepted(hes, to="ann@bücher.example.org")
    for written in ("ann@bücher.example.org", "ann@BÜCHER.example.org", "ann@xn--bcher-kva.example.org"):
        assert await listed(hes, f"to={written}") == [email_id], written
    assert await listed(hes, "to=nobody") == []


@pytest.mark.parametrize(
    "query",
    [
        *("status=lost", "reason=x", "limit=0", "limit=101", "limit=x", "cursor=x", "created_after=now"),
        *("created_after=2026-01-01T00:00:00Z%00", "created_before=2026-01-01T00:00:00%00Z"),
        *(
            "to=ann@%E2%84%AAey.org",
            "from=an%EF%BD%81@b.org",
            "to=",
            "tag=%00",
            "project=other",
            "status=queued&status=sent",
        ),
    ],
)
async def test_a_wrong_parameter_is_422_and_named(hes: Service, query: str) -> None:
    answer = await hes.ask("GET", f"/v1/emails?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["path"] == query.partition("=")[0]


# --- batches ---------------------------------------------------------------------------------------------------------


async def test_of_a_batch_the_good_ones_are_accepted_and_the_bad_ones_told(hes: Service) -> None:
    emails = [LEAST, LEAST | {"to": "nobody"}, LEAST | {"draft": True}, 7]
    answer = await hes.ask("POST", "/v1/emails/batch", json={"emails": emails})
    assert answer.status_code == 202
    good, bad, draft, number = answer.json()["data"]
    assert (good["status"], draft["status"]) == ("queued", "draft")
    assert bad["problem"]["errors"][0]["path"] == "to"
    assert number["problem"]["status"] == 422
    assert sorted(await listed(hes)) == sorted([good["id"], draft["id"]])
    assert hes.wakes == 1


async def test_a_batch_of_bad_ones_only_is_422_and_stores_nothing(hes: Service) -> None:
    answer = await hes.ask("POST", "/v1/emails/batch", json={"emails": [LEAST | {"to": "nobody"}, {}]})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["path"] == "emails[0].to"
    assert await listed(hes) == []


async def test_a_batch_with_a_key_is_stored_once(hes: Service) -> None:
    body, headers = {"emails": [LEAST, {}, LEAST]}, {"Idempotency-Key": "k"}
    first = await hes.ask("POST", "/v1/emails/batch", json=body, headers=headers)
    again = await hes.ask("POST", "/v1/emails/batch", json=body, headers=headers)
    assert first.json() == again.json()
    assert len(await listed(hes)) == 2
    other = await hes.ask("POST", "/v1/emails/batch", json={"emails": [LEAST]}, headers=headers)
    assert other.status_code == 422
    single = await hes.send(LEAST, headers=headers)
    assert single.status_code == 422


@pytest.mark.parametrize("body", [{"emails": []}, {"emails": [LEAST] * 1001}, {}, [], {"emails": [LEAST], "x": 1}])
async def test_a_batch_that_is_none_is_422(hes: Service, body: object) -> None:
    assert (await hes.ask("POST", "/v1/emails/batch", json=body)).status_code == 422


async def test_a_thousand_emails_are_one_request(hes: Service) -> None:
    answer = await hes.ask("POST", "/v1/emails/batch", json={"emails": [LEAST] * 1000})
    assert len({item["id"] for item in answer.json()["data"]}) == 1000


async def test_while_a_batch_is_checked_others_get_their_turn(hes: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 0
    seen = set()

    async def others() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    def item(*arguments: Any) -> NewEmail | BatchItem:
        seen.add(turns)
        return _item(*arguments)

    monkeypatch.setattr(many, "LONGEST_TURN_SECONDS", -1)  # as if each took that long
    monkeypatch.setattr(many, "_item", item)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(others)
        assert (await hes.ask("POST", "/v1/emails/batch", json={"emails": [LEAST] * 9})).status_code == 202
        tasks.cancel_scope.cancel()
    assert len(seen) >= 8


# --- erasing ---------------------------------------------------------------------------------------------------------


async def test_an_erased_email_keeps_its_trace_without_addresses(hes: Service) -> None:
    email_id = await accepted(hes, to="ann@example.org")
    assert (await hes.ask("DELETE", f"/v1/emails/{email_id}")).status_code == 409
    await hes.ask("POST", f"/v1/emails/{email_id}/cancel")
    for _ in range(2):
        assert (await hes.ask("DELETE", f"/v1/emails/{email_id}")).status_code == 204
    answer = await hes.ask("GET", f"/v1/emails/{email_id}?include=content")
    assert (answer.json()["status"], answer.json()["content"]) == ("cancelled", None)
    assert "example.org" not in answer.text
    assert (await hes.ask("POST", f"/v1/emails/{email_id}/send")).status_code == 409


async def test_erasing_changes_the_version_once(hes: Service) -> None:
    async def version(email_id: str) -> int:
        answer = await hes.ask("GET", f"/v1/emails/{email_id}")
        assert answer.headers["etag"] == f'"{answer.json()["version"]}"'
        return int(answer.json()["version"])

    cancelled, draft = await accepted(hes), await accepted(hes, draft=True)
    await hes.ask("POST", f"/v1/emails/{cancelled}/cancel")
    for email_id in (cancelled, draft):
        before = await version(email_id)
        for _ in range(2):
            await hes.ask("DELETE", f"/v1/emails/{email_id}")
            assert await version(email_id) == before + 1


async def test_an_erased_draft_is_cancelled(hes: Service) -> None:
    email_id = await accepted(hes, draft=True)
    await hes.ask("DELETE", f"/v1/emails/{email_id}")
    assert (await read(hes, email_id))["status"] == "cancelled"


@pytest.mark.parametrize(("method", "tail"), [("DELETE", ""), ("POST", "/send"), ("PATCH", "")])
async def test_anothers_email_is_404(hes: Service, method: str, tail: str) -> None:
    sent: dict[str, Any] = {"json": {"send_at": later(hours=1)}} if method == "PATCH" else {}
    assert (await hes.ask(method, f"/v1/emails/{NOWHERE}{tail}", **sent)).status_code == 404
