"""How much memory requests and answers may take: in bytes, counted as they come, shared out among those who cause them.

Everybody may hold at most a share of what the others leave: who takes much leaves half of it at least, and so does the
next one. What is small has a reserve of its own, which nothing large can use up; so a small email gets in while large
ones don't, also another one of the same project.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from msgspec import Struct

from hes.errors import Overloaded
from hes.model import Monotonic
from hes.web.log_limit import LogLimit

SMALL_BYTES = 64 * 1024
"""What is not larger is taken from the reserve."""

Charge = Callable[[int], None]
"""Is told how many more bytes are to be held, before they are kept. Raises: Overloaded."""

_log = logging.getLogger("hes.web")


class Owner(Struct, frozen=True):
    """Whose bytes they are: `project shop`, `address 192.0.2.1`."""

    name: str
    share: float
    """Of what others leave, as much as this one may hold."""


class _Pool:
    """So many bytes, and who holds them."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.held = 0
        self._of: Counter[str] = Counter()

    def lacks(self, owners: Sequence[Owner], count: int) -> Owner | None:
        """Whose share does not allow so many more; None: they are there."""
        for owner in owners:
            own = self._of[owner.name]
            if own + count > (self.total_bytes - self.held + own) * owner.share:
                return owner
        return None

    def add(self, owners: Sequence[Owner], count: int) -> None:
        """`count` below 0: given back."""
        self.held += count
        for owner in owners:
            self._of[owner.name] += count
            if not self._of[owner.name]:
                del self._of[owner.name]


class MemoryBudget:
    """How many bytes of one kind may be in hand at once. Who holds none but its own may hold more than a share."""

    def __init__(self, of_what: str, total_bytes: int, reserve_bytes: int, monotonic: Monotonic) -> None:
        """`of_what`: for people, as in `emails`. `reserve_bytes`: for small ones, beside the total."""
        self._of_what = of_what
        self._large = _Pool(total_bytes)
        self._small = _Pool(reserve_bytes)
        self._log_limit = LogLimit(monotonic)

    @contextmanager
    def hold(self, *owners: Owner, count: int = 0) -> Iterator[Charge]:
        """Hold so many bytes, and more by calling what it yields, until the end. Both raise Overloaded."""
        held, pool = 0, self._small

        def charge(more: int) -> None:
            nonlocal held, pool
            if pool is self._large or held + more > SMALL_BYTES or self._small.lacks(owners, more):
                there_already = held if pool is self._large else 0
                self._check_large(owners, there_already, held + more - there_already)
                pool.add(owners, -held)
                pool = self._large
                pool.add(owners, held)
            pool.add(owners, more)
            held += more

        try:
            charge(count)
            yield charge
        finally:
            pool.add(owners, -held)

    def _check_large(self, owners: Sequence[Owner], own: int, more: int) -> None:
        """`own`: what this very one holds there. Raises: Overloaded."""
        is_alone = self._large.held == own
        if is_alone or (owner := self._large.lacks(owners, more)) is None:
            return
        if times := self._log_limit.count():
            _log.warning(
                "%s are refused with 503, %d since the last such line: %d bytes of them are in hand, of at most %d; "
                "the last one was of %s",
                *(self._of_what, times, self._large.held, self._large.total_bytes, owner.name),
            )
        raise Overloaded(f"HES has as many {self._of_what} in hand as fit into its memory, or into your share of it")
