"""What happens in the demo: emails trickle in, one of two providers breaks twice, and what became of each is counted.

The emails go in, and all that is told of HES comes out, by its API: what is seen here is what every client sees.
"""

import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import Protocol

import anyio
from anyio.abc import TaskStatus
from msgspec import Struct

from hes import serving
from hes.client import AsyncClient, Email, Provider
from hes.demo.provider import FakeProvider, Mode
from hes.settings import Settings, load

PATIENCE_SECONDS = 60.0
"""How long anything may take before the story is given up."""
_MADE_UP_KEY = "demo"


class Pace(Struct, frozen=True, kw_only=True):
    """How fast it is told."""

    calm_seconds: float
    """How long each state of affairs lasts."""
    gate_open_seconds: float
    emails_per_second: float
    look_seconds: float


IN_A_MINUTE = Pace(calm_seconds=8.0, gate_open_seconds=3.0, emails_per_second=20.0, look_seconds=0.25)
FAST = Pace(calm_seconds=0.7, gate_open_seconds=0.4, emails_per_second=60.0, look_seconds=0.05)


class Standing(Struct, frozen=True):
    """One provider at this moment."""

    name: str
    state: str
    reason: str
    took: int
    per_second: float


class Now(Struct, frozen=True):
    """All that moves, at this moment."""

    seconds: float
    providers: list[Standing]
    accepted: int
    sent: int
    failed_over: int
    doubts: int


class Figures(Struct, frozen=True, kw_only=True):
    """What came of it, read off every single email at the end."""

    accepted: int
    sent: int
    sent_by: dict[str, int]
    failed_over: int
    doubts: int
    twice: int
    slowest_seconds: float
    lost: int


class View(Protocol):
    """Shows it to people."""

    def say(self, seconds: float, sentence: str) -> None: ...

    def show(self, now: Now) -> None: ...


async def tell(pace: Pace, view: View) -> Figures | None:
    """The whole story. None: a signal ended it. Leaves nothing behind."""
    story: Story | None = None
    with TemporaryDirectory(prefix="hes-demo-") as folder:
        async with FakeProvider("sendgrid") as steady, FakeProvider("mailgun") as shaky:
            key = token_hex(20)
            settings = _settings(Path(folder), key, (steady, shaky), pace)
            async with anyio.create_task_group() as tasks:
                url = await tasks.start(_serve, settings)
                # After HES listens for signals itself: now they are told here instead, and all ends at once.
                with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                    tasks.start_soon(_cancel_at, signals, tasks.cancel_scope)
                    async with AsyncClient(url, key) as hes:
                        story = Story(hes, steady, shaky, pace, view)
                        await story.run()
                    tasks.cancel_scope.cancel()
    return story.figures if story else None


async def _serve(settings: Settings, *, task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED) -> None:
    """HES as `hes serve` runs it."""
    await serving.serve(settings, started=task_status.started)


async def _cancel_at(signals: AsyncIterator[signal.Signals], scope: anyio.CancelScope) -> None:
    await anext(signals)
    scope.cancel()


def _settings(folder: Path, key: str, providers: Sequence[FakeProvider], pace: Pace) -> Settings:
    """Nothing of this machine's own settings has a say."""
    sendgrid, mailgun = (provider.url.replace("://", "%3A%2F%2F") for provider in providers)
    environ = {
        "HES_DATABASE_URL": f"sqlite:///{folder / 'hes.db'}",
        "HES_OUTBOX_DIR": str(folder / "outbox"),
        "HES_PORT": "0",
        "HES_BOOTSTRAP_KEY": key,
        "HES_GATE_OPEN_SECONDS": str(pace.gate_open_seconds),
        "HES_DOUBT_SECONDS": "0",  # these providers have no records that could be searched
        "HES_PROVIDERS": f"sendgrid://{_MADE_UP_KEY}@default?base_url={sendgrid} "
        f"mailgun://{_MADE_UP_KEY}@default/demo.example?base_url={mailgun}",
    }
    return load({}, environ, folder)


