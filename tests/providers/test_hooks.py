"""Events in, for every provider that tells some: whose POST is believed, and that no body breaks the reader."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from multidict import CIMultiDict

from hes.app import make_hooks
from hes.errors import CallerError, ConfigError
from hes.provider_settings import Kind
from hes.providers import REGISTRY
from hes.providers.hook import BadEvents, BadSignature
from hes.settings import load
from hes.told import EventKind, Told
from tests.fakes.hooks import MailgunHook, Post, ResendHook, SendGridHook

NOW = 1_700_000_000_000
AT = NOW // 1000


class Case(Struct, frozen=True, kw_only=True):
    """One provider's webhook."""

    kind: Kind
    hook: Any
    delivered: Any
    """An event that says so, as `hook.post` takes it."""
    unknown: Any
    """An event of a type that HES does not know."""
    other_secret: str
    no_secrets: tuple[str, ...] = ()
    """What can't be a secret of this kind."""


SENDGRID = {
    "event": "delivered",
    "sg_event_id": "ev1",
    "sg_message_id": "m1.recvd-77-0.0",
    "timestamp": AT - 5,
    "email": "ann@example.org",
    "hes_id": "e1",
    "hes_attempt": "a1",
}
MAILGUN = {
    "event": "delivered",
    "id": "ev1",
    "timestamp": AT - 5,
    "recipient": "ann@example.org",
    "message": {"headers": {"message-id": "m1@hes.example"}},
    "user-variables": {"hes_id": "e1", "hes_attempt": "a1"},
}
RESEND = {
    "type": "email.delivered",
    "created_at": "2023-11-14T22:13:15.000Z",
    "data": {"email_id": "m1", "to": ["ann@example.org"], "tags": {"hes_id": "e1", "hes_attempt": "a1"}},
}
CASES = [
    Case(
        kind=Kind.SENDGRID,
        hook=SendGridHook(),
        delivered=[SENDGRID],
        unknown=[SENDGRID | {"event": "account_status_change"}],
        other_secret=SendGridHook().secret,
        no_secrets=("", "abc", "ü", "MFkwEwYHKoZIzj0CAQ", "whsec_abcd"),
    ),
    Case(
        kind=Kind.MAILGUN,
        hook=MailgunHook(),
        delivered=MAILGUN,
        unknown=MAILGUN | {"event": "stored"},
        other_secret="another key",
    ),
    Case(
        kind=Kind.RESEND,
        hook=ResendHook(),
        delivered=RESEND,
        unknown=RESEND | {"type": "domain.updated"},
        other_secret="whsec_YW5vdGhlcg==",
        no_secrets=("", "whsec_", "whsec_?", "ü"),
    ),
]


@pytest.fixture(params=CASES, ids=[case.kind for case in CASES])
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


def read(case: Case, post: Post, secret: str | None = None, now: int = NOW) -> Told:
    """As an ASGI server hands it over: names of headers in lower case."""
    read_events = REGISTRY[case.kind].read_events
    assert read_events is not None
    headers, body = post
    return read_events({name.lower(): value for name, value in headers.items()}, body, secret or case.hook.secret, now)


def test_every_kind_that_talks_to_somebody_is_here() -> None:
    assert {kind for kind, entry in REGISTRY.items() if entry.read_events} == {case.kind for case in CASES}


def test_an_event_is_told_in_our_words(case: Case) -> None:
    (event,) = read(case, case.hook.post(case.delivered, AT)).events
    assert (event.kind, event.at, event.recipient) == (EventKind.DELIVERED, NOW - 5000, "ann@example.org")
    assert (event.hes_id, event.hes_attempt) == ("e1", "a1")
    assert event.dedup_id


def test_a_signature_that_is_not_in_the_headers_is_missed_before_the_body_is_read(case: Case) -> None:
    """Mailgun's is in the body: there its headers tell nothing."""
    check_headers = REGISTRY[case.kind].check_headers
    headers, _ = case.hook.post(case.delivered, AT)
    check_headers(CIMultiDict(headers))
    for name in headers:
        with pytest.raises(BadSignature, match="signature is missing"):
            check_headers(CIMultiDict({other: value for other, value in headers.items() if other != name}))
    assert bool(headers) == (case.kind is not Kind.MAILGUN)


def test_headers_that_ignore_case_do_as_well(case: Case) -> None:
    read_events = REGISTRY[case.kind].read_events
    assert read_events is not None
    headers, body = case.hook.post(case.delivered, AT)
    assert len(read_events(CIMultiDict(headers), body, case.hook.secret, NOW).events) == 1


def test_an_unknown_type_is_handed_on_under_its_own_name(case: Case) -> None:
    (event,) = read(case, case.hook.post(case.unknown, AT)).events
    assert event.kind is None
    assert event.vendor_type in {"account_status_change", "stored", "domain.updated"}
    assert (event.hes_id, event.hes_attempt) == ("e1", "a1")


def test_the_same_post_again_is_the_same_event(case: Case) -> None:
    first, second = (read(case, case.hook.post(case.delivered, AT + wait)) for wait in (0, 60))
    assert [event.dedup_id for event in first.events] == [event.dedup_id for event in second.events]


def test_another_secret_is_refused(case: Case) -> None:
    with pytest.raises(BadSignature, match="webhook_secret"):
        read(case, case.hook.post(case.delivered, AT), secret=case.other_secret)


