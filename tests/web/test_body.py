"""One email's body: what comes out of it, and what is not taken."""

import base64
import contextlib
import json
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hes.errors import InvalidEmail, Unreadable
from hes.model import Address, Attachment, OnDoubt
from hes.web.shape import FIELDS
from tests.web.bodies import BREAKS, LEAST, errors_of, read, take, wrong


def test_the_least_email_has_all_defaults() -> None:
    found = take()
    assert found.sender == Address("shop@example.com")
    assert found.to == (Address("ann@example.org"),)
    assert (found.cc, found.bcc, found.reply_to, found.providers, found.attachments) == ((), (), (), (), ())
    assert (found.text, found.html, found.headers, found.tags, found.reference) == ("Hello", None, {}, {}, None)
    assert (found.stream, found.on_doubt, found.expires_in, found.attempt_timeout) == ("default", None, None, None)


def test_a_full_email_comes_out_as_it_was_meant() -> None:
    found = take(
        **{
            "from": "Dr. Ann Lee <ann@EXAMPLE.com>",
            "to": [{"email": "bob@example.org", "name": "Bob, the \u201cbuilder\u201d"}, "INFO@example.org"],
            "cc": {"email": "carl@example.org"},
            "bcc": '"Doe, Jane" <jane@example.org>',
            "reply_to": ["help@example.com", "sales@example.com"],
            "html": "<p>Hello</p>",
            "text": "",
            "headers": {"X-Order": "Größe 17", "List-Unsubscribe": "<https://example.com/u>"},
            "attachments": [
                {"filename": "rechnung.pdf", "content": "UERG"},
                {"filename": "logo", "content": "UE5H", "content_type": "image/png", "content_id": "logo@1"},
            ],
            "tags": {"kind": "welcome"},
            "reference": "order 17",
            "stream": "transactional",
            "on_doubt": "hold",
            "expires_in": 60,
            "attempt_timeout": 2.5,
            "providers": ["two", "one"],
        }
    )
    assert found.sender == Address("ann@example.com", "Dr. Ann Lee")
    assert found.to == (Address("bob@example.org", "Bob, the \u201cbuilder\u201d"), Address("info@example.org"))
    assert found.cc == (Address("carl@example.org"),)
    assert found.bcc == (Address("jane@example.org", "Doe, Jane"),)
    assert [a.email for a in found.reply_to] == ["help@example.com", "sales@example.com"]
    assert (found.text, found.html) == (None, "<p>Hello</p>")
    assert found.headers == {"X-Order": "Größe 17", "List-Unsubscribe": "<https://example.com/u>"}
    assert found.attachments == (
        Attachment("rechnung.pdf", b"PDF", "application/pdf"),
        Attachment("logo", b"PNG", "image/png", "logo@1"),
    )
    assert (found.tags, found.reference, found.stream) == ({"kind": "welcome"}, "order 17", "transactional")
    assert (found.on_doubt, found.expires_in, found.attempt_timeout) == (OnDoubt.HOLD, 60, 2.5)
    assert found.providers == ("two", "one")


def test_null_is_the_same_as_a_missing_field() -> None:
    assert take(**(dict.fromkeys(FIELDS) | LEAST)) == take()


def test_who_is_named_twice_is_kept_once_where_first() -> None:
    found = take(to=["a@example.org", "A@Example.org"], cc=["a@example.org", "b@example.org"], bcc="B@example.org")
    assert [a.email for a in found.to] == ["a@example.org"]
    assert [a.email for a in found.cc] == ["b@example.org"]
    assert found.bcc == ()


def test_one_recipient_of_any_kind_is_enough() -> None:
    assert take(to=None, bcc="a@example.org").bcc
    assert wrong(to=None) == ["to"]
    assert wrong(to=[]) == ["to"]


# --- the hash


def test_the_hash_is_the_same_for_the_same_request_written_differently() -> None:
    one = b'{"from":"a@example.com","to":"b@example.org","subject":"\\u00e4/","text":"x","tags":{"a":"1","b":"2"}}'
    two = b'{ "tags": {"b": "2", "a": "1"}, "text": "x", "cc": null,\n "subject": "\xc3\xa4\\/",'
    two += b'"to": "b@example.org", "from": "a@example.com", "stream": null }'
    assert read(one).request_hash == read(two).request_hash
    assert len(read(one).request_hash) == 32


@pytest.mark.parametrize(
    "change",
    [
        {"subject": "hello"},
        {"text": "Hello "},
        {"to": ["ann@example.org", "bob@example.org"]},
        {"tags": {"a": "1"}},
        {"attachments": [{"filename": "a", "content": "UERG"}]},
        {"expires_in": 60},
    ],
)
def test_the_hash_differs_for_another_request(change: dict[str, Any]) -> None:
    assert take(**change).request_hash != take().request_hash


