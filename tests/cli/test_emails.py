"""`hes emails`: what is there against a real HES, the rest against a stub."""

import sys

import pytest

from tests.cli.conftest import Run
from tests.cli.stub import ID, Stub, Told, an_email, an_event
from tests.cli.test_send import LEAST
from tests.web.service import later

PROBLEM = {"type": "urn:hes:problem:wrong-state", "title": "Wrong state", "status": 409, "detail": "It is sent."}


def test_an_email_is_shown(hes: Run) -> None:
    email_id = hes(*LEAST, "--text", "Thank you.", "--watch").out.splitlines()[-1].split()[0]
    shown = hes("emails", "show", email_id, "--content")
    assert shown.code == 0
    lines = shown.out.splitlines()
    assert lines[1] == "status     sent"
    assert "from       Shop <shop@example.com>" in lines
    assert "KIND  ADDRESS          STATUS  REASON" in lines
    assert "to    ann@example.org  sent    -" in lines
    assert lines[-2:] == ["Text", "Thank you."]


def test_an_email_can_be_cancelled_while_it_waits(hes: Run) -> None:
    assert hes("providers", "pause", "outbox").code == 0
    try:
        email_id = hes(*LEAST, "--text", "Hi", "--json").json()["id"]
        assert hes("emails", "cancel", email_id).out == f"{email_id}  cancelled\n"
        assert hes("emails", "watch", email_id).code == 1
        refused = hes("emails", "resolve", email_id, "sent")
        assert (refused.code, refused.err.startswith("hes: Wrong state: ")) == (1, True)
    finally:
        assert hes("providers", "resume", "outbox").code == 0


def test_an_email_that_is_not_there_fails(hes: Run) -> None:
    ran = hes("emails", "show", ID)
    assert (ran.code, ran.out, ran.err.startswith("hes: Not found: ")) == (1, "", True)


def test_emails_are_listed(stub: Stub, run: Run) -> None:
    stub.answers = [Told(200, {"data": [an_email(), an_email(status="held", reason="doubt")], "next_cursor": "c1"})]
    ran = run("emails", "list", "--status", "held", "--from", "shop@example.com", "--tag", "kind:receipt")
    assert stub.asked[0].path == "/v1/emails?status=held&from=shop%40example.com&tag=kind%3Areceipt&limit=20"
    head, first, second = ran.out.splitlines()
    assert head.split() == ["ID", "STATUS", "REASON", "PROVIDER", "TO", "SUBJECT", "CREATED"]
    assert first.split()[1:4] == ["sent", "-", "mailgun"]
    assert second.split()[1:3] == ["held", "doubt"]
    assert "--cursor c1" in ran.err


def test_a_list_goes_on_at_a_cursor_or_to_the_end(stub: Stub, run: Run) -> None:
    stub.answers = [
        Told(200, {"data": [an_email(subject="1")], "next_cursor": "c1"}),
        Told(200, {"data": [an_email(subject="2")], "next_cursor": None}),
    ]
    found = run("emails", "list", "--all", "--limit", "1", "--json").json()
    assert [email["subject"] for email in found["data"]] == ["1", "2"]
    assert found["next_cursor"] is None
    assert [asked.path for asked in stub.asked] == ["/v1/emails?limit=1", "/v1/emails?limit=1&cursor=c1"]
    run("emails", "list", "--cursor", "c7", "--json")
    assert stub.asked[-1].path == "/v1/emails?limit=20&cursor=c7"


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["resolve", ID, "resend"], ("POST", f"/v1/emails/{ID}/resolve", b'{"decision":"resend"}')),
        (["send", ID], ("POST", f"/v1/emails/{ID}/send", b"")),
        (["send", ID, "--send-at", "T"], ("POST", f"/v1/emails/{ID}/send", b'{"send_at":"T"}')),
        (["reschedule", ID, "T"], ("PATCH", f"/v1/emails/{ID}", b'{"send_at":"T"}')),
    ],
)
def test_what_is_to_become_of_it(words: list[str], asked: tuple[str, str, bytes], stub: Stub, run: Run) -> None:
    stub.answers = [Told(200, an_email(status="queued"))]
    assert run("emails", *words).out == f"{ID}  queued\n"
    assert run("emails", *words, "--json").json()["status"] == "queued"
    assert (stub.asked[0].method, stub.asked[0].path, stub.asked[0].body) == asked


@pytest.mark.parametrize("words", [["cancel", ID], ["send", ID], ["reschedule", ID, "T"]])
def test_a_key_that_only_sends_is_told_enough(words: list[str], stub: Stub, run: Run) -> None:
    state = {"id": ID, "status": "queued", "version": 2}
    stub.answers = [Told(200, state)]
    assert run("emails", *words).out == f"{ID}  queued\n"
    assert run("emails", *words, "--json").json() == state


