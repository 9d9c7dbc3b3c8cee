"""Doubt, and what is none: the real adapter, senders, storage and API in this process, against a fake on loopback."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from hes import app
from hes.model import Answer, AttemptId, EmailId, Ended, Evidence, Outcome
from tests.fakes.faults import Fault, Kind, Point
from tests.fakes.sendgrid import fake_sendgrid
from tests.faults.house import house, one_provider
from tests.faults.server import event_types, eventually

pytestmark = pytest.mark.anyio

AFTER, BEFORE = Point.AFTER_STORING, Point.BEFORE_STORING
LOST = Fault(kind=Kind.RESET, at=AFTER, count=1)


def outcomes(email: dict[str, Any]) -> list[tuple[str, str]]:
    return [(attempt["provider"], attempt["outcome"]) for attempt in email["attempts"]]


def event(email: dict[str, Any], type_: str) -> dict[str, Any]:
    """The last entry of that type."""
    found: list[dict[str, Any]] = [event for event in email["events"] if event["type"] == type_]
    return found[-1]


def seconds(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


# --- what is in doubt ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "copies"),
    [
        (LOST, 1),
        (Fault(kind=Kind.RESET, at=BEFORE, count=1), 0),
        (Fault(kind=Kind.HANG, at=AFTER, count=1), 1),
        (Fault(kind=Kind.HANG, at=BEFORE, count=1), 0),
        (Fault(kind=Kind.LATE, at=AFTER, seconds=1.5, count=1), 1),
        (Fault(kind=Kind.STATUS, at=AFTER, status=502, shape="foreign", count=1), 1),
        (Fault(kind=Kind.CLOSE, at=Point.MID_ANSWER, count=1), 1),
        (Fault(kind=Kind.GARBAGE, at=AFTER, count=1), 1),
    ],
)
async def test_what_may_have_been_taken_is_in_doubt_at_the_named_provider(
    tmp_path: Path, fault: Fault, copies: int
) -> None:
    """With `hold` there is never another copy, though the provider works again."""
    async with one_provider(tmp_path, fault) as (hes, fake):
        email = await hes.until(await hes.send(on_doubt="hold"))
        await hes.until(await hes.send(), "sent")
        assert fake.copies(email["id"]) == copies
        assert await hes.read(email["id"]) == email
    assert (email["status"], email["reason"], email["provider"]) == ("held", "doubt", "sendgrid")
    assert outcomes(email) == [("sendgrid", "in_doubt")]
    assert event_types(email) == ["created", "queued", "attempt", "in_doubt", "held"]
    assert event(email, "in_doubt")["provider"] == "sendgrid"
    assert event(email, "in_doubt")["data"]["detail"] == email["attempts"][0]["detail"] != ""


async def test_resend_sends_again_and_the_timeline_says_why(tmp_path: Path) -> None:
    async with one_provider(tmp_path, LOST) as (hes, fake):
        email = await hes.until(await hes.send(on_doubt="resend"))
        assert fake.copies(email["id"]) == 2
        assert {copy.hes_attempt for copy in fake.accepted} == {attempt["id"] for attempt in email["attempts"]}
    assert outcomes(email) == [("sendgrid", "in_doubt"), ("sendgrid", "accepted")]
    assert event_types(email) == ["created", "queued", "attempt", "in_doubt", "queued", "attempt", "sent"]
    assert event(email, "queued")["data"]["why"] == "on_doubt is resend"


async def test_resend_prefers_another_provider(tmp_path: Path) -> None:
    async with fake_sendgrid() as first, fake_sendgrid() as second, house(tmp_path, first, second) as hes:
        first.fault = second.fault = LOST
        second.script([None])
        email = await hes.until(await hes.send(providers=["sendgrid", "sendgrid-2"]))
    assert outcomes(email) == [("sendgrid", "in_doubt"), ("sendgrid-2", "accepted")]
    assert (email["status"], email["provider"]) == ("sent", "sendgrid-2")
    assert event(email, "failed_over")["data"] == {"from": "sendgrid", "to": "sendgrid-2"}


async def test_wait_stays_in_doubt(tmp_path: Path) -> None:
    async with one_provider(tmp_path, LOST) as (hes, fake):
        email = await hes.until(await hes.send(on_doubt="wait"), "in_doubt")
        await hes.until(await hes.send(), "sent")
        assert await hes.read(email["id"]) == email
        assert fake.copies(email["id"]) == 1
    assert event_types(email) == ["created", "queued", "attempt", "in_doubt"]


async def test_wait_is_held_when_its_time_is_over(tmp_path: Path) -> None:
    async with one_provider(tmp_path, LOST, expires_in=1) as (hes, _):
        email = await hes.until(await hes.send(on_doubt="wait"))
    assert (email["status"], email["reason"]) == ("held", "expired_in_doubt")


async def test_a_rejection_after_a_doubt_does_not_say_failed(tmp_path: Path) -> None:
    async with fake_sendgrid() as first, fake_sendgrid() as second, house(tmp_path, first, second) as hes:
        first.fault, second.fault = LOST, Fault(kind=Kind.STATUS, status=400)
        email = await hes.until(await hes.send(providers=["sendgrid", "sendgrid-2"]))
    assert (email["status"], email["reason"]) == ("held", "rejected_after_doubt")


# --- how it ends -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decision", "status", "reason", "copies"),
    [("sent", "sent", None, 1), ("failed", "failed", "operator", 1), ("resend", "sent", None, 2)],
)
@pytest.mark.parametrize("on_doubt", ["hold", "wait"])
async def test_a_person_decides(
    tmp_path: Path, on_doubt: str, decision: str, status: str, reason: str | None, copies: int
) -> None:
    async with one_provider(tmp_path, LOST) as (hes, fake):
        email_id = await hes.send(on_doubt=on_doubt)
        await hes.until(email_id, "held", "in_doubt")
        await hes.resolve(email_id, decision)
        email = await hes.until(email_id, status)
        assert fake.copies(email_id) == copies
    assert email["reason"] == reason
    assert email["attempts"][0]["resolution"] == "operator"
    told = event(email, "resolved")["data"]
    assert (told["decision"], told["by"], told["attempts"]) == (decision, "bootstrap", [1])


async def test_there_is_nothing_to_decide_about_what_was_sent(tmp_path: Path) -> None:
    async with one_provider(tmp_path, None) as (hes, _):
        email_id = await hes.send()
        await hes.until(email_id, "sent")
        answer = await hes.post(f"/v1/emails/{email_id}/resolve", {"decision": "resend"})
    assert answer.status_code == 409


async def test_evidence_of_acceptance_turns_held_into_sent(tmp_path: Path) -> None:
    async with one_provider(tmp_path, LOST) as (hes, fake):
        held = await hes.until(await hes.send(on_doubt="hold"))
        proof = Evidence(
            email_id=EmailId(held["id"]),
            attempt_id=AttemptId(held["attempts"][0]["id"]),
            accepted=True,
            source="event",
            provider_message_id="fake-1",
        )
        await hes.storage.evidence([proof, proof])
        email = await hes.read(held["id"])
        assert fake.copies(held["id"]) == 1
    assert (email["status"], email["reason"], email["provider"]) == ("sent", None, "sendgrid")
    assert (email["attempts"][0]["resolution"], email["attempts"][0]["provider_message_id"]) == ("accepted", "fake-1")
    assert event_types(email)[-3:] == ["held", "resolved", "sent"]


async def test_an_outcome_that_comes_late_turns_held_into_sent(tmp_path: Path) -> None:
    async with one_provider(tmp_path, LOST) as (hes, _):
        held = await hes.until(await hes.send(on_doubt="hold"))
        late = Ended(
            attempt_id=AttemptId(held["attempts"][0]["id"]),
            email_id=EmailId(held["id"]),
            provider="sendgrid",
            ended_at=app.now(),
            answer=Answer(outcome=Outcome.ACCEPTED, provider_message_id="fake-1"),
        )
        assert (await hes.storage.settle([late], {})).lost == (late.attempt_id,)
        email = await hes.read(held["id"])
    assert (email["status"], email["attempts"][0]["resolution"]) == ("sent", "accepted")
    assert event(email, "resolved")["data"]["source"] == "late outcome"


async def test_evidence_that_it_was_not_taken_sends_it_again(tmp_path: Path) -> None:
    async with one_provider(tmp_path, Fault(kind=Kind.RESET, at=BEFORE, count=1)) as (hes, fake):
        held = await hes.until(await hes.send(on_doubt="hold"))
        attempt = AttemptId(held["attempts"][0]["id"])
        proof = Evidence(email_id=EmailId(held["id"]), attempt_id=attempt, accepted=False, source="look-up")
        await hes.storage.evidence([proof])
        email = await hes.until(held["id"], "sent")
        assert fake.copies(held["id"]) == 1
    assert outcomes(email) == [("sendgrid", "in_doubt"), ("sendgrid", "accepted")]
    assert email["attempts"][0]["resolution"] == "not_accepted"


# --- what is no doubt ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_credentials_fail_no_email_and_are_tried_again_later(tmp_path: Path, status: int) -> None:
    async with one_provider(tmp_path, Fault(kind=Kind.STATUS, status=status, count=2)) as (hes, fake):
        email = await hes.until(await hes.send(on_doubt="hold"))
        assert fake.copies(email["id"]) == 1
    assert [outcome for _, outcome in outcomes(email)] == ["refused", "refused", "accepted"]
    one, two, _ = email["attempts"]
    # HES_GATE_OPEN_SECONDS, give or take a fifth; both times are whole milliseconds.
    assert seconds(one["ended_at"], two["started_at"]) >= 0.3 * 0.8 - 0.002


async def test_a_throttled_email_waits_as_long_as_it_is_told(tmp_path: Path) -> None:
    fault = Fault(kind=Kind.STATUS, status=429, headers={"Retry-After": "1"}, count=1)
    async with one_provider(tmp_path, fault) as (hes, fake):
        email = await hes.until(await hes.send(on_doubt="hold"))
        assert fake.copies(email["id"]) == 1
    assert [outcome for _, outcome in outcomes(email)] == ["throttled", "accepted"]
    one, two = email["attempts"]
    assert 1.0 <= seconds(one["ended_at"], two["started_at"]) < 3.0


async def test_a_rejected_email_fails_with_one_attempt(tmp_path: Path) -> None:
    async with one_provider(tmp_path, Fault(kind=Kind.STATUS, status=400, message="no such address")) as (hes, fake):
        email = await hes.until(await hes.send())
        assert len(fake.requests) == 1
    assert (email["status"], email["reason"]) == ("failed", "rejected")
    assert outcomes(email) == [("sendgrid", "rejected")]
    assert event(email, "failed")["data"]["detail"] == "400: no such address"


async def test_a_provider_that_is_down_delays_an_email_until_it_is_back(tmp_path: Path) -> None:
    async with one_provider(tmp_path, None) as (hes, fake):
        await fake.refuse()
        email_id = await hes.send(on_doubt="hold")

        async def was_tried_thrice() -> bool:
            email = await hes.read(email_id)
            return email["status"] == "queued" and len(email["attempts"]) >= 3

        await eventually(was_tried_thrice)
        await fake.refuse(refuse=False)
        email = await hes.until(email_id)
        assert fake.copies(email_id) == 1
    assert {outcome for _, outcome in outcomes(email)[:-1]} == {"unavailable"}
    assert email["status"] == "sent"


async def test_one_provider_down_costs_nothing_with_another(tmp_path: Path) -> None:
    async with fake_sendgrid() as first, fake_sendgrid() as second, house(tmp_path, first, second) as hes:
        await first.refuse()
        email = await hes.until(await hes.send(providers=["sendgrid", "sendgrid-2"]))
    assert outcomes(email) == [("sendgrid", "unavailable"), ("sendgrid-2", "accepted")]
    assert seconds(email["created_at"], email["attempts"][1]["ended_at"]) < 2.0
