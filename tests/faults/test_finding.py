"""What becomes of doubts where the provider can be asked: real adapters and actors against fakes on loopback."""

import random
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import pytest

from tests.fakes.faults import FakeServer, Fault, Kind, Point
from tests.fakes.mailgun import DOMAIN, MailgunRules
from tests.fakes.mailgun import KEY as MAILGUN_KEY
from tests.fakes.resend import KEY as RESEND_KEY
from tests.fakes.resend import ResendRules
from tests.fakes.sendgrid import SendGridRules
from tests.faults.house import House, house
from tests.faults.server import event_types, eventually, sendgrid_at
from tests.faults.test_doubt import event, outcomes

pytestmark = pytest.mark.anyio

LOST = Fault(kind=Kind.RESET, at=Point.AFTER_STORING, count=1)
NEVER_CAME = Fault(kind=Kind.RESET, at=Point.BEFORE_STORING, count=1)
SOME_LOST = Fault(kind=Kind.RESET, at=Point.AFTER_STORING, probability=0.2)


def resend_at(url: str) -> str:
    return f"resend://{RESEND_KEY}@default?base_url={quote(url, safe='')}"


def mailgun_at(url: str) -> str:
    return f"mailgun://{MAILGUN_KEY}@default/{DOMAIN}?base_url={quote(url, safe='')}"


async def send_many(hes: House, count: int) -> list[str]:
    """Each to somebody else: SendGrid is searched by recipient, and asked about ten messages at most."""
    ids: list[str] = []

    async def send(number: int) -> None:
        ids.append(await hes.send(to=f"ann{number}@example.org"))

    async with anyio.create_task_group() as callers:
        for number in range(count):
            callers.start_soon(send, number)
    return ids


async def all_sent(hes: House, ids: list[str]) -> list[dict[str, Any]]:
    return [await hes.until(email_id, "sent") for email_id in ids]


# --- asked again -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [LOST, NEVER_CAME])
async def test_a_replay_ends_the_doubt_with_one_copy(tmp_path: Path, fault: Fault) -> None:
    async with FakeServer(ResendRules()) as resend, house(tmp_path, resend_at(resend.url), doubt_seconds=10) as hes:
        resend.fault = fault
        email = await hes.until(await hes.send(on_doubt="hold"), "sent")
        assert resend.copies(email["id"]) == 1
        first, again = resend.requests
        assert first.body == again.body
        assert first.headers["Idempotency-Key"] == again.headers["Idempotency-Key"] == email["attempts"][0]["id"]
    assert outcomes(email) == [("resend", "in_doubt")]
    assert email["attempts"][0]["resolution"] == "accepted"
    assert event_types(email) == ["created", "queued", "attempt", "in_doubt", "resolved", "sent"]
    assert event(email, "in_doubt")["data"]["search_ms"] == 10_000
    assert event(email, "resolved")["data"]["source"] == "replay"


async def test_resend_with_a_fifth_of_its_answers_lost_delivers_each_exactly_once(tmp_path: Path) -> None:
    rules = ResendRules()
    async with (
        FakeServer(rules, rng=random.Random(3)) as resend,
        house(tmp_path, resend_at(resend.url), doubt_seconds=15, gate_fail_max=1000) as hes,
    ):
        resend.fault = SOME_LOST
        ids = await send_many(hes, 200)
        emails = await all_sent(hes, ids)
        copies = Counter(copy.hes_id for copy in resend.accepted)
    assert copies == Counter(ids)
    doubts = [email for email in emails if outcomes(email)[0] == ("resend", "in_doubt")]
    assert len(doubts) >= 20
    assert all(len(email["attempts"]) == 1 for email in emails)


async def test_what_could_not_be_asked_is_told_once_and_then_the_policy_acts(tmp_path: Path) -> None:
    async with FakeServer(ResendRules()) as resend, house(tmp_path, resend_at(resend.url), doubt_seconds=2.5) as hes:
        resend.fault = Fault(kind=Kind.RESET, at=Point.AFTER_STORING)
        email = await hes.until(await hes.send(on_doubt="hold"), "held")
        asked = len(resend.requests)
        assert asked >= 3
        assert event_types(email) == ["created", "queued", "attempt", "in_doubt", "in_doubt", "held"]
        told = event(email, "in_doubt")["data"]
        assert (told["attempt"], told["asked"], told["answer"]) == (1, "replay", "unavailable")

        # Held, it goes on being asked, and the provider works again.
        resend.fault = None
        email = await hes.until(email["id"], "sent")
        assert resend.copies(email["id"]) == 1
    assert event_types(email)[-3:] == ["held", "resolved", "sent"]


