"""Builds one process from the settings and wires it: the only file that knows every part.

POST /v1/emails ─▶ storage.accept ─▶ 202, wake ─▶ the mailer (`hes.mailer`), in this process or in others

What a process has: `api` the HTTP application, `mailer` the mailer and its health, `all` both. Where several share a
storage each says now and then that it is there (`hes.actors.membership`).
"""

import contextlib
import hashlib
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import sqlalchemy as sa
from msgspec.structs import replace

from hes.actors.actor import StorageTrouble
from hes.actors.membership import Membership
from hes.actors.operator import Operator
from hes.actors.supervisor import Supervisor
from hes.actors.tidier import Tidier
from hes.actors.watchdog import Watchdog
from hes.configured import all_providers, daily_quotas, rules_of
from hes.errors import ConfigError, StorageUnavailable
from hes.ids import NewId
from hes.label_sets import known_at_start
from hes.mailer import Mailer
from hes.model import Clock, Millis
from hes.node import SharedClock, ThisNode
from hes.policy import Policy
from hes.provider_settings import Kind
from hes.providers import REGISTRY, Surroundings, make_provider
from hes.providers.hook import BadEvents, BadSignature, ReadEvents
from hes.providers.maildir import kept_emails, remove_messages
from hes.providers.outbox import Outbox
from hes.providers.provider import Provider
from hes.routing import OUTBOX
from hes.secret import Secret
from hes.settings import Settings
from hes.storage.postgres import PostgresUrl, open_postgres
from hes.storage.records import Waiting
from hes.storage.sql import SqlStorage
from hes.storage.sqlite import open_sqlite
from hes.storage.storage import Storage
from hes.telemetry.telemetry import OFF, App, Telemetry
from hes.told import Told
from hes.web.api_keys import ApiKeys, StoredKeys
from hes.web.backlog import Backlog
from hes.web.desk import Desk, Hook, ReadHook, Readiness
from hes.web.memory_budget import MemoryBudget
from hes.web.paths import strict_paths
from hes.web.routes import answers, create_web
from hes.web.throttle import Rates, WrongKeys, client_name

BODY_BYTES_IN_HAND = 128 * 1024 * 1024
"""Of requests together that are being read or written to disk; each takes about three times its size in memory."""
SMALL_BODY_BYTES_IN_HAND = 16 * 1024 * 1024
"""Of small ones besides."""
ANSWER_BYTES_IN_HAND = 64 * 1024 * 1024
"""Of answers together that are being made, or read by their callers; making one takes three times its size."""
SMALL_ANSWER_BYTES_IN_HAND = 16 * 1024 * 1024
EVENT_BYTES_IN_HAND = 32 * 1024 * 1024
"""Of providers' events likewise."""
SMALL_EVENT_BYTES_IN_HAND = 8 * 1024 * 1024
BODY_SECONDS = 30.0
"""How long the body of a request may take to come: the largest at a megabyte a second."""
EVENTS_SECONDS = 10.0
"""Likewise of a provider, whose POSTs are smaller and whose lines are good."""


def now() -> Millis:
    return time.time_ns() // 1_000_000