# --- what is wrong


def test_all_wrong_fields_are_named_at_once() -> None:
    paths = wrong(
        **{
            "from": "nobody",
            "to": ["a@example.org", "b", {"email": "c", "name": "x\ny"}],
            "subject": "",
            "text": "",
            "headers": {"To": "x"},
            "tags": {"hes_id": "x"},
            "expires_in": 1,
            "providers": ["three"],
            "priority": "high",
            "send_at": "tomorrow",
        }
    )
    assert paths == [
        *("priority", "from", "to[1]", "to[2].name", "to[2].email", "subject", "text"),
        *("headers.To", "tags.hes_id", "expires_in", "send_at", "providers[0]"),
    ]


def test_the_detail_names_the_first_and_counts_the_rest() -> None:
    with pytest.raises(InvalidEmail, match=r"^`from` is required\. \(1 more in `errors`\)$"):
        take(**{"from": None, "subject": None})


def test_not_more_than_a_hundred_wrong_fields_are_named() -> None:
    assert len(wrong(to=["x"] * 1000)) == 100


@pytest.mark.parametrize(
    ("fields", "paths"),
    [
        ({"subject": None}, ["subject"]),
        ({"subject": " "}, ["subject"]),
        ({"subject": "x" * 998}, []),
        ({"subject": "x" * 999}, ["subject"]),
        ({"subject": "a\tb"}, []),
        ({"text": None}, ["text"]),
        ({"text": None, "html": "x"}, []),
        ({"text": None, "html": ""}, ["text"]),
        ({"text": "a\x00b"}, ["text"]),
        ({"html": "a\x00b"}, ["html"]),
        ({"text": "a\r\nb\u2028c\x0cd"}, []),
        ({"to": ["a@example.org"] * 1000}, []),
        ({"to": ["a@example.org"] * 600, "cc": ["a@example.org"] * 401}, ["to"]),
        ({"reply_to": ["a@example.org"] * 101}, ["reply_to"]),
        ({"headers": {f"X-{i}": "x" for i in range(100)}}, []),
        ({"headers": {f"X-{i}": "x" for i in range(101)}}, ["headers"]),
        ({"headers": {"X" * 76: "x"}}, []),
        ({"headers": {"X" * 77: "x"}}, ["headers"]),
        ({"headers": {"X Y": "x"}}, ["headers"]),
        ({"headers": {"X:": "x"}}, ["headers"]),
        ({"headers": {"": "x"}}, ["headers"]),
        ({"headers": {"Ü": "x"}}, ["headers"]),
        ({"headers": {"X": "ü" * 998}}, []),
        ({"headers": {"X": "x" * 999}}, ["headers.X"]),
        ({"headers": {"X": ""}}, ["headers.X"]),
        ({"headers": {"X-a": "x", "x-A": "y"}}, ["headers.x-A"]),
        ({"tags": {f"t{i}": "x" for i in range(20)}}, []),
        ({"tags": {f"t{i}": "x" for i in range(21)}}, ["tags"]),
        ({"tags": {"a.b_c-D": "x" * 256}}, []),
        ({"tags": {"a": "x" * 257, "b": ""}}, ["tags.a", "tags.b"]),
        ({"tags": {"a b": "x"}}, ["tags"]),
        ({"tags": {"": "x"}}, ["tags"]),
        ({"tags": {"HES_id": "x"}}, ["tags.HES_id"]),
        ({"reference": "x" * 255}, []),
        ({"reference": "x" * 256}, ["reference"]),
        ({"reference": ""}, ["reference"]),
        ({"stream": "x" * 64}, []),
        ({"stream": "x" * 65}, ["stream"]),
        ({"stream": ""}, ["stream"]),
        ({"stream": "a b"}, ["stream"]),
        ({"expires_in": 10}, []),
        ({"expires_in": 9}, ["expires_in"]),
        ({"expires_in": 31_536_000}, []),
        ({"expires_in": 31_536_001}, ["expires_in"]),
        ({"expires_in": -1}, ["expires_in"]),
        ({"attempt_timeout": 1}, []),
        ({"attempt_timeout": 0.9}, ["attempt_timeout"]),
        ({"attempt_timeout": 18}, []),
        ({"attempt_timeout": 18.1}, ["attempt_timeout"]),
        ({"providers": []}, ["providers"]),
        ({"providers": ["one", "one"]}, ["providers[1]"]),
        ({"providers": ["one", "two", "one"]}, ["providers"]),
        ({"providers": ["ONE"]}, ["providers[0]"]),
        ({"attachments": []}, []),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_limits(fields: dict[str, Any], paths: list[str]) -> None:
    if paths:
        assert wrong(**fields) == paths
    else:
        take(**fields)


@pytest.mark.parametrize(
    "name",
    [
        *("From", "TO", "cc", "Bcc", "Subject", "Reply-To", "Date", "Message-ID", "Sender", "Return-Path", "Received"),
        *("DKIM-Signature", "MIME-Version", "Content-Type", "content-transfer-encoding", "Content-X"),
    ],
)
def test_headers_that_hes_makes_are_refused(name: str) -> None:
    assert wrong(headers={name: "x", "X-Fine": "x"}) == [f"headers.{name}"]


@pytest.mark.parametrize(
    "name",
    [
        *("X-SMTPAPI", "x-smtpapi", "X-SG-EID", "X-SendGrid-Category", "X-Mailgun-Variables", "X-Mailgun-Drop-Message"),
        *("X-PM-Tag", "X-PM-Message-Stream", "X-Postmark-Track", "X-SES-CONFIGURATION-SET", "X-SES-MESSAGE-TAGS"),
        *(
            "Resend-Idempotency-Key",
            "X-Mailin-custom",
            "X-Sib-Sandbox",
            "idempotencyKey",
            "Idempotency-Key",
            "sender.ip",
        ),
        *("X-MC-Tags", "X-Mandrill-Subaccount", "X-MSYS-API", "X-MJ-CustomID", "X-Mailjet-Campaign"),
    ],
)
def test_orders_to_a_provider_are_refused(name: str) -> None:
    """One provider would obey, and another would tell the recipient."""
    assert wrong(headers={name: "x", "X-Fine": "x"}) == [f"headers.{name}"]


@pytest.mark.parametrize(
    "name",
    [
        *("Resent-To", "Resent-Cc", "Resent-Message-ID", "Authentication-Results", "ARC-Seal", "arc-message-signature"),
        *("Received-SPF", "Delivered-To", "DomainKey-Signature", "X-HES-Id", "X-HES-Tags", "x-hes-tag"),
    ],
)
def test_what_servers_on_the_way_and_hes_itself_write_is_refused(name: str) -> None:
    assert wrong(headers={name: "x", "X-Fine": "x"}) == [f"headers.{name}"]


def test_headers_that_only_begin_like_those_are_taken() -> None:
    headers = dict.fromkeys(
        ["X-Smtpapis", "X-Resent-To", "Contents", "X-Hesitate", "List-Unsubscribe", "In-Reply-To"], "x"
    )
    assert take(headers=headers).headers == headers


@pytest.mark.parametrize("character", '"(),/:;<=>?@[\\]{} \t\x00\x7fé')
def test_a_headers_name_is_a_token(character: str) -> None:
    assert wrong(headers={f"X{character}Y": "x"}) == ["headers"]


def test_a_token_may_hold_what_rfc_9110_lets_it_hold() -> None:
    name = "X!#$%&'*+-.^_`|~09az"
    assert take(headers={name: "x"}).headers == {name: "x"}


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"filename": ""}, "filename"),
        ({"filename": "../../etc/passwd"}, "filename"),
        ({"filename": "..\\x"}, "filename"),
        ({"filename": "x" * 256}, "filename"),
        ({"filename": "a\tb"}, "filename"),
        ({"filename": "."}, "filename"),
        ({"filename": " .. "}, "filename"),
        ({"filename": "invoice\u202efdp.exe"}, "filename"),
        *(({"filename": f"{mark}a"}, "filename") for mark in "\u061c\u200e\u200f\u202a\u202e\u2066\u2069"),
        ({"content": ""}, "content"),
        ({"content": "UERG=="}, "content"),
        ({"content": "UER"}, "content"),
        ({"content": "UE RG"}, "content"),
        ({"content": "UERG\n"}, "content"),
        ({"content": "a-_="}, "content"),
        ({"content_type": "text"}, "content_type"),
        ({"content_type": "text/plain; charset=utf-8"}, "content_type"),
        ({"content_type": "text/plain\r\nX: y"}, "content_type"),
        ({"content_type": "multipart/mixed"}, "content_type"),
        ({"content_id": "<logo>"}, "content_id"),
        ({"content_id": ""}, "content_id"),
        ({"content_id": "a b"}, "content_id"),
    ],
)
def test_an_attachment_that_is_wrong(change: dict[str, str], path: str) -> None:
    file = {"filename": "a.txt", "content": "UERG", "content_type": "text/plain"} | change
    assert wrong(attachments=[file]) == [f"attachments[0].{path}"]


