"""The sender domains that one provider does not take: each is asked again by one email, at growing intervals."""

from collections.abc import Callable

from msgspec import Struct

from hes.model import Millis

MOST = 10_000
"""Beyond it the one that was closed first is forgotten, and asked again like any other."""


class _Closed(Struct, kw_only=True):
    reason: str
    since: Millis
    until: float
    """On the monotonic clock."""
    times: int
    """How often in a row it was refused."""
    probe: object = None
    """The pass of the email that is finding out."""

    def is_due(self, now: float) -> bool:
        return now >= self.until and self.probe is None


class RefusedDomains:
    """`interval`: seconds to wait after so many refusals in a row."""

    def __init__(self, interval: Callable[[int], float]) -> None:
        self._interval = interval
        self._closed: dict[str, _Closed] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._closed))

    def closed(self, now: float) -> frozenset[str]:
        """Those that nothing may go out for."""
        return frozenset(name for name, one in self._closed.items() if not one.is_due(now))

    def due(self, now: float) -> frozenset[str]:
        """Those of which one email may find out."""
        return frozenset(name for name, one in self._closed.items() if one.is_due(now))

    def admit(self, name: str, given: object, now: float) -> None:
        """A pass was given; if the domain was due, that email is the one that finds out."""
        one = self._closed.get(name)
        if one is not None and one.is_due(now):
            one.probe = given

    def is_probe(self, name: str, given: object) -> bool:
        one = self._closed.get(name)
        return one is not None and one.probe is given

    def release(self, name: str, given: object) -> None:
        """The email that was to find out was not sent: another one is."""
        if self.is_probe(name, given):
            self._closed[name].probe = None

    def end(self, name: str, given: object, now: float) -> None:
        """It was sent, and what became of it says nothing of the domain: it is asked again later."""
        if self.is_probe(name, given):
            one = self._closed[name]
            one.probe, one.until = None, now + self._interval(one.times)

    def refuse(self, name: str, reason: str, seconds: float | None, now: float, wall: Millis) -> tuple[float, Millis]:
        """Close it, or go on. Returns until when (monotonic), and since when."""
        known = self._closed.get(name)
        times = known.times + 1 if known else 1
        since = known.since if known else wall
        until = now + (seconds or self._interval(times))
        self._closed[name] = _Closed(reason=reason, since=since, until=until, times=times)
        return until, since

    def learn(self, name: str, reason: str, since: Millis, until: float) -> None:
        """What was known before this process began."""
        self._closed[name] = _Closed(reason=reason, since=since, until=until, times=1)

    def open(self, name: str) -> None:
        self._closed.pop(name, None)

    def overflow(self) -> str | None:
        """Forget the oldest if there are too many; which one that was."""
        if len(self._closed) <= MOST:
            return None
        oldest = next(iter(self._closed))
        del self._closed[oldest]
        return oldest

    def clear(self) -> None:
        self._closed.clear()

    def __contains__(self, name: str) -> bool:
        return name in self._closed
