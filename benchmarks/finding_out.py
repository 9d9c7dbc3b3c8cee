"""What becomes of doubts, by which means: `python -m benchmarks.finding_out doubts`, and `... events` for their order.

`doubts`: one HES in this process, on SQLite, over five fakes on loopback. Every third email is taken, and the
connection breaks before the answer, until there were so many doubts at each; `on_doubt` is `resend`. How fast a record
can be found and an event comes is made up: the vendors publish neither. Prints a table in Markdown.

`events`: so many events in the order of their times, and once more shuffled, with a tenth of them twice: prints how
long they took, and ends with 1 unless all emails and recipients end the same.
"""

import argparse
import asyncio
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
from aiohttp import web
from msgspec import Struct

from hes import app
from hes.case import Rules
from hes.ids import id_maker
from hes.model import Address, Answer, AttemptId, Email, EmailId, Ended, OnDoubt, Outcome, Room
from hes.policy import Policy
from hes.storage.records import NewEmail, Reach
from hes.storage.sql import SqlStorage
from hes.storage.sqlite import open_sqlite
from hes.told import EventKind, ProviderEvent, Told
from tests.fakes.faults import FakeServer, Fault, Kind, Point, Vendor
from tests.fakes.hooks import SendGridHook
from tests.fakes.mailgun import DOMAIN, MailgunRules
from tests.fakes.mailgun import KEY as MAILGUN_KEY
from tests.fakes.resend import KEY as RESEND_KEY
from tests.fakes.resend import ResendRules
from tests.fakes.sendgrid import SendGridRules
from tests.faults.house import House, house
from tests.faults.server import sendgrid_at

LOST = Fault(kind=Kind.RESET, at=Point.AFTER_STORING)
ONE_IN = 3
"""More of them in doubt would shut the gate."""
PER_SECOND = 12.0
"""Emails to each provider."""
EVENT_SECONDS = 5.0


class Lossy(FakeServer):
    """Loses the answer to every third email that it takes for the first time; never one to a question."""

    def __init__(self, vendor: Vendor, lost: Callable[[str, str], None]) -> None:
        super().__init__(vendor)
        self._lost = lost
        self._seen: set[str] = set()
        self.doubts: set[str] = set()

    async def _strike(self, request: web.BaseRequest, fault: Fault | None, at: Point) -> web.StreamResponse | None:
        if at is Point.AFTER_STORING and self.accepted and self.accepted[-1].hes_id not in self._seen:
            copy = self.accepted[-1]
            self._seen.add(copy.hes_id)
            if len(self._seen) % ONE_IN == 0:
                self.doubts.add(copy.hes_id)
                self._lost(copy.hes_id, copy.hes_attempt)
                return await super()._strike(request, LOST, at)
        return await super()._strike(request, fault, at)


class Scene(Struct, frozen=True):
    """One provider and how it behaves. `lag`: seconds until its records show an email."""

    title: str
    kind: str
    lag: float = 0.0
    tells: bool = False


SCENES = {
    "resend": Scene("Resend, asked again", "resend"),
    "mailgun": Scene("Mailgun, records after 5 s", "mailgun", lag=5),
    "sendgrid": Scene("SendGrid, records after 5 s", "sendgrid", lag=5),
    "sendgrid-2": Scene("SendGrid, records after 60 s, an event after 5 s", "sendgrid", lag=60, tells=True),
    "mailgun-2": Scene("Mailgun, records after 60 s, no events", "mailgun", lag=60),
}
HOOK = SendGridHook()


def vendor(scene: Scene) -> Vendor:
    match scene.kind:
        case "resend":
            return ResendRules()
        case "mailgun":
            mailgun = MailgunRules()
            mailgun.search_lag_seconds = scene.lag
            return mailgun
        case _:
            sendgrid = SendGridRules()
            sendgrid.logs.lag_seconds = scene.lag
            return sendgrid


def url(scene: Scene, name: str, fake: FakeServer) -> str:
    at = quote(fake.url, safe="")
    hook = f"&webhook_secret={quote(HOOK.secret, safe='')}" if scene.tells else ""
    match scene.kind:
        case "resend":
            return f"resend://{RESEND_KEY}@default?base_url={at}&name={name}"
        case "mailgun":
            return f"mailgun://{MAILGUN_KEY}@default/{DOMAIN}?base_url={at}&name={name}"
        case _:
            return sendgrid_at(fake.url, name=name) + hook


