"""Failover over real HTTP: SendGrid and Mailgun as they answer, one of them in trouble.

Minutes of it, with figures, are in `tests/simulation/test_failover.py`.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import pytest

from tests.fakes.faults import FakeServer, Fault, Kind
from tests.fakes.mailgun import DOMAIN, fake_mailgun
from tests.fakes.mailgun import KEY as MAILGUN_KEY
from tests.fakes.sendgrid import fake_sendgrid
from tests.faults.house import House, house
from tests.faults.server import an_email, eventually

UNAVAILABLE = Fault(kind=Kind.STATUS, status=503)


def mailgun_at(url: str) -> str:
    return f"mailgun://{MAILGUN_KEY}@default/{DOMAIN}?base_url={quote(url, safe='')}"


@asynccontextmanager
async def two_providers(folder: Path, **flags: object) -> AsyncIterator[tuple[House, FakeServer, FakeServer]]:
    """HES with a SendGrid and a Mailgun."""
    async with (
        fake_sendgrid() as sendgrid,
        fake_mailgun() as mailgun,
        house(folder, sendgrid, mailgun_at(mailgun.url), **flags) as hes,
    ):
        yield hes, sendgrid, mailgun


async def send_many(hes: House, count: int) -> list[str]:
    """At the same time."""
    ids: list[str] = []

    async def send() -> None:
        ids.append(await hes.send())

    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(send)
    return ids


async def all_sent(hes: House, ids: list[str]) -> list[dict[str, Any]]:
    return [await hes.until(email_id, "sent") for email_id in ids]


async def test_two_hundred_emails_are_split_evenly(tmp_path: Path) -> None:
    async with two_providers(tmp_path) as (hes, sendgrid, mailgun):
        await all_sent(hes, await send_many(hes, 200))
        assert len(sendgrid.accepted) + len(mailgun.accepted) == 200
        assert abs(len(sendgrid.accepted) - 100) <= 2


@pytest.mark.parametrize("fault", [UNAVAILABLE, Fault(kind=Kind.STATUS, status=401)], ids=["503", "401"])
async def test_with_one_in_trouble_all_leave_by_the_other_and_it_comes_back_by_itself(
    tmp_path: Path, fault: Fault
) -> None:
    async with two_providers(tmp_path) as (hes, sendgrid, mailgun):
        sendgrid.fault = fault
        began = time.monotonic()
        emails = await all_sent(hes, await send_many(hes, 60))
        assert time.monotonic() - began < 2 + 2, "and reading them took most of it"
        assert {email["provider"] for email in emails} == {"mailgun"}
        assert len(mailgun.accepted) == 60
        state = (await hes.provider("sendgrid"))["state"]
        assert state in ({"down", "probing"} if fault is UNAVAILABLE else {"refused"})
        failed_over = [e for email in emails for e in email["events"] if e["type"] == "failed_over"]
        assert failed_over
        assert {(e["data"]["from"], e["data"]["to"]) for e in failed_over} == {("sendgrid", "mailgun")}

        sendgrid.fault = None

        async def is_back() -> bool:
            await hes.send()
            return bool(sendgrid.accepted) and (await hes.provider("sendgrid"))["state"] == "up"

        await eventually(is_back)


async def test_who_rejects_everything_is_refused_and_its_victims_leave_by_the_other(tmp_path: Path) -> None:
    async with two_providers(tmp_path, gate_open_seconds=100) as (hes, sendgrid, mailgun):
        sendgrid.fault = Fault(kind=Kind.STATUS, status=400, message="Bad Request")
        ids = [await hes.send() for _ in range(30)]
        emails = await all_sent(hes, ids)
        assert len(mailgun.accepted) == 30
        standing = await hes.provider("sendgrid")
        assert (standing["state"], standing["reason"]) == ("refused", "it rejects everything")
        victims = [email for email in emails if any(e["type"] == "failed" for e in email["events"])]
        assert 1 <= len(victims) <= 6
        sendgrid.fault = None
        assert (await hes.turn("sendgrid", "reset"))["state"] == "up"
        await all_sent(hes, [await hes.send() for _ in range(4)])
        assert len(sendgrid.accepted) == 2


async def test_told_to_slow_down_it_is_not_asked_before_the_time(tmp_path: Path) -> None:
    async with two_providers(tmp_path) as (hes, sendgrid, mailgun):
        sendgrid.fault = Fault(kind=Kind.STATUS, status=429, headers={"Retry-After": "2"}, count=1)
        await hes.until(await hes.send(), "sent")
        await eventually(lambda: _has_state(hes, "slowed"))
        told_at = time.monotonic()
        while time.monotonic() < told_at + 1.5:
            await hes.until(await hes.send(), "sent")
        assert len(sendgrid.requests) == 1
        await eventually(lambda: _has_state(hes, "up"))
        await all_sent(hes, await send_many(hes, 4))
        assert len(sendgrid.requests) >= 2
        assert {copy.hes_id for copy in mailgun.accepted}


async def _has_state(hes: House, state: str) -> bool:
    await hes.send()
    return bool((await hes.provider("sendgrid"))["state"] == state)


async def test_a_paused_provider_gets_nothing_also_after_a_restart(tmp_path: Path) -> None:
    async with fake_sendgrid() as sendgrid, fake_mailgun() as mailgun:
        both = (sendgrid, mailgun_at(mailgun.url))
        async with house(tmp_path, *both) as hes:
            assert (await hes.turn("sendgrid", "pause"))["state"] == "paused"
            await all_sent(hes, await send_many(hes, 10))
        async with house(tmp_path, *both) as hes:
            assert (await hes.provider("sendgrid"))["reason"] == "paused by bootstrap"
            await all_sent(hes, await send_many(hes, 10))
            assert (len(sendgrid.requests), len(mailgun.accepted)) == (0, 20)
            assert (await hes.turn("sendgrid", "resume"))["state"] == "up"
            await all_sent(hes, await send_many(hes, 10))
            assert len(sendgrid.accepted) == 5


async def test_the_callers_own_provider_is_waited_for_and_taken_as_soon_as_it_works(tmp_path: Path) -> None:
    async with two_providers(tmp_path) as (hes, sendgrid, _):
        sendgrid.fault = UNAVAILABLE
        ids = [await hes.send(providers=["sendgrid"]) for _ in range(8)]
        await eventually(lambda: _is_down(hes))
        assert (await hes.post("/v1/emails", an_email())).status_code == 202
        sendgrid.fault = None
        await all_sent(hes, ids)


async def _is_down(hes: House) -> bool:
    return (await hes.provider("sendgrid"))["state"] in {"down", "probing"}
