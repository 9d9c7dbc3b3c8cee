"""What Mailgun is asked: the form of a request, and what is declined before a byte goes out."""

import re
from base64 import b64encode
from email.header import decode_header, make_header
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hes.model import Address, Answer, Attachment, AttemptId, Email, Outcome
from hes.providers.mailgun import build_body
from hes.providers.multipart import Part, multipart
from tests.fakes import an_email
from tests.fakes.faults import Seen
from tests.fakes.mailgun import KEY, PATH, File, Form, Mail, MailgunRules, read_form

ATTEMPT = AttemptId("0190-attempt")


def seen(content_type: str, body: bytes) -> Seen:
    basic = b64encode(f"api:{KEY}".encode()).decode()
    return Seen("POST", PATH, {"Authorization": f"Basic {basic}", "Content-Type": content_type}, body)


def form_of(email: Email) -> Form:
    request = build_body(email, ATTEMPT)
    assert not isinstance(request, Answer), request
    form = read_form(seen(*request))
    assert form is not None
    return form


def taken(email: Email) -> Mail:
    """The email as the fake understood it."""
    request = build_body(email, ATTEMPT)
    assert not isinstance(request, Answer), request
    said, copy = MailgunRules().judge(seen(*request))
    assert copy is not None, said
    mail: Mail = copy.content
    return mail


def declined(email: Email) -> str:
    answer = build_body(email, ATTEMPT)
    assert isinstance(answer, Answer)
    assert answer.outcome is Outcome.DECLINED
    return answer.detail


def test_a_plain_email() -> None:
    email = an_email(reply_to=(Address("help@example.com", "Help"), Address("b@example.com")))
    assert form_of(email).files == {}
    assert form_of(email).values == {
        "from": ["Shop <shop@example.com>"],
        "to": ["Ann <ann@example.org>"],
        "subject": ["Receipt 7"],
        "text": ["Hi"],
        "html": ["<p>Hi</p>"],
        "h:Message-Id": ["<0190-email@hes.example>"],
        "h:Reply-To": ["Help <help@example.com>, b@example.com"],
        "v:hes_id": ["0190-email"],
        "v:hes_attempt": ["0190-attempt"],
        "o:tracking": ["no"],
        "o:tracking-clicks": ["no"],
        "o:tracking-opens": ["no"],
    }


def test_the_bytes_of_a_request() -> None:
    """As RFC 7578 writes them; one test that does not trust the fake's parser."""
    content_type, body = multipart([Part("h:X", b"v"), Part("attachment", b"\0", "a.bin", "a/b")], "hes-1")
    assert content_type == "multipart/form-data; boundary=hes-1"
    assert body == (
        b'--hes-1\r\nContent-Disposition: form-data; name="h:X"\r\n\r\nv\r\n'
        b'--hes-1\r\nContent-Disposition: form-data; name="attachment"; filename="a.bin"\r\n'
        b"Content-Type: a/b\r\n\r\n\0\r\n--hes-1--\r\n"
    )


def test_the_same_email_and_attempt_make_the_same_bytes() -> None:
    email = an_email(tags={"b": "1", "a": "2"}, headers={"X-B": "1", "X-A": "2"})
    again = msgspec.json.decode(msgspec.json.encode(email), type=Email)
    assert build_body(email, ATTEMPT) == build_body(again, ATTEMPT)
    assert build_body(email, ATTEMPT) != build_body(email, AttemptId("0191-attempt"))


def test_the_boundary_occurs_in_no_part() -> None:
    text = "--hes-0190-attempt\r\n\r\nhes-0190-attempt-1--\r\n"
    email = an_email(text=text)
    request = build_body(email, ATTEMPT)
    assert not isinstance(request, Answer)
    assert request[0] == "multipart/form-data; boundary=hes-0190-attempt-2"
    assert taken(email).text == text


@given(st.lists(st.binary(max_size=60) | st.sampled_from([b"--b", b"\r\n--b--\r\n", b"b-1", b"\r", b"--"]), max_size=4))
def test_whatever_a_part_holds_comes_through(contents: list[bytes]) -> None:
    request = multipart([Part("attachment", content, f"{n}") for n, content in enumerate(contents)], "b")
    if contents:
        form = read_form(seen(*request))
        assert form is not None
        assert [file.content for file in form.files["attachment"]] == contents