def test_attachments_together() -> None:
    file = {"filename": "a.txt", "content": "UERG", "content_id": "x"}
    assert wrong(attachments=[file, file]) == ["attachments[1].content_id"]
    assert wrong(attachments=[{"filename": "a", "content": "UERG"}] * 101) == ["attachments"]


def test_an_attachment_comes_out_byte_by_byte() -> None:
    content = bytes(range(256)) * 40
    (file,) = take(attachments=[{"filename": "a.bin", "content": base64.b64encode(content).decode()}]).attachments
    assert file.content == content


# --- header injection (S15)


@pytest.mark.parametrize("line_break", BREAKS, ids=repr)
@pytest.mark.parametrize(
    "fields",
    [
        {"subject": "x{}Bcc: evil@example.org"},
        {"from": "x{}Bcc: <a@example.org>"},
        {"from": "a@x.y{}DATA"},
        {"to": "a@x.y>{}RCPT TO:<e@e.org"},
        {"to": "a{}@example.org"},
        {"to": '"a{}RCPT TO:<e@e.org>"@x.y'},
        {"to": [{"email": "a@example.org", "name": "x{}Bcc: e@e.org"}]},
        {"cc": [{"email": "a@example.org{}"}]},
        {"reply_to": "{}a@example.org"},
        {"reply_to": '"x{}y" <a@example.org>'},
        {"headers": {"X-Order": "x{}Bcc: e@e.org"}},
        {"headers": {"X-Order{}Bcc": "e@e.org"}},
        {"attachments": [{"filename": "x{}Bcc: e@e.org", "content": "UERG"}]},
        {"attachments": [{"filename": "x", "content": "UERG", "content_id": "x{}y"}]},
        {"attachments": [{"filename": "x", "content": "UERG", "content_type": "text/x{}y"}]},
        {"tags": {"kind": "x{}Bcc: e@e.org"}},
        {"tags": {"kind{}Bcc": "e@e.org"}},
        {"reference": "x{}y"},
        {"stream": "x{}y"},
        {"providers": ["one{}"]},
    ],
    ids=repr,
)
def test_nothing_that_ends_a_line_gets_in(fields: dict[str, Any], line_break: str) -> None:
    raw = json.dumps(LEAST | fields).replace("{}", json.dumps(line_break)[1:-1])
    (error,) = errors_of(raw.encode())
    assert error.path.startswith(next(iter(fields)))
    assert line_break not in error.path + error.message
    assert "e.org" not in error.message


