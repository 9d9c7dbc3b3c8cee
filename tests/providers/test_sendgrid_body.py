"""What SendGrid is asked: the JSON of a request, and what is declined before a byte goes out."""

import base64
from email.header import decode_header, make_header
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hes.model import Address, Answer, Attachment, AttemptId, Email, Outcome
from hes.providers.sendgrid import build_body
from tests.fakes import an_email
from tests.fakes.faults import Seen
from tests.fakes.sendgrid import KEY, PATH, SendGridRules

ATTEMPT = AttemptId("0190-attempt")


def built(email: Email) -> Any:
    body = build_body(email, ATTEMPT)
    assert isinstance(body, bytes), body
    return msgspec.json.decode(body)


def declined(email: Email) -> str:
    answer = build_body(email, ATTEMPT)
    assert isinstance(answer, Answer)
    assert answer.outcome is Outcome.DECLINED
    return answer.detail


def test_a_plain_email() -> None:
    assert built(an_email(reply_to=(Address("help@example.com", "Help"), Address("b@example.com")))) == {
        "personalizations": [
            {
                "to": [{"email": "ann@example.org", "name": "Ann"}],
                "custom_args": {"hes_id": "0190-email", "hes_attempt": "0190-attempt"},
            }
        ],
        "from": {"email": "shop@example.com", "name": "Shop"},
        "reply_to_list": [{"email": "help@example.com", "name": "Help"}, {"email": "b@example.com"}],
        "subject": "Receipt 7",
        "content": [{"type": "text/plain", "value": "Hi"}, {"type": "text/html", "value": "<p>Hi</p>"}],
        "headers": {"Message-ID": "<0190-email@hes.example>"},
        "tracking_settings": {
            "click_tracking": {"enable": False, "enable_text": False},
            "open_tracking": {"enable": False},
            "subscription_tracking": {"enable": False},
            "ganalytics": {"enable": False},
        },
    }


def test_the_same_email_and_attempt_make_the_same_bytes() -> None:
    email = an_email(tags={"b": "1", "a": "2"}, headers={"X-B": "1", "X-A": "2"})
    again = msgspec.json.decode(msgspec.json.encode(email), type=Email)
    assert build_body(email, ATTEMPT) == build_body(again, ATTEMPT)


def test_an_address_counts_where_it_stands_first() -> None:
    (personalization,) = built(
        an_email(
            to=(Address("a@x.org"), Address("A@X.org", "again"), Address("b@x.org")),
            cc=(Address("B@x.org"), Address("c@x.org")),
            bcc=(Address("a@x.org"), Address("C@x.org"), Address("d@x.org")),
        )
    )["personalizations"]
    assert personalization["to"] == [{"email": "a@x.org"}, {"email": "b@x.org"}]
    assert personalization["cc"] == [{"email": "c@x.org"}]
    assert personalization["bcc"] == [{"email": "d@x.org"}]


def test_empty_groups_are_left_out() -> None:
    body = built(an_email(bcc=(Address("ann@example.org"),), reply_to=()))
    assert "bcc" not in body["personalizations"][0]
    assert not body.keys() & {"reply_to_list", "reply_to", "attachments", "categories"}


@pytest.mark.parametrize("name", ["Doe, Ann", "Doe; Ann"])
def test_a_recipients_name_is_quoted_where_sendgrid_would_split_it(name: str) -> None:
    body = built(an_email(to=(Address("a@x.org", name),), sender=Address("s@x.org", name)))
    assert body["personalizations"][0]["to"] == [{"email": "a@x.org", "name": f'"{name}"'}]
    assert body["from"] == {"email": "s@x.org", "name": name}


def test_quotes_within_a_quoted_name_are_escaped() -> None:
    (to,) = built(an_email(to=(Address("a@x.org", 'A "B", \\C'),)))["personalizations"][0]["to"]
    assert to["name"] == r'"A \"B\", \\C"'


def test_unicode_arrives_as_it_is() -> None:
    body = built(an_email(subject="Grüße 🎁", text="日本", sender=Address("s@x.org", "Jörg"), html=None))
    assert (body["subject"], body["content"][0]["value"], body["from"]["name"]) == ("Grüße 🎁", "日本", "Jörg")


@pytest.mark.parametrize(
    ("text", "html", "types"),
    [
        ("a", "b", ["text/plain", "text/html"]),
        ("a", "", ["text/plain"]),
        ("", "b", ["text/html"]),
        (None, "b", ["text/html"]),
    ],
)
def test_empty_content_is_never_sent(text: str | None, html: str | None, types: list[str]) -> None:
    assert [part["type"] for part in built(an_email(text=text, html=html))["content"]] == types


def test_custom_headers_travel_and_ours_is_added() -> None:
    headers = built(an_email(headers={"X-Order": "7", "List-Unsubscribe": "<https://x.org/u>"}))["headers"]
    assert headers == {
        "X-Order": "7",
        "List-Unsubscribe": "<https://x.org/u>",
        "Message-ID": "<0190-email@hes.example>",
    }


