"""What SendGrid's answers mean: every row of its table, by status and by the shape of the body."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from hes.model import Outcome, Scope
from hes.providers.sendgrid import read_answer
from hes.providers.transport import Reply

NOW = 1_700_000_000_000
FOREIGN = [
    b"",
    b"<html>502</html>",
    b"{}",
    b'{"errors":"x"}',
    b'{"errors":[]}',
    b'{"errors":["x"]}',
    b"[" * 9999,
    b"\xff",
]


def own(message: str = "words", field: Any = None, **more: Any) -> bytes:
    return msgspec.json.encode({"errors": [{"message": message, "field": field, "help": None}], **more})


def reply(status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> Reply:
    return Reply(status, CIMultiDict(headers or {}), body)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (400, Outcome.REJECTED),
        (401, Outcome.REFUSED),
        (403, Outcome.REFUSED),
        (404, Outcome.REFUSED),
        (405, Outcome.REFUSED),
        (406, Outcome.REFUSED),
        (451, Outcome.REFUSED),
        (413, Outcome.DECLINED),
        (429, Outcome.THROTTLED),
        (503, Outcome.UNAVAILABLE),
        (408, Outcome.IN_DOUBT),
        (500, Outcome.IN_DOUBT),
        (502, Outcome.IN_DOUBT),
        (504, Outcome.IN_DOUBT),
    ],
)
def test_in_sendgrids_own_shape(status: int, outcome: Outcome) -> None:
    answer = read_answer(reply(status, own("words of theirs")), NOW)
    assert (answer.outcome, answer.status_code, answer.detail) == (outcome, status, f"{status}: words of theirs")
    assert (answer.scope, answer.quota, answer.provider_message_id) == (Scope.PROVIDER, False, None)


@pytest.mark.parametrize("body", FOREIGN)
@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (400, Outcome.IN_DOUBT),
        (503, Outcome.IN_DOUBT),
        (500, Outcome.IN_DOUBT),
        (502, Outcome.IN_DOUBT),
        (401, Outcome.REFUSED),
        (403, Outcome.REFUSED),
        (404, Outcome.REFUSED),
        (413, Outcome.DECLINED),
        (429, Outcome.THROTTLED),
    ],
)
def test_in_a_foreign_shape(status: int, outcome: Outcome, body: bytes) -> None:
    """A 400 or 503 needs SendGrid's own word; the others say whoever they come from that nothing was taken."""
    answer = read_answer(reply(status, body), NOW)
    assert answer.outcome is outcome
    assert answer.detail == f"{status}: no error in the form that SendGrid uses"


@pytest.mark.parametrize(
    "status", [200, 201, 204, 206, 299, 301, 302, 307, 308, 402, 409, 415, 418, 422, 501, 505, 599]
)
@pytest.mark.parametrize("body", [b"", own()])
def test_what_is_not_listed_is_in_doubt(status: int, body: bytes) -> None:
    assert read_answer(reply(status, body), NOW).outcome is Outcome.IN_DOUBT


def test_accepted_with_the_message_id() -> None:
    answer = read_answer(reply(202, headers={"X-Message-ID": "abc-1.2_3"}), NOW)
    assert (answer.outcome, answer.provider_message_id, answer.detail) == (Outcome.ACCEPTED, "abc-1.2_3", "")


@pytest.mark.parametrize(
    "headers", [{}, {"X-Message-Id": "a" * 9999}, {"X-Message-Id": "<b>\x1b"}, {"X-Message-Id": ""}]
)
def test_accepted_without_a_usable_id_is_noted_not_doubted(headers: dict[str, str]) -> None:
    answer = read_answer(reply(202, headers=headers), NOW)
    assert (answer.outcome, answer.provider_message_id) == (Outcome.ACCEPTED, None)
    assert "X-Message-Id" in answer.detail


def test_a_202_counts_whatever_its_body() -> None:
    assert read_answer(reply(202, own("odd"), {"X-Message-Id": "m"}), NOW).outcome is Outcome.ACCEPTED


def test_used_up_credits_are_a_quota_though_a_401() -> None:
    answer = read_answer(reply(401, own("Maximum credits exceeded"), {"Retry-After": "60"}), NOW)
    assert (answer.outcome, answer.quota, answer.retry_after_seconds) == (Outcome.REFUSED, True, 60)


@pytest.mark.parametrize(
    "body",
    [
        own("Some words.", "from"),
        own("Some words.", "from.email"),
        own("The from address does not match a verified Sender Identity. Mail cannot be sent", None),
    ],
)
def test_an_unverified_sender_is_about_its_domain_only(body: bytes) -> None:
    answer = read_answer(reply(403, body), NOW)
    assert (answer.outcome, answer.scope) == (Outcome.REFUSED, Scope.SENDER_DOMAIN)


def test_a_missing_scope_is_about_the_account() -> None:
    assert read_answer(reply(403, own("access forbidden", "null")), NOW).scope is Scope.PROVIDER


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"X-RateLimit-Reset": "1700000012"}, 12),
        ({"X-RateLimit-Reset": "1600000000"}, 0),
        ({"X-RateLimit-Reset": "9999999999"}, 3600),
        ({"X-RateLimit-Reset": "soon"}, None),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "Tue, 14 Nov 2023 22:13:50 GMT"}, 30),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "1e9"}, 3600),
        ({"Retry-After": "7", "X-RateLimit-Reset": "1700000012"}, 12),
    ],
)
def test_when_to_ask_again(headers: dict[str, str], seconds: float | None) -> None:
    assert read_answer(reply(429, own(), headers), NOW).retry_after_seconds == seconds


def test_the_detail_holds_no_address_no_secret_and_no_control_characters() -> None:
    body = own("Key SG.k1 may not write to <ann@example.org>\x1b[2J" + " long" * 200)
    detail = read_answer(reply(400, body), NOW, secrets=["SG.k1"]).detail
    assert detail.startswith(r"400: Key [secret] may not write to [address]")
    assert len(detail) < 310
    assert detail.isprintable()


def test_the_optional_parts_of_an_error_may_be_missing_or_odd() -> None:
    body = b'{"errors":[{"message":"a"},{"message":"b","field":7,"help":{"x":[]}}],"id":"e"}'
    assert read_answer(reply(400, body), NOW).detail == "400: a b"


@given(st.integers(100, 999), st.binary(max_size=200), st.text(max_size=20))
def test_no_answer_breaks_the_reader(status: int, body: bytes, header: str) -> None:
    answer = read_answer(
        reply(status, body, dict.fromkeys(("Retry-After", "X-RateLimit-Reset", "X-Message-Id"), header)), NOW
    )
    assert answer.status_code == status
    assert (answer.outcome is Outcome.ACCEPTED) == (status == 202)
