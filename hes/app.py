"""Builds everything from the settings and wires it: the only file that knows every part. And `serve`, a process's life.

POST /v1/emails ─▶ storage.accept ─▶ 202            wake ─────┐
                                                              ▼
storage ◀─ lease ─ intake ─▶ sender ─▶ provider       (per provider, per free hand)
   ▲                            │
   └── settle ── reporter ◀─────┘  then the hand is free, and the intake is woken

janitor: lapsed leases, expiry, old keys              supervisor: above all of them
"""

import errno
import logging
import random
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import sqlalchemy as sa
import uvicorn
from litestar import Litestar

from hes import __version__
from hes.actors.actor import Actor, Mailbox, StorageTrouble
from hes.actors.intake import Intake
from hes.actors.janitor import Janitor
from hes.actors.reporter import Reporter
from hes.actors.sender import Sender
from hes.actors.supervisor import Supervisor
from hes.errors import ConfigError
from hes.ids import NewId, id_maker
from hes.model import Clock, Ended, Leased, Millis
from hes.policy import Policy, Rules
from hes.providers import Surroundings, make_provider
from hes.settings import MARGIN_SECONDS, Settings
from hes.storage.sql import SqlStorage
from hes.storage.sqlite import open_sqlite
from hes.web.auth import BootstrapKey, NoKeys
from hes.web.desk import Desk, Readiness
from hes.web.routes import create_web

_log = logging.getLogger("hes")

UNREADY_SECONDS = 1.0
"""How long at most a stopping process still answers, unready, so that balancers look elsewhere first."""
KEEP_ALIVE_SECONDS = 75
"""Longer than the usual 60 s of proxies in front, so that it is they who close idle connections."""


def now() -> Millis:
    return time.time_ns() // 1_000_000


class Mailer:
    """The actors that get emails out, wired."""

    def __init__(self, settings: Settings, storage: SqlStorage, clock: Clock, rng: random.Random) -> None:
        around = Surroundings(clock=clock, keep=storage.keep, outbox_dir=settings.outbox_dir)
        self._providers = [make_provider(provider, around) for provider in settings.providers]
        hands = {provider.name: provider.max_in_flight for provider in settings.providers}
        monotonic = time.monotonic
        trouble = StorageTrouble(monotonic)
        self._outcomes = Mailbox[Ended](sum(hands.values()))
        self._leased = {name: Mailbox[Leased](count) for name, count in hands.items()}
        self._senders = {
            p.name: Sender(
                p, self._leased[p.name], self._outcomes, hands=hands[p.name], clock=clock, monotonic=monotonic
            )
            for p in self._providers
        }
        self.intake = Intake(
            storage,
            self._senders,
            trouble,
            poll_seconds=settings.poll_seconds,
            lease_seconds=settings.lease_seconds,
            monotonic=monotonic,
            rng=rng,
        )
        self._reporter = Reporter(storage, self._outcomes, trouble, release=self._release, wake=self.intake.wake)
        janitor = Janitor(
            storage,
            self._reporter,
            trouble,
            period_seconds=settings.poll_seconds,
            lease_seconds=settings.lease_seconds,
            monotonic=monotonic,
            rng=rng,
        )
        self._supervisor = Supervisor(monotonic, rng)
        self._sending: Sequence[Actor] = (*self._senders.values(), self.intake)
        self._janitor = janitor

    def _release(self, ended: Ended) -> None:
        self._senders[ended.provider].release(ended)

    async def run(self) -> None:
        """Work until `stop`, then let what is in flight end, and write down how. Raises what an actor died of."""
        async with anyio.create_task_group() as others:
            others.start_soon(self._supervisor.run, self._janitor)
            async with anyio.create_task_group() as writing:
                writing.start_soon(self._supervisor.run, self._reporter)
                async with anyio.create_task_group() as sending:
                    for actor in self._sending:
                        sending.start_soon(self._supervisor.run, actor)
                self._outcomes.close()  # upstream first: nobody is left who could tell the reporter anything
            others.cancel_scope.cancel()

    def stop(self) -> None:
        """Begin no call any more. `run` ends when the calls in flight have."""
        self.intake.stop()
        for sender in self._senders.values():
            sender.stop()

    @property
    def in_flight(self) -> int:
        return sum(sender.in_flight for sender in self._senders.values())

    async def aclose(self) -> None:
        self._outcomes.discard()
        for mailbox in self._leased.values():
            mailbox.discard()
        for provider in self._providers:
            await provider.aclose()


@asynccontextmanager
async def open_storage(
    settings: Settings, clock: Clock, new_id: NewId, rng: random.Random
) -> AsyncIterator[SqlStorage]:
    """The storage that `HES_DATABASE_URL` names. One line per kind."""
    rules = Rules(
        providers=tuple(provider.name for provider in settings.providers),
        lease_seconds=settings.lease_seconds,
        retry_base_seconds=settings.retry_base_seconds,
        retry_cap_seconds=settings.retry_cap_seconds,
        refused_seconds=settings.gate_open_seconds,
    )
    async with open_sqlite(sqlite_path(settings), Policy(rules, rng), clock, new_id) as storage:
        yield storage


