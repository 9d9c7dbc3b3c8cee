"""MIME files: what becomes of each part, and what is refused because the API has no field for it."""

from email.message import EmailMessage

import pytest

from hes.cli.mime_file import MAX_FILE_BYTES, CannotExpress, read_mime
from hes.mime import render
from hes.model import Address, Attachment, AttemptId, Email, EmailId

HEAD = b"From: shop@example.com\nTo: ann@example.org\nSubject: Receipt\n"
PNG = b"\x89PNG\r\n\x00"


def message(**headers: str) -> EmailMessage:
    made = EmailMessage()
    for name, value in {"From": "shop@example.com", "To": "ann@example.org", "Subject": "Receipt", **headers}.items():
        made[name.replace("_", "-")] = value
    return made


def test_what_hes_renders_it_reads_back() -> None:
    email = Email(
        id=EmailId("1"),
        project="default",
        message_id="<1@example.com>",
        date=1_800_000_000_000,
        sender=Address("shop@example.com", "Shöp"),
        to=(Address("ann@example.org", "Ann"), Address("al@example.org")),
        cc=(Address("bob@example.org"),),
        reply_to=(Address("help@example.com"),),
        subject="Größe 7 ✓",
        text="Thank you, Ånn.\nBye\n",
        html='<p>Thank you <img src="cid:logo"></p>\n',
        headers={"X-Order": "7", "List-Unsubscribe": "<https://example.com/u>"},
        attachments=(
            Attachment("logo.png", PNG, "image/png", "logo"),
            Attachment("Größe.pdf", b"%PDF\x00\xff", "application/pdf"),
        ),
    )
    fields = read_mime(render(email, AttemptId("2")))
    assert fields == {
        "from": {"email": "shop@example.com", "name": "Shöp"},
        "to": [{"email": "ann@example.org", "name": "Ann"}, {"email": "al@example.org", "name": None}],
        "cc": [{"email": "bob@example.org", "name": None}],
        "reply_to": [{"email": "help@example.com", "name": None}],
        "subject": email.subject,
        "text": email.text,
        "html": email.html,
        "headers": email.headers,
        "attachments": [
            {"filename": "logo.png", "content_type": "image/png", "content": PNG, "content_id": "logo"},
            {"filename": "Größe.pdf", "content_type": "application/pdf", "content": b"%PDF\x00\xff"},
        ],
    }


def test_what_the_way_wrote_is_left_out() -> None:
    way = b"Received: by x\nReceived: by y\nReturn-Path: <>\nMessage-ID: <1@x>\nDate: Sat, 31 Jan 2026 12:00:00 +0000\n"
    fields = read_mime(way + HEAD + b"DKIM-Signature: v=1\nMIME-Version: 1.0\nIn-Reply-To: <0@x>\n\nHi")
    assert fields["headers"] == {"In-Reply-To": "<0@x>"}


def test_an_id_that_the_html_does_not_show_makes_no_inline_image() -> None:
    made = message()
    made.set_content("<p>Hi</p>", subtype="html")
    made.add_attachment(PNG, "image", "png", filename="a.png", cid="<a@x>")
    (file,) = read_mime(made.as_bytes())["attachments"]
    assert "content_id" not in file


def test_a_file_without_a_name_gets_one() -> None:
    made = message()
    made.set_content('<img src="cid:a@x">', subtype="html")
    made.add_related(PNG, "image", "png", cid="<a@x>")
    (file,) = read_mime(made.as_bytes())["attachments"]
    assert (file["filename"], file["content_id"]) == ("part-1.png", "a@x")


def test_a_forwarded_email_is_a_file() -> None:
    inner = message()
    inner.set_content("Inner")
    made = message()
    made.set_content("Outer")
    made.add_attachment(inner)
    fields = read_mime(made.as_bytes())
    assert fields["text"] == "Outer\n"
    assert fields["attachments"][0]["content_type"] == "message/rfc822"
    assert b"Inner" in fields["attachments"][0]["content"]


def with_calendar() -> bytes:
    made = message()
    made.set_content("Come")
    made.add_alternative("BEGIN:VCALENDAR", subtype="calendar")
    return made.as_bytes()


