"""The one HTTP transport of all providers, over aiohttp; and how to read what is common to their answers.

Decides what a failed exchange means: `unavailable` when surely no request reached the provider, else `in_doubt`.
Leaves the meaning of an answer to each provider. It repeats nothing, follows no redirect, keeps no cookie, takes no
proxy from the environment. Answers are not trusted: they are bounded, never decompressed, and escaped when quoted.

Why both time-outs, for connecting and for the whole call, are ours and none is aiohttp's: ours let what has arrived be
read first (`hes.timeouts`); and `total` is rounded up to whole seconds above 5 s and does not cover the end of the
exchange. Why no `sock_read`: the trace knows the stage, and a timer per chunk is saved.
"""

import asyncio
import io
import math
import os
import select
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from weakref import WeakSet

import aiohttp
from aiohttp import ClientRequest, ClientTimeout
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from msgspec import Struct
from yarl import URL

from hes import __version__
from hes.model import Millis, Outcome
from hes.telemetry.telemetry import calling, traceparent
from hes.timeouts import fail_after

LARGE_BODY_BYTES = 1_000_000
MAX_ANSWER_BYTES = 1_000_000
MAX_DETAIL_CHARS = 300
MAX_ID_CHARS = 255
MAX_RETRY_AFTER_SECONDS = 3600.0


class Reply(Struct, frozen=True):
    """A whole HTTP answer. `headers.get` ignores case; `body` is at most `MAX_ANSWER_BYTES`."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


class NoReply(Struct, frozen=True):
    """No (whole, readable) answer came: `unavailable` or `in_doubt`, and why, in our own words."""

    outcome: Outcome
    detail: str


class Transport:
    """One provider's connections. The session belongs to the loop in which the first call is made."""

    def __init__(
        self,
        base_url: str,
        *,
        max_in_flight: int,
        connect_timeout_seconds: float = 2.0,
        keepalive_timeout_seconds: float = 4.0,
    ) -> None:
        """`keepalive_timeout_seconds` must stay below the provider's own idle time.

        Otherwise a request meets a connection that is just being closed, and ends as a false doubt.
        """
        self._base_url = base_url.rstrip("/")
        self._max_in_flight = max_in_flight
        self._connect_timeout_seconds = connect_timeout_seconds
        self._keepalive_timeout_seconds = keepalive_timeout_seconds
        self._session: aiohttp.ClientSession | None = None
        self._urls: dict[str, URL] = {}

    async def post(self, path: str, body: bytes, headers: Mapping[str, str], timeout_seconds: float) -> Reply | NoReply:
        """Send once. The time-out is over all of it, from connecting to the last byte. Raises only when cancelled."""
        # A large body in pieces: as bytes it would be copied whole into the socket's buffer (and aiohttp warns).
        data = body if len(body) < LARGE_BODY_BYTES else io.BytesIO(body)
        url = self._urls.get(path) or self._urls.setdefault(path, URL(self._base_url + path))
        return await self._call("POST", url, data, headers, timeout_seconds)

    async def get(self, path: str, headers: Mapping[str, str], timeout_seconds: float) -> Reply | NoReply:
        """Read something; as `post`. `path` holds its query too, and both are percent-encoded already.

        On a kept connection that just ended, aiohttp makes a GET once more: it changes nothing over there.
        """
        return await self._call("GET", URL(self._base_url + path, encoded=True), None, headers, timeout_seconds)

    async def aclose(self) -> None:
        """Close the connections. A later call opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _call(
        self, method: str, url: URL, data: bytes | io.BytesIO | None, headers: Mapping[str, str], timeout_seconds: float
    ) -> Reply | NoReply:
        with calling(method, url) as call:
            headers = {**headers, "traceparent": traceparent()} if traceparent() else headers
            reply = await self._exchange(method, url, data, headers, timeout_seconds)
            call.ended(reply.status if isinstance(reply, Reply) else reply.detail)
            return reply

    async def _exchange(
        self, method: str, url: URL, data: bytes | io.BytesIO | None, headers: Mapping[str, str], timeout_seconds: float
    ) -> Reply | NoReply:
        stage = _Stage(asyncio.get_running_loop().time() + timeout_seconds)
        try:
            with fail_after(timeout_seconds):
                session = self._session or self._open()
                response = await session.request(
                    method, url, data=data, headers=headers, allow_redirects=False, trace_request_ctx=stage
                )
                return await _read(response)
        except Exception as error:  # noqa: BLE001 - `why` has an answer to whatever it is
            return NoReply(*why(error, sent=stage.is_sent))

    def _open(self) -> aiohttp.ClientSession:
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_mark_sent)
        self._session = aiohttp.ClientSession(
            connector=_Connector(
                self._connect_timeout_seconds,
                limit=self._max_in_flight,
                keepalive_timeout=self._keepalive_timeout_seconds,
            ),
            timeout=ClientTimeout(),  # none
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": f"HES/{__version__}",
            },
            auto_decompress=False,
            trust_env=False,
            trace_configs=[trace],
        )
        return self._session


async def _read(response: aiohttp.ClientResponse) -> Reply | NoReply:
    try:
        if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
            return NoReply(Outcome.IN_DOUBT, f"{response.status}: the answer is compressed though not asked for")
        answer = bytearray()
        async for chunk in response.content.iter_any():
            answer += chunk
            if len(answer) > MAX_ANSWER_BYTES:
                return NoReply(Outcome.IN_DOUBT, f"{response.status}: the answer is longer than 1 MB")
        return Reply(response.status, response.headers, bytes(answer))
    finally:
        # Not `async with`: that waits for the upload to end, though the whole answer is here. A connection with
        # anything left to write or to read is closed, not kept.
        response.release()


class _Connector(aiohttp.TCPConnector):
    """Reuses a connection only if nothing came in on it unasked: neither its end nor an answer.

    Its end, which the loop has not come round to, would be a lost request and so a false doubt. An answer would be
    taken for the next request's (seen on aiohttp 3.14.5): a doubled 202 would make an email `accepted` that the
    provider never saw.
    """

    def __init__(self, timeout_seconds: float, **options: Any) -> None:
        """The time-out is for getting a connection: a free one, or a new one with its TLS."""
        super().__init__(**options)
        self._timeout_seconds = timeout_seconds
        self._used: WeakSet[asyncio.Protocol] = WeakSet()

    async def connect(self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout) -> Connection:  # noqa: ASYNC109
        with fail_after(self._timeout_seconds):
            return await self._connect(req, traces, timeout)

    async def _connect(self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout) -> Connection:  # noqa: ASYNC109
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if protocol is None or protocol not in self._used:
                if protocol is not None:
                    self._used.add(protocol)
                return connection
            if not protocol.should_close and not _readable(connection):
                return connection
            connection.close()


def _readable(connection: Connection) -> bool:
    if connection.transport is None:
        return True
    poll = select.poll()
    poll.register(connection.transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))


class _Stage:
    """How far a call got. `ends_at`: when its time is up, by the loop's clock."""

    def __init__(self, ends_at: float) -> None:
        self.ends_at = ends_at
        self.is_sent = False


