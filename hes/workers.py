"""Several processes of one `hes serve` (HES_WORKERS): they share the listening socket and the database, nothing else.

The parent serves nobody. It passes signals on, starts again who died, and ends with all of them when one dies again and
again: whoever supervises it must see that. Should it be killed itself, its children stop by themselves.
"""

import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NoReturn

RESTARTS, WITHIN_SECONDS = 5, 60.0
"""So many deaths within so many seconds are too many."""

_log = logging.getLogger("hes.workers")

_PASSED_ON = {signal.SIGTERM, signal.SIGINT}


def run(count: int, work: Callable[[], None]) -> int:
    """Run `work` in so many processes until SIGTERM or SIGINT. Returns the exit code: 1 if one had to be given up."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_PASSED_ON, signal.SIGCHLD})
    alive_end, parent_end = os.pipe()  # closed by the parent's end, however it comes
    children = {_start(work, alive_end, parent_end) for _ in range(count)}
    deaths: deque[float] = deque(maxlen=RESTARTS + 1)
    is_stopping, code = False, 0
    while children:
        if (got := signal.sigwait({*_PASSED_ON, signal.SIGCHLD})) in _PASSED_ON:
            is_stopping = True
            _tell(children, got)
            continue
        for pid in _ended(children):
            children.discard(pid)
            if is_stopping:
                continue
            deaths.append(time.monotonic())
            if len(deaths) > RESTARTS and deaths[-1] - deaths[0] < WITHIN_SECONDS:
                _log.critical("processes die again and again; HES ends")
                is_stopping, code = True, 1
                _tell(children, signal.SIGTERM)
                continue
            children.add(_start(work, alive_end, parent_end))
    return code


def _start(work: Callable[[], None], alive_end: int, parent_end: int) -> int:
    if pid := os.fork():
        return pid
    os.close(parent_end)
    os.setpgrp()  # a Ctrl-C goes to the parent alone, which passes it on; two would mean "at once"
    # Begun while they are blocked: signals are the main thread's alone.
    threading.Thread(target=_stop_with_parent, args=(alive_end,), daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*_PASSED_ON, signal.SIGCHLD})
    return _work_and_exit(work)


def _work_and_exit(work: Callable[[], None]) -> NoReturn:
    code = 1
    try:
        work()
        code = 0
    except KeyboardInterrupt:
        code = 130
    except BaseException:  # noqa: BLE001 (told, and it ends)
        _log.exception("a process dies")
    finally:
        os._exit(code)  # what comes after `run` is the parent's


def _stop_with_parent(alive_end: int) -> None:
    os.read(alive_end, 1)  # returns when nobody holds the other end any more
    os.kill(os.getpid(), signal.SIGTERM)


def _tell(children: set[int], signum: signal.Signals | int) -> None:
    for pid in children:
        os.kill(pid, signum)


def _ended(children: set[int]) -> list[int]:
    """Those that have ended, told."""
    ended = []
    for pid in children:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            ended.append(pid)
            code = os.waitstatus_to_exitcode(status)
            if code:
                _log.error("process %d ended with %s", pid, code if code > 0 else signal.Signals(-code).name)
    return ended