def test_with_a_key_that_only_sends_all_goes_its_way_or_says_what_is_missing(
    hes: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HES_API_KEY", hes("keys", "create", "--scope", "emails:send").out.strip())
    email = ["send", "--from", "a@example.com", "--to", "b@example.org", "--subject", "Hi", "--text", "Hi", "--draft"]
    email_id = hes(*email).out.split()[0]
    assert hes("emails", "send", email_id, "--send-at", later(hours=1)).out == f"{email_id}  scheduled\n"
    assert hes("emails", "reschedule", email_id, later(hours=2)).out == f"{email_id}  scheduled\n"
    assert hes("emails", "cancel", email_id).out == f"{email_id}  cancelled\n"
    for words in (["resolve", email_id, "sent"], ["erase", email_id, "--yes"], ["resolve", "--status", "held", "sent"]):
        ran = hes("emails", *words)
        assert (ran.code, ran.out) == (1, "")
        assert ran.err == "hes: Forbidden: This key lacks the scope `emails:read`.\n"


def test_one_word_on_many_goes_on_until_there_are_no_more(stub: Stub, run: Run) -> None:
    stub.answers = [
        Told(200, {"changed": 9_990, "skipped": 10, "next_cursor": "c1"}),
        Told(200, {"changed": 5, "skipped": 0, "next_cursor": None}),
    ]
    ran = run("emails", "resolve", "--status", "held", "failed")
    assert ran.out == "9995 changed  10 fit but could not be changed\n"
    assert [asked.json() for asked in stub.asked] == [
        {"decision": "failed", "filter": {"status": "held"}},
        {"decision": "failed", "filter": {"status": "held", "cursor": "c1"}},
    ]
    stub.answers = [Told(200, {"changed": 1, "skipped": 0, "next_cursor": None})]
    assert run("emails", "cancel", "--tag", "a:b", "--json").json() == {"changed": 1, "skipped": 0}


@pytest.mark.parametrize(
    "words", [["cancel"], ["resolve", "sent"], ["cancel", ID, "--status", "held"], ["resolve", "", "sent"]]
)
def test_all_emails_are_never_meant_by_mistake(words: list[str], stub: Stub, run: Run) -> None:
    assert run("emails", *words).code == 2
    assert stub.asked == []


def test_nothing_is_erased_without_a_word(stub: Stub, run: Run) -> None:
    stub.answers = [Told(204)]
    assert run("emails", "erase", ID).code == 1
    assert stub.asked == []
    assert run("emails", "erase", ID, "--yes").out == f"{ID}  erased\n"
    assert (stub.asked[0].method, stub.asked[0].path) == ("DELETE", f"/v1/emails/{ID}")


def test_the_servers_word_is_told(stub: Stub, run: Run) -> None:
    stub.answers = [Told(409, PROBLEM)]
    ran = run("emails", "erase", ID, "--yes", "--json")
    assert (ran.code, ran.out, ran.err) == (1, "", "hes: Wrong state: It is sent.\n")


def test_a_timeline_in_words(stub: Stub, run: Run) -> None:
    events = [
        an_event(1, "failed_over", "mailgun", **{"from": "sendgrid", "to": "mailgun"}),
        an_event(2, "queued", "mailgun", attempt=2, outcome="unavailable", detail="no connection", wait_ms=1500),
    ]
    stub.answers = [Told(200, an_email(events=events))]
    *_, first, second = run("emails", "show", ID).out.splitlines()
    assert first.endswith("mailgun   from sendgrid, to mailgun")
    assert second.endswith("mailgun   attempt 2, unavailable, no connection, due in 1.5 s")


def test_nothing_in_an_email_steers_the_terminal(stub: Stub, run: Run) -> None:
    stub.answers = [Told(200, an_email(subject="\x1b[2Jgone", content={
        "text": "a\x1b]0;x\x07\nb", "html": None, "headers": {}, "attachments": [], "reply_to": []}))]  # fmt: skip
    shown = run("emails", "show", ID, "--content").out
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "\N{REPLACEMENT CHARACTER}[2Jgone" in shown


def test_a_terminal_gets_colours_and_tables(stub: Stub, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stub.answers = [Told(200, an_email(subject="[red]Sale[/red]", events=[an_event(1, "sent", "mailgun")]))]
    shown = run("emails", "show", ID).out
    assert "\x1b[32msent\x1b[0m" in shown
    assert "[red]Sale[/red]" in shown  # not read as rich's markup
    assert "─" in shown
    assert "\x1b" not in run("emails", "show", ID, "--json").out
    assert "\x1b[32msent\x1b[0m" in run("emails", "watch", ID).out
