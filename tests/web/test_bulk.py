"""POST /v1/emails/resolve and /cancel: one word on all that a filter fits."""

from typing import Any

import pytest

from hes.errors import StorageUnavailable
from hes.model import EmailId
from hes.storage.records import ListQuery, Many, Reach
from hes.web import bulk
from tests.storage.harness import erase
from tests.web.service import LEAST, Service, paths_in, problem_in

pytestmark = pytest.mark.anyio


async def word(hes: Service, what: str, filter_: Any, **more: Any) -> Any:
    return await hes.ask("POST", f"/v1/emails/{what}", json={"filter": filter_} | more)


async def counts(hes: Service, what: str, filter_: Any, **more: Any) -> tuple[int, int, str | None]:
    answer = await word(hes, what, filter_, **more)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    return found["changed"], found["skipped"], found["next_cursor"]


async def statuses(hes: Service, *email_ids: EmailId) -> list[str]:
    return [(await hes.read(email_id))["status"] for email_id in email_ids]


@pytest.mark.parametrize(("decision", "status"), [("sent", "sent"), ("resend", "queued"), ("failed", "failed")])
async def test_all_that_are_held_are_decided_and_nothing_else(hes: Service, decision: str, status: str) -> None:
    held = [await hes.held() for _ in range(3)]
    waiting = await hes.in_doubt()
    assert await counts(hes, "resolve", {"status": "held"}, decision=decision) == (3, 0, None)
    assert await statuses(hes, *held, waiting) == [status] * 3 + ["in_doubt"]
    told = (await hes.read(held[0]))["events"]
    assert [e["data"]["by"] for e in told if e["type"] == "resolved"] == ["bootstrap"]


async def test_the_filter_is_the_lists(hes: Service) -> None:
    spring = await hes.accepted(tags={"campaign": "spring"}, to="ann@example.org")
    other = await hes.accepted(tags={"campaign": "autumn"})
    assert await counts(hes, "cancel", {"tag": "campaign:spring", "to": "ann@example.org"}) == (1, 0, None)
    assert await statuses(hes, spring, other) == ["cancelled", "queued"]


async def test_what_can_not_be_cancelled_is_counted_and_stays(hes: Service) -> None:
    """In doubt and queued again: a provider may have taken it."""
    doubted = await hes._doubted("resend")
    draft = EmailId((await hes.send(LEAST | {"draft": True})).json()["id"])
    assert await counts(hes, "cancel", {}) == (1, 1, None)
    assert await statuses(hes, doubted, draft) == ["queued", "cancelled"]


async def test_without_its_content_nothing_is_sent_again(hes: Service) -> None:
    erased, kept = await hes.held(), await hes.held()
    await erase(hes.storage, erased)
    assert await counts(hes, "resolve", {}, decision="resend") == (1, 1, None)
    assert await statuses(hes, erased, kept) == ["held", "queued"]


async def test_many_go_in_batches_and_a_cursor_leads_on(hes: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "IN_A_BATCH", 2)
    monkeypatch.setattr(bulk, "IN_A_REQUEST", 4)
    email_ids = [await hes.accepted() for _ in range(5)]
    changed, skipped, cursor = await counts(hes, "cancel", {})
    assert (changed, skipped, cursor is None) == (4, 0, False)
    assert await counts(hes, "cancel", {"cursor": cursor}) == (1, 0, None)
    assert set(await statuses(hes, *email_ids)) == {"cancelled"}


async def test_what_takes_long_ends_and_a_cursor_leads_on(hes: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "IN_A_BATCH", 2)
    monkeypatch.setattr(bulk, "LONGEST_SECONDS", -1.0)
    emails = [await hes.accepted() for _ in range(3)]
    changed, _, cursor = await counts(hes, "cancel", {})
    assert (changed, cursor is None) == (2, False)
    assert await counts(hes, "cancel", {"cursor": cursor}) == (1, 0, None)
    assert await statuses(hes, *emails) == ["cancelled"] * 3


async def test_what_was_done_stays_done_if_a_later_batch_fails(hes: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "IN_A_BATCH", 1)
    older, newer = await hes.accepted(), await hes.accepted()

    class Breaks:
        calls = 0

        async def cancel_many(self, reach: Reach, query: ListQuery) -> Many:
            self.calls += 1
            if self.calls > 1:
                raise StorageUnavailable("away")
            return await hes.storage.cancel_many(reach, query)

    answer = await hes.ask("POST", "/v1/emails/cancel", json={"filter": {}}, desk={"emails": Breaks()})
    problem_in(answer, 503)
    assert await statuses(hes, older, newer) == ["queued", "cancelled"]


async def test_another_project_has_none_of_them(hes: Service) -> None:
    email_id = await hes.accepted()
    made = await hes.ask("POST", "/v1/keys", json={"name": "x", "project": "other", "scopes": ["emails:send"]})
    answer = await hes.ask("POST", "/v1/emails/cancel", json={"filter": {}}, key=made.json()["key"])
    assert answer.json() == {"changed": 0, "skipped": 0, "next_cursor": None}
    assert await statuses(hes, email_id) == ["queued"]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "filter"),
        ({"filter": None}, "filter"),
        ({"filter": {"limit": "5"}}, "filter.limit"),
        ({"filter": {"sttus": "held"}}, "filter.sttus"),
        ({"filter": {"status": 5}}, "filter.status"),
        ({"filter": {"status": "lost"}}, "status"),
        ({"filter": {}, "decision": "sent"}, "decision"),
    ],
)
async def test_a_wrong_filter_changes_nothing(hes: Service, body: dict[str, Any], path: str) -> None:
    email_id = await hes.accepted()
    answer = await hes.ask("POST", "/v1/emails/cancel", json=body)
    problem_in(answer, 422)
    assert paths_in(answer) == [path]
    assert await statuses(hes, email_id) == ["queued"]


async def test_a_decision_is_needed(hes: Service) -> None:
    problem_in(await word(hes, "resolve", {}), 422)


async def test_the_intake_is_woken_for_what_is_sent_again(hes: Service) -> None:
    await hes.held()
    wakes = hes.wakes
    await counts(hes, "resolve", {}, decision="resend")
    assert hes.wakes == wakes + 1
