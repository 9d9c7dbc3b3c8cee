"""`hes send`, against a real HES with its outbox."""

import base64
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.cli.stub import ACCEPTED, ID, Stub, Told, an_email, an_event
from tests.faults.server import KEY

LEAST = ("send", "--from", "Shop <shop@example.com>", "--to", "ann@example.org", "--subject", "Receipt")


def test_an_email_is_sent_and_its_way_shown(hes: Run) -> None:
    ran = hes(*LEAST, "--text", "Thank you.", "--watch")
    assert (ran.code, ran.err) == (0, "")
    *_, last = lines = ran.out.splitlines()
    assert [line.split()[1] for line in lines[:-1]] == ["created", "queued", "attempt", "sent"]
    assert last.endswith("  sent")


def test_all_that_flags_can_say_arrives(hes: Run, tmp_path: Path) -> None:
    (tmp_path / "bill.pdf").write_bytes(b"%PDF\x00")
    words = "--cc bob@example.org --bcc eve@example.org --reply-to help@example.com --html <p>Hi --tag kind=receipt"
    more = "--tag year=2026 --reference order-7 --stream bulk --provider outbox --on-doubt hold --expires-in 3600"
    ran = hes(*LEAST, "--to", "al@example.org", "--text", "-", *words.split(), *more.split(), "--attach", "bill.pdf",
              "--json", stdin="Line 1\nLine 2")  # fmt: skip
    assert ran.code == 0
    email = hes("emails", "show", ran.json()["id"], "--content", "--json").json()
    assert email["from"] == {"email": "shop@example.com", "name": "Shop"}
    assert [(r["kind"], r["email"].partition("@")[0]) for r in email["recipients"]] == [
        ("to", "ann"),
        ("to", "al"),
        ("cc", "bob"),
        ("bcc", "eve"),
    ]
    assert email["tags"] == {"kind": "receipt", "year": "2026"}
    assert (email["reference"], email["stream"], email["on_doubt"]) == ("order-7", "bulk", "hold")
    content = email["content"]
    assert (content["text"], content["html"]) == ("Line 1\nLine 2", "<p>Hi")
    assert content["reply_to"] == [{"email": "help@example.com", "name": None}]
    (file,) = content["attachments"]
    assert (file["filename"], file["content_type"]) == ("bill.pdf", "application/pdf")
    assert base64.b64decode(file["content"]) == b"%PDF\x00"


def test_the_same_key_sends_once(hes: Run) -> None:
    first = hes(*LEAST, "--text", "Hi", "--key", "receipt-7", "--json").json()
    assert hes(*LEAST, "--text", "Hi", "--key", "receipt-7", "--json").json() == first
    other = hes(*LEAST, "--text", "Another", "--key", "receipt-7")
    assert (other.code, other.err.startswith("hes: Idempotency key reused: ")) == (1, True)


def test_watch_in_json_is_a_line_for_each_change(hes: Run) -> None:
    ran = hes(*LEAST, "--text", "Hi", "--watch", "--json")
    assert ran.code == 0
    assert ran.json_lines()[-1]["status"] == "sent"


def test_each_wrong_field_is_named(hes: Run) -> None:
    ran = hes("send", "--from", "shop@example.com", "--to", "nobody", "--text", "Hi")
    assert ran.code == 1
    assert "to[0]: is not a valid address" in ran.err
    assert "subject: is required" in ran.err


def test_a_mime_file_is_sent_and_flags_go_before_it(hes: Run, tmp_path: Path) -> None:
    lines = ["From: shop@example.com", "To: ann@example.org", "Subject: Old", "X-Order: 7", "", "Thank you."]
    (tmp_path / "mail.eml").write_text("\n".join(lines))
    ran = hes("send", "--eml", "mail.eml", "--subject", "New", "--json")
    email = hes("emails", "show", ran.json()["id"], "--content", "--json").json()
    assert email["subject"] == "New"
    assert email["content"]["text"] == "Thank you."
    assert email["content"]["headers"] == {"X-Order": "7"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--tag", "receipt"], "must be KEY=VALUE"),
        (["--text", "-", "--html", "-"], "Only one of --text and --html"),
        (["--attach", "gone.pdf"], "does not exist"),
        (["--eml", "wrong.eml"], "several senders"),
        (["--draft", "--watch"], "Either --watch or --draft"),
    ],
)
def test_what_makes_no_email_is_usage(words: list[str], says: str, hes: Run, tmp_path: Path) -> None:
    (tmp_path / "wrong.eml").write_text("From: a@example.com, b@example.com\n\nHi")
    ran = hes("send", *words)
    assert (ran.code, ran.out) == (2, "")
    assert says in " ".join(ran.err.split())


def test_nothing_said_shows_the_key(hes: Run) -> None:
    ran = hes(*LEAST, "--text", "Hi", "--watch")
    assert KEY not in ran.out + ran.err


NOT_SENT = ("failed", "held", "cancelled", "bounced", "complained", "draft")


@pytest.mark.parametrize(("status", "code"), [("sent", 0), ("delivered", 0), *((status, 1) for status in NOT_SENT)])
def test_the_exit_code_tells_how_it_ended(status: str, code: int, stub: Stub, run: Run) -> None:
    events = [an_event(1, "created"), an_event(2, status, reason="doubt")]
    sending = an_email(status="sending", events=events[:1])
    stub.answers = [Told(202, ACCEPTED), Told(200, sending), Told(200, an_email(status=status, events=events))]
    ran = run(*LEAST, "--text", "Hi", "--watch")
    assert ran.code == code
    assert ran.out.splitlines()[-1] == f"{ID}  {status}"


def test_what_is_not_built_in_the_fields_goes_as_it_is(stub: Stub, run: Run) -> None:
    stub.answers = [Told(201, ACCEPTED | {"status": "draft"})]
    assert run(*LEAST, "--draft", "--send-at", "2026-01-31T12:00:00Z").code == 0
    assert stub.asked[0].json() == {
        "from": "Shop <shop@example.com>",
        "to": ["ann@example.org"],
        "subject": "Receipt",
        "draft": True,
        "send_at": "2026-01-31T12:00:00Z",
    }