@pytest.mark.parametrize("seconds", [-301, 301, -86_400, 86_400])
def test_a_signature_that_is_not_of_now_is_refused(case: Case, seconds: int) -> None:
    with pytest.raises(BadSignature, match="5 minutes"):
        read(case, case.hook.post(case.delivered, AT + seconds))


@pytest.mark.parametrize("seconds", [-300, 300])
def test_a_clock_may_be_off_a_little(case: Case, seconds: int) -> None:
    read(case, case.hook.post(case.delivered, AT + seconds))


def test_every_changed_bit_of_what_is_signed_is_refused(case: Case) -> None:
    """Of Mailgun's POST only the signature itself is: the token is what keeps the rest honest."""
    headers, body = case.hook.post(case.delivered, AT)
    end = body.index(b'"event-data"') if case.kind is Kind.MAILGUN else len(body)
    for place in range(0, end, 7):
        changed = bytearray(body)
        changed[place] ^= 1
        with pytest.raises((BadSignature, BadEvents)):
            read(case, (headers, bytes(changed)))


def test_a_changed_or_missing_header_is_refused(case: Case) -> None:
    headers, body = case.hook.post(case.delivered, AT)
    for name in headers:
        rest = {other: value for other, value in headers.items() if other != name}
        for value in (None, "", "x", headers[name][:-1], headers[name] + "x", "ü"):
            with pytest.raises(BadSignature):
                read(case, (rest if value is None else rest | {name: value}, body))


@pytest.mark.parametrize("text", ["1e9", "-1", " ", "1700000000.0", "\u0661700000000", "9" * 400])
def test_a_time_that_is_none_is_refused(case: Case, text: str) -> None:
    """Though it is signed."""
    with pytest.raises(BadSignature):
        read(case, case.hook.post(case.delivered, text))


def test_nothing_is_read_before_it_is_checked(case: Case) -> None:
    """The secret is right, the body is not JSON at all: it is the signature that is missed."""
    body = b'{"signature":{},"event-data":["not looked at"]}' if case.kind is Kind.MAILGUN else b"not JSON"
    with pytest.raises(BadSignature, match="missing"):
        read(case, ({}, body))


def test_what_can_not_be_a_secret_is_an_error_of_configuration(case: Case) -> None:
    for secret in case.no_secrets:
        read_events = REGISTRY[case.kind].read_events
        assert read_events is not None
        headers, body = case.hook.post(case.delivered, AT)
        with pytest.raises(ConfigError, match=r"webhook_secret is not .* Example: ") as caught:
            read_events({name.lower(): value for name, value in headers.items()}, body, secret, NOW)
        assert not secret or secret not in str(caught.value).partition("Example")[0]


@pytest.mark.parametrize("kind", [case.kind for case in CASES if case.no_secrets])
def test_such_a_secret_is_told_at_the_start(kind: Kind, tmp_path: Path) -> None:
    settings = load({}, {"HES_PROVIDERS": f"{kind.value}://K@default?webhook_secret=abc"}, tmp_path)
    with pytest.raises(ConfigError, match=f"^provider {kind.value}: webhook_secret is not "):
        make_hooks(settings)


def garbage_for(case: Case) -> Callable[[bytes], Post]:
    if case.kind is Kind.MAILGUN:
        signature = msgspec.json.encode(case.hook.signature(AT))
        return lambda body: ({}, b'{"signature":' + signature + b',"event-data":' + body + b"}")
    return lambda body: case.hook.sign(body, AT)


GARBAGE = [b"", b"{", b"null", b"7", b'"x"', b"\xff", b"[7]", b'[["x"]]', b"[" * 9999, b"[" * 9999 + b"]" * 9999]


@pytest.mark.parametrize("body", GARBAGE)
def test_signed_garbage_is_unreadable(case: Case, body: bytes) -> None:
    with pytest.raises(BadEvents):
        read(case, garbage_for(case)(body))


def test_a_body_of_a_megabyte(case: Case) -> None:
    large = {"padding": "x" * 1_000_000, "deep": {"er": [1] * 1000}}
    event = case.delivered[0] | large if isinstance(case.delivered, list) else case.delivered | large
    (read_event,) = read(case, case.hook.post([event] if isinstance(case.delivered, list) else event, AT)).events
    assert read_event.kind is EventKind.DELIVERED
    assert len(msgspec.json.encode(read_event)) < 1000


def test_refusals_are_problems_that_the_web_can_answer() -> None:
    assert (BadSignature.status, BadEvents.status) == (401, 400)
    assert issubclass(BadSignature, CallerError)
    assert issubclass(BadEvents, CallerError)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = [
    *("event", "type", "sg_event_id", "sg_message_id", "timestamp", "email", "hes_id", "hes_attempt", "reason"),
    *("response", "status", "url", "id", "severity", "recipient", "message", "user-variables", "delivery-status"),
    *("reject", "created_at", "data"),
]
WORDS = ["delivered", "bounce", "click", "failed", "permanent", "clicked", "email.bounced", "email.clicked"]


@given(st.sampled_from(CASES), st.dictionaries(st.sampled_from(FIELDS), JSON | st.sampled_from(WORDS)))
def test_no_event_breaks_the_reader(case: Case, event: Mapping[str, Any]) -> None:
    told = read(case, case.hook.post([event] if case.kind is Kind.SENDGRID else event, AT))
    (read_event,) = told.events
    assert 0 <= read_event.at <= NOW
    assert read_event.dedup_id.isprintable()
    assert read_event.vendor_type
    for text in (read_event.recipient, read_event.provider_message_id, read_event.hes_id, read_event.vendor_type):
        assert text is None or text.isprintable()
