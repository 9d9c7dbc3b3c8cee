"""How an answer leaves, and how its connection ends.

uvicorn puts an answer into the connection's buffer whole, whether or not anybody reads it; and it keeps a connection
on which it answered before the body was read, for as long as its client goes on sending.
"""

from asyncio import TimerHandle
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

PIECE_BYTES = 64 * 1024
"""Of an answer, as much as is put into the buffer before what is there has left."""
ANSWER_SECONDS = 30.0
"""How long an answer may take to be read: the largest at a megabyte a second, as for bodies."""
LINGER_SECONDS = 2.0
"""How long a connection still takes what comes after its last answer."""
LINGER_BYTES = 32 * 1024 * 1024
"""How much, at most: many clients send all of a body before they read what was answered."""

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]


class BoundedAnswers(HttpToolsProtocol):
    """One connection. Its answers are sent as fast as they are read, and have a time for it.

    An answer that comes before the request's body is the last one.
    """

    answer_seconds = ANSWER_SECONDS
    """From the moment on when its reader could not keep up."""
    linger_seconds = LINGER_SECONDS

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.is_ending = False
        """The last answer is out; what still comes is thrown away."""
        self._thrown_away = 0
        self._ends_after_answer = False
        self._abort_timer: TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_abort_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self.is_ending:
            super().data_received(data)
            return
        self._thrown_away += len(data)
        if self._thrown_away > LINGER_BYTES:
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._abort_timer is None:
            self._abort_in(self.answer_seconds)

    def resume_writing(self) -> None:
        super().resume_writing()
        if not (self.is_answering() or self.is_ending or self.transport.is_closing()):
            self._end_abort_timer()

    def timeout_keep_alive_handler(self) -> None:
        self.close()

    def on_response_complete(self) -> None:
        if self._ends_after_answer:
            self.pipeline.clear()  # nothing is answered after the last answer
        super().on_response_complete()
        self._end_abort_timer()
        if self.transport.is_closing() or (self.flow.write_paused and not self._ends_after_answer):
            self._abort_in(self.answer_seconds)
        elif self._ends_after_answer:
            self.linger()

    def is_answering(self) -> bool:
        """Whether an earlier request on this connection is still worked on."""
        return bool(self.cycle) and not self.cycle.response_complete  # None until the first

    def close(self) -> None:
        """End the connection when its buffer is empty, and soon all the same."""
        self.transport.close()
        self._abort_in(self.linger_seconds)

    def linger(self) -> None:
        """End the connection, but let its client read what was answered (RFC 9112, section 9.6).

        Closed while something comes in, it would be reset, and what is not read yet would be lost.
        """
        self.is_ending = True
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._abort_in(self.linger_seconds)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        async def answer(scope: Any, receive: Any, send: Any) -> None:
            await app(scope, receive, partial(self._send, cycle, send))

        super()._start_asgi_task(cycle, answer)

    async def _send(self, cycle: RequestResponseCycle, send: Send, message: Message) -> None:
        body = message.get("body", b"")
        if message["type"] == "http.response.start" and cycle.more_body:
            self._ends_after_answer = True
            await send(_with_close(message))
            cycle.keep_alive = True  # else uvicorn would close it with the answer: see `linger`
        elif len(body) > PIECE_BYTES:
            for start in range(0, len(body), PIECE_BYTES):
                end = start + PIECE_BYTES
                more = end < len(body) or message.get("more_body", False)
                await send({"type": message["type"], "body": body[start:end], "more_body": more})
        else:
            await send(message)

    def _abort_in(self, seconds: float) -> None:
        self._end_abort_timer()
        self._abort_timer = self.loop.call_later(seconds, self.transport.abort)

    def _end_abort_timer(self) -> None:
        if self._abort_timer is not None:
            self._abort_timer.cancel()
            self._abort_timer = None


def _with_close(message: Message) -> Message:
    """A start of an answer that says that it is the last one."""
    others = [(name, value) for name, value in message.get("headers", ()) if name.lower() != b"connection"]
    return {**message, "headers": [*others, (b"connection", b"close")]}
