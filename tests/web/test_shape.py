"""The shape of an email's body: what is unreadable, and how a wrong type or name is told."""

import json
import time
from typing import Any

import pytest

from hes.errors import FieldError, Unreadable
from hes.web.email_request import NOT_BUILT
from tests.web.bodies import LEAST, errors_of, read, take, wrong


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"  \n",
        b"{",
        b"\x00",
        b"\xef\xbb\xbf{}",
        b'{"subject":"a"} x',
        b"{'subject':'a'}",
        b'{"subject":"\xff"}',
        b'{"subject":"\xed\xa0\x80"}',
        b'{"subject":"\\ud800"}',
        b'{"subject":"\\udc00"}',
        b'{"subject":"\\ud800\\ud800"}',
        b'{"subject":"\\ud800 and more, long enough to hold a pair"}',
        b'{"tags":{"\\ud800 and more":"x"}}',
        b'{"subject":"a\x00"}',
        b'{"expires_in":NaN}',
        b'{"expires_in":Infinity}',
        b'{"attempt_timeout":1e999}',
        b'{"expires_in":' + b"9" * 10_000 + b"}",
        b'{"variables":{"a":' + b"9" * 10_000 + b"}}",
        b"[" * 100_000,
        b'{"unknown":' + b"[" * 100_000,
        b'{"to":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"variables":' + b'{"a":' * 100_000,
    ],
    ids=lambda raw: repr(raw[:24]),
)
def test_what_no_json_reader_could_take_is_400(raw: bytes) -> None:
    with pytest.raises(Unreadable) as caught:
        read(raw)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("text", "is_half"),
    [
        (rb"\ud800", True),
        (rb"\uDC00", True),
        (rb"\ud800\ud800", True),
        (rb"\\\ud800", True),
        (rb"\udc00\ud800", True),
        (rb"\ud83d\ude00 \udfff, long enough to hold a pair", True),
        (rb"\ud83d\uDE00 \ud7ff \ue000 \\ud800 \\\\udc00 \q", False),
        (rb"\ud83d\uDE00\q", False),
        (rb"\\ud800\q", False),
    ],
)
def test_half_of_a_surrogate_pair_is_told_by_that_name(text: bytes, is_half: bool) -> None:  # noqa: FBT001
    with pytest.raises(Unreadable) as caught:
        read(b'{"subject":"' + text + b'"}')
    assert ("half of a surrogate pair" in caught.value.detail) is is_half


@pytest.mark.parametrize("raw", [b"[]", b"null", b'"x"', b"1", b"true"])
def test_json_that_is_no_object_is_422(raw: bytes) -> None:
    assert errors_of(raw) == (FieldError("", "must be a JSON object"),)


# --- wrong types and names


@pytest.mark.parametrize(
    ("fields", "path", "message"),
    [
        ({"to": ["a@example.org", 3]}, "to[1]", 'must be a string or an object {"email", "name"}'),
        ({"to": [{"email": 3}]}, "to[0].email", "must be a string"),
        ({"to": ["a@example.org", {"name": "Ann"}]}, "to[1].email", "is required"),
        ({"from": 3}, "from", 'must be a string or an object {"email", "name"}'),
        ({"from": ["a@example.org"]}, "from", 'must be a string or an object {"email", "name"}'),
        ({"cc": 3}, "cc", 'must be a string, an object {"email", "name"}, or a list of them'),
        ({"subject": 3}, "subject", "must be a string"),
        ({"tags": ["a", "b"]}, "tags", 'must be an object of string to string, as in {"kind": "welcome"}'),
        ({"tags": [["a", "b"]]}, "tags", 'must be an object of string to string, as in {"kind": "welcome"}'),
        ({"tags": {"a": 3}}, "tags", 'must be an object of string to string, as in {"kind": "welcome"}'),
        ({"headers": [{"name": "a", "value": "b"}]}, "headers", "must be an object of string to string"),
        ({"on_doubt": "retry"}, "on_doubt", 'must be "resend", "hold" or "wait"'),
        ({"on_doubt": "base64 out of range"}, "on_doubt", 'must be "resend", "hold" or "wait"'),
        ({"expires_in": "60"}, "expires_in", "must be a whole number of seconds"),
        ({"expires_in": True}, "expires_in", "must be a whole number of seconds"),
        ({"expires_in": 60.5}, "expires_in", "must be a whole number of seconds"),
        ({"providers": "one"}, "providers", "must be a list of provider names"),
        ({"providers": [1]}, "providers[0]", "must be a string"),
        ({"attachments": ["x"]}, "attachments[0]", "must be an object"),
        ({"attachments": [{"content": "UERG"}]}, "attachments[0].filename", "is required"),
    ],
)
def test_a_wrong_type_is_named_with_its_place(fields: dict[str, Any], path: str, message: str) -> None:
    assert errors_of(json.dumps(LEAST | fields).encode()) == (FieldError(path, message),)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("scheduled_at", "send_at"),
        ("sendAt", "send_at"),
        ("replyTo", "reply_to"),
        ("ReplyTo", "reply_to"),
        ("reply-to", "reply_to"),
        ("from_email", "from"),
        ("From", "from"),
        ("html_body", "html"),
        ("HtmlBody", "html"),
        ("htmlContent", "html"),
        ("text_body", "text"),
        ("body", "text` or `html"),
        ("metadata", "tags"),
        ("categories", "tags"),
        ("Tag", "tags"),
        ("personalizations", "to"),
        ("idempotency_key", "the header `Idempotency-Key"),
        ("MessageStream", "stream"),
    ],
)
def test_a_foreign_field_is_told_its_name_here(name: str, ours: str) -> None:
    (error,) = errors_of(json.dumps(LEAST | {name: "x"}).encode())
    assert error.path == name
    assert error.message.startswith("is not a field of an email; HES calls it ")
    assert f"{ours}`" in error.message