def test_recipients_repeat_the_field_and_their_names_are_quoted() -> None:
    values = form_of(
        an_email(
            to=(Address("a@x.org", "Doe, Ann"), Address("b@x.org", 'B "C" \\')),
            cc=(Address("c@x.org", "Jörg"),),
            bcc=(Address("d@x.org"), Address("e@x.org")),
        )
    ).values
    assert values["to"] == ['"Doe, Ann" <a@x.org>', r'"B \"C\" \\" <b@x.org>']
    assert (values["cc"], values["bcc"]) == (["Jörg <c@x.org>"], ["d@x.org", "e@x.org"])


def test_unicode_arrives_as_it_is() -> None:
    mail = taken(an_email(subject="Grüße 🎁", text="日本\r\n", sender=Address("s@x.org", "Jörg"), html=None))
    assert (mail.subject, mail.text, mail.sender) == ("Grüße 🎁", "日本\r\n", "Jörg <s@x.org>")


@pytest.mark.parametrize(
    ("text", "html", "names"),
    [("a", "b", {"text", "html"}), ("a", "", {"text"}), ("", "b", {"html"}), (None, "b", {"html"})],
)
def test_empty_content_is_never_sent(text: str | None, html: str | None, names: set[str]) -> None:
    assert form_of(an_email(text=text, html=html)).values.keys() & {"text", "html"} == names


def test_custom_headers_travel() -> None:
    mail = taken(an_email(headers={"X-Order": "7", "List-Unsubscribe": "<https://x.org/u>"}))
    assert mail.headers == {"X-Order": "7", "List-Unsubscribe": "<https://x.org/u>"}
    assert mail.id == "<0190-email@hes.example>"


def test_a_header_that_is_not_ascii_is_encoded() -> None:
    value = taken(an_email(headers={"X-Note": "Grüße " * 40})).headers["X-Note"]
    assert value.isascii()
    assert value.isprintable()
    assert str(make_header(decode_header(value))) == "Grüße " * 40


@pytest.mark.parametrize(
    "name", ["r.pdf", "Rechnung März.pdf", 'a "b".pdf', "a\\b.pdf", "a%22b.pdf", "日本.pdf", "a;b=c"]
)
def test_attachments_are_raw_bytes_and_keep_their_names(name: str) -> None:
    content = bytes(range(256)) + b"\r\n"
    mail = taken(an_email(attachments=(Attachment(name, content, "application/pdf"),)))
    assert mail.attachments == (File(name, "application/pdf", content),)


def test_a_file_without_a_type_is_bytes() -> None:
    (file,) = taken(an_email(attachments=(Attachment("a", b"x", ""),))).attachments
    assert file.content_type == "application/octet-stream"


def test_an_inline_image_is_named_by_its_content_id() -> None:
    """Mailgun makes the Content-ID from the file name, so the HTML's `cid:logo@x` finds it, and `l.png` is lost."""
    mail = taken(an_email(attachments=(Attachment("l.png", b"PNG", "image/png", content_id="logo@x"),)))
    assert (mail.attachments, mail.inline) == ((), (File("logo@x", "image/png", b"PNG"),))


def test_without_html_an_image_is_attached_by_its_name() -> None:
    mail = taken(an_email(html=None, attachments=(Attachment("l.png", b"PNG", "image/png", content_id="logo"),)))
    assert (mail.attachments, mail.inline) == ((File("l.png", "image/png", b"PNG"),), ())


def test_tags_are_tags_and_variables() -> None:
    mail = taken(an_email(tags={"kind": "welcome", "shop": "de"}))
    assert mail.tags == ("kind:welcome", "shop:de")
    assert mail.variables == {
        "hes_id": "0190-email",
        "hes_attempt": "0190-attempt",
        "kind": "welcome",
        "shop": "de",
    }


@pytest.mark.parametrize("key", ["hes_id", "HES_attempt", "tag_hes_id"])
def test_a_tag_can_not_hide_our_ids(key: str) -> None:
    variables = taken(an_email(tags={key: "x"})).variables
    assert variables == {"hes_id": "0190-email", "hes_attempt": "0190-attempt", f"tag_{key}": "x"}


