"""kill -9 at random moments. What was accepted is sent or says honestly why not, and nobody gets an unexcused copy."""

import collections
import random
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio.streams.memory import MemoryObjectReceiveStream

from tests.faults.server import Client, Hes, Warm, an_email, client, fake_process, sendgrid_at, warm

pytestmark = pytest.mark.anyio

SEED = 20261124
EMAILS, KILLS, HANDS, CLIENTS = 1000, 20, 64, 4
LATENCY_MS = 300
LIFE_SECONDS = 0.9
"""A life is killed so long after it was ready, at most."""
START_SECONDS = 0.2
"""Every fifth life is killed so long after its start, at most: about when it recovers what the one before left."""


class Lives:
    """One `hes serve` after the other, on one database; and when each was killed and the next one ready."""

    def __init__(self, starter: Warm, providers: str) -> None:
        self._starter = starter
        self._settings = {"providers": providers, "expires_in": 3600}
        self.up = anyio.Event()
        self.deaths: list[tuple[float, float]] = []
        self.current: Hes

    async def start(self) -> None:
        self.current = await self._starter.start(**self._settings)
        await self.current.ready()
        self.up.set()

    async def kill(self, *, next_one_after: float | None = None) -> None:
        """And start the next one; which is killed, too, if it is told after what time."""
        self.up = anyio.Event()
        killed_at = time.time()
        await self.current.kill()
        if next_one_after is not None:
            doomed = await self._starter.start(**self._settings)
            await anyio.sleep(next_one_after)
            await doomed.kill()
        await self.start()
        self.deaths.append((killed_at, time.time()))


class Mail:
    """All that is handed in, and what was answered."""

    def __init__(self, rng: random.Random) -> None:
        self.bodies = [an_email(subject=f"{n}", on_doubt=rng.choice(["resend", "hold"])) for n in range(EMAILS)]
        self.ids: set[str] = set()
        self.repeated = 0

    async def hand_in(self, work: MemoryObjectReceiveStream[int], lives: Lives, hes: Client) -> None:
        """One client: repeats under its key what was not answered."""
        rng = random.Random(SEED)
        async for number in work:
            while not await self._is_accepted(hes, number):
                self.repeated += 1
                await lives.up.wait()
            await anyio.sleep(rng.uniform(0, 0.04))  # so that it lasts about as long as a life

    async def _is_accepted(self, hes: Client, number: int) -> bool:
        try:
            answer = await hes.post("/v1/emails", self.bodies[number], key=f"key-{number}")
        except httpx.TransportError:
            return False
        assert answer.status_code == 202, answer.text
        self.ids.add(answer.json()["id"])
        return True


async def test_twenty_kills_lose_nothing_and_double_only_what_was_in_doubt(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    mail = Mail(rng)
    async with fake_process(latency_ms=LATENCY_MS) as fake, warm(tmp_path) as starter:
        lives = Lives(starter, sendgrid_at(fake.url, max_in_flight=HANDS))
        async with client(lambda: lives.current.url) as hes:
            await lives.start()
            await hand_in_and_kill(mail, lives, hes, rng)
            emails = [await hes.until(email_id) for email_id in sorted(mail.ids)]
        await lives.current.kill()
        copies = await fake.accepted()
    print(summary(mail, emails, copies))  # noqa: T201
    assert len(emails) == EMAILS, "under each key there is one email"
    check_copies(emails, copies)
    check_honesty(emails, lives.deaths)


async def hand_in_and_kill(mail: Mail, lives: Lives, hes: Client, rng: random.Random) -> None:
    give, take = anyio.create_memory_object_stream[int](EMAILS)
    async with take, anyio.create_task_group() as tasks:
        for _ in range(CLIENTS):
            tasks.start_soon(mail.hand_in, take, lives, hes)
        numbers = iter(range(EMAILS))
        while len(lives.deaths) < KILLS * 4 / 5:
            for _ in range(EMAILS * 5 // 4 // KILLS + 1):
                if (number := next(numbers, None)) is not None:
                    give.send_nowait(number)
            await anyio.sleep(rng.uniform(0, LIFE_SECONDS))
            both = len(lives.deaths) % 4 == 3
            await lives.kill(next_one_after=rng.uniform(0, START_SECONDS) if both else None)
        give.close()


def check_copies(emails: Iterable[dict[str, Any]], copies: Iterable[dict[str, Any]]) -> None:
    """Each copy belongs to an attempt that HES knows, and each but one to a doubt that allowed another."""
    taken = collections.Counter((copy["hes_id"], copy["hes_attempt"]) for copy in copies)
    for email in emails:
        attempts = {attempt["id"]: attempt["outcome"] for attempt in email["attempts"]}
        mine = {attempt: times for attempt in attempts if (times := taken.pop((email["id"], attempt), 0))}
        assert all(times == 1 for times in mine.values()), email
        assert {a for a, outcome in attempts.items() if outcome == "accepted"} <= mine.keys(), email
        assert len(mine) - 1 <= list(attempts.values()).count("in_doubt"), email
        assert len(mine) <= 1 or email["on_doubt"] == "resend", email
    assert not taken, "a provider got what nobody handed in, or in an attempt that was not on disk"


def check_honesty(emails: Iterable[dict[str, Any]], deaths: list[tuple[float, float]]) -> None:
    """Sent, or held for a doubt; and in doubt is only what was in flight at a kill, known when HES was ready again."""
    for email in emails:
        doubts = [attempt for attempt in email["attempts"] if attempt["outcome"] == "in_doubt"]
        for attempt in doubts:
            begun, ended = when(attempt["started_at"]), when(attempt["ended_at"])
            assert any(begun <= ready and killed - 0.001 <= ended <= ready for killed, ready in deaths), email
        if email["status"] == "sent":
            assert email["attempts"][-1]["outcome"] == "accepted", email
        elif email["reason"] == "poison":
            assert len(doubts) == 3, email
        else:
            assert (email["status"], email["reason"], email["on_doubt"]) == ("held", "doubt", "hold"), email
            assert doubts, email


def when(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def summary(mail: Mail, emails: Iterable[dict[str, Any]], copies: list[dict[str, Any]]) -> str:
    states = collections.Counter(f"{email['status']} {email['reason'] or ''}".strip() for email in emails)
    doubts = sum(attempt["outcome"] == "in_doubt" for email in emails for attempt in email["attempts"])
    second = len(copies) - len({copy["hes_id"] for copy in copies})
    return (
        f"{KILLS} kills: {doubts} attempts in doubt, {second} second copies, {mail.repeated} requests repeated; "
        f"emails: {dict(states)}"
    )