@pytest.mark.parametrize("value", ["x%0d%0aBcc: e@e.org", "=?utf-8?q?x=0D=0ABcc:?=", "{{7*7}}", "<script>"])
def test_what_only_looks_like_a_header_stays_the_text_that_it_is(value: str) -> None:
    found = take(
        subject=value, headers={"X-A": value}, tags={"a": value}, to=[{"email": "a@example.org", "name": value}]
    )
    assert (found.subject, found.headers["X-A"], found.tags["a"], found.to[0].name) == (value,) * 4


# --- whatever the bytes

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20) | st.emails(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.sampled_from(FIELDS), inner, max_size=4)
    ),
    max_leaves=12,
)
_STRINGS = st.dictionaries(st.text(max_size=10), st.text(max_size=20), max_size=4)
_TYPED = st.fixed_dictionaries(
    {"from": st.text() | st.emails(), "to": st.lists(st.text() | st.emails(), max_size=4), "subject": st.text()},
    optional={
        "text": st.text(),
        "cc": st.fixed_dictionaries({"email": st.text() | st.emails()}, optional={"name": st.text()}),
        "headers": _STRINGS,
        "tags": _STRINGS,
        "reference": st.text(),
        "stream": st.text(),
        "expires_in": st.integers(),
        "attempt_timeout": st.floats(allow_nan=False, allow_infinity=False),
        "providers": st.lists(st.sampled_from(["one", "two", "three"])),
        "attachments": st.lists(
            st.fixed_dictionaries(
                {"filename": st.text(), "content": st.binary(max_size=8).map(lambda b: base64.b64encode(b).decode())},
                optional={"content_type": st.text(string.printable), "content_id": st.text(string.printable)},
            ),
            max_size=3,
        ),
    },
)


@given(
    st.one_of(
        st.binary(),
        st.binary().map(lambda b: b'{"subject":"' + b + b'"}'),
        _JSON.map(lambda v: json.dumps(v).encode()),
        st.dictionaries(st.sampled_from(FIELDS), _JSON).map(lambda v: json.dumps(v).encode()),
        _TYPED.map(lambda v: json.dumps(v).encode()),
        _TYPED.map(lambda v: json.dumps(v, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    )
)
@settings(max_examples=1000)
def test_nothing_but_a_callers_error_is_ever_raised(raw: bytes) -> None:
    with contextlib.suppress(Unreadable, InvalidEmail):
        found = read(raw)
        lines = [found.subject, found.sender.email, *found.headers, *found.headers.values(), *found.tags.values()]
        assert all(len(line.splitlines()) == 1 and "\x00" not in line for line in lines)
