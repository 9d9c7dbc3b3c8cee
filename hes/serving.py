"""A process's life: start, serve until a signal, stop within the grace period.

`serve` owns the task group; uvicorn and the mailer are its children. So an actor that died for good ends the process,
where a task group inside the web framework would leave a server that accepts and never sends.
"""

import errno
import gc
import logging
import random
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager

import anyio
import uvicorn
from anyio import to_thread

from hes import __version__
from hes.app import Process, now, open_storage
from hes.errors import ConfigError, StorageUnavailable
from hes.ids import id_maker
from hes.model import Clock
from hes.settings import Settings
from hes.start_warnings import start_warnings
from hes.storage.sql import SqlStorage
from hes.telemetry.telemetry import OFF, App, Telemetry
from hes.web.connections import BoundedConnections, UnknownConnections, most_unknown
from hes.web.desk import Readiness

_log = logging.getLogger("hes")

UNREADY_SECONDS = 1.0
"""How long at most a stopping process still answers, unready, so that balancers look elsewhere first."""
EXPORT_SECONDS = 2.0
"""How long a stop waits for the last traces and metrics to be taken."""
KEEP_ALIVE_SECONDS = 75
"""Longer than the usual 60 s of proxies in front, so that it is they who close idle connections."""


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


async def serve(
    settings: Settings,
    *,
    clock: Clock = now,
    started: Callable[[str], object] = lambda _: None,
    listener: socket.socket | None = None,
) -> None:
    """One process's life: start, work until SIGTERM or SIGINT, stop within the grace period.

    `started`: is told the URL once it serves. `listener`: to serve on, if it is there already.

    Raises ConfigError, and what an actor or the storage died of: then the process must end, and not with 0.
    """
    rng = random.SystemRandom()
    new_id = id_maker(clock, random.Random())
    for warning in start_warnings(settings):
        _log.warning("%s", warning)
    async with AsyncExitStack() as stack:
        listener = listener or stack.enter_context(listen(settings.host, settings.port))
        telemetry = start_telemetry(settings, new_id())
        _calm_the_garbage_collector()
        stack.push_async_callback(to_thread.run_sync, telemetry.close, EXPORT_SECONDS)
        storage = await stack.enter_async_context(open_storage(settings, clock, new_id, rng, telemetry))
        if settings.role != "mailer":
            await _warn_without_admin(settings, storage)
        process = Process(settings, storage, new_id, clock, rng, telemetry)
        stack.push_async_callback(process.aclose)
        await process.prepare()

        def tell_started() -> None:
            _log.info("HES %s serves %s", __version__, url_of(listener))
            started(url_of(listener))

        server = Server(_uvicorn_config(process.web, settings), tell_started)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        stopped = anyio.Event()
        tasks.start_soon(_serve_web, server, listener, process.readiness, stopped)
        process_ended = anyio.Event()
        tasks.start_soon(_run, process, process_ended)
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            await anext(signals)
            tasks.start_soon(_give_up_at_second, signals)
            with anyio.move_on_after(settings.grace_seconds) as grace:
                await _stop(server, stopped, process, process_ended, settings.grace_seconds)
        if grace.cancelled_caught:
            _log.error("%d calls were in flight when the grace period ended; they are in doubt", process.in_flight)
        tasks.cancel_scope.cancel()


def start_telemetry(settings: Settings, instance: str) -> Telemetry:
    """As the settings say. Where nothing is recorded nothing of OpenTelemetry is imported."""
    exports, page = settings.exports, settings.has_metrics_page
    if not (exports.traces or exports.metrics or page):
        return OFF
    from hes.telemetry.recording import start  # noqa: PLC0415 (a fifth of a second)

    return start(
        traces=exports.traces,
        metrics=exports.metrics,
        page=page,
        version=__version__,
        instance=instance,
        role=settings.role,
    )


def _calm_the_garbage_collector() -> None:
    """Look for cycles less often.

    What was imported stays for good, and a request's objects go by themselves: an eighth of the CPU went into this.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


async def _stop(
    server: Server, server_ended: anyio.Event, process: Process, process_ended: anyio.Event, grace_seconds: float
) -> None:
    """Upstream first: no new leases and unready, then no new requests, then the calls in flight end."""
    _log.info("stopping: no new leases, %d calls in flight", process.in_flight)
    process.stop()
    await anyio.sleep(min(UNREADY_SECONDS, grace_seconds / 4))
    server.should_exit = True
    await server_ended.wait()
    await process_ended.wait()
    _log.info("stopped")


async def _serve_web(server: Server, listener: socket.socket, readiness: Readiness, ended: anyio.Event) -> None:
    await server.serve(sockets=[listener])
    if not readiness.is_stopping:
        raise RuntimeError("the web server ended by itself")
    ended.set()


async def _run(process: Process, ended: anyio.Event) -> None:
    await process.run()
    ended.set()


async def _warn_without_admin(settings: Settings, storage: SqlStorage) -> None:
    try:
        if settings.bootstrap_key is not None or await storage.keys.has_admin():
            return
    except StorageUnavailable:
        return  # whether there is one will be seen
    _log.warning(
        "there is no key that could make others, and HES_BOOTSTRAP_KEY is not set: set it to 32 or more "
        "characters, start again, and make keys with POST /v1/keys"
    )


async def _give_up_at_second(signals: AsyncIterator[signal.Signals]) -> None:
    """Somebody is in a hurry: the process ends where it stands, and what is in flight will be in doubt."""
    await anext(signals)
    raise KeyboardInterrupt


def _uvicorn_config(web: App, settings: Settings) -> uvicorn.Config:
    class Connection(BoundedConnections):
        unknown = UnknownConnections(most_unknown(), settings.trusted_proxies)

    return uvicorn.Config(
        web,
        http=Connection,
        log_config=None,
        access_log=False,
        proxy_headers=False,  # whose X-Forwarded-For is believed: hes.web.throttle
        lifespan="on",
        server_header=False,
        headers=[("X-Content-Type-Options", "nosniff")],  # also of answers that no handler makes
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