def two_texts() -> bytes:
    made = message()
    made.set_content("One")
    made.make_mixed()
    part = EmailMessage()
    part.set_content("Two")
    made.attach(part)
    return made.as_bytes()


def with_method() -> bytes:
    made = message()
    made.set_content("Come")
    made.add_attachment("BEGIN:VCALENDAR", "calendar", filename="a.ics", params={"method": "REQUEST"})
    return made.as_bytes()


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"From: a@example.com, b@example.com\nTo: c@example.com\n\nHi", "several senders"),
        (HEAD + b"Sender: other@example.com\n\nHi", "Sender that is not its From"),
        (HEAD + b"To: bob@example.org\n\nHi", "more than one To header"),
        (HEAD + b"Subject: Again\n\nHi", "more than one Subject header"),
        (HEAD + b"X-A: 1\nX-A: 2\n\nHi", "header X-A more than once"),
        (HEAD + b"Bcc: @@\n\nHi", "Bcc header can't be read"),
        (HEAD + b"X-Raw: \xff\n\nHi", "X-Raw header can't be read"),
        (HEAD + b'Content-Type: multipart/signed; boundary="b"\n\n--b\n\nHi\n--b--\n', "multipart/signed"),
        (HEAD + b"Content-Type: text/plain; charset=utf-8\n\n\xff", "is not the utf-8"),
        (HEAD + b"Content-Type: text/plain; charset=klingon\n\nHi", "is not the klingon"),
        (HEAD + b"Content-Type: image/png\nContent-Transfer-Encoding: base64\n\n!!!", "not a well-formed email"),
        (b"This is no email.\n", "not a well-formed email"),
        (with_calendar(), "text/calendar as an alternative"),
        (two_texts(), "a second body of type text/plain"),
        (with_method(), "parameter method=REQUEST"),
    ],
)
def test_what_the_api_has_no_field_for_is_refused(raw: bytes, says: str) -> None:
    with pytest.raises(CannotExpress, match=says):
        read_mime(raw)


# --- bounds ----------------------------------------------------------------------------------------------------------


def nested(depth: int) -> bytes:
    heads = b"".join(b'Content-Type: multipart/mixed; boundary="b%d"\n\n--b%d\n' % (n, n) for n in range(depth))
    ends = b"".join(b"\n--b%d--\n" % n for n in reversed(range(depth)))
    return HEAD + heads + b"Content-Type: text/plain\n\nHi\n" + ends


def with_parts(count: int) -> bytes:
    part = b"--b\nContent-Type: application/x\n\nx\n"
    return HEAD + b"Content-Type: multipart/mixed; boundary=b\n\n" + part * count + b"--b--\n"


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (nested(21), "parts within parts, more than 20 deep"),
        (nested(150), "parts within parts, more than 20 deep"),
        (nested(5000), "more than 200 parts"),
        (HEAD + b"Content-Type: message/rfc822\n\n" * 500, "more than 200 parts"),
        (with_parts(201), "more than 200 parts"),
        (with_parts(20_000), "more than 200 parts"),
        (b"From: " + b"(" * 5000 + b"\n\nHi", "parts within parts"),
        (HEAD + b"Content-Type: text/plain; " + b"a=b; " * 5000 + b"\n\nHi", "Content-Type header of more than 4,000"),
        (HEAD + b"Cc: " + b"a@b.org, " * 20_000 + b"a@b.org\n\nHi", "Cc header of more than 100,000"),
        (HEAD + b"Cc: a@b.org,\n" + b" a@b.org,\n" * 20_000 + b" a@b.org\n\nHi", "Cc header of more than 100,000"),
        (b"x" * (MAX_FILE_BYTES + 1), "more than 64 MiB"),
    ],
    ids=range(11),
)
def test_what_could_take_all_memory_or_time_is_refused(raw: bytes, says: str) -> None:
    with pytest.raises(CannotExpress, match=says):
        read_mime(raw)


@pytest.mark.parametrize("raw", [nested(20), with_parts(198)], ids=["deep", "many"])
def test_what_is_within_the_bounds_is_read(raw: bytes) -> None:
    assert read_mime(raw)["subject"] == "Receipt"