@pytest.mark.parametrize(
    ("fields", "path", "hint"),
    [
        ({"from": {"email": "a@example.org", "Name": "x"}}, "from.Name", "`name`"),
        ({"to": [{"address": "a@example.org"}]}, "to[0].address", "`email`"),
        ({"attachments": [{"type": "text/plain"}]}, "attachments[0].type", "`content_type`"),
        ({"attachments": [{"name": "a.txt"}]}, "attachments[0].name", "`filename`"),
    ],
)
def test_a_foreign_field_further_down_too(fields: dict[str, Any], path: str, hint: str) -> None:
    (error,) = errors_of(json.dumps(LEAST | fields).encode())
    assert error.path == path
    assert hint in error.message


def test_all_unknown_fields_are_named() -> None:
    assert wrong(replyTo="x", foo=1, send_at=None, htmlBody="x") == ["replyTo", "foo", "htmlBody"]


@pytest.mark.parametrize("name", ["a b", "x\r\ny", "", "ü", "x` - at `$.to", "y" * 100_000, "\x00"])
def test_an_odd_field_name_is_not_repeated(name: str) -> None:
    (error,) = errors_of(json.dumps(LEAST | {name: 1}).encode())
    assert error.path in {"", "to.x"}
    assert len(error.message) < 200
    assert not name or name not in error.message


@pytest.mark.parametrize(
    "fields",
    [
        {"state": "sent"},
        {"tenant_id": "A"},
        {"id": "x"},
        {"attempts": []},
        {"scopes": ["admin"]},
        {"project": "other"},
        {"message_id": "<x@y>"},
        {"test": True},
        {"__proto__": {}},
    ],
)
def test_nothing_can_be_assigned_that_is_not_the_callers(fields: dict[str, Any]) -> None:
    """S5."""
    assert wrong(**fields) == list(fields)


@pytest.mark.parametrize(
    "value", [["x"], {"$ne": ""}, {"email": ["x"]}, 0, True, [[]], {"email": "' OR 1=1--"}, "../../etc/passwd", "%00"]
)
@pytest.mark.parametrize("name", ["from", "to", "reply_to"])
def test_odd_values_for_an_address_are_422(name: str, value: object) -> None:
    """S22."""
    assert all(path.startswith(name) for path in wrong(**{name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    {
        "template": "welcome",
        "variables": {},
        "raw": "",
        "priority": "normal",
        "store_content": True,
    }.items(),
)
def test_what_is_not_built_is_refused_and_not_ignored(name: str, value: object) -> None:
    assert name in NOT_BUILT
    assert FieldError(name, "is not built yet") in errors_of(json.dumps(LEAST | {name: value}).encode())


# --- what size costs: S6


@pytest.mark.parametrize(
    "fields",
    [
        {"to": [f"a{i}@example.org" for i in range(10_000)]},
        {"to": ["a"] * 200_000},
        {"bcc": [{"email": "a"}] * 110_000},
        {"headers": {str(i): "" for i in range(200_000)}},
        {"attachments": [{"filename": "", "content": ""}] * 60_000},
        {"subject": "x" * 1_000_000},
        {"tags": {"a": "x" * 1_000_000}},
        {"x" * 1_000_000: 1},
        {str(i): 1 for i in range(100_000)},
    ],
    ids=lambda fields: f"{str(fields)[:24]}",
)
def test_a_huge_body_is_refused_soon(fields: dict[str, Any]) -> None:
    """S6 wants it within 100 ms."""
    raw = json.dumps(LEAST | fields).encode()
    begin = time.perf_counter()
    errors = errors_of(raw)
    assert time.perf_counter() - begin < 0.1
    assert sum(len(e.path) + len(e.message) for e in errors) < 20_000


def test_commas_in_a_text_are_no_list() -> None:
    assert take(text="a," * 200_000, to=["a@example.org"] * 1000).text


@pytest.mark.parametrize("name", ["replyTo", f"reply{'-' * 57}to"])
def test_a_foreign_name_is_told_with_ours(name: str) -> None:
    assert errors_of(json.dumps(LEAST | {name: 1}).encode())[0].message.endswith("HES calls it `reply_to`")


@pytest.mark.parametrize("name", [f"reply{'-' * 58}to", f"reply{'-' * 1_000_000}to", " - at `$.to" * 100_000])
def test_a_name_longer_than_any_of_ours_is_not_looked_for(name: str) -> None:
    for raw in (LEAST | {name: 1}, LEAST | {"attachments": [{"filename": "a", "content": "UERG", name: 1}]}):
        (error,) = errors_of(json.dumps(raw).encode())
        assert len(error.path + error.message) < 100
        assert "HES calls it" not in error.message
