"""Whatever the API accepts is rendered at every provider, and readers see what the caller wrote."""

import base64
import json
import re
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from msgspec.structs import replace

from hes import mime
from hes.errors import InvalidEmail
from hes.model import Answer, Attachment, AttemptId, Email, EmailId, Outcome
from hes.providers import mailgun, resend, sendgrid
from hes.providers.outbox import Outbox
from hes.providers.rendering import rendered
from tests.fakes import an_email
from tests.fakes import mailgun as fake_mailgun
from tests.fakes import resend as fake_resend
from tests.fakes import sendgrid as fake_sendgrid
from tests.fakes.faults import Seen, Vendor
from tests.providers.readers import ReadEmail, as_written, read_mailgun, read_message, read_resend, read_sendgrid
from tests.web.bodies import LEAST, read

ATTEMPT = AttemptId("0190-attempt")
ID = EmailId("01900000-0000-7000-8000-000000000000")


def accepted(body: dict[str, Any]) -> Email:
    """The email that the API makes of a body. Raises InvalidEmail."""
    found = read(json.dumps(body).encode())
    return Email(
        id=ID,
        project="default",
        message_id=f"<hes-{ID}@example.com>",
        date=1_700_000_000_000,
        sender=found.sender,
        to=found.to,
        cc=found.cc,
        bcc=found.bcc,
        reply_to=found.reply_to,
        subject=found.subject,
        text=found.text,
        html=found.html,
        headers=found.headers,
        attachments=found.attachments,
        tags=found.tags,
    )


# --- a way there, and what comes out of it ---------------------------------------------------------------------------

Reader = Callable[[Email], ReadEmail | Answer]


def by_outbox(email: Email) -> ReadEmail | Answer:
    return read_message(mime.render(email, ATTEMPT))


def taken(vendor: Vendor, seen: Seen) -> Any:
    """What the vendor's fake understood."""
    said, copy = vendor.judge(seen)
    assert copy is not None, said
    return copy.content


def by_sendgrid(email: Email) -> ReadEmail | Answer:
    body = sendgrid.build_body(email, ATTEMPT)
    if isinstance(body, Answer):
        return body
    headers = {"Authorization": f"Bearer {fake_sendgrid.KEY}", "Content-Type": "application/json"}
    return read_sendgrid(taken(fake_sendgrid.SendGridRules(), Seen("POST", fake_sendgrid.PATH, headers, body)))


def by_mailgun(email: Email) -> ReadEmail | Answer:
    request = mailgun.build_body(email, ATTEMPT)
    if isinstance(request, Answer):
        return request
    basic = b64encode(f"api:{fake_mailgun.KEY}".encode()).decode()
    headers = {"Authorization": f"Basic {basic}", "Content-Type": request[0]}
    return read_mailgun(taken(fake_mailgun.MailgunRules(), Seen("POST", fake_mailgun.PATH, headers, request[1])))


def by_resend(email: Email) -> ReadEmail | Answer:
    body = resend.build_body(email, ATTEMPT)
    if isinstance(body, Answer):
        return body
    headers = {"Authorization": f"Bearer {fake_resend.KEY}", "Idempotency-Key": ATTEMPT}
    return read_resend(taken(fake_resend.ResendRules(), Seen("POST", fake_resend.PATH, headers, body)))


WAYS: dict[str, Reader] = {
    "outbox": by_outbox,
    "sendgrid": by_sendgrid,
    "mailgun": by_mailgun,
    "resend": by_resend,
}


def sorted_files(files: tuple[Attachment, ...]) -> list[Attachment]:
    return sorted(files, key=lambda file: (file.content_id or "", file.filename, file.content))


