"""What Resend is asked: the JSON of a request, and what is declined before a byte goes out."""

import base64
import json
import re
from email.header import decode_header, make_header
from email.utils import parseaddr
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hes.model import Address, Answer, Attachment, AttemptId, Email, Outcome
from hes.providers.resend import TAGS_HEADER, build_body
from tests.fakes import an_email
from tests.fakes.faults import Seen
from tests.fakes.resend import KEY, PATH, ResendRules

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


def tags_of(body: Any) -> dict[str, str]:
    return {tag["name"]: tag["value"] for tag in body["tags"]}


def test_a_plain_email() -> None:
    email = an_email(reply_to=(Address("help@example.com", "Help"), Address("b@example.com")))
    assert built(email) == {
        "from": "Shop <shop@example.com>",
        "to": ["Ann <ann@example.org>"],
        "reply_to": ["Help <help@example.com>", "b@example.com"],
        "subject": "Receipt 7",
        "text": "Hi",
        "html": "<p>Hi</p>",
        "headers": {"Message-ID": "<0190-email@hes.example>"},
        "tags": [{"name": "hes_id", "value": "0190-email"}, {"name": "hes_attempt", "value": "0190-attempt"}],
    }


def test_the_same_email_and_attempt_make_the_same_bytes() -> None:
    email = an_email(tags={"b": "1", "a.b": "2"}, headers={"X-B": "1", "X-A": "2"})
    again = msgspec.json.decode(msgspec.json.encode(email), type=Email)
    assert build_body(email, ATTEMPT) == build_body(again, ATTEMPT)


def test_no_text_is_made_of_the_html() -> None:
    """Left out, Resend would make one; empty, it makes none."""
    assert built(an_email(text=None))["text"] == ""


def test_without_html_there_is_none() -> None:
    assert "html" not in built(an_email(html=None))


def test_copies_are_kept_apart() -> None:
    body = built(an_email(cc=(Address("c@x.org"),), bcc=(Address("b@x.org"),)))
    assert (body["cc"], body["bcc"]) == (["c@x.org"], ["b@x.org"])


@pytest.mark.parametrize(
    "name", ["Doe, Ann", 'Ann "A" Doe', "Ann (Sales)", "Ann B. Doe", "Jörg", "a" * 200 + ",", "=?"]
)
def test_a_recipients_name_is_never_quoted(name: str) -> None:
    """Resend refuses quotes; an encoded word says the same."""
    body = built(an_email(to=(Address("a@x.org", name),), reply_to=(Address("b@x.org", name),)))
    for text, address in ((body["to"][0], "a@x.org"), (body["reply_to"][0], "b@x.org")):
        assert text.isascii()
        assert '"' not in text
        word, found = parseaddr(text)
        assert (str(make_header(decode_header(word))), found) == (name, address)


@pytest.mark.parametrize("name", ["Jörg", "Shop Inc.", "Shop & Co"])
def test_the_senders_name_is_neither_quoted_nor_encoded(name: str) -> None:
    assert built(an_email(sender=Address("s@x.org", name)))["from"] == f"{name} <s@x.org>"


def test_custom_headers_travel() -> None:
    headers = built(an_email(headers={"X-Order": "7", "X-Note": "Grüße"}))["headers"]
    assert headers["X-Order"] == "7"
    assert str(make_header(decode_header(headers["X-Note"]))) == "Grüße"


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
    assert pdf == {"filename": "r.pdf", "content_type": "application/pdf"}
    assert (logo["filename"], logo["content_id"]) == ("l.png", "logo")


@pytest.mark.parametrize("content_type", ["application/octet-stream", ""])
def test_a_type_that_says_nothing_is_left_to_the_name(content_type: str) -> None:
    """Said beside `r.pdf` it would be a mismatch, for which Resend drops emails."""
    (file,) = built(an_email(attachments=(Attachment("r.pdf", b"x", content_type),)))["attachments"]
    assert file.keys() == {"filename", "content"}


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("a.csv", "text/csv"),
        ("a.jpeg", "image/jpeg"),
        ("a.ics", "text/calendar"),
        ("a", "text/csv"),
        ("a.unheard-of", "text/csv"),
        ("a.txt", "text/x-unheard-of"),
        ("a.xml", "application/xml"),
        ("a.xml", "text/xml"),
        ("A.PDF", "Application/PDF"),
        ("a.tar.gz", "application/gzip"),
        ("a.csv.gz", "application/zip"),
    ],
)
def test_a_name_that_may_fit_its_type_is_sent(name: str, content_type: str) -> None:
    built(an_email(attachments=(Attachment(name, b"x", content_type),)))


def test_tags_that_fit_are_tags() -> None:
    body = built(an_email(tags={"kind": "welcome", "shop-id": "de_1"}))
    ours = {"hes_id": "0190-email", "hes_attempt": "0190-attempt"}
    assert tags_of(body) == ours | {"kind": "welcome", "shop-id": "de_1"}
    assert TAGS_HEADER not in body["headers"]


