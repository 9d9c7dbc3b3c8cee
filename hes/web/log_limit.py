"""How often a line is logged that anybody can cause as often as they like."""

import math

from hes.model import Monotonic

QUIET_SECONDS = 60.0


class LogLimit:
    """One kind of line: the first time it is due, and then once a minute, with how often it would have been."""

    def __init__(self, monotonic: Monotonic) -> None:
        self._monotonic = monotonic
        self._count = 0
        self._quiet_until = -math.inf

    def count(self) -> int:
        """It happened once more. How often since the line was logged last, if it is due now; else 0."""
        self._count += 1
        now = self._monotonic()
        if now < self._quiet_until:
            return 0
        due, self._count = self._count, 0
        self._quiet_until = now + QUIET_SECONDS
        return due