def check(way: str, email: Email) -> Answer | None:
    """Render and read it; what was declined, with its reason, is fine everywhere but in the outbox."""
    found, wanted = WAYS[way](email), as_written(email)
    if isinstance(found, Answer):
        assert way != "outbox"
        assert (found.outcome, bool(found.detail)) == (Outcome.DECLINED, True)
        return found
    if way == "mailgun":
        named = (
            replace(f, filename="") if f.content_id and email.html else replace(f, content_id=None)
            for f in wanted.files
        )
        wanted = replace(wanted, files=tuple(named))
    if way == "outbox" and not email.html:
        wanted = replace(wanted, files=tuple(replace(file, content_id=None) for file in wanted.files))
    assert replace(found, files=()) == replace(wanted, files=())
    assert sorted_files(found.files) == sorted_files(wanted.files)
    return None


# --- what can't be written down --------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_outbox_declines_what_can_not_be_written_down(caplog: pytest.LogCaptureFixture) -> None:
    async def never(_email: EmailId, _attempt: AttemptId, _message: bytes) -> None:
        raise AssertionError

    answer = await Outbox("outbox", never, None).send(an_email(subject="my secret \ud800"), ATTEMPT, 2.0)
    assert (answer.outcome, answer.is_ours) == (Outcome.DECLINED, True)
    assert "secret" not in answer.detail + caplog.text


def test_too_little_memory_is_not_the_emails_fault() -> None:
    def render(_email: Email, _attempt: AttemptId) -> bytes:
        raise MemoryError

    answer = rendered(render, an_email(), ATTEMPT)
    assert isinstance(answer, Answer)
    assert answer.outcome is Outcome.UNAVAILABLE


# --- what callers write ----------------------------------------------------------------------------------------------

ODD = [
    "=?utf-8?q?=C3?= é",
    "=?utf-8?q?hello?=",
    "=?utf-8?b?SGVsbG8=?= =?utf-8?b?IQ==?=",
    "x =?us-ascii?q?a?= y",
    "=?x?z?",
    "?=",
    '"',
    '\\"',
    "(a",
    "group:a@b.org;, <c@d.org",
    "a@b.org, c@d.org",
    "Dr. Ann  Lee",
    "a\tb",
    " x ",
    "日本語" * 30,
    "ü" * 300,
    "x" * 255,
    "x" * 990,
    "word " * 150,
    "🎁",
    "e\u0301",
    "\u202etxt.exe",
    "%0d%0aBcc: e@e.org",
    "utf-8''x",
    f"--=_hes_{ID}",
    f"--hes-{ATTEMPT}--",
]
CHARACTERS = st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])
LINES = st.one_of(
    st.sampled_from(ODD),
    st.text(CHARACTERS, min_size=1, max_size=20),
    st.lists(st.sampled_from(ODD) | st.text(CHARACTERS, max_size=5), min_size=1, max_size=4).map("".join),
)
BODIES = st.one_of(
    LINES,
    st.lists(st.sampled_from([*ODD, "\n", "\r\n", "\r", ".", " \n", "\x0c", "=", "From x"]) | LINES, max_size=9).map(
        "".join
    ),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40),
)
EMAILS = st.sampled_from(
    [
        *(f"{name}@{domain}.org" for name in ("a", "b+c", "d'e", "INFO") for domain in "xyz"),
        "a@bücher.org",
        "jörg@x.org",
    ]
)
NAMES = LINES.map(lambda text: text[:255])
MAILBOXES = EMAILS | st.fixed_dictionaries({"email": EMAILS, "name": NAMES})
LISTS = st.lists(MAILBOXES, max_size=3)
HEADER_NAMES = st.sampled_from(
    [
        *("X-Order", "List-Unsubscribe", "In-Reply-To", "References", "Disposition-Notification-To", "Keywords"),
        *("Comments", "Organization", "Auto-Submitted", "Thread-Topic", "X-H_E.S!", "X" * 76),
    ]
) | st.from_regex(r"\A[A-Za-z0-9!#$%&'*+.^_`|~-]{1,12}\Z")
TYPES = st.sampled_from(
    [
        *("message/delivery-status", "message/rfc822", "message/partial", "message/external-body", "text/plain"),
        *("text/rfc822-headers", "image/png", "application/octet-stream", "application/x-a+b", "TEXT/HTML"),
    ]
)
FILES = st.fixed_dictionaries(
    {
        "filename": NAMES.filter(lambda name: not set("/\\\t") & set(name)),
        "content": (st.binary(min_size=1, max_size=90) | st.sampled_from([b"\r\n", b"--x"])).map(
            lambda content: base64.b64encode(content).decode()
        ),
    },
    optional={"content_type": TYPES, "content_id": st.from_regex(r"\A[a-z0-9.@%-]{1,9}\Z")},
)
REQUESTS = st.fixed_dictionaries(
    {"from": MAILBOXES, "to": LISTS.filter(bool), "subject": LINES, "text": BODIES},
    optional={
        "html": BODIES,
        "cc": LISTS,
        "bcc": LISTS,
        "reply_to": LISTS,
        "headers": st.dictionaries(HEADER_NAMES, LINES, max_size=3),
        "attachments": st.lists(FILES, max_size=3),
        "tags": st.dictionaries(st.from_regex(r"\A[A-Za-z0-9_.-]{1,9}\Z"), LINES.map(lambda t: t[:256]), max_size=3),
    },
)


