"""Runs the actors: starts one again that crashed, and lets the error out when that does not help.

An actor crashes by a bug only; storage and providers that are away are values to it. So a crash is logged with its
traceback, the pauses between starts grow, and an actor that goes on crashing ends the process: its supervisor (a
container runtime, systemd) sees a dead process, but nobody sees a process in which the sending part is dead.
"""

import logging
import random
from collections import deque

import anyio

from hes.actors.actor import Actor
from hes.errors import StorageBroken
from hes.model import Monotonic

_log = logging.getLogger("hes.supervisor")

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0


class Supervisor:
    """One for all actors; each has a budget of its own."""

    def __init__(
        self, monotonic: Monotonic, rng: random.Random, *, restarts: int = 5, within_seconds: float = 60
    ) -> None:
        self._monotonic = monotonic
        self._rng = rng
        self._restarts = restarts
        self._within_seconds = within_seconds

    async def run(self, actor: Actor) -> None:
        """Returns when the actor has ended by itself.

        Raises what the actor raised once it crashed more than `restarts` times `within_seconds`; StorageBroken at
        once, since only a new process can trust the disk again.
        """
        crashes: deque[float] = deque()
        while True:
            try:
                return await actor.run()
            except StorageBroken:
                raise
            except Exception:
                now = self._monotonic()
                crashes.append(now)
                while crashes[0] < now - self._within_seconds:
                    crashes.popleft()
                if len(crashes) > self._restarts:
                    _log.critical("%s crashed %d times in a row; HES ends", actor.name, len(crashes))
                    raise
                pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** (len(crashes) - 1))
                _log.exception("%s crashed; it starts again in about %.1f s", actor.name, pause)
            await anyio.sleep(pause * self._rng.uniform(0.8, 1.2))
