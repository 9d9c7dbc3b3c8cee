"""What Mailgun's answers mean: every row of its table, by status first, then by its words."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from hes.model import Answer, Outcome, Scope
from hes.providers.mailgun import read_answer
from hes.providers.transport import Reply

NOW = 1_700_000_000_000
FOREIGN = [
    b"",
    b"<html>502</html>",
    b"{}",
    b'{"message":7}',
    b'{"message":""}',
    b'{"error":"x"}',
    b"[]",
    b"[" * 9999,
    b"\xff",
]
NOT_ALLOWED = "Domain mg.example.com is not allowed to send: "
SANDBOX = "Sandbox subdomains are for test purposes only. Please add your own domain or add the address to authorized"


def own(message: str = "words of theirs") -> bytes:
    return msgspec.json.encode({"message": message})


def read(status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
    return read_answer(Reply(status, CIMultiDict(headers or {}), body), NOW)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (400, Outcome.REJECTED),
        (401, Outcome.REFUSED),
        (402, Outcome.REFUSED),
        (403, Outcome.REFUSED),
        (404, Outcome.REFUSED),
        (413, Outcome.DECLINED),
        (429, Outcome.THROTTLED),
        (503, Outcome.UNAVAILABLE),
        (408, Outcome.IN_DOUBT),
        (420, Outcome.IN_DOUBT),
        (500, Outcome.IN_DOUBT),
        (502, Outcome.IN_DOUBT),
        (504, Outcome.IN_DOUBT),
    ],
)
def test_in_mailguns_own_shape(status: int, outcome: Outcome) -> None:
    assert read(status, own()) == Answer(outcome=outcome, status_code=status, detail=f"{status}: words of theirs")


@pytest.mark.parametrize("body", FOREIGN)
@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Outcome.IN_DOUBT),
        (400, Outcome.IN_DOUBT),
        (503, Outcome.IN_DOUBT),
        (500, Outcome.IN_DOUBT),
        (502, Outcome.IN_DOUBT),
        (401, Outcome.REFUSED),
        (402, Outcome.REFUSED),
        (403, Outcome.REFUSED),
        (404, Outcome.REFUSED),
        (413, Outcome.DECLINED),
        (429, Outcome.THROTTLED),
    ],
)
def test_in_a_foreign_shape(status: int, outcome: Outcome, body: bytes) -> None:
    """A 200, 400 or 503 needs Mailgun's own word; the others say whoever they come from that nothing was taken."""
    answer = read(status, body)
    assert answer.outcome is outcome
    assert answer.detail == f"{status}: no answer in the form that Mailgun uses"


@pytest.mark.parametrize(
    "status", [201, 202, 204, 206, 299, 301, 302, 307, 308, 405, 406, 409, 415, 418, 422, 451, 501, 505, 599]
)
@pytest.mark.parametrize("body", [b"", own(), own("Queued. Thank you.")])
def test_what_is_not_listed_is_in_doubt(status: int, body: bytes) -> None:
    assert read(status, body).outcome is Outcome.IN_DOUBT


@pytest.mark.parametrize(
    ("status", "message", "outcome", "scope"),
    [
        (400, "from parameter is missing", Outcome.REJECTED, Scope.PROVIDER),
        (400, "'to' parameter is not a valid address. please check documentation", Outcome.REJECTED, Scope.PROVIDER),
        (400, "Need at least one of 'text', 'html' parameters specified", Outcome.REJECTED, Scope.PROVIDER),
        (400, "Send options are limited to 16KB total", Outcome.DECLINED, Scope.PROVIDER),
        (400, "Too many recipients", Outcome.DECLINED, Scope.PROVIDER),
        (400, "message is too large", Outcome.DECLINED, Scope.PROVIDER),
        (400, SANDBOX, Outcome.REFUSED, Scope.PROVIDER),
        (403, SANDBOX, Outcome.REFUSED, Scope.PROVIDER),
        (401, "Invalid private key", Outcome.REFUSED, Scope.PROVIDER),
        (403, f"{NOT_ALLOWED}Account disabled", Outcome.REFUSED, Scope.PROVIDER),
        (403, f"{NOT_ALLOWED}The domain is unverified and requires DNS", Outcome.REFUSED, Scope.SENDER_DOMAIN),
        (404, "Domain not found: mg.example.com", Outcome.REFUSED, Scope.SENDER_DOMAIN),
        (404, "404 page not found", Outcome.REFUSED, Scope.PROVIDER),
        (429, f"{NOT_ALLOWED}limit exceeded", Outcome.THROTTLED, Scope.PROVIDER),
        (420, f"{NOT_ALLOWED}recipient limit exceeded", Outcome.THROTTLED, Scope.PROVIDER),
        (420, f"{NOT_ALLOWED}Account disabled", Outcome.IN_DOUBT, Scope.PROVIDER),
        (500, f"{NOT_ALLOWED}limit exceeded", Outcome.IN_DOUBT, Scope.PROVIDER),
    ],
)
@pytest.mark.parametrize("as_json", [True, False], ids=["JSON", "text"])
def test_by_its_words(status: int, message: str, outcome: Outcome, scope: Scope, *, as_json: bool) -> None:
    answer = read(status, own(message) if as_json else message.encode())
    assert (answer.outcome, answer.scope, answer.detail) == (outcome, scope, f"{status}: {message}")