@pytest.mark.parametrize("way", WAYS)
@given(body=REQUESTS)
def test_whatever_is_accepted_is_rendered_and_read_as_it_was_written(way: str, body: dict[str, Any]) -> None:
    try:
        email = accepted(body)
    except InvalidEmail:
        reject()
    check(way, email)


def in_every_field(odd: str) -> dict[str, Any]:
    file = {"filename": re.sub("[\\\\\t\u202e]", "", odd)[:255], "content": "UERG"}
    return {
        "from": {"email": "shop@example.com", "name": "Shop"},
        "to": [{"email": "ann@example.org", "name": odd[:255]}],
        "cc": [{"email": "bob@example.org", "name": odd[:255]}, "carl@example.org"],
        "reply_to": [{"email": "help@example.com", "name": odd[:255]}],
        "subject": odd,
        "text": odd,
        "html": f"{odd}\n{odd}",
        "headers": {"X-Order": odd, "X" * 76: odd},
        "attachments": [
            file | {"content_type": "message/delivery-status"},
            file | {"content_type": "application/x-unheard-of", "content_id": "logo"},
        ],
        "tags": {"a.b": odd[:200]},
    }


@pytest.mark.parametrize("way", WAYS)
def test_odd_text_stays_the_text_that_it_is_in_every_field(way: str) -> None:
    answers = {odd: check(way, accepted(in_every_field(odd))) for odd in ODD}
    declined = {answer.detail.partition(" (")[0] for answer in answers.values() if answer is not None}
    assert len(declined) <= 1, declined


def test_a_boundary_occurs_nowhere_but_where_a_part_ends() -> None:
    """Whoever knows the id of a draft could write parts of his own."""
    own = f"--=_hes_{ID}"
    email = accepted(LEAST | {"text": f"{own}\r\n\r\nx\r\n{own}-1--\r\n", "html": f"{own}-2\r\n"})
    raw = mime.render(email, ATTEMPT)
    assert f'boundary="=_hes_{ID}-3"'.encode() in raw
    check("outbox", email)


def test_bcc_is_in_no_message() -> None:
    assert b"eve@" not in mime.render(accepted(LEAST | {"bcc": "Eve <eve@example.org>"}), ATTEMPT)


def test_lines_are_folded_between_words() -> None:
    everybody = [{"email": f"ann{number}@example.org", "name": "Ann Lee"} for number in range(300)]
    email = accepted(LEAST | {"to": everybody, "subject": "many  words " * 30, "headers": {"X-A": "ü" * 400}})
    heads = mime.render(email, ATTEMPT).partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert max(map(len, heads)) <= 78
    assert all(line.strip() for line in heads)
    check("outbox", email)


def test_the_same_email_and_attempt_make_the_same_bytes() -> None:
    files = [{"filename": "ü.txt", "content": "UERG", "content_id": "x"}]
    email = accepted(LEAST | {"html": "<p>ü</p>", "attachments": files})
    assert mime.render(email, ATTEMPT) == mime.render(email, ATTEMPT)
    assert mime.render(email, ATTEMPT) != mime.render(email, AttemptId("0191-attempt"))
