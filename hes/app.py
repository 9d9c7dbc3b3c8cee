"""Builds everything from the settings and wires it: the only file that knows every part.

POST /v1/emails ─▶ storage.accept ─▶ 202            wake ─────┐
                                                              ▼
storage ◀─ lease ─ intake ─▶ sender ─▶ provider       (per provider, per free hand)
   ▲                            │
   └── settle ── reporter ◀─────┘  then the hand is free, and the intake is woken

gatekeeper: what the gates learn, and operators say   janitor: lapsed leases, expiry, old keys
supervisor: above all of them
"""

import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import sqlalchemy as sa
from litestar import Litestar

from hes.actors.actor import Mailbox, StorageTrouble
from hes.actors.gate import Gate, GateSettings
from hes.actors.gatekeeper import Gatekeeper
from hes.actors.intake import Intake
from hes.actors.janitor import Janitor
from hes.actors.reporter import Reporter
from hes.actors.sender import Sender
from hes.actors.supervisor import Supervisor
from hes.case import Backoff, Rules
from hes.ids import NewId
from hes.model import Clock, Ended, Leased, Millis, Monotonic
from hes.policy import Policy
from hes.provider_settings import Kind, ProviderSettings
from hes.providers import Surroundings, make_provider
from hes.providers.outbox import Outbox
from hes.providers.provider import Provider
from hes.routing import OUTBOX
from hes.settings import MARGIN_SECONDS, Settings
from hes.storage.records import Waiting
from hes.storage.sql import SqlStorage
from hes.storage.sqlite import open_sqlite
from hes.storage.storage import Storage
from hes.web.api_keys import ApiKeys, StoredKeys
from hes.web.backlog import Backlog
from hes.web.desk import Budget, Desk, Readiness
from hes.web.routes import create_web
from hes.web.throttle import Rates, WrongKeys

BODY_BYTES_IN_HAND = 128 * 1024 * 1024
"""Of requests together that are being read or written to disk; each takes about three times its size in memory."""


def now() -> Millis:
    return time.time_ns() // 1_000_000


class Mailer:
    """The actors that get emails out, wired."""

    def __init__(
        self,
        settings: Settings,
        storage: Storage,
        providers: Sequence[Provider],
        clock: Clock,
        rng: random.Random,
        monotonic: Monotonic = time.monotonic,
    ) -> None:
        """`providers`: as `make_providers` makes them; closed by `aclose`."""
        trouble = StorageTrouble(monotonic)
        self._senders: dict[str, Sender] = {}
        self.intake = Intake(
            storage,
            self._senders,
            trouble,
            poll_seconds=settings.poll_seconds,
            lease_seconds=settings.lease_seconds,
            monotonic=monotonic,
            rng=rng,
        )
        self.gatekeeper = Gatekeeper(
            storage,
            self._senders,
            self.intake,
            trouble,
            names=[one.name for one in settings.providers],
            daily_quotas=daily_quotas(settings),
            clock=clock,
        )
        configured = {one.name: one for one in all_providers(settings)}
        self._outcomes = Mailbox[Ended](sum(one.max_in_flight for one in configured.values()))
        self._leased: list[Mailbox[Leased]] = []
        self._providers = providers
        for provider in providers:
            one = configured[provider.name]
            mailbox = Mailbox[Leased](one.max_in_flight)
            gate = Gate(
                one.name,
                gate_settings(one),
                clock=clock,
                monotonic=monotonic,
                rng=rng,
                changed=self.gatekeeper.wake,
            )
            self._leased.append(mailbox)
            self._senders[one.name] = Sender(
                provider,
                gate,
                mailbox,
                self._outcomes,
                hands=one.max_in_flight,
                timeout_seconds=one.attempt_timeout,
                clock=clock,
                monotonic=monotonic,
            )
        self._reporter = Reporter(storage, self._outcomes, self._senders, trouble, wake=self.intake.wake)
        self._janitor = Janitor(
            storage,
            self._reporter,
            trouble,
            held=lambda: [attempt_id for sender in self._senders.values() for attempt_id in sender.in_hand],
            period_seconds=settings.poll_seconds,
            lease_seconds=settings.lease_seconds,
            monotonic=monotonic,
            rng=rng,
        )
        self._supervisor = Supervisor(monotonic, rng)

    async def run(self) -> None:
        """Work until `stop`, then let what is in flight end, and write down how. Raises what an actor died of."""
        await self.gatekeeper.load()
        async with anyio.create_task_group() as others:
            others.start_soon(self._supervisor.run, self._janitor)
            others.start_soon(self._supervisor.run, self.gatekeeper)
            async with anyio.create_task_group() as writing:
                writing.start_soon(self._supervisor.run, self._reporter)
                async with anyio.create_task_group() as sending:
                    for sender in self._senders.values():
                        sending.start_soon(self._supervisor.run, sender)
                    await self._supervisor.run(self.intake)
                    for sender in self._senders.values():  # only now: what was leased last still found its hand
                        sender.stop()
                self._outcomes.close()  # upstream first: nobody is left who could tell the reporter anything
            others.cancel_scope.cancel()

    def stop(self) -> None:
        """Lease nothing more. `run` ends when the calls in flight have, and their outcomes are written."""
        self.intake.stop()

    @property
    def in_flight(self) -> int:
        return sum(sender.in_flight for sender in self._senders.values())

    async def aclose(self) -> None:
        self._outcomes.discard()
        for mailbox in self._leased:
            mailbox.discard()
        for provider in self._providers:
            await provider.aclose()