class Process:
    """The parts of one process, as its role has them. Must be closed."""

    def __init__(
        self,
        settings: Settings,
        storage: SqlStorage,
        new_id: NewId,
        wall_clock: Clock,
        rng: random.Random,
        telemetry: Telemetry = OFF,
    ) -> None:
        clock = SharedClock(wall_clock)
        self._mailer = None
        if settings.role != "api":
            providers = make_providers(settings, storage, clock)
            self._mailer = Mailer(settings, storage, providers, clock, rng, telemetry=telemetry)
        node = ThisNode(settings, storage, self._mailer, clock)
        self._membership = Membership(
            storage,
            StorageTrouble(time.monotonic) if self._mailer is None else self._mailer.trouble,
            here=node,
            set_clock=clock.set,
            share=self._mailer.share if self._mailer is not None else lambda _: None,
            monotonic=time.monotonic,
            rng=rng,
        )
        self._watchdog = Watchdog(
            storage,
            telemetry,
            vitals=[storage.vitals, *([self._mailer.vitals.gauges] if self._mailer is not None else [])],
            busy_seconds=self._busy_seconds,
            queue_limit=settings.queue_limit,
            clock=clock,
            monotonic=time.monotonic,
            rng=rng,
        )
        self._is_shared = storage.is_shared
        self._stored_keys = StoredKeys(storage.keys, clock)
        self._supervisor = Supervisor(time.monotonic, rng)
        self._is_stopping = anyio.Event()
        self.readiness = Readiness()
        operator = make_operator(settings, storage, node, clock)
        self._backlog = make_backlog(settings, storage)
        desk = make_desk(
            settings, storage, operator, node, new_id, clock, self.readiness, self._stored_keys, self._backlog
        )
        self._tidier = make_tidier(settings, storage, clock, rng)
        if self._tidier is not None:
            desk = replace(desk, forget=self._tidier.forget)
        page = telemetry.exposition
        web = create_web(desk, docs=settings.docs, metrics=page, only_health=settings.role == "mailer")
        self.web: App = telemetry.around(strict_paths(web))
        for metric, *of in known_at_start(settings, answers(web), desk.hooks):
            telemetry.begin(metric, *of)

    @property
    def in_flight(self) -> int:
        """Calls to providers."""
        return self._mailer.in_flight if self._mailer is not None else 0

    def _busy_seconds(self) -> dict[str, float]:
        busy = self._mailer.vitals.busy_seconds() if self._mailer is not None else {}
        return busy | ({self._membership.name: self._membership.pulse.busy_seconds()} if self._is_shared else {})

    async def prepare(self) -> None:
        """Before the first request; a storage that is away is no reason not to begin."""
        if self._backlog.is_limited:
            with contextlib.suppress(StorageUnavailable):
                await self._backlog.refresh()

    async def run(self) -> None:
        """Work until `stop`, then let what is in flight end. Raises what an actor died of."""
        async with anyio.create_task_group() as beside:
            beside.start_soon(self._stored_keys.run)
            beside.start_soon(self._supervisor.run, self._watchdog)
            if self._backlog.is_limited:
                beside.start_soon(self._backlog.run)
            if self._tidier is not None:
                beside.start_soon(self._supervisor.run, self._tidier)
            if self._is_shared:
                beside.start_soon(self._supervisor.run, self._membership)
            if self._mailer is not None:
                await self._mailer.run()
            else:
                await self._is_stopping.wait()
            beside.cancel_scope.cancel()

    def stop(self) -> None:
        """Unready, and nothing new begins."""
        self.readiness.is_stopping = True
        self._is_stopping.set()
        if self._mailer is not None:
            self._mailer.stop()

    async def aclose(self) -> None:
        if self._is_shared:
            await self._membership.leave()
        if self._mailer is not None:
            await self._mailer.aclose()


@asynccontextmanager
async def open_storage(
    settings: Settings, clock: Clock, new_id: NewId, rng: random.Random, telemetry: Telemetry = OFF
) -> AsyncIterator[SqlStorage]:
    """The storage that `HES_DATABASE_URL` names. One line per kind."""
    policy = Policy(rules_of(settings), rng)
    opened = (
        open_sqlite(sqlite_path(settings), policy, clock, new_id, telemetry)
        if settings.is_sqlite
        else open_postgres(postgres_url(settings), policy, new_id, telemetry=telemetry)
    )
    async with opened as storage:
        yield storage


def make_providers(settings: Settings, storage: Storage, clock: Clock) -> list[Provider]:
    """One for each that `all_providers` names."""
    around = Surroundings(clock=clock, keep=storage.keep, outbox_dir=settings.outbox_dir)
    made = [make_provider(provider, around) for provider in settings.providers]
    hidden = len(all_providers(settings)) > len(made)
    return [*made, Outbox(OUTBOX, storage.keep, maildir=None)] if hidden else made


def make_tidier(settings: Settings, storage: SqlStorage, clock: Clock, rng: random.Random) -> Tidier | None:
    """Where the outbox writes a Maildir."""
    if settings.role == "api" or all(provider.kind != Kind.OUTBOX for provider in settings.providers):
        return None
    return Tidier(
        storage.has_content,
        kept=partial(kept_emails, settings.outbox_dir),
        remove=partial(remove_messages, settings.outbox_dir),
        keep_history_days=settings.retention_history,
        clock=clock,
        rng=rng,
    )