def sqlite_path(settings: Settings) -> Path:
    """The file of a `sqlite:///` URL."""
    return Path(sa.make_url(settings.database_url.reveal()).database or "hes.db")


def create_app(
    settings: Settings, storage: SqlStorage, wake: Callable[[], None], new_id: NewId, clock: Clock, readiness: Readiness
) -> Litestar:
    """The HTTP application over these parts."""
    desk = Desk(
        storage=storage,
        authenticator=BootstrapKey(settings.bootstrap_key.reveal()) if settings.bootstrap_key else NoKeys(),
        readiness=readiness,
        wake=wake,
        new_id=new_id,
        clock=clock,
        provider_names=frozenset(provider.name for provider in settings.providers),
        outbox_only=all(provider.kind == "outbox" for provider in settings.providers),
        on_doubt=settings.on_doubt,
        expires_in=settings.expires_in,
        attempt_timeout=settings.attempt_timeout,
        attempt_timeout_limit=min(settings.lease_seconds, settings.grace_seconds) - MARGIN_SECONDS,
    )
    return create_web(desk, max_body_bytes=settings.max_body_bytes)


class Server(uvicorn.Server):
    """uvicorn as one child among others: it takes no signals, and tells when it is up."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._tell_started = started

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._tell_started()


async def serve(settings: Settings, *, clock: Clock = now) -> None:
    """One process's life: start, work until SIGTERM or SIGINT, stop within the grace period.

    Raises ConfigError, and what an actor or the storage died of: then the process must end, and not with 0.
    """
    rng = random.SystemRandom()
    new_id = id_maker(clock, random.Random())
    for name in settings.without_effect():
        _log.warning("%s is set, but has no effect yet", name)
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(listen(settings.host, settings.port))
        storage = await stack.enter_async_context(open_storage(settings, clock, new_id, rng))
        mailer = Mailer(settings, storage, clock, rng)
        stack.push_async_callback(mailer.aclose)
        readiness = Readiness()
        web = create_app(settings, storage, mailer.intake.wake, new_id, clock, readiness)
        server = Server(
            _uvicorn_config(web, settings), lambda: _log.info("HES %s serves %s", __version__, url_of(listener))
        )
        tasks = await stack.enter_async_context(anyio.create_task_group())
        stopped = anyio.Event()
        tasks.start_soon(_serve_web, server, listener, stopped)
        mailer_ended = anyio.Event()
        tasks.start_soon(_run_mailer, mailer, mailer_ended)
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            await anext(signals)
            tasks.start_soon(_give_up_at_second, signals)
            with anyio.move_on_after(settings.grace_seconds) as grace:
                await _stop(server, stopped, mailer, mailer_ended, readiness, settings.grace_seconds)
        if grace.cancelled_caught:
            _log.error("%d calls were in flight when the grace period ended; they are in doubt", mailer.in_flight)
        tasks.cancel_scope.cancel()


async def _stop(
    server: Server,
    server_ended: anyio.Event,
    mailer: Mailer,
    mailer_ended: anyio.Event,
    readiness: Readiness,
    grace_seconds: float,
) -> None:
    """Upstream first: no new leases and unready, then no new requests, then the calls in flight end."""
    _log.info("stopping: no new leases, %d calls in flight", mailer.in_flight)
    readiness.is_stopping = True
    mailer.intake.stop()
    await anyio.sleep(min(UNREADY_SECONDS, grace_seconds / 4))
    server.should_exit = True
    await server_ended.wait()
    mailer.stop()
    await mailer_ended.wait()
    _log.info("stopped")


async def _serve_web(server: Server, listener: socket.socket, ended: anyio.Event) -> None:
    await server.serve(sockets=[listener])
    if not server.should_exit:
        raise RuntimeError("the web server ended by itself")
    ended.set()


async def _run_mailer(mailer: Mailer, ended: anyio.Event) -> None:
    await mailer.run()
    ended.set()


async def _give_up_at_second(signals: AsyncIterator[signal.Signals]) -> None:
    """Somebody is in a hurry: the process ends where it stands, and what is in flight will be in doubt."""
    await anext(signals)
    raise KeyboardInterrupt


def _uvicorn_config(web: Litestar, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        web,
        log_config=None,
        access_log=False,
        lifespan="on",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, int(settings.grace_seconds / 2)),
    )


@contextmanager
def listen(host: str, port: int) -> Iterator[socket.socket]:
    """The socket to serve on, bound here so that a taken port is a sentence and not a traceback."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        name = "HES_PORT" if error.errno == errno.EADDRINUSE else "HES_HOST"
        raise ConfigError(
            f"{name}: can't listen on {host} port {port}: {error.strerror}. Example: HES_PORT=8026"
        ) from error
    with listener:
        yield listener


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