def test_tags_that_can_not_be_tags_there_still_travel() -> None:
    tags = {f"k{number}": "v" for number in range(12)} | {"long": "x" * 128, "ü": "v"}
    mail = taken(an_email(tags=tags))
    assert mail.tags == tuple(f"k{number}:v" for number in range(10))
    assert tags.items() <= mail.variables.items()
    assert taken(an_email(tags={"long": "x" * 128, "ü": "v", "a": "b"})).tags == ("a:b",)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"to": (), "cc": (Address("a@x.org"),)}, "recipient"),
        ({"to": tuple(Address(f"a{number}@x.org") for number in range(1001))}, "1,000"),
        ({"subject": ""}, "subject"),
        ({"sender": Address("jörg@x.org")}, "beyond ASCII"),
        ({"reply_to": (Address("jörg@x.org"),)}, "beyond ASCII"),
        ({"headers": {"X-Ü": "1"}}, "X-Ü"),
        ({"headers": {"x-mailgun-drop-message": "yes"}}, "x-mailgun-drop-message"),
        ({"headers": {f"X-{number}": "x" * 998 for number in range(17)}}, "16 KB"),
        ({"tags": {"a": "x" * 16_384}}, "16 KB"),
        ({"attachments": (Attachment("", b"x", "text/plain"),)}, "attachment 1"),
        ({"attachments": (Attachment("a.png", b"x", "image/png", content_id="a/b"),)}, "slashes"),
        ({"attachments": (Attachment("a.bin", b"x" * 26_214_400, "application/zip"),)}, "25 MB"),
    ],
    ids=[
        "no to",
        "recipients",
        "subject",
        "from",
        "reply-to",
        "header",
        "order",
        "headers",
        "tags",
        "name",
        "cid",
        "size",
    ],
)
def test_what_mailgun_can_not_take_is_declined_with_the_reason(changes: dict[str, Any], words: str) -> None:
    assert words in declined(an_email(**changes))


def test_the_limit_of_options_counts_names_and_bytes() -> None:
    values = form_of(an_email(headers={"X-A": "x"})).values
    used = sum(len(name) + len(value) for name, all_ in values.items() for value in all_ if name[1:2] == ":")
    room = 16_384 - used + 1
    assert taken(an_email(headers={"X-A": "x" * room})).headers["X-A"] == "x" * room
    assert "16 KB" in declined(an_email(headers={"X-A": "x" * (room + 1)}))


def test_just_under_25_megabytes_is_asked_for() -> None:
    attachments = (Attachment("a.bin", b"x" * 26_200_000, "application/zip"),)
    assert len(taken(an_email(attachments=attachments)).attachments[0].content) == 26_200_000


ADDRESSES = st.builds(
    Address, st.from_regex(r"\A[a-c]{1,2}@[x-z]\.org\Z"), st.none() | st.text(st.characters(exclude_categories=["C"]))
)
TEXT = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=30)
NAMES = TEXT.map(lambda text: re.sub(r"[/\\]", "", text))


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
        headers=st.dictionaries(st.sampled_from(["X-A", "X-B", "X-Mailgun-Track"]), TEXT),
        attachments=st.lists(
            st.builds(
                Attachment, NAMES, st.binary(max_size=5), st.sampled_from(["a/b", "a/b; c=d", ""]), st.none() | NAMES
            ),
            max_size=2,
        ).map(tuple),
    )
)
def test_whatever_is_not_declined_keeps_mailguns_rules_and_loses_nothing(email: Email) -> None:
    if isinstance(build_body(email, ATTEMPT), Answer):
        return
    mail = taken(email)
    assert (mail.subject, mail.text or "", mail.html) == (email.subject, email.text or "", email.html)
    assert (mail.variables["hes_id"], mail.variables["hes_attempt"]) == (email.id, ATTEMPT)
    assert sorted(file.content for file in (*mail.attachments, *mail.inline)) == sorted(
        file.content for file in email.attachments
    )
    assert {file.name for file in (*mail.attachments, *mail.inline)} == {
        file.content_id or file.filename for file in email.attachments
    }