@given(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc", "Zl", "Zp"])))
def test_a_header_that_is_not_ascii_is_encoded_on_one_line(value: str) -> None:
    header = built(an_email(headers={"X-Note": "ü" + value}))["headers"]["X-Note"]
    assert header.isascii()
    assert header.isprintable()
    assert str(make_header(decode_header(header))) == "ü" + value


def test_attachments_and_inline_images() -> None:
    pdf, logo = built(
        an_email(
            attachments=(
                Attachment("r.pdf", b"PDF\x00\xff", "application/pdf"),
                Attachment("l.png", b"PNG", "image/png", content_id="logo"),
            )
        )
    )["attachments"]
    assert base64.b64decode(pdf.pop("content")) == b"PDF\x00\xff"
    assert pdf == {"type": "application/pdf", "filename": "r.pdf", "disposition": "attachment"}
    assert (logo["disposition"], logo["content_id"]) == ("inline", "logo")


def test_tags_are_categories_and_custom_args() -> None:
    body = built(an_email(tags={"kind": "welcome", "shop": "de"}))
    assert body["categories"] == ["kind:welcome", "shop:de"]
    args = body["personalizations"][0]["custom_args"]
    assert args == {"hes_id": "0190-email", "hes_attempt": "0190-attempt", "kind": "welcome", "shop": "de"}


@pytest.mark.parametrize("key", ["hes_id", "hes_attempt", "event", "EMAIL", "smtp-id", "sg_event_id", "tag_event"])
def test_a_tag_can_not_hide_our_ids_or_a_field_of_an_event(key: str) -> None:
    args = built(an_email(tags={key: "x"}))["personalizations"][0]["custom_args"]
    assert args == {"hes_id": "0190-email", "hes_attempt": "0190-attempt", f"tag_{key}": "x"}


def test_tags_that_can_not_be_categories_still_travel() -> None:
    tags = {f"k{number}": "v" for number in range(12)} | {"long": "x" * 255, "ü": "v"}
    body = built(an_email(tags=tags))
    assert body["categories"] == [f"k{number}:v" for number in range(10)]
    assert tags.items() <= body["personalizations"][0]["custom_args"].items()


def test_categories_are_unique() -> None:
    assert built(an_email(tags={"a": "b:c", "a:b": "c"}))["categories"] == ["a:b:c"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"to": (), "cc": (Address("a@x.org"),)}, "recipient"),
        ({"to": tuple(Address(f"a{number}@x.org") for number in range(1001))}, "1,000"),
        ({"subject": ""}, "subject"),
        ({"tags": {"a": "x" * 10_000}}, "10,000 bytes"),
        ({"headers": {"X-SG-EID": "1"}}, "X-SG-EID"),
        ({"attachments": (Attachment("a.txt", b"", "text/plain"),)}, "attachment 1"),
        ({"attachments": (Attachment("a.ics", b"x", "text/calendar; method=REQUEST"),)}, "parameters"),
        ({"attachments": (Attachment("a.bin", b"x" * 23_600_000, "application/zip"),)}, "30 MB"),
    ],
    ids=["no to", "recipients", "subject", "args", "header", "empty file", "parameters", "size"],
)
def test_what_sendgrid_can_not_take_is_declined_with_the_reason(changes: dict[str, Any], words: str) -> None:
    assert words in declined(an_email(**changes))


ADDRESSES = st.builds(
    Address, st.from_regex(r"\A[a-c]{1,2}@[x-z]\.org\Z"), st.none() | st.text(st.characters(exclude_categories=["C"]))
)
TEXT = st.text(st.characters(exclude_categories=["C"]), max_size=30)


@given(
    st.builds(
        an_email,
        to=st.lists(ADDRESSES, max_size=4).map(tuple),
        cc=st.lists(ADDRESSES, max_size=4).map(tuple),
        bcc=st.lists(ADDRESSES, max_size=4).map(tuple),
        reply_to=st.lists(ADDRESSES, max_size=3).map(tuple),
        subject=TEXT,
        text=st.none() | TEXT,
        html=TEXT.map(lambda text: text + "x"),
        tags=st.dictionaries(TEXT, TEXT, max_size=20),
        headers=st.dictionaries(st.sampled_from(["X-A", "X-B", "X-SG-ID"]), TEXT),
        attachments=st.lists(
            st.builds(
                Attachment, TEXT, st.binary(max_size=5), st.sampled_from(["a/b", "a/b; c=d", ""]), st.none() | TEXT
            ),
            max_size=2,
        ).map(tuple),
    )
)
def test_whatever_is_not_declined_keeps_sendgrids_rules(email: Email) -> None:
    body = build_body(email, ATTEMPT)
    if isinstance(body, bytes):
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        said, copy = SendGridRules().judge(Seen("POST", PATH, headers, body))
        assert said.status == 202, said.body
        assert copy is not None
        assert copy.hes_attempt == ATTEMPT