def test_tags_that_do_not_fit_travel_in_a_header() -> None:
    others = {"a.b": "1", "plan": "Größe L", "empty": "", "long": "x" * 257}
    body = built(an_email(tags={"kind": "welcome"} | others))
    assert tags_of(body).keys() == {"hes_id", "hes_attempt", "kind"}
    assert body["headers"][TAGS_HEADER].isascii()
    assert json.loads(body["headers"][TAGS_HEADER]) == others


@pytest.mark.parametrize("key", ["hes_id", "hes_attempt", "HES_x", "tag_hes_id"])
def test_a_tag_can_not_hide_our_ids(key: str) -> None:
    ours = {"hes_id": "0190-email", "hes_attempt": "0190-attempt"}
    assert tags_of(built(an_email(tags={key: "x"}))) == ours | {f"tag_{key}": "x"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"to": (), "cc": (Address("a@x.org"),)}, "recipient"),
        ({"to": tuple(Address(f"a{number}@x.org") for number in range(51))}, "50"),
        ({"cc": tuple(Address(f"a{number}@x.org") for number in range(50))}, "50"),
        ({"subject": ""}, "subject"),
        ({"sender": Address("jörg@x.org")}, "ASCII"),
        ({"bcc": (Address("jörg@x.org"),)}, "ASCII"),
        ({"reply_to": (Address("jörg@x.org"),)}, "ASCII"),
        ({"sender": Address("a@x.org", "Shop, Ltd")}, "sender's name"),
        ({"sender": Address("a@x.org", "=?utf-8?q?a?=")}, "sender's name"),
        ({"tags": {f"{number}.": "x" * 100 for number in range(9)}}, "900"),
        ({"tags": {"a.b": "1"}, "headers": {"x-hes-tags": "1"}}, "X-HES-Tags"),
        ({"attachments": (Attachment("a.txt", b"", "text/plain"),)}, "attachment 1 is empty"),
        ({"attachments": (Attachment("", b"x", "text/plain"),)}, "attachment 1"),
        ({"attachments": (Attachment("a.png", b"x", "image/png", content_id="x" * 128),)}, "content id"),
        ({"attachments": (Attachment("a.txt", b"x", "text/csv"),)}, "drop"),
        ({"attachments": (Attachment("a.bin", b"x" * 31_500_000, ""),)}, "40 MB"),
    ],
)
def test_what_resend_can_not_take_is_declined_with_the_reason(changes: dict[str, Any], words: str) -> None:
    assert words in declined(an_email(**changes))


def test_just_under_40_megabytes_is_asked_for() -> None:
    built(an_email(attachments=(Attachment("a.bin", b"x" * 31_400_000, ""),)))


ADDRESSES = st.builds(
    Address, st.from_regex(r"\A[a-c]{1,2}@[x-z]\.org\Z"), st.none() | st.text(st.characters(exclude_categories=["C"]))
)
TEXT = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=30)
FILES = st.builds(
    Attachment,
    st.sampled_from(["a.txt", "a.csv", "a", "", "ü.pdf"]),
    st.binary(max_size=5),
    st.sampled_from(["text/plain", "text/csv", "a/b", "", "application/pdf"]),
    st.none() | TEXT,
)


@given(
    st.builds(
        an_email,
        sender=ADDRESSES,
        to=st.lists(ADDRESSES, max_size=4).map(tuple),
        cc=st.lists(ADDRESSES, max_size=4).map(tuple),
        bcc=st.lists(ADDRESSES, max_size=4).map(tuple),
        reply_to=st.lists(ADDRESSES, max_size=3).map(tuple),
        subject=TEXT,
        text=st.none() | TEXT,
        html=TEXT.map(lambda text: text + "x"),
        tags=st.dictionaries(TEXT, TEXT, max_size=20),
        headers=st.dictionaries(st.sampled_from(["X-A", "X-B", "X-HES-Tags"]), TEXT),
        attachments=st.lists(FILES, max_size=2).map(tuple),
    )
)
def test_whatever_is_not_declined_keeps_resends_rules_and_loses_nothing(email: Email) -> None:
    body = build_body(email, ATTEMPT)
    if isinstance(body, Answer):
        return
    headers = {"Authorization": f"Bearer {KEY}", "Idempotency-Key": ATTEMPT}
    rules = ResendRules()
    said, copy = rules.judge(Seen("POST", PATH, headers, body))
    assert said.status == 200, said.body
    assert rules.dropped == []
    assert copy is not None
    assert (copy.hes_id, copy.hes_attempt) == (email.id, ATTEMPT)
    mail = copy.content
    assert (mail["subject"], mail["text"], mail["html"]) == (email.subject, email.text or "", email.html)
    assert [base64.b64decode(file["content"]) for file in mail.get("attachments", [])] == [
        file.content for file in email.attachments
    ]
    if TAGS_HEADER not in email.headers:
        travelled = tags_of(mail) | json.loads(mail["headers"].get(TAGS_HEADER, "{}"))
        renamed = {re.sub(r"(?i)^((hes|tag)_)", r"tag_\1", key): value for key, value in email.tags.items()}
        assert travelled == renamed | {"hes_id": email.id, "hes_attempt": ATTEMPT}