async def test_after_its_time_an_email_is_not_sent_by_a_replay(tmp_path: Path) -> None:
    flags = {"doubt_seconds": 10, "expires_in": 2}
    async with FakeServer(ResendRules()) as resend, house(tmp_path, resend_at(resend.url), **flags) as hes:
        resend.fault = Fault(kind=Kind.RESET, at=Point.BEFORE_STORING)
        email = await hes.until(await hes.send(on_doubt="wait"), "held")
        assert (email["reason"], resend.copies(email["id"])) == ("expired_in_doubt", 0)
        resend.fault = None
        asked = len(resend.requests)
        await hes.until(await hes.send(), "sent")
        assert (await hes.read(email["id"]))["status"] == "held"
        assert len(resend.requests) == asked + 1


@pytest.mark.parametrize("at", [Point.AFTER_STORING, Point.BEFORE_STORING])
async def test_what_was_in_flight_when_a_process_ended_is_asked_about_by_the_next(tmp_path: Path, at: Point) -> None:
    async with FakeServer(ResendRules()) as resend:
        resend.fault = Fault(kind=Kind.HANG, at=at, count=1)
        async with house(tmp_path, resend_at(resend.url), doubt_seconds=10) as hes:
            email_id = await hes.send(on_doubt="hold")

            async def has_come() -> bool:
                return bool(resend.requests)

            await eventually(has_come)
        async with house(tmp_path, resend_at(resend.url), doubt_seconds=10) as hes:
            email = await hes.until(email_id, "sent")
        assert resend.copies(email_id) == 1
    assert event_types(email) == ["created", "queued", "attempt", "in_doubt", "resolved", "sent"]


# --- looked up -------------------------------------------------------------------------------------------------------


def lagging(kind: str, seconds: float) -> FakeServer:
    """A fake whose records show a message so long after it was taken."""
    fake = FakeServer(MailgunRules() if kind == "mailgun" else SendGridRules(), rng=random.Random(3))
    lag(fake, seconds)
    return fake


def lag(fake: FakeServer, seconds: float) -> None:
    match fake.vendor:
        case MailgunRules() as mailgun:
            mailgun.search_lag_seconds = seconds
        case SendGridRules() as sendgrid:
            sendgrid.logs.lag_seconds = seconds


def url_of(kind: str, fake: FakeServer) -> str:
    return mailgun_at(fake.url) if kind == "mailgun" else sendgrid_at(fake.url)


@pytest.mark.parametrize("kind", ["mailgun", "sendgrid"])
async def test_what_the_records_show_in_time_is_not_sent_twice(tmp_path: Path, kind: str) -> None:
    fake = lagging(kind, 0.3)
    async with fake, house(tmp_path, url_of(kind, fake), doubt_seconds=15, gate_fail_max=1000) as hes:
        fake.fault = SOME_LOST
        ids = await send_many(hes, 40)
        emails = await all_sent(hes, ids)
        copies = Counter(copy.hes_id for copy in fake.accepted)
    assert copies == Counter(ids)
    doubts = [email for email in emails if outcomes(email)[0][1] == "in_doubt"]
    assert doubts
    assert {event(email, "resolved")["data"]["source"] for email in doubts} == {"look-up"}


@pytest.mark.parametrize("kind", ["mailgun", "sendgrid"])
async def test_what_the_records_show_too_late_is_resent_and_told_as_a_duplicate(tmp_path: Path, kind: str) -> None:
    """The look-up says no, the resend leaves, and then the first is proven."""
    fake = lagging(kind, 3600)
    async with fake, house(tmp_path, url_of(kind, fake), doubt_seconds=1) as hes:
        fake.fault = LOST
        email = await hes.until(await hes.send(on_doubt="resend"), "sent")
        assert fake.copies(email["id"]) == 2
        told = [e["data"] for e in email["events"] if e["type"] == "in_doubt"]
        assert [data.get("answer") for data in told] == [None, "nothing"]
    assert outcomes(email) == [(kind, "in_doubt"), (kind, "accepted")]


@pytest.mark.parametrize("kind", ["mailgun", "sendgrid"])
async def test_held_is_looked_up_until_it_shows(tmp_path: Path, kind: str) -> None:
    fake = lagging(kind, 3600)
    async with fake, house(tmp_path, url_of(kind, fake), doubt_seconds=0.2) as hes:
        fake.fault = LOST
        email_id = await hes.send(on_doubt="hold")
        await hes.until(email_id, "held")
        lag(fake, 0)
        email = await hes.until(email_id, "sent")
        assert fake.copies(email_id) == 1
    assert event(email, "resolved")["data"]["source"] == "look-up"
