"""Events of real shape, signed, over the API: what they prove, what they move, and that tampered ones do neither."""

import itertools
import random
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from msgspec import Struct

from tests.fakes.faults import FakeServer, Fault, Kind, Point
from tests.fakes.hooks import MailgunHook, Post, ResendHook, SendGridHook
from tests.fakes.mailgun import MailgunRules
from tests.fakes.resend import ResendRules
from tests.fakes.sendgrid import SendGridRules
from tests.faults.house import House, house
from tests.faults.server import event_types, sendgrid_at
from tests.faults.test_doubt import event
from tests.faults.test_finding import mailgun_at, resend_at

pytestmark = pytest.mark.anyio

LOST = Fault(kind=Kind.RESET, at=Point.AFTER_STORING, count=1)
TO = "ann@example.org"
numbers = itertools.count(1)


def _sendgrid(type_: str, ids: dict[str, str]) -> Post:
    names = {"delivered": "delivered", "bounced": "bounce", "complained": "spamreport", "opened": "open"}
    told = {"event": names[type_], "sg_event_id": f"ev{next(numbers)}", "timestamp": int(time.time()), "email": TO}
    return _SENDGRID.post([told | ids], int(time.time()))


def _mailgun(type_: str, ids: dict[str, str]) -> Post:
    names = {"bounced": {"event": "failed", "severity": "permanent"}}
    told = names.get(type_, {"event": type_}) | {"id": f"ev{next(numbers)}", "timestamp": time.time(), "recipient": TO}
    return _MAILGUN.post(told | {"user-variables": ids}, int(time.time()), token=f"{next(numbers):050}")


def _resend(type_: str, ids: dict[str, str]) -> Post:
    data = {"to": [TO], "tags": ids, "bounce": {"type": "Permanent"}}
    told = {"type": f"email.{type_}", "created_at": datetime.now(UTC).isoformat(), "data": data}
    return _RESEND.post(told, int(time.time()), f"msg_{next(numbers)}")


_SENDGRID, _MAILGUN, _RESEND = SendGridHook(), MailgunHook(), ResendHook()


class Vendor(Struct, frozen=True):
    """One kind of provider."""

    fake: Callable[[], FakeServer]
    url: Callable[[str], str]
    secret: str
    post: Callable[[str, dict[str, str]], Post]


VENDORS = {
    "sendgrid": Vendor(lambda: FakeServer(SendGridRules()), sendgrid_at, _SENDGRID.secret, _sendgrid),
    "mailgun": Vendor(lambda: FakeServer(MailgunRules()), mailgun_at, _MAILGUN.secret, _mailgun),
    "resend": Vendor(lambda: FakeServer(ResendRules()), resend_at, _RESEND.secret, _resend),
}


@asynccontextmanager
async def hooked(folder: Path, kind: str, **flags: object) -> AsyncIterator[tuple[House, FakeServer]]:
    """With that provider alone, whose events are taken."""
    vendor = VENDORS[kind]
    async with vendor.fake() as fake:
        url = f"{vendor.url(fake.url)}&webhook_secret={quote(vendor.secret, safe='')}"
        async with house(folder, url, **flags) as hes:
            yield hes, fake


def ids_of(email: dict[str, Any], number: int = 1) -> dict[str, str]:
    return {"hes_id": email["id"], "hes_attempt": email["attempts"][number - 1]["id"]}


async def tell(hes: House, kind: str, posted: Post) -> int:
    return await hes.hook(kind, *posted)


@pytest.mark.parametrize("kind", VENDORS)
async def test_an_event_ends_a_doubt_and_tells_what_became_of_the_email(tmp_path: Path, kind: str) -> None:
    async with hooked(tmp_path, kind) as (hes, fake):
        fake.fault = LOST
        email = await hes.until(await hes.send(on_doubt="hold", to=TO))
        assert email["status"] == "held"
        assert await tell(hes, kind, VENDORS[kind].post("delivered", ids_of(email))) == 200
        email = await hes.read(email["id"])
        assert (email["status"], email["recipients"][0]["status"]) == ("delivered", "delivered")
        assert event_types(email)[-4:] == ["held", "resolved", "sent", "delivered"]
        assert event(email, "resolved")["data"]["source"] == "event"
        assert email["attempts"][0]["resolution"] == "accepted"

        await tell(hes, kind, VENDORS[kind].post("complained", ids_of(email)))
        await tell(hes, kind, VENDORS[kind].post("bounced", ids_of(email)))
        email = await hes.read(email["id"])
        assert email["status"] == "complained"
        assert fake.copies(email["id"]) == 1


@pytest.mark.parametrize("kind", VENDORS)
async def test_a_tampered_event_counts_nowhere(tmp_path: Path, kind: str) -> None:
    """Any letter of it changed; at Mailgun the signature's, which does not cover the event, and is good once."""
    rng = random.Random(5)
    async with hooked(tmp_path, kind) as (hes, fake):
        fake.fault = LOST
        email = await hes.until(await hes.send(on_doubt="hold", to=TO))
        for _ in range(50):
            headers, body = VENDORS[kind].post("delivered", ids_of(email))
            at = rng.choice(_signed_places(kind, body))
            changed = body[:at] + (b"0" if body[at : at + 1] != b"0" else b"1") + body[at + 1 :]
            assert await tell(hes, kind, (headers, changed)) == 401, changed
        assert await hes.read(email["id"]) == email


def _signed_places(kind: str, body: bytes) -> list[int]:
    if kind != "mailgun":
        return [n for n in range(len(body)) if body[n : n + 1].isalnum()]
    return [n for found in re.finditer(rb'"[0-9a-f]{9,}"', body) for n in range(found.start() + 1, found.end() - 1)]


async def test_two_copies_that_events_prove_are_a_duplicate(tmp_path: Path) -> None:
    """The resend left, and then an event proves the first."""
    async with hooked(tmp_path, "sendgrid") as (hes, fake):
        fake.fault = LOST
        email = await hes.until(await hes.send(on_doubt="resend", to=TO), "sent")
        assert fake.copies(email["id"]) == 2
        assert await tell(hes, "sendgrid", _sendgrid("delivered", ids_of(email, 1))) == 200
        email = await hes.read(email["id"])
        assert event(email, "duplicate")["data"] == {"attempts": [1, 2]}
        assert email["status"] == "delivered"


async def test_an_event_before_the_answer_waits_for_it(tmp_path: Path) -> None:
    async with hooked(tmp_path, "sendgrid", attempt_timeout=1.0) as (hes, fake):
        fake.fault = Fault(kind=Kind.HANG, at=Point.AFTER_STORING, count=1)
        email_id = await hes.send(on_doubt="hold", to=TO)
        email = await hes.until(email_id, "sending")
        assert await tell(hes, "sendgrid", _sendgrid("delivered", ids_of(email))) == 200
        email = await hes.until(email_id, "delivered")
        assert fake.copies(email_id) == 1
    assert event_types(email) == ["created", "queued", "attempt", "resolved", "sent", "delivered"]


async def test_without_a_secret_nothing_is_taken(tmp_path: Path) -> None:
    async with FakeServer(SendGridRules()) as fake, house(tmp_path, fake) as hes:
        assert await tell(hes, "sendgrid", _sendgrid("delivered", {})) == 404
