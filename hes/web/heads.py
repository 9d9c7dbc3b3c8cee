"""Bounds for a request's head, which comes before any key can be looked at.

uvicorn has none where httptools parses: a head may be as long as it likes, all of it in memory, and take as long as it
likes. Bodies have their bounds in the handlers (`hes.web.requests.read_body`).
"""

from asyncio import TimerHandle, Transport
from http import HTTPStatus
from typing import Any, NoReturn

import msgspec

from hes.errors import CallerError, Unreadable
from hes.web.answers import BoundedAnswers
from hes.web.problems import MEDIA_TYPE, problem_of

HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 10.0


class HeadTooLarge(CallerError):
    status, title = 431, "Head too large"


class ParserStoppedError(Exception):
    """Goes through the parser to whoever feeds it."""


_TOO_LARGE = HeadTooLarge(f"Line and headers take more than {HEAD_BYTES} bytes.")
_NOT_ONE_HOST = Unreadable("A request has one `Host` header, neither none nor several (RFC 9112, section 3.2).")
_NO_HTTP = Unreadable("This is no request of HTTP/1.1 (RFC 9112).")


class BoundedHeads(BoundedAnswers):
    """One connection. A head that is larger is answered 431, one that is not whole in time is not; both end it.

    So does a head that can be read in two ways, since a proxy may have read it in the other one: 400.

    Trailers behind a body count as part of the head: they are kept with it. A connection on which nothing was asked yet
    is idle, and ends as idle ones do.
    """

    head_seconds = HEAD_SECONDS
    """From its first byte on."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._head_bytes = 0
        """Of lines that are parsed."""
        self._unparsed = 0
        """Bytes since the parser last told anything: it keeps an unfinished line itself."""
        self._in_body = False
        self._refusal: CallerError = _NO_HTTP
        """Of what the parser did not take."""
        self._head_timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # TCP and TLS only, as uvicorn's own
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self.is_ending:
            self._unparsed += len(data)
            if not self._in_body:
                self._start_timer()  # also for what is no head yet: empty lines may stand before one
        super().data_received(data)
        if self._unparsed > HEAD_BYTES and not self.transport.is_closing():
            self._refuse(_TOO_LARGE)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (always the same)
        """What uvicorn does when the parser has stopped, also when `_stop` made it."""
        self._refuse(self._refusal)

    # What the parser tells, as it reads.

    def on_message_begin(self) -> None:
        self._head_bytes = self._unparsed = 0
        self._start_timer()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + len(": \r\n"))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._unparsed = 0
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() != "1.0"):
            self._stop(_NOT_ONE_HOST)
        self._in_body = True
        self._end_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed = 0
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._head_timer is not None:  # only now is the rest of the next head read
            self._end_timer()
            self._start_timer()

    def _count(self, count: int) -> None:
        self._unparsed = 0
        self._head_bytes += count
        if self._head_bytes > HEAD_BYTES:
            self._stop(_TOO_LARGE)

    def _stop(self, refusal: CallerError) -> NoReturn:
        """The parser stops, and nothing of this request is begun."""
        self._refusal = refusal
        raise ParserStoppedError

    def _start_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_seconds, self._too_late)

    def _end_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_late(self) -> None:
        self._head_timer = None
        if self.is_answering():
            self._start_timer()  # meanwhile nothing is read, so the rest may have come long ago
        else:
            self.close()

    def _refuse(self, refusal: CallerError) -> None:
        if self.is_ending:
            return
        if self.is_answering():  # an answer in the middle of another would be read as part of it
            self.close()
        else:
            self.transport.write(_last_answer(refusal))
            self.linger()


def _last_answer(refusal: CallerError) -> bytes:
    body = msgspec.json.encode(problem_of(refusal))
    phrase = HTTPStatus(refusal.status).phrase
    head = (
        f"HTTP/1.1 {refusal.status} {phrase}\r\n"
        f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
        "x-content-type-options: nosniff\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
