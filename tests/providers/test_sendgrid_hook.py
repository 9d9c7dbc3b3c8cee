"""SendGrid's events, type by type. Whose POST is believed: `test_hooks.py`."""

from base64 import b64encode
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hes.errors import ConfigError
from hes.providers.sendgrid_hook import read_events
from hes.told import EventKind, ProviderEvent, Told
from tests.fakes.hooks import SendGridHook

NOW = 1_700_000_000_000
AT = NOW // 1000
HOOK = SendGridHook()
EVENT = {
    "email": "ann@example.org",
    "timestamp": AT - 5,
    "event": "processed",
    "sg_event_id": "ZXZ0MQ",
    "sg_message_id": "abc123.recvd-77.0",
    "smtp-id": "<abc123@host>",
    "category": ["receipt"],
    "hes_id": "e1",
    "hes_attempt": "a1",
}


def read(*events: dict[str, Any]) -> Told:
    headers, body = HOOK.post(list(events), AT)
    return read_events({name.lower(): value for name, value in headers.items()}, body, HOOK.secret, NOW)


def one(**changes: Any) -> ProviderEvent:
    (event,) = read(EVENT | changes).events
    return event


def test_all_of_an_event() -> None:
    event = one(event="bounce", type="bounce", status="5.1.1", reason="550 no <ann@example.org> here")
    assert event == ProviderEvent(
        kind=EventKind.BOUNCED,
        vendor_type="bounce",
        at=NOW - 5000,
        dedup_id="ZXZ0MQ",
        recipient="ann@example.org",
        provider_message_id="abc123",
        hes_id="e1",
        hes_attempt="a1",
        data={"kind": "hard", "reason": "550 no [address] here", "code": "5.1.1"},
    )


@pytest.mark.parametrize(
    ("fields", "kind", "data"),
    [
        ({"event": "processed"}, EventKind.ACCEPTED, {}),
        ({"event": "delivered", "response": "250 OK"}, EventKind.DELIVERED, {"reason": "250 OK"}),
        ({"event": "deferred", "response": "451 later", "attempt": "3"}, EventKind.DEFERRED, {"reason": "451 later"}),
        ({"event": "bounce", "type": "bounce"}, EventKind.BOUNCED, {"kind": "hard"}),
        ({"event": "bounce", "type": "blocked"}, EventKind.BOUNCED, {"kind": "soft"}),
        ({"event": "bounce"}, EventKind.BOUNCED, {"kind": "hard"}),
        ({"event": "dropped", "reason": "Bounced Address"}, EventKind.REJECTED, {"reason": "Bounced Address"}),
        ({"event": "spamreport"}, EventKind.COMPLAINED, {}),
        ({"event": "open", "useragent": "x", "ip": "192.0.2.1"}, EventKind.OPENED, {}),
        ({"event": "click", "url": "https://x.org/?a=b"}, EventKind.CLICKED, {"url": "https://x.org/?a=b"}),
        ({"event": "click", "url": "x" * 1001}, EventKind.CLICKED, {}),
        ({"event": "unsubscribe"}, EventKind.UNSUBSCRIBED, {}),
        ({"event": "group_unsubscribe", "asm_group_id": 1}, EventKind.UNSUBSCRIBED, {}),
        ({"event": "group_resubscribe", "asm_group_id": 1}, EventKind.RESUBSCRIBED, {}),
        ({"event": "account_status_change"}, None, {}),
        ({"event": "Delivered"}, None, {}),
    ],
)
def test_each_type(fields: dict[str, Any], kind: EventKind | None, data: dict[str, Any]) -> None:
    event = one(**fields)
    assert (event.kind, event.vendor_type, event.data) == (kind, fields["event"], data)


def test_a_batch_keeps_its_order_and_each_event_stands_alone() -> None:
    told = read(EVENT, EVENT | {"event": 7, "timestamp": "x"}, {}, EVENT | {"event": "open", "sg_event_id": "2"})
    assert [event.kind for event in told.events] == [EventKind.ACCEPTED, None, None, EventKind.OPENED]
    assert told.nonce == ""


def test_a_thousand_events() -> None:
    told = read(*(EVENT | {"sg_event_id": f"e{number}"} for number in range(1000)))
    assert len({event.dedup_id for event in told.events}) == 1000


def test_no_events_are_none() -> None:
    assert read().events == ()


def test_an_event_without_an_id_is_known_by_what_it_says() -> None:
    without = {key: value for key, value in EVENT.items() if key != "sg_event_id"}
    first, same, other = read(without, dict(reversed(without.items())), without | {"event": "open"}).events
    assert first.dedup_id == same.dedup_id != other.dedup_id


def test_what_is_not_ours_has_no_ids_of_ours() -> None:
    (event,) = read({"event": "open", "hes_id": 7, "hes_attempt": "a b"}).events
    assert (event.hes_id, event.hes_attempt, event.recipient, event.provider_message_id) == (None, None, None, None)


@pytest.mark.parametrize("timestamp", [None, "soon", -1, 1e300, AT + 60])
def test_a_time_that_can_not_be_is_now(timestamp: object) -> None:
    assert one(timestamp=timestamp).at == NOW


def test_the_key_may_have_the_lines_of_pem_around_it() -> None:
    headers, body = HOOK.post([EVENT], AT)
    pem = f"-----BEGIN PUBLIC KEY-----\n{HOOK.secret[:64]}\n{HOOK.secret[64:]}\n-----END PUBLIC KEY-----\n"
    assert read_events({name.lower(): value for name, value in headers.items()}, body, pem, NOW).events


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), Ed25519PrivateKey.generate()], ids=type)
def test_another_kind_of_key_is_none(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> None:
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    headers, body = HOOK.post([EVENT], AT)
    with pytest.raises(ConfigError):
        read_events({name.lower(): value for name, value in headers.items()}, body, b64encode(der).decode(), NOW)
