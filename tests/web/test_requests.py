"""Headers, queries, ids and small bodies."""

import contextlib
import random

import pytest
from litestar.datastructures import Headers

from hes.errors import Invalid, NotFound, Unreadable, UnsupportedType
from hes.ids import id_maker
from hes.model import Decision
from hes.web.requests import (
    read_email_id,
    read_idempotency_key,
    read_nothing,
    read_query,
    read_resolve,
    require_json,
)


@pytest.mark.parametrize("key", ["x", "x" * 255, "!~", "' OR 1=1--".replace(" ", "_"), "../../etc/passwd", "%00"])
def test_a_key_of_visible_ascii_is_taken_as_it_is(key: str) -> None:
    assert read_idempotency_key([key]) == key


@pytest.mark.parametrize("key", ["", "x" * 256, "x" * 10_000, "a b", "ü", "日本", "a\x00", "a\n", "\x7f", "a\ud800"])
def test_a_malformed_key_is_400(key: str) -> None:
    with pytest.raises(Unreadable):
        read_idempotency_key([key])


def test_no_key_is_none_and_two_are_400() -> None:
    assert read_idempotency_key([]) is None
    with pytest.raises(Unreadable):
        read_idempotency_key(["a", "a"])


# --- queries


def test_a_query_holds_what_is_known_once() -> None:
    assert read_query(b"", "include") == {}
    assert read_query(b"include=content", "include") == {"include": "content"}
    assert read_query(b"include=", "include") == {"include": ""}
    assert read_query(b"include=%C3%BC+x", "include") == {"include": "ü x"}


@pytest.mark.parametrize(
    ("query", "paths"),
    [
        (b"sort=id;drop%20table", ["sort"]),
        (b"tenant_id[]=A", [""]),
        (b"a&include=x&b=", ["a", "b"]),
        (b"include=content&include=content", ["include"]),
        (b"ann@example.com=1&x%0d%0ay=1&%00=1&%ff=\xff&" + b"y" * 1000, ["", "", "", "", ""]),
        (b"&".join(b"q%d" % i for i in range(1000)), [f"q{i}" for i in range(100)]),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_parameter_that_is_not_known_is_named_and_never_repeats_odd_things(query: bytes, paths: list[str]) -> None:
    """S22."""
    with pytest.raises(Invalid) as caught:
        read_query(query, "include")
    assert [error.path for error in caught.value.errors] == paths
    assert "drop" not in repr(caught.value.errors)


# --- ids


@pytest.mark.parametrize(
    "text", ["", "x", "' OR 1=1--", "\x00", "../../etc/passwd", "0190f3a0-0000-7000-8000-00000000000g", "9" * 10_000]
)
def test_what_no_id_can_look_like_is_not_found(text: str) -> None:
    """S22."""
    with pytest.raises(NotFound) as caught:
        read_email_id(text)
    assert caught.value.detail == "There is no such email."


def test_an_id_is_taken_as_it_is() -> None:
    id_ = id_maker(lambda: 1_700_000_000_000, random.Random(1))()
    assert read_email_id(id_) == id_


# --- small bodies


@pytest.mark.parametrize("decision", list(Decision))
def test_a_decision_is_read(decision: Decision) -> None:
    assert read_resolve(b'{"decision":"%s"}' % decision.encode()) is decision


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"{}", "decision"),
        (b'{"decision":null}', "decision"),
        (b'{"decision":"Sent"}', "decision"),
        (b'{"decision":["sent"]}', "decision"),
        (b'{"decision":{}}', "decision"),
        (b'{"decision":1}', "decision"),
        (b'{"decision":"sent","state":"sent"}', "state"),
        (b'{"decision":"sent","x\\u0000":1}', ""),
        (b"[]", ""),
        (b'"sent"', ""),
        (b"null", ""),
    ],
)
def test_a_decision_that_is_wrong_is_422_and_named(raw: bytes, path: str) -> None:
    with pytest.raises(Invalid) as caught:
        read_resolve(raw)
    assert [error.path for error in caught.value.errors] == [path]


UNREADABLE = [b"", b"{", b"\xff", b'{"a":"\\ud800"}', b"{} {}", b"[" * 50_000, b'{"a":NaN}', b'{"a":1e999}']


@pytest.mark.parametrize("raw", UNREADABLE, ids=lambda raw: repr(raw[:12]))
def test_a_small_body_that_is_no_json_is_400(raw: bytes) -> None:
    with pytest.raises(Unreadable):
        read_resolve(raw)


def test_where_no_body_is_needed_an_empty_object_is_fine_and_a_field_is_not() -> None:
    headers = Headers({"content-type": "application/json"})
    read_nothing(Headers(), b"")
    read_nothing(headers, b" {} ")
    with pytest.raises(Invalid):
        read_nothing(headers, b'{"reason":"x"}')
    with pytest.raises(UnsupportedType):
        read_nothing(Headers(), b"{}")


@pytest.mark.parametrize(
    ("headers", "is_taken"),
    [
        ({"content-type": "application/json"}, True),
        ({"content-type": "Application/JSON; charset=utf-8"}, True),
        ({"content-type": 'application/json;a=b; Charset="UTF-8"'}, True),
        ({"content-type": "application/json; charset=utf8"}, True),
        ({"content-type": "application/json; charset=latin-1"}, False),
        ({"content-type": "application/json;a=b;CHARSET=utf-16"}, False),
        ({"content-type": "application/json; charset="}, False),
        ({"content-type": "application/json", "content-encoding": "identity"}, True),
        ({}, False),
        ({"content-type": ""}, False),
        ({"content-type": "text/plain"}, False),
        ({"content-type": "application/jsonx"}, False),
        ({"content-type": "application/json", "content-encoding": "gzip"}, False),
        ({"content-type": "application/json", "content-encoding": "gzip, identity"}, False),
        ({"content-type": "application/json", "content-encoding": ""}, False),
    ],
)
def test_only_plain_json_is_taken(headers: dict[str, str], *, is_taken: bool) -> None:
    """S7."""
    with contextlib.nullcontext() if is_taken else pytest.raises(UnsupportedType):
        require_json(Headers(headers))