class Story:
    """Goes through it once. `figures` is there at the end."""

    def __init__(self, hes: AsyncClient, steady: FakeProvider, shaky: FakeProvider, pace: Pace, view: View) -> None:
        self.figures: Figures | None = None
        self._hes = hes
        self._steady, self._shaky = steady, shaky
        self._pace = pace
        self._view = view
        self._began_at = time.monotonic()
        self._accepted: list[str] = []
        self._states: dict[str, str] = {}

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._hand_in)
            tasks.start_soon(self._watch)
            await self._plot()
            tasks.cancel_scope.cancel()
        self._say("no more emails come in; now each one is asked what became of it")
        self.figures = figures(await self._all_at_rest(), self._accepted, (self._steady, self._shaky))

    async def _plot(self) -> None:
        shaky, calm = self._shaky, self._pace.calm_seconds
        self._say(f"{self._pace.emails_per_second:g} emails a second come in; both providers work and share them")
        await anyio.sleep(calm)
        shaky.mode = Mode.FAILS
        self._say(f"{shaky.kind} breaks: it answers 503 to everything")
        await self._until(lambda: self._is("down"))
        await anyio.sleep(calm)
        await self._mend()
        await anyio.sleep(calm)
        shaky.mode = Mode.CUTS
        self._say(f"worse: {shaky.kind} takes emails, but its connections break before it answers. Nobody can know")
        await self._until(lambda: self._is("down"))
        await anyio.sleep(calm)
        await self._mend()
        await anyio.sleep(calm)

    async def _mend(self) -> None:
        before = len(self._shaky.took_at)
        self._shaky.mode = Mode.WORKS
        self._say(f"{self._shaky.kind} is mended. HES is not told: it finds out")
        await self._until(lambda: self._is("up", "slowed") and len(self._shaky.took_at) > before + 5)
        self._say(f"traffic returns to {self._shaky.kind}")

    def _is(self, *states: str) -> bool:
        return self._states.get(self._shaky.kind) in states

    async def _until(self, holds: Callable[[], bool]) -> None:
        with anyio.fail_after(PATIENCE_SECONDS):
            while not holds():  # noqa: ASYNC110 (what it waits for is learned by asking the API)
                await anyio.sleep(self._pace.look_seconds)

    async def _hand_in(self) -> None:
        while True:
            number = len(self._accepted) + 1
            accepted = await self._hes.send(
                from_="Shop <shop@demo.example>",
                to=f"customer-{number}@demo.example",
                subject=f"Receipt {number}",
                text="Thank you.",
            )
            self._accepted.append(accepted["id"])
            due_at = self._began_at + number / self._pace.emails_per_second
            await anyio.sleep(max(0.0, due_at - time.monotonic()))

    async def _watch(self) -> None:
        while True:
            providers = await self._hes.providers()
            for provider in providers:
                self._notice(provider)
            self._view.show(self._now(providers))
            await anyio.sleep(self._pace.look_seconds)

    def _notice(self, provider: Provider) -> None:
        """A sentence where its state is another than before."""
        name, state = provider["name"], provider["state"]
        before = self._states.get(name, "up")
        self._states[name] = state
        if state == before:
            return
        match state:
            case "down" if before != "probing":
                self._say(f"HES shuts the gate of {name} and goes on without it: {provider['reason']}")
            case "down":
                self._say(f"{name} is still broken; its gate stays shut")
            case "probing":
                self._say(f"HES tries {name} with one email")
            case "up" | "slowed" if before in {"down", "probing"}:
                self._say(f"that went well: HES opens the gate of {name}, first for two emails at once, then for more")

    def _now(self, providers: Sequence[Provider]) -> Now:
        fakes = {fake.kind: fake for fake in (self._steady, self._shaky)}
        taken = set(self._steady.taken) | set(self._shaky.taken)
        trouble = self._shaky.refused | self._shaky.cut
        standings = [
            Standing(
                provider["name"],
                provider["state"],
                provider["reason"] or "",
                len(fakes[provider["name"]].took_at),
                fakes[provider["name"]].took_within(2.0) / 2.0,
            )
            for provider in providers
        ]
        return Now(
            seconds=time.monotonic() - self._began_at,
            providers=standings,
            accepted=len(self._accepted),
            sent=len(taken),
            failed_over=len(trouble & set(self._steady.taken)),
            doubts=len(self._shaky.cut),
        )

    async def _all_at_rest(self) -> list[Email]:
        """Every email, when nothing is on its way any more, or patience has ended."""
        found: list[Email] = []
        deadline = time.monotonic() + PATIENCE_SECONDS
        for email_id in self._accepted:
            email = await self._hes.email(email_id)
            while email["status"] != "sent" and time.monotonic() < deadline:
                await anyio.sleep(self._pace.look_seconds)
                email = await self._hes.email(email_id)
            found.append(email)
        return found

    def _say(self, sentence: str) -> None:
        self._view.say(time.monotonic() - self._began_at, sentence)


def figures(emails: Sequence[Email], accepted: Sequence[str], providers: Sequence[FakeProvider]) -> Figures:
    """HES's word, and the providers': an email that HES calls sent and no provider has is lost as well."""
    copies = sum((provider.taken for provider in providers), Counter[str]())
    sent = [email for email in emails if email["status"] == "sent" and copies[email["id"]]]
    return Figures(
        accepted=len(accepted),
        sent=len(sent),
        sent_by=dict(sorted(Counter(str(email["provider"]) for email in sent).items())),
        failed_over=sum(any(event["type"] == "failed_over" for event in email.get("events", [])) for email in emails),
        doubts=sum(attempt["outcome"] == "in_doubt" for email in emails for attempt in email.get("attempts", [])),
        twice=sum(count > 1 for count in copies.values()),
        slowest_seconds=max((_seconds_to_sent(email) for email in sent), default=0.0),
        lost=len(accepted) - len(sent),
    )


def _seconds_to_sent(email: Email) -> float:
    """From acceptance until the answer of the provider that took it."""
    ends = [a["ended_at"] for a in email.get("attempts", []) if a["outcome"] == "accepted" and a["ended_at"]]
    created_at = datetime.fromisoformat(email["created_at"])
    return (min(map(datetime.fromisoformat, ends), default=created_at) - created_at).total_seconds()
