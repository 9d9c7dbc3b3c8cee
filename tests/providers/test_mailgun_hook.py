"""Mailgun's events, type by type. Whose POST is believed: `test_hooks.py`."""

from typing import Any

import msgspec
import pytest

from hes.providers.hook import BadSignature
from hes.providers.mailgun_hook import read_events
from hes.told import EventKind, ProviderEvent
from tests.fakes.hooks import MailgunHook

NOW = 1_700_000_000_000
AT = NOW // 1000
DAY = 86_400
HOOK = MailgunHook()
EVENT = {
    "event": "accepted",
    "id": "Q1",
    "timestamp": AT - 4.5,
    "recipient": "ann@example.org",
    "message": {"headers": {"message-id": "hes-1@example.com", "to": "ann@example.org", "subject": "Receipt 7"}},
    "tags": ["receipt"],
    "user-variables": {"hes_id": "e1", "hes_attempt": "a1"},
    "flags": {"is-test-mode": False},
}


def one(**changes: Any) -> ProviderEvent:
    headers, body = HOOK.post(EVENT | {name.replace("_", "-"): value for name, value in changes.items()}, AT)
    (event,) = read_events(headers, body, HOOK.secret, NOW).events
    return event


def test_all_of_an_event() -> None:
    status = {"code": 550, "message": "no <ann@example.org> here", "description": "", "enhanced-code": "5.1.1"}
    assert one(event="failed", severity="permanent", reason="bounce", delivery_status=status) == ProviderEvent(
        kind=EventKind.BOUNCED,
        vendor_type="failed",
        at=NOW - 4500,
        dedup_id=f"Q1/{(AT - 4.5) // DAY:.0f}",
        recipient="ann@example.org",
        provider_message_id="<hes-1@example.com>",
        hes_id="e1",
        hes_attempt="a1",
        data={"reason": "no [address] here", "code": 550, "kind": "hard"},
    )


FAILED = {"event": "failed", "severity": "permanent"}
SUPPRESSED = {"code": 605, "message": "", "description": "Not delivering to previously bounced address"}


@pytest.mark.parametrize(
    ("fields", "kind", "data"),
    [
        ({"event": "accepted"}, EventKind.ACCEPTED, {}),
        ({"event": "delivered", "delivery-status": {"code": 250}}, EventKind.DELIVERED, {"code": 250}),
        ({"event": "failed", "severity": "temporary", "reason": "generic"}, EventKind.DEFERRED, {"reason": "generic"}),
        (FAILED | {"reason": "bounce"}, EventKind.BOUNCED, {"kind": "hard", "reason": "bounce"}),
        (FAILED | {"reason": "old"}, EventKind.BOUNCED, {"kind": "soft", "reason": "old"}),
        (FAILED | {"delivery-status": {"code": 452}}, EventKind.BOUNCED, {"kind": "soft", "code": 452}),
        (FAILED | {"delivery-status": {"code": "x"}}, EventKind.BOUNCED, {"kind": "hard", "code": "x"}),
        (
            FAILED | {"reason": "suppress-bounce", "delivery-status": SUPPRESSED},
            EventKind.REJECTED,
            {"reason": "Not delivering to previously bounced address", "code": 605},
        ),
        ({"event": "failed", "severity": "strange"}, None, {}),
        ({"event": "failed"}, None, {}),
        ({"event": "rejected", "reject": {"reason": "spam"}}, EventKind.REJECTED, {"reason": "spam"}),
        ({"event": "complained"}, EventKind.COMPLAINED, {}),
        ({"event": "opened", "ip": "192.0.2.1"}, EventKind.OPENED, {}),
        ({"event": "clicked", "url": "https://x.org/?a=b"}, EventKind.CLICKED, {"url": "https://x.org/?a=b"}),
        ({"event": "unsubscribed"}, EventKind.UNSUBSCRIBED, {}),
        ({"event": "stored"}, None, {}),
        ({"event": "list_member_uploaded"}, None, {}),
    ],
)
def test_each_type(fields: dict[str, Any], kind: EventKind | None, data: dict[str, Any]) -> None:
    event = one(**fields)
    assert (event.kind, event.vendor_type, event.data) == (kind, fields["event"], data)


def test_a_rejected_event_may_be_without_a_recipient() -> None:
    assert one(event="rejected", recipient=None).recipient is None


def test_an_id_is_unique_only_within_its_day() -> None:
    assert one(timestamp=AT - DAY).dedup_id != one(timestamp=AT).dedup_id


def test_an_event_told_again_later_is_the_same() -> None:
    """Mailgun repeats what was not answered well for eight hours."""
    headers, body = HOOK.post(EVENT, AT + 8 * 3600, token="another")
    (event,) = read_events(headers, body, HOOK.secret, NOW + 8 * 3_600_000).events
    assert event.dedup_id == one().dedup_id


def test_the_token_is_told_since_the_signature_does_not_cover_the_event() -> None:
    """Somebody who saw one POST changes the event under it: only a token that is used once keeps that out."""
    headers, body = HOOK.post(EVENT, AT, token="t1")
    forged = body.replace(b'"accepted"', b'"complained"').replace(b"Q1", b"Q2")
    first, second = (read_events(headers, each, HOOK.secret, NOW) for each in (body, forged))
    assert second.events[0].kind is EventKind.COMPLAINED
    assert first.nonce == second.nonce == "t1"


@pytest.mark.parametrize(
    "signature",
    [
        None,
        {},
        {"timestamp": str(AT)},
        {"timestamp": str(AT), "token": "t"},
        {"timestamp": str(AT), "token": "t", "signature": ""},
        {"timestamp": str(AT), "token": "t", "signature": "0" * 64},
        {"timestamp": str(AT), "token": "t", "signature": "ü" * 64},
        {"timestamp": "", "token": f"{AT}t", "signature": HOOK.signature(AT, "t")["signature"]},
        {"timestamp": str(AT)[:-1], "token": str(AT)[-1] + "t", "signature": HOOK.signature(AT, "t")["signature"]},
        HOOK.signature(AT) | {"signature": HOOK.signature(AT)["signature"].upper()},
    ],
    ids=str,
)
def test_a_signature_that_is_none_is_refused(signature: object) -> None:
    """Also the last but one: nothing stands between timestamp and token, so one could be moved into the other."""
    posted: dict[str, object] = {"event-data": EVENT}
    if signature is not None:
        posted["signature"] = signature
    with pytest.raises(BadSignature):
        read_events({}, msgspec.json.encode(posted), HOOK.secret, NOW)


def test_a_timestamp_may_be_a_number() -> None:
    signature = HOOK.signature(AT) | {"timestamp": AT}
    body = msgspec.json.encode({"signature": signature, "event-data": EVENT})
    assert read_events({}, body, HOOK.secret, NOW).events
