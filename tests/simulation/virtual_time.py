"""An event loop whose time is a number: when nothing is ready, it jumps to the next timer instead of waiting."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class NothingLeft(RuntimeError):
    """All tasks wait for each other: a deadlock in what is simulated."""


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise NothingLeft("no task is ready and no timer is set")
        self._jump(timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Deterministic: the same program makes the same steps, whatever the machine does."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_JumpingSelector(self.pass_))

    def time(self) -> float:
        return self._now

    def pass_(self, seconds: float) -> None:
        self._now += max(0.0, seconds)


def stand_still(seconds: float) -> None:
    """Time passes and nothing runs in this loop, as in a process that is stopped; afterwards its timers are late."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.pass_(seconds)


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())