@pytest.mark.parametrize("body", [b"Forbidden", b'"Forbidden"', b"Forbidden\n"])
def test_wrong_credentials_are_a_bare_text(body: bytes) -> None:
    assert read(401, body) == Answer(outcome=Outcome.REFUSED, status_code=401, detail="401: Forbidden")


@pytest.mark.parametrize("status", [400, 503])
def test_a_text_that_is_not_mailguns_proves_nothing(status: int) -> None:
    assert read(status, b"Bad Request").outcome is Outcome.IN_DOUBT


def test_accepted_with_the_message_id_as_it_came() -> None:
    answer = read(200, b'{"id":"<0190@hes.example>","message":"Queued. Thank you."}')
    assert answer == Answer(outcome=Outcome.ACCEPTED, status_code=200, provider_message_id="<0190@hes.example>")


@pytest.mark.parametrize(
    "id_", ["", ',"id":null', ',"id":""', ',"id":7', ',"id":"a b"', f',"id":"{"a" * 9999}"'], ids=lambda id_: id_[:12]
)
def test_accepted_without_a_usable_id_is_noted_not_doubted(id_: str) -> None:
    answer = read(200, f'{{"message":"Queued. Thank you."{id_}}}'.encode())
    assert (answer.outcome, answer.provider_message_id) == (Outcome.ACCEPTED, None)
    assert "id" in answer.detail


@pytest.mark.parametrize("body", [b"Mailgun Magnificent API", own("Mailgun Magnificent API"), b'{"id":7}', b'"OK"'])
def test_a_200_that_does_not_say_what_was_taken_is_in_doubt(body: bytes) -> None:
    """The first is what Mailgun says to a path that it does not know (django-anymail quotes it)."""
    assert read(200, body).outcome is Outcome.IN_DOUBT


@pytest.mark.parametrize(
    ("again", "header", "seconds"),
    [
        ("", None, None),
        (", try again after 120 seconds", None, 120),
        (", try again after 1 second.", None, 1),
        (", try again after 99999 seconds", None, 3600),
        (", try again after Tue, 14 Nov 2023 22:13:50 UTC", None, 30),
        (", try again after Tue, 14 Nov 2023 00:00:00 UTC", None, 0),
        (", try again after a while", None, None),
        (", try again after -5 seconds", None, None),
        ("", "7", 7),
        ("", "soon", None),
        (", try again after 5 seconds", "7", 7),
        (", try again after 9 seconds", "7", 9),
    ],
)
def test_when_to_ask_again(again: str, header: str | None, seconds: float | None) -> None:
    answer = read(429, own(f"{NOT_ALLOWED}limit exceeded{again}"), {"Retry-After": header} if header else None)
    assert (answer.outcome, answer.retry_after_seconds) == (Outcome.THROTTLED, seconds)


def test_the_detail_holds_no_address_no_secret_and_no_control_characters() -> None:
    body = own("Key key-1 may not write to <ann@example.org>\x1b[2J" + " long" * 200)
    detail = read_answer(Reply(400, CIMultiDict(), body), NOW, secrets=["key-1"]).detail
    assert detail.startswith(r"400: Key [secret] may not write to [address]")
    assert len(detail) < 310
    assert detail.isprintable()


@given(st.integers(100, 999), st.binary(max_size=200) | st.text().map(own), st.text(max_size=20))
def test_no_answer_breaks_the_reader(status: int, body: bytes, header: str) -> None:
    answer = read(status, body, {"Retry-After": header})
    assert answer.status_code == status
    assert answer.outcome is not Outcome.ACCEPTED or status == 200


@pytest.mark.parametrize(("behind", "seconds"), [(" " * 150, 60), (" " * 250, None), ("x" * 100_000, None)])
def test_when_to_ask_again_is_looked_for_at_the_end_of_what_it_says_and_nowhere_else(
    behind: str, seconds: float | None
) -> None:
    """However long the text is: the pattern would take the square of that."""
    answer = read(429, own(f"{'y' * 100_000} limit exceeded, try again after 60 seconds{behind}"))
    assert (answer.outcome, answer.retry_after_seconds) == (Outcome.THROTTLED, seconds)