async def _mark_sent(_session: aiohttp.ClientSession, context: object, _params: object) -> None:
    """Runs just before the first byte is written. It may run in vain; only its absence proves anything.

    Raises TimeoutError after the call's time, as when the process stood still meanwhile: nothing begins then.
    """
    stage: _Stage = context.trace_request_ctx  # type: ignore[attr-defined]
    if asyncio.get_running_loop().time() >= stage.ends_at:
        raise TimeoutError
    stage.is_sent = True


def why(error: Exception, *, sent: bool) -> tuple[Outcome, str]:
    """What an exchange that ended with `error` means. `sent`: the request may be out.

    The order matters: a ClientConnectorError is a ClientOSError, and a ConnectionTimeoutError is a TimeoutError.
    """
    match error:
        case aiohttp.ClientConnectorDNSError():
            return Outcome.UNAVAILABLE, "no connection: the host name could not be resolved"
        case aiohttp.ClientConnectorCertificateError():
            return Outcome.UNAVAILABLE, "no connection: the certificate is not trusted"
        case aiohttp.ClientSSLError():
            return Outcome.UNAVAILABLE, "no connection: the TLS handshake failed"
        case aiohttp.ClientConnectorError():
            return Outcome.UNAVAILABLE, f"no connection: {os.strerror(error.errno) if error.errno else 'failed'}"
        case aiohttp.ConnectionTimeoutError():
            return Outcome.UNAVAILABLE, "no connection in time"
        case TimeoutError() if not sent:
            return Outcome.UNAVAILABLE, "out of time before the request was sent"
        case _ if not sent:  # whatever it is, a bug of ours included
            return Outcome.UNAVAILABLE, f"failed before the request was sent ({type(error).__name__})"
        case TimeoutError():
            return Outcome.IN_DOUBT, "no whole answer in time after the request was sent"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() | aiohttp.ClientPayloadError():
            return Outcome.IN_DOUBT, "connection lost after the request was sent"
        case _:
            return Outcome.IN_DOUBT, f"no readable answer ({type(error).__name__})"


def retry_after(value: str | None, now: Millis) -> float | None:
    """Seconds to wait, by a Retry-After header (RFC 9110, section 10.2.3); 0 to 3600, None for garbage."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = max(0.0, parsedate_to_datetime(value).timestamp() - now / 1000)
        except (ValueError, TypeError, OverflowError, IndexError):
            return None
    return min(seconds, MAX_RETRY_AFTER_SECONDS) if seconds >= 0 else None


def seconds_until(unix_time: str | None, now: Millis) -> float | None:
    """Seconds until a Unix time in seconds; 0 to 3600, None for garbage. A time gone by is 0."""
    try:
        seconds = float(unix_time or "") - now / 1000
    except ValueError:
        return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


def clean_id(value: str | None) -> str | None:
    """A provider's message id as it came if it is visible ASCII of a sane length, else None."""
    if value and len(value) <= MAX_ID_CHARS and value.isascii() and value.isprintable() and " " not in value:
        return value
    return None


def shorten(text: str, secrets: Iterable[str] = ()) -> str:
    """A provider's text for `Answer.detail`: one short line without secrets, addresses and control characters."""
    for secret in secrets:
        text = text.replace(secret, "[secret]") if secret else text
    words = ("[address]" if "@" in word else word for word in text.split())
    line = " ".join(words)
    if len(line) > MAX_DETAIL_CHARS:
        line = line[: MAX_DETAIL_CHARS - 1] + "…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
