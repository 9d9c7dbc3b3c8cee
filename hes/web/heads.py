"""Bounds for a request's head, which comes before any key can be looked at.

uvicorn has none where httptools parses: a head may be as long as it likes, all of it in memory, and take as long as it
likes. Bodies have their bounds in the handlers (`hes.web.requests.read_body`).
"""

from asyncio import TimerHandle, Transport
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hes.errors import CallerError
from hes.web.problems import MEDIA_TYPE, problem_of

HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 10.0


class HeadTooLarge(CallerError):
    status, title = 431, "Head too large"


def _answer() -> bytes:
    body = msgspec.json.encode(problem_of(HeadTooLarge(f"Line and headers take more than {HEAD_BYTES} bytes.")))
    head = (
        "HTTP/1.1 431 Request Header Fields Too Large\r\n"
        f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


_ANSWER = _answer()


class BoundedHeads(HttpToolsProtocol):
    """One connection. A head that is larger is answered 431, one that is not whole in time is not; both end it.

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
        self._head_timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # TCP and TLS only, as uvicorn's own
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._in_body:
            self._start_timer()  # also for what is no head yet: empty lines may stand before one
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > HEAD_BYTES and not self.transport.is_closing():
            self._refuse()

    def send_400_response(self, msg: str) -> None:
        """Also what uvicorn does after `_count` stopped the parser."""
        if self._head_bytes > HEAD_BYTES:
            self._refuse()
        else:
            super().send_400_response(msg)

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
            raise HeadTooLarge("")  # the parser stops, and nothing of this request is begun

    def _start_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_seconds, self._too_late)

    def _end_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_late(self) -> None:
        self._head_timer = None
        if self._is_answering():
            self._start_timer()  # meanwhile nothing is read, so the rest may have come long ago
        else:
            self.transport.close()

    def _refuse(self) -> None:
        if not self._is_answering():  # an answer in the middle of another would be read as part of it
            self.transport.write(_ANSWER)
        self.transport.close()

    def _is_answering(self) -> bool:
        """Whether an earlier request on this connection is still worked on."""
        return bool(self.cycle) and not self.cycle.response_complete  # None until the first
