"""What Resend's answers mean: every row of its table, by status and name."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from hes.model import Answer, Outcome, Scope
from hes.providers.resend import read_answer
from hes.providers.transport import Reply

NOW = 1_700_000_000_000
FOREIGN = [b"", b"<html>502</html>", b"{}", b'{"name":7}', b'{"error":"x"}', b"[]", b"[" * 9999, b"\xff"]


def own(name: str, message: str = "words of theirs") -> bytes:
    return msgspec.json.encode({"statusCode": 400, "name": name, "message": message})


def read(status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
    return read_answer(Reply(status, CIMultiDict(headers or {}), body), NOW)


@pytest.mark.parametrize(
    ("status", "name", "outcome"),
    [
        (400, "validation_error", Outcome.REJECTED),
        (422, "validation_error", Outcome.REJECTED),
        (422, "missing_required_field", Outcome.REJECTED),
        (422, "invalid_parameter", Outcome.REJECTED),
        (422, "invalid_from_address", Outcome.DECLINED),
        (422, "invalid_attachment", Outcome.DECLINED),
        (422, "a_new_one", Outcome.DECLINED),
        (400, "invalid_idempotency_key", Outcome.DECLINED),
        (401, "missing_api_key", Outcome.REFUSED),
        (401, "restricted_api_key", Outcome.REFUSED),
        (403, "invalid_api_key", Outcome.REFUSED),
        (404, "not_found", Outcome.REFUSED),
        (405, "method_not_allowed", Outcome.REFUSED),
        (409, "invalid_idempotent_request", Outcome.IN_DOUBT),
        (409, "concurrent_idempotent_requests", Outcome.IN_DOUBT),
        (413, "validation_error", Outcome.DECLINED),
        (429, "rate_limit_exceeded", Outcome.THROTTLED),
        (451, "security_error", Outcome.DECLINED),
        (451, "another", Outcome.IN_DOUBT),
        (500, "application_error", Outcome.IN_DOUBT),
        (500, "internal_server_error", Outcome.IN_DOUBT),
        (502, "application_error", Outcome.IN_DOUBT),
        (503, "application_error", Outcome.UNAVAILABLE),
        (504, "application_error", Outcome.IN_DOUBT),
    ],
)
def test_by_status_and_name(status: int, name: str, outcome: Outcome) -> None:
    detail = f"{status}: {name}: words of theirs"
    assert read(status, own(name)) == Answer(outcome=outcome, status_code=status, detail=detail)


@pytest.mark.parametrize("name", ["daily_quota_exceeded", "monthly_quota_exceeded"])
def test_a_used_up_quota_is_a_429_too(name: str) -> None:
    answer = read(429, own(name), {"retry-after": "60"})
    assert (answer.outcome, answer.quota, answer.retry_after_seconds) == (Outcome.REFUSED, True, 60)


def test_a_domain_that_is_not_verified() -> None:
    answer = read(403, own("validation_error", "The example.com domain is not verified."))
    assert (answer.outcome, answer.scope) == (Outcome.REFUSED, Scope.SENDER_DOMAIN)


@pytest.mark.parametrize("body", FOREIGN)
@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Outcome.IN_DOUBT),
        (400, Outcome.IN_DOUBT),
        (409, Outcome.IN_DOUBT),
        (422, Outcome.IN_DOUBT),
        (451, Outcome.IN_DOUBT),
        (500, Outcome.IN_DOUBT),
        (502, Outcome.IN_DOUBT),
        (503, Outcome.IN_DOUBT),
        (401, Outcome.REFUSED),
        (403, Outcome.REFUSED),
        (404, Outcome.REFUSED),
        (413, Outcome.DECLINED),
        (429, Outcome.THROTTLED),
    ],
)
def test_in_a_foreign_shape(status: int, outcome: Outcome, body: bytes) -> None:
    answer = read(status, body)
    assert (answer.outcome, answer.scope) == (outcome, Scope.PROVIDER)
    assert answer.detail == f"{status}: no answer in the form that Resend uses"


@pytest.mark.parametrize(
    "status", [201, 202, 204, 206, 299, 301, 302, 307, 308, 402, 406, 408, 410, 415, 418, 501, 505, 599]
)
@pytest.mark.parametrize("body", [b"", own("validation_error"), b'{"id":"x"}'])
def test_what_is_not_listed_is_in_doubt(status: int, body: bytes) -> None:
    assert read(status, body).outcome is Outcome.IN_DOUBT


def test_accepted() -> None:
    answer = read(200, b'{"id":"49a3999c-0001"}')
    assert answer == Answer(outcome=Outcome.ACCEPTED, status_code=200, provider_message_id="49a3999c-0001")


@pytest.mark.parametrize("id_", ["null", '""', "7", '"a b"', f'"{"a" * 9999}"'], ids=lambda id_: id_[:8])
def test_accepted_without_a_usable_id_is_noted_not_doubted(id_: str) -> None:
    answer = read(200, f'{{"id":{id_}}}'.encode())
    assert (answer.outcome, answer.provider_message_id) == (Outcome.ACCEPTED, None)
    assert "id" in answer.detail


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2),
        ({"ratelimit-reset": "3"}, 3),
        ({"retry-after": "2", "ratelimit-reset": "3"}, 3),
        ({"retry-after": "99999"}, 3600),
        ({"retry-after": "soon", "ratelimit-reset": "-1"}, None),
    ],
)
def test_when_to_ask_again(headers: dict[str, str], seconds: float | None) -> None:
    assert read(429, own("rate_limit_exceeded"), headers).retry_after_seconds == seconds


def test_the_detail_holds_no_address_no_secret_and_no_control_characters() -> None:
    body = own("validation_error", "Key key-1 may not write to <ann@example.org>\x1b[2J" + " long" * 200)
    detail = read_answer(Reply(422, CIMultiDict(), body), NOW, secrets=["key-1"]).detail
    assert detail.startswith("422: validation_error: Key [secret] may not write to [address]")
    assert len(detail) < 310
    assert detail.isprintable()


@given(st.integers(100, 999), st.binary(max_size=200) | st.text().map(own), st.text(max_size=20))
def test_no_answer_breaks_the_reader(status: int, body: bytes, header: str) -> None:
    answer = read(status, body, {"Retry-After": header})
    assert answer.status_code == status
    assert answer.outcome is not Outcome.ACCEPTED
