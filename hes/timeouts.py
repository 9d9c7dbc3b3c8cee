"""A time-out that lets what has arrived be read before it fires.

A process may stand still: stopped, starved of CPU, blocked by a long computation. When it goes on, its timers are late
and its sockets are full, and an event loop may run the timers first: a call would be given up whose answer is there.
"""

import asyncio
from types import TracebackType

import anyio

PASSES = 20
"""How often the loop looks at its sockets before time is up: an answer of some hundred kilobytes is read by then.

They take about a millisecond, so that no lease needs to be asked: each leaves two seconds besides."""
AROUND_PASSES = 3 * PASSES
"""For what is around another time-out, so that the inner one tells first what it was."""


class fail_after:  # noqa: N801 (as `anyio.fail_after`, whose place it takes)
    """Give up what runs inside after that time; raises TimeoutError then.

    First the loop makes some passes more, each of which reads what has arrived. Nothing is waited for in them.
    """

    # A class and not a generator: it is around every call to a provider, twice.

    def __init__(self, seconds: float, passes: int = PASSES) -> None:
        self._seconds = seconds
        self._passes = passes
        self._loop = asyncio.get_running_loop()
        self._scope = anyio.CancelScope()

    def __enter__(self) -> None:
        self._timer: asyncio.Handle = self._loop.call_later(self._seconds, self._fire, self._passes)
        self._scope.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._scope.__exit__(kind, error, traceback)
        if self._scope.cancelled_caught:
            raise TimeoutError

    def _fire(self, left: int) -> None:
        if left:
            self._timer = self._loop.call_soon(self._fire, left - 1)
        else:
            self._scope.cancel()