async def doubts(count: int) -> None:
    print(f"{count:,} doubts at each; HES_DOUBT_SECONDS is 15, on_doubt is resend\n")
    lost: dict[str, list[tuple[float, str, str]]] = {name: [] for name in SCENES}
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            fakes = {}
            for name, scene in SCENES.items():
                told = lost[name]
                note = lambda i, a, told=told: told.append((time.monotonic(), i, a))  # noqa: E731
                fakes[name] = await stack.enter_async_context(Lossy(vendor(scene), note))
            urls = [url(scene, name, fakes[name]) for name, scene in SCENES.items()]
            hes = await stack.enter_async_context(
                house(
                    Path(folder),
                    *urls,
                    doubt_seconds=15,
                    gate_fail_max=1000,
                    poll_seconds=1.0,
                    attempt_timeout=10,
                    retry_base_seconds=1,
                    retry_cap_seconds=600,
                )
            )
            async with anyio.create_task_group() as tasks:
                for name, scene in SCENES.items():
                    tasks.start_soon(_offer, hes, name, fakes[name], count)
                    if scene.tells:
                        tasks.start_soon(_tell, hes, name, lost[name], count)
            print(
                "| | asked again | looked up | by an event | sent again | copies too many |\n|---|--:|--:|--:|--:|--:|"
            )
            for name, scene in SCENES.items():
                print(await _row(hes, scene, fakes[name], count))


async def _offer(hes: House, name: str, fake: Lossy, count: int) -> None:
    began_at, number = time.monotonic(), 0
    while len(fake.doubts) < count:
        number += 1
        await hes.send(to=f"r{number}@example.org", providers=[name], on_doubt="resend")
        await anyio.sleep(max(0.0, began_at + number / PER_SECOND - time.monotonic()))


async def _tell(hes: House, name: str, lost: list[tuple[float, str, str]], count: int) -> None:
    """The provider's events: what was lost, some seconds later."""
    for n in range(count):
        while len(lost) <= n:  # noqa: ASYNC110 (a benchmark, and nothing here tells)
            await anyio.sleep(0.05)
        at, email_id, attempt_id = lost[n]
        await anyio.sleep(max(0.0, at + EVENT_SECONDS - time.monotonic()))
        now = int(time.time())
        event = {"event": "processed", "sg_event_id": f"ev{n}", "timestamp": now, "email": "a@example.org"}
        await hes.hook(name, *HOOK.post([event | {"hes_id": email_id, "hes_attempt": attempt_id}], now))


async def _row(hes: House, scene: Scene, fake: Lossy, count: int) -> str:
    means: Counter[str] = Counter()
    for email_id in sorted(fake.doubts)[:count]:
        email = await hes.until(email_id, "sent", "delivered")
        first = email["attempts"][0]
        sources = [e["data"]["source"] for e in email["events"] if e["type"] == "resolved"]
        is_in_time = first["resolution"] == "accepted" and len(email["attempts"]) == 1
        means[sources[0] if is_in_time else "sent again"] += 1
    extra = sum(fake.copies(email_id) - 1 for email_id in sorted(fake.doubts)[:count])
    cells = [means["replay"], means["look-up"], means["event"], means["sent again"], extra]
    return f"| {scene.title} | " + " | ".join(f"{cell:,}" if cell else "" for cell in cells) + " |"


# --- events ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def storage_with(count: int, file: Path) -> AsyncIterator[tuple[SqlStorage, list[tuple[EmailId, AttemptId]]]]:
    """So many emails to two recipients each, that provider p took. The same ones in every file."""
    rng = random.Random(1)
    new_id = id_maker(lambda: 1_800_000_000_000, rng)
    async with open_sqlite(file, Policy(Rules(providers=("p",)), rng), app.now, new_id) as storage:
        taken: list[tuple[EmailId, AttemptId]] = []
        while len(taken) < count:
            async with anyio.create_task_group() as tasks:
                for _ in range(min(200, count - len(taken))):
                    tasks.start_soon(storage.accept, _an_email(EmailId(new_id())))
            room = {"p": Room(hands=200)}
            leases = await storage.lease(room, size_budget=10**9, is_idle=True, deadline=1e12)
            await storage.settle([_ended(one.email.id, one.attempt_id) for one in leases.items], {})
            taken += ((one.email.id, one.attempt_id) for one in leases.items)
        yield storage, sorted(taken)


