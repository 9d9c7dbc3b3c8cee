"""A time-out that lets what has arrived be read before it fires.

A process may stand still: stopped, starved of CPU, blocked by a long computation. When it goes on, its timers are late
and its sockets are full, and an event loop may run the timers first: a call would be given up whose answer is there.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

PASSES = 20
"""How often the loop looks at its sockets before time is up: an answer of some hundred kilobytes is read by then.

They take about a millisecond, so that no lease needs to be asked: each leaves two seconds besides."""
AROUND_PASSES = 3 * PASSES
"""For what is around another time-out, so that the inner one tells first what it was."""


@contextmanager
def fail_after(seconds: float, passes: int = PASSES) -> Iterator[None]:
    """Give up what runs inside after that time; raises TimeoutError then.

    First the loop makes some passes more, each of which reads what has arrived. Nothing is waited for in them.
    """
    loop = asyncio.get_running_loop()
    scope = anyio.CancelScope()
    timer: asyncio.Handle

    def fire(left: int) -> None:
        nonlocal timer
        if left:
            timer = loop.call_soon(fire, left - 1)
        else:
            scope.cancel()

    timer = loop.call_later(seconds, fire, passes)
    try:
        with scope:
            yield
    finally:
        timer.cancel()
    if scope.cancelled_caught:
        raise TimeoutError
