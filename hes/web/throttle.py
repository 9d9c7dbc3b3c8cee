"""How often somebody may do something: token buckets, for wrong keys by client address and for sends by key.

Each process counts for itself. Memory is bounded: of more names than it holds, the one that was not heard of longest is
forgotten, and begins anew.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Final

from litestar import Request

from hes.errors import TooMany
from hes.model import Monotonic
from hes.settings import Network
from hes.web.auth import Principal
from hes.web.log_limit import LogLimit

MOST_NAMES = 10_000
WRONG_KEYS_AT_ONCE = 50
WRONG_KEYS_PER_SECOND = 1.0

_log = logging.getLogger("hes.web")

IpAddress = IPv4Address | IPv6Address
_ROUNDING: Final = 1e-6
_LONGEST_ADDRESS: Final = 64
"""Of IPv6 with the name of an interface; longer texts of a stranger's are not remembered either."""
_NOWHERE: Final = "?"
"""Who has no address, as over a Unix socket, shares one bucket with all such."""


class Buckets:
    """One bucket of tokens per name: full at first, emptied by what is taken, filled at its rate."""

    def __init__(self, monotonic: Monotonic, most: int = MOST_NAMES) -> None:
        self._monotonic = monotonic
        self._most = most
        self._full_at: dict[str, float] = {}
        """When it will be full again: that says all about a bucket. What was touched last stands last."""

    def wait_seconds(self, name: str, rate: float, size: float, count: float = 1.0) -> float:
        """How long until that many are in it, or until it is full; 0: they are."""
        missing = max(0.0, self._full_at.get(name, 0.0) - self._monotonic()) * rate
        wait = (min(count, size) - (size - missing)) / rate
        return wait if wait > _ROUNDING else 0.0

    def take(self, name: str, rate: float, count: float = 1.0) -> None:
        """Take that many, also more than are in it; then the next one waits for that much longer. Below 0: put back."""
        self._full_at[name] = max(self._full_at.pop(name, 0.0), self._monotonic()) + count / rate
        if len(self._full_at) > self._most:
            del self._full_at[next(iter(self._full_at))]


class WrongKeys:
    """Slows down whoever tries one key after the other: 50 at once, then one a second."""

    def __init__(self, monotonic: Monotonic, trusted_proxies: tuple[Network, ...] = ()) -> None:
        self._buckets = Buckets(monotonic)
        self._trusted = trusted_proxies
        self._log_limit = LogLimit(monotonic)

    def are_too_many(self, request: Request[Any, Any, Any]) -> bool:
        """Whether one more from the client's address would be one too many."""
        return self._wait(client_name(request, self._trusted)) > 0

    def count(self, request: Request[Any, Any, Any]) -> None:
        """There was one more. Raises: TooMany.

        An empty bucket stays as it is: those that were under way together are no debt.
        """
        name = client_name(request, self._trusted)
        if wait := self._wait(name):
            self._warn_of_proxy(request)
            raise TooMany("Too many wrong keys came from this address.", wait)
        self._buckets.take(name, WRONG_KEYS_PER_SECOND)

    def _warn_of_proxy(self, request: Request[Any, Any, Any]) -> None:
        """Whoever forgot to name the proxy in front of HES has all the world's wrong keys counted as one client's."""
        address = client_address(request, self._trusted)
        if not _is_private(address):
            return
        if times := self._log_limit.count():
            _log.warning(
                "wrong keys from %s are answered with 429, %d times from such addresses since the last such line: if a "
                "proxy stands there, name it in HES_TRUSTED_PROXIES, or its clients count as one",
                *(address, times),
            )

    def _wait(self, name: str) -> float:
        return self._buckets.wait_seconds(name, WRONG_KEYS_PER_SECOND, WRONG_KEYS_AT_ONCE)


class Rates:
    """What a key with a rate may send: as many at once as it may in one second."""

    def __init__(self, monotonic: Monotonic) -> None:
        self._buckets = Buckets(monotonic)

    @contextmanager
    def spend(self, principal: Principal, recipients: int) -> Iterator[None]:
        """Around what sends to so many recipients, each of which counts; what raises has spent nothing.

        More than a second's worth passes when a second's worth is there; those after it wait the longer.
        Raises: TooMany, before anything is done.
        """
        rate = principal.rate_per_second
        if rate is not None and recipients:
            if wait := self._buckets.wait_seconds(principal.key_id, rate, max(1.0, rate), recipients):
                raise TooMany(f"This key may send {rate:g} emails a second; each recipient counts as one.", wait)
            self._buckets.take(principal.key_id, rate, recipients)
        try:
            yield
        except Exception:
            self.give_back(principal, recipients)
            raise

    def give_back(self, principal: Principal, recipients: int) -> None:
        """Nothing was sent to them after all."""
        if principal.rate_per_second is not None and recipients:
            self._buckets.take(principal.key_id, principal.rate_per_second, -recipients)


_PRIVATE: Final = tuple(
    ip_network(network)
    for network in (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),  # RFC 1918, RFC 4193
        *("100.64.0.0/10", "169.254.0.0/16", "fe80::/10"),  # RFC 6598, RFC 3927, RFC 4291: clusters use them too
        *("127.0.0.0/8", "::1/128"),  # a proxy on the same machine
    )
)


def _is_private(address: IpAddress | None) -> bool:
    """Where proxies stand. Python's own `is_private` knows others too, and not all of these."""
    return address is not None and any(address in network for network in _PRIVATE)


def client_name(request: Request[Any, Any, Any], trusted: tuple[Network, ...]) -> str:
    """What a client is counted under: its address."""
    address = client_address(request, trusted)
    if isinstance(address, IPv6Address):
        return str(ip_network((address, 64), strict=False))  # what one customer gets: all of it is one client
    return str(address or _NOWHERE)


def client_address(request: Request[Any, Any, Any], trusted: tuple[Network, ...]) -> IpAddress | None:
    """Where a request comes from. `X-Forwarded-For` is read from its end, as far as trusted proxies wrote it."""
    address = read_address(request.client.host) if request.client else None
    hops = _hops(request) if trusted else iter(())
    while address is not None and any(address in network for network in trusted):
        before = read_address(next(hops, ""))
        if before is None:
            break
        address = before
    return address


def _hops(request: Request[Any, Any, Any]) -> Iterator[str]:
    lines = request.headers.getall("x-forwarded-for", [])
    return reversed([hop.strip() for hop in ",".join(lines).split(",")])


@lru_cache(maxsize=1000)
def read_address(text: str) -> IpAddress | None:
    """None: it is none. The last ones are remembered: the same few clients ask again and again."""
    if len(text) > _LONGEST_ADDRESS:
        return None
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