def _an_email(email_id: EmailId) -> NewEmail:
    return NewEmail(
        email=Email(
            id=email_id,
            project="p",
            message_id=f"<{email_id}@example.com>",
            date=0,
            sender=Address("a@example.com"),
            to=(Address("r0@example.org"), Address("r1@example.org")),
            subject="s",
            text="t",
        ),
        on_doubt=OnDoubt.HOLD,
        expires_in=86_400,
    )


def _ended(email_id: EmailId, attempt_id: AttemptId) -> Ended:
    answer = Answer(outcome=Outcome.ACCEPTED)
    return Ended(attempt_id=attempt_id, email_id=email_id, provider="p", ended_at=0, answer=answer)


LIVES: Sequence[Sequence[EventKind]] = (
    (EventKind.ACCEPTED, EventKind.DELIVERED),
    (EventKind.ACCEPTED, EventKind.DEFERRED, EventKind.DELIVERED, EventKind.OPENED, EventKind.CLICKED),
    (EventKind.ACCEPTED, EventKind.DEFERRED, EventKind.DEFERRED, EventKind.BOUNCED),
    (EventKind.ACCEPTED, EventKind.DELIVERED, EventKind.BOUNCED),
    (EventKind.ACCEPTED, EventKind.DELIVERED, EventKind.OPENED, EventKind.COMPLAINED),
    (EventKind.ACCEPTED, EventKind.DELIVERED, EventKind.UNSUBSCRIBED),
    (EventKind.REJECTED,),
)
"""What becomes of one recipient, in order."""


def events_of(taken: Sequence[tuple[EmailId, AttemptId]], most: int, rng: random.Random) -> list[ProviderEvent]:
    """Whole lives, in the order of their times."""
    found: list[ProviderEvent] = []
    for n, (email_id, attempt_id) in enumerate(taken):
        for recipient in (0, 1):
            for step, kind in enumerate(rng.choice(LIVES)):
                found.append(
                    ProviderEvent(
                        kind=kind,
                        vendor_type=kind,
                        at=n + step,
                        dedup_id=f"{n}/{recipient}/{step}",
                        recipient=f"r{recipient}@example.org",
                        hes_id=email_id,
                        hes_attempt=attempt_id,
                    )
                )
    return sorted(found, key=lambda event: event.at)[:most]


async def ends(storage: SqlStorage, taken: Sequence[tuple[EmailId, AttemptId]]) -> list[Any]:
    """Of each email: its status, its recipients', and how often what stands in its timeline."""
    found = []
    for email_id, _ in taken:
        stored = await storage.read(Reach("p"), email_id)
        told = Counter(event.type for _, event in stored.events)
        found.append((email_id, stored.delivery.status, tuple(r.status for r in stored.recipients), told))
    return found


async def compare(count: int, folder: Path, *, in_a_post: int) -> tuple[bool, float, float]:
    """Whether both orders end the same, and the seconds that each took."""
    emails = max(1, count // 7)
    results, seconds = [], []
    for is_shuffled in (False, True):
        async with storage_with(emails, folder / f"{is_shuffled}.db") as (storage, taken):
            rng = random.Random(2)
            events = events_of(taken, count, rng)
            if is_shuffled:
                events += rng.sample(events, len(events) // 10)
                rng.shuffle(events)
            began_at = time.monotonic()
            for first in range(0, len(events), in_a_post):
                await storage.inbox.take("p", Told(tuple(events[first : first + in_a_post])))
            seconds.append(time.monotonic() - began_at)
            results.append(await ends(storage, taken))
    return results[0] == results[1], seconds[0], seconds[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["doubts", "events"])
    parser.add_argument("--count", type=int, help="doubts at each provider (1,000), or events (100,000)")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)  # each doubt is a warning
    if given.what == "doubts":
        asyncio.run(doubts(given.count or 1000))
        return
    count = given.count or 100_000
    with tempfile.TemporaryDirectory() as folder:
        is_same, in_order, shuffled = asyncio.run(compare(count, Path(folder), in_a_post=500))
    print(f"{count:,} events, 500 in a POST: in order {in_order:.1f} s, shuffled with repeats {shuffled:.1f} s")
    print("all ended the same" if is_same else "they did NOT end the same")
    sys.exit(not is_same)


if __name__ == "__main__":
    main()
