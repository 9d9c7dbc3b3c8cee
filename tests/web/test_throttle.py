"""Token buckets, and where a request comes from."""

from ipaddress import ip_network
from typing import Any

import pytest
from litestar import Request

from hes.errors import Overloaded, TooMany
from hes.web.auth import Principal
from hes.web.throttle import Buckets, Rates, WrongKeys, client_address


class Time:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def a_request(host: str | None = "192.0.2.1", *forwarded: str) -> Request[Any, Any, Any]:
    scope: Any = {
        "type": "http",
        "client": (host, 1) if host is not None else None,
        "headers": [(b"x-forwarded-for", line.encode("latin-1")) for line in forwarded],
    }
    return Request(scope)


# --- buckets


def test_a_bucket_is_emptied_and_fills_again() -> None:
    buckets = Buckets(time := Time())
    for _ in range(3):
        assert buckets.wait_seconds("a", 2.0, 3.0) == 0
        buckets.take("a", 2.0)
    assert buckets.wait_seconds("a", 2.0, 3.0) == 0.5
    assert buckets.wait_seconds("a", 2.0, 3.0, count=2) == 1.0
    assert buckets.wait_seconds("b", 2.0, 3.0) == 0
    time.now += 0.5
    assert buckets.wait_seconds("a", 2.0, 3.0) == 0
    time.now += 100
    assert buckets.wait_seconds("a", 2.0, 3.0, count=99) == 0, "more than fits in waits for a full one"


def test_what_is_taken_beyond_is_waited_for() -> None:
    buckets = Buckets(Time())
    buckets.take("a", 2.0, count=10)
    assert buckets.wait_seconds("a", 2.0, 3.0) == 4.0


def test_no_more_names_are_kept_than_fit() -> None:
    buckets = Buckets(Time(), most=3)
    for name in ("a", "b", "a", "c", "d"):
        buckets.take(name, 1.0)
    assert list(buckets._full_at) == ["a", "c", "d"], "b was not heard of longest"


# --- wrong keys


def wrong(wrong_keys: WrongKeys, request: Request[Any, Any, Any], times: int) -> int:
    """How many of so many tries were let through."""
    for n in range(times):
        too_many = wrong_keys.are_too_many(request)
        try:
            wrong_keys.count(request)
        except TooMany:
            assert too_many
            return n
        assert not too_many
    return times


def test_after_fifty_wrong_keys_there_is_one_a_second() -> None:
    wrong_keys = WrongKeys(time := Time())
    assert wrong(wrong_keys, a_request(), 100) == 50
    time.now += 1
    assert wrong(wrong_keys, a_request(), 100) == 1
    with pytest.raises(TooMany) as caught:
        wrong_keys.count(a_request())
    assert caught.value.headers == {"Retry-After": "1"}
    assert wrong(wrong_keys, a_request("192.0.2.2"), 10) == 10


def test_those_under_way_together_make_no_debt() -> None:
    wrong_keys = WrongKeys(time := Time())
    assert wrong(wrong_keys, a_request(), 50) == 50
    for _ in range(450):
        with pytest.raises(TooMany):
            wrong_keys.count(a_request())
    time.now += 1
    assert not wrong_keys.are_too_many(a_request())


def test_a_network_of_ipv6_is_one_client() -> None:
    """A customer has 2^64 addresses."""
    wrong_keys = WrongKeys(Time())
    assert wrong(wrong_keys, a_request("2001:db8::1"), 100) == 50
    assert wrong(wrong_keys, a_request("2001:db8::ffff:1"), 1) == 0
    assert wrong(wrong_keys, a_request("2001:db8:0:1::1"), 1) == 1


def test_who_has_no_address_is_throttled_too() -> None:
    wrong_keys = WrongKeys(Time())
    assert wrong(wrong_keys, a_request(None), 100) == 50
    assert wrong(wrong_keys, a_request("not an address"), 1) == 0


def test_a_client_behind_a_trusted_proxy_is_the_one_throttled() -> None:
    wrong_keys = WrongKeys(Time(), (ip_network("10.0.0.0/8"),))
    assert wrong(wrong_keys, a_request("10.0.0.1", "192.0.2.1"), 100) == 50
    assert wrong(wrong_keys, a_request("10.0.0.1", "192.0.2.2"), 1) == 1