def make_hooks(settings: Settings) -> dict[str, Hook]:
    """Of the providers that tell something and have a secret to know it by.

    Raises ConfigError: a secret can't be one.
    """
    found = {}
    for provider in settings.providers:
        entry, secret = REGISTRY[provider.kind], provider.webhook_secret
        if entry.read_events is not None and secret is not None:
            of_kind = {p.name: p.webhook_secret for p in settings.providers if p.kind is provider.kind}
            read_hook = _read_hook(entry.read_events, secret, {n: s for n, s in of_kind.items() if s is not None})
            _try_secret(provider.name, read_hook)
            found[provider.name] = Hook(read_hook, entry.check_headers)
    return found


def _read_hook(read_events: ReadEvents, secret: Secret, of_kind: Mapping[str, Secret]) -> ReadHook:
    """`of_kind`: the secrets of all providers of this kind, by name."""

    def read(headers: Mapping[str, str], body: bytes, at: Millis) -> Told:
        key = secret.reveal()  # for each POST: it may stand in a file that changes
        told = read_events(headers, body, key, at)
        sharing = sorted(name for name, other in of_kind.items() if other.reveal() == key)
        fingerprint = hashlib.sha256(b"webhook_secret:" + key.encode()).hexdigest()
        return replace(told, signer=fingerprint, providers=tuple(sharing))

    return read


def _try_secret(name: str, read_hook: ReadHook) -> None:
    """By an empty POST, which is nothing that a provider signed."""
    try:
        read_hook({}, b"", 0)
    except ConfigError as error:
        raise ConfigError(f"provider {name}: {error}") from None
    except (BadSignature, BadEvents):
        return


def make_operator(settings: Settings, storage: Storage, node: ThisNode, clock: Clock) -> Operator:
    return Operator(
        storage,
        kinds={one.name: one.kind for one in settings.providers},
        weights={one.name: one.weight for one in settings.providers},
        daily_quotas=daily_quotas(settings),
        here=node.if_it_sends,
        told=node.told,
        clock=clock,
    )


def postgres_url(settings: Settings) -> PostgresUrl:
    return PostgresUrl(settings.database_url.reveal())


def sqlite_path(settings: Settings) -> Path:
    """The file of a `sqlite:///` URL."""
    return Path(sa.make_url(settings.database_url.reveal()).database or "hes.db")


def make_backlog(settings: Settings, storage: SqlStorage) -> Backlog:
    of_project = settings.project_limit_bytes
    return Backlog(
        storage,
        Waiting(settings.queue_limit, settings.queue_limit_bytes),
        time.monotonic,
        project_bytes=settings.queue_limit_bytes if of_project is None else of_project,
    )


def make_desk(
    settings: Settings,
    storage: SqlStorage,
    operator: Operator,
    node: ThisNode,
    new_id: NewId,
    clock: Clock,
    readiness: Readiness,
    stored_keys: StoredKeys,
    backlog: Backlog,
) -> Desk:
    """What the HTTP handlers work with."""
    bootstrap = settings.bootstrap_key.reveal() if settings.bootstrap_key else None
    return Desk(
        storage=storage,
        emails=storage,
        authenticator=ApiKeys(stored_keys, WrongKeys(time.monotonic, settings.trusted_proxies), bootstrap),
        keys=storage.keys,
        inbox=storage.inbox,
        hooks=make_hooks(settings),
        rates=Rates(time.monotonic),
        backlog=backlog,
        readiness=readiness,
        gates=operator,
        wake=node.wake,
        new_id=new_id,
        clock=clock,
        provider_names=frozenset(provider.name for provider in settings.providers),
        outbox_only=all(provider.kind == "outbox" for provider in settings.providers),
        on_doubt=settings.on_doubt,
        expires_in=settings.expires_in,
        max_body_bytes=settings.max_body_bytes,
        client_name=partial(client_name, trusted=settings.trusted_proxies),
        bodies=MemoryBudget("emails", BODY_BYTES_IN_HAND, SMALL_BODY_BYTES_IN_HAND, time.monotonic),
        body_seconds=BODY_SECONDS,
        answers=MemoryBudget("answers", ANSWER_BYTES_IN_HAND, SMALL_ANSWER_BYTES_IN_HAND, time.monotonic),
        events=MemoryBudget("events of providers", EVENT_BYTES_IN_HAND, SMALL_EVENT_BYTES_IN_HAND, time.monotonic),
        events_seconds=EVENTS_SECONDS,
        attempt_timeout_limit=settings.longest_call_seconds,
    )
