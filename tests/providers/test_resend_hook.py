"""Resend's events, type by type. Whose POST is believed: `test_hooks.py`."""

from typing import Any

import msgspec
import pytest

from hes.providers.hook import BadSignature
from hes.providers.resend_hook import read_events
from hes.told import EventKind, ProviderEvent
from tests.fakes.hooks import Post, ResendHook

NOW = 1_700_000_000_000
AT = NOW // 1000
HOOK = ResendHook()
DATA = {
    "email_id": "49a3999c-0001",
    "message_id": "<theirs@resend.example>",
    "created_at": "2023-11-14T22:00:00.000Z",
    "from": "Shop <shop@example.com>",
    "to": ["Ann <ann@example.org>"],
    "subject": "Receipt 7",
    "tags": {"hes_id": "e1", "hes_attempt": "a1", "kind": "receipt"},
}


def read(post: Post) -> ProviderEvent:
    (event,) = read_events(*post, HOOK.secret, NOW).events
    return event


def one(type_: object, created_at: object = "2023-11-14T22:13:15.250Z", **data: Any) -> ProviderEvent:
    return read(HOOK.post({"type": type_, "created_at": created_at, "data": DATA | data}, AT))


def test_all_of_an_event() -> None:
    bounce = {"type": "Permanent", "subType": "NoEmail", "message": "no <ann@example.org> here", "diagnosticCode": []}
    assert one("email.bounced", bounce=bounce) == ProviderEvent(
        kind=EventKind.BOUNCED,
        vendor_type="email.bounced",
        at=NOW - 4750,
        dedup_id="msg_1",
        recipient="ann@example.org",
        provider_message_id="49a3999c-0001",
        hes_id="e1",
        hes_attempt="a1",
        data={"reason": "no [address] here", "code": "NoEmail", "kind": "hard"},
    )


SUPPRESSED = {"type": "Suppressed", "reason": "previous_bounce", "message": "It bounced before.", "diagnosticCode": []}


@pytest.mark.parametrize(
    ("type_", "data", "kind", "told"),
    [
        ("email.sent", {}, EventKind.ACCEPTED, {}),
        ("email.delivered", {}, EventKind.DELIVERED, {}),
        ("email.delivery_delayed", {}, EventKind.DEFERRED, {}),
        ("email.bounced", {"bounce": {"type": "Permanent"}}, EventKind.BOUNCED, {"kind": "hard"}),
        ("email.bounced", {"bounce": {"type": "Transient"}}, EventKind.BOUNCED, {"kind": "soft"}),
        ("email.bounced", {"bounce": {"type": "Undetermined"}}, EventKind.BOUNCED, {"kind": "soft"}),
        ("email.bounced", {}, EventKind.BOUNCED, {"kind": "soft"}),
        ("email.complained", {}, EventKind.COMPLAINED, {}),
        ("email.opened", {}, EventKind.OPENED, {}),
        ("email.clicked", {"click": {"link": "https://x.org/?a=b"}}, EventKind.CLICKED, {"url": "https://x.org/?a=b"}),
        ("email.failed", {"failed": {"reason": "daily_quota"}}, EventKind.REJECTED, {"reason": "daily_quota"}),
        (
            "email.suppressed",
            {"suppressed": SUPPRESSED},
            EventKind.REJECTED,
            {"reason": "It bounced before.", "code": "previous_bounce"},
        ),
        ("email.scheduled", {}, None, {}),
        ("email.received", {}, None, {}),
        ("contact.created", {}, None, {}),
        ("domain.updated", {}, None, {}),
    ],
)
def test_each_type(type_: str, data: dict[str, Any], kind: EventKind | None, told: dict[str, Any]) -> None:
    event = one(type_, **data)
    assert (event.kind, event.vendor_type, event.data) == (kind, type_, told)


@pytest.mark.parametrize("to", [["a@x.org", "b@x.org"], [], "ann@example.org", None, [7], [""], ["not an address\n"]])
def test_whose_event_it_is_is_not_guessed(to: object) -> None:
    assert one("email.opened", to=to).recipient is None


@pytest.mark.parametrize(
    ("created_at", "at"),
    [
        ("2023-11-14T22:13:15+00:00", NOW - 5000),
        ("2023-11-14T23:13:15.000+01:00", NOW - 5000),
        ("2023-11-14T22:13:15", NOW - 5000),
        ("2023-11-14T22:13:15.894719+00:00", NOW - 4106),
        ("soon", NOW),
        (7, NOW),
        ("9999-12-31T23:59:59-23:59", NOW),
        ("0001-01-01T00:00:00+23:59", NOW),
    ],
)
def test_when_it_happened(created_at: object, at: int) -> None:
    assert one("email.opened", created_at).at == at


def test_an_event_is_known_by_its_svix_id() -> None:
    """Which stays the same over repetitions, while the timestamp changes."""
    event = {"type": "email.opened", "created_at": "2023-11-14T22:13:15Z", "data": DATA}
    ids = [read(HOOK.post(event, AT + wait, id_)).dedup_id for wait, id_ in ((0, "msg_1"), (5, "msg_1"), (5, "msg_2"))]
    assert ids == ["msg_1", "msg_1", "msg_2"]


def test_one_signature_of_several_is_enough() -> None:
    """While the secret is being changed there are two; `v1a` is another way to sign."""
    headers, body = HOOK.post({"type": "email.opened", "data": DATA}, AT)
    good = headers["svix-signature"]
    for signatures in (f"v1,AAAA {good}", f"{good} v1,AAAA", f"v1a,x {good} v2,y"):
        assert read((headers | {"svix-signature": signatures}, body)).kind is EventKind.OPENED
    for signatures in ("v1,AAAA v1,BBBB", good.replace("v1,", "v0,"), good.removeprefix("v1,"), f"v2,{good[3:]}"):
        with pytest.raises(BadSignature):
            read((headers | {"svix-signature": signatures}, body))


def test_the_id_is_signed_too() -> None:
    headers, body = HOOK.post({"type": "email.opened", "data": DATA}, AT)
    with pytest.raises(BadSignature):
        read((headers | {"svix-id": "msg_2"}, body))


def test_a_secret_without_its_prefix_is_the_same() -> None:
    headers, body = HOOK.post({"type": "email.opened", "data": DATA}, AT)
    assert read_events(headers, body, HOOK.secret.removeprefix("whsec_"), NOW).events


def test_an_event_of_something_else() -> None:
    event = read(HOOK.sign(msgspec.json.encode({"type": "domain.updated", "data": {"name": "example.com"}}), AT))
    assert (event.kind, event.hes_id, event.provider_message_id, event.recipient) == (None, None, None, None)