@pytest.mark.parametrize(
    ("peer", "forwarded", "lines"),
    [
        ("10.0.0.1", [], 1),
        ("172.31.0.1", [], 1),
        ("192.168.1.1", [], 1),
        ("127.0.0.1", [], 1),
        ("::1", [], 1),
        ("::ffff:10.0.0.1", [], 1),
        ("fd00::1", [], 1),
        ("100.64.0.1", [], 1),
        ("192.0.2.1", [], 0),
        ("2001:db8::1", [], 0),
        ("172.32.0.1", [], 0),
        (None, [], 0),
        ("10.9.0.1", [], 1),  # a proxy that is trusted and does not tell whose request it is
        ("10.9.0.1", ["192.0.2.1"], 0),
        ("10.9.0.1", ["192.168.1.1"], 1),
    ],
)
def test_a_proxy_that_may_be_forgotten_is_named_in_the_log(
    peer: str | None, forwarded: list[str], lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    wrong_keys = WrongKeys(time := Time(), (ip_network("10.9.0.0/16"),))
    assert wrong(wrong_keys, a_request(peer, *forwarded), 60) == 50
    assert len(caplog.records) == lines
    for _ in range(59):
        with pytest.raises(TooMany):
            wrong_keys.count(a_request(peer, *forwarded))
    assert len(caplog.records) == lines, "once a minute"
    if lines:
        assert "HES_TRUSTED_PROXIES" in caplog.records[0].getMessage()
        time.now += 60
        assert wrong(wrong_keys, a_request(peer, *forwarded), 60) == 50
        assert ", 60 times from such addresses" in caplog.records[1].getMessage()


# --- addresses


@pytest.mark.parametrize(
    ("host", "forwarded", "found"),
    [
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["203.0.113.9, 192.0.2.1"], "192.0.2.1"),  # what stands before, the client wrote
        ("10.0.0.1", ["192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        ("10.0.0.1", ["192.0.2.1", "10.0.0.2"], "192.0.2.1"),
        ("10.0.0.1", ["10.0.0.3 ,10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["192.0.2.1, nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.1,"], "10.0.0.1"),
        ("10.0.0.1", ["\xff\x00"], "10.0.0.1"),
        ("::ffff:10.0.0.1", ["::ffff:192.0.2.1"], "192.0.2.1"),
        ("fd00::1", ["2001:db8::1"], "2001:db8::1"),
        ("192.0.2.7", ["192.0.2.1"], "192.0.2.7"),  # not ours: nothing is believed
        (None, ["192.0.2.1"], "None"),
    ],
)
def test_where_a_request_comes_from(host: str | None, forwarded: list[str], found: str) -> None:
    trusted = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    assert str(client_address(a_request(host, *forwarded), trusted)) == found


def test_without_trusted_proxies_nothing_is_believed() -> None:
    assert str(client_address(a_request("10.0.0.1", "192.0.2.1"), ())) == "10.0.0.1"


# --- a key's own rate


def spender(rate: float | None, key_id: str = "k") -> Principal:
    return Principal(key_id=key_id, project="p", scopes=frozenset(), rate_per_second=rate)


def spend(rates: Rates, principal: Principal, recipients: int) -> None:
    with rates.spend(principal, recipients):
        pass


def test_a_key_may_send_one_seconds_worth_at_once() -> None:
    rates = Rates(time := Time())
    for _ in range(3):
        spend(rates, spender(3.0), 1)
    with pytest.raises(TooMany, match="3 emails a second"):
        spend(rates, spender(3.0), 1)
    spend(rates, spender(3.0, "another"), 1)
    spend(rates, spender(None), 1)
    time.now += 1 / 3 + 0.001
    spend(rates, spender(3.0), 1)


def test_a_slow_key_waits_as_long_as_it_is_told() -> None:
    rates = Rates(time := Time())
    spend(rates, spender(0.1), 1)
    with pytest.raises(TooMany) as caught:
        spend(rates, spender(0.1), 1)
    assert caught.value.headers == {"Retry-After": "10"}
    time.now += 10
    spend(rates, spender(0.1), 1)


def test_a_large_batch_passes_and_those_after_it_wait() -> None:
    rates = Rates(Time())
    spend(rates, spender(10.0), recipients=1000)
    with pytest.raises(TooMany) as caught:
        spend(rates, spender(10.0), 1)
    assert caught.value.headers == {"Retry-After": "100"}


def test_what_raises_has_spent_nothing_and_what_was_answered_before_is_given_back() -> None:
    rates = Rates(Time())
    for _ in range(3):
        with pytest.raises(Overloaded), rates.spend(spender(1.0), 50):
            raise Overloaded("there is no room")
    with rates.spend(spender(1.0), 50):
        rates.give_back(spender(1.0), 50)
    spend(rates, spender(1.0), 1)
    with pytest.raises(TooMany):
        spend(rates, spender(1.0), 1)