@asynccontextmanager
async def open_storage(
    settings: Settings, clock: Clock, new_id: NewId, rng: random.Random
) -> AsyncIterator[SqlStorage]:
    """The storage that `HES_DATABASE_URL` names. One line per kind."""
    async with open_sqlite(sqlite_path(settings), Policy(rules_of(settings), rng), clock, new_id) as storage:
        yield storage


def make_providers(settings: Settings, storage: Storage, clock: Clock) -> list[Provider]:
    """One for each that `all_providers` names."""
    around = Surroundings(clock=clock, keep=storage.keep, outbox_dir=settings.outbox_dir)
    made = [make_provider(provider, around) for provider in settings.providers]
    hidden = len(all_providers(settings)) > len(made)
    return [*made, Outbox(OUTBOX, storage.keep, maildir=None)] if hidden else made


def all_providers(settings: Settings) -> tuple[ProviderSettings, ...]:
    """The configured ones, and the built-in outbox of test keys if it is not among them."""
    if any(provider.name == OUTBOX for provider in settings.providers):
        return settings.providers
    return (*settings.providers, ProviderSettings(name=OUTBOX, kind=Kind.OUTBOX))


def rules_of(settings: Settings) -> Rules:
    return Rules(
        providers=tuple(provider.name for provider in settings.providers),
        routes=settings.routes,
        backoffs={p.name: Backoff(p.retry_base_seconds, p.retry_cap_seconds) for p in settings.providers},
        daily_quotas=daily_quotas(settings),
        lease_seconds=settings.lease_seconds,
    )


def daily_quotas(settings: Settings) -> dict[str, int]:
    return {p.name: p.daily_quota for p in settings.providers if p.daily_quota is not None}


def gate_settings(provider: ProviderSettings) -> GateSettings:
    return GateSettings(
        fail_max=provider.gate_fail_max,
        open_seconds=provider.gate_open_seconds,
        max_in_flight=provider.max_in_flight,
        rate_per_second=provider.rate_per_second,
        weight=provider.weight,
    )


def sqlite_path(settings: Settings) -> Path:
    """The file of a `sqlite:///` URL."""
    return Path(sa.make_url(settings.database_url.reveal()).database or "hes.db")


def make_backlog(settings: Settings, storage: SqlStorage) -> Backlog:
    return Backlog(storage, Waiting(settings.queue_limit, settings.queue_limit_bytes), time.monotonic)


def create_app(
    settings: Settings,
    storage: SqlStorage,
    mailer: Mailer,
    new_id: NewId,
    clock: Clock,
    readiness: Readiness,
    stored_keys: StoredKeys,
    backlog: Backlog,
) -> Litestar:
    """The HTTP application over these parts."""
    bootstrap = settings.bootstrap_key.reveal() if settings.bootstrap_key else None
    desk = Desk(
        storage=storage,
        emails=storage,
        authenticator=ApiKeys(stored_keys, WrongKeys(time.monotonic, settings.trusted_proxies), bootstrap),
        keys=storage.keys,
        rates=Rates(time.monotonic),
        backlog=backlog,
        readiness=readiness,
        gates=mailer.gatekeeper,
        wake=mailer.intake.wake,
        new_id=new_id,
        clock=clock,
        provider_names=frozenset(provider.name for provider in settings.providers),
        outbox_only=all(provider.kind == "outbox" for provider in settings.providers),
        on_doubt=settings.on_doubt,
        expires_in=settings.expires_in,
        max_body_bytes=settings.max_body_bytes,
        bodies=Budget(BODY_BYTES_IN_HAND),
        attempt_timeout_limit=min(settings.lease_seconds, settings.grace_seconds) - MARGIN_SECONDS,
    )
    return create_web(desk, docs=settings.docs)
