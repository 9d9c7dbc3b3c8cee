"""Accepting: from a checked email to its rows, many emails in one transaction."""

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from hes.errors import KeyReused
from hes.ids import NewId
from hes.model import Delivery, Email, Event, EventType, Millis, Status
from hes.storage import tables
from hes.storage.batches import Insert, Row
from hes.storage.ledger import delivery_row, event_row
from hes.storage.records import Accepted, IdempotencyKey, NewEmail

KEY_LIFETIME_MS = 24 * 3600 * 1000

_encode = msgspec.json.Encoder().encode

_insert_emails = Insert(tables.emails)
_insert_deliveries = Insert(tables.deliveries)
_insert_recipients = Insert(tables.recipients)
_insert_events = Insert(tables.events)
_insert_keys = Insert(tables.idempotency)
_forget_key = sa.delete(tables.idempotency).where(
    tables.idempotency.c.project == sa.bindparam("of_project"), tables.idempotency.c.key == sa.bindparam("of_key")
)


def write(
    connection: sa.Connection, now: Millis, group: Sequence[NewEmail], new_id: NewId
) -> list[Accepted | Exception]:
    """Write the group in the caller's transaction; an answer for each, in order.

    An email whose key was used before is not written: it gets the first answer, or KeyReused.
    """
    known = _keys_in_use(connection, now, group)
    answers: list[Accepted | Exception] = []
    fresh: list[NewEmail] = []
    for new in group:
        if new.key is None:
            fresh.append(new)
            answers.append(_accepted(new, now))
            continue
        name = (new.email.project, new.key.value)
        if name in known:
            answers.append(_repeated(new, *known[name]))
            continue
        accepted = _accepted(new, now)
        known[name] = (new.key.request_hash, accepted)
        fresh.append(new)
        answers.append(accepted)
    if fresh:
        _insert(connection, now, fresh, new_id)
    return answers


def _accepted(new: NewEmail, now: Millis) -> Accepted:
    return Accepted(new.email.id, Status.QUEUED, now)


def _repeated(new: NewEmail, request_hash: bytes, first: Accepted) -> Accepted | KeyReused:
    if new.key is not None and new.key.request_hash == request_hash:
        return first
    detail = "this Idempotency-Key was used with another body; take a new key for a new email"
    return KeyReused(detail)


def _keys_in_use(
    connection: sa.Connection, now: Millis, group: Sequence[NewEmail]
) -> dict[tuple[str, str], tuple[bytes, Accepted]]:
    """What the group's keys were used for, by (project, key). Outlived ones are removed on the way."""
    names = sorted({(new.email.project, new.key.value) for new in group if new.key is not None})
    if not names:
        return {}
    keys = tables.idempotency.c
    found = connection.execute(
        sa.select(keys.project, keys.key, keys.request_hash, keys.answer, keys.created_at).where(
            sa.tuple_(keys.project, keys.key).in_(names)
        )
    )
    known: dict[tuple[str, str], tuple[bytes, Accepted]] = {}
    outlived = []
    for project, key, request_hash, answer, created_at in found:
        if created_at <= now - KEY_LIFETIME_MS:
            outlived.append({"of_project": project, "of_key": key})
        else:
            known[project, key] = (request_hash, msgspec.json.decode(answer, type=Accepted))
    if outlived:
        connection.execute(_forget_key, outlived)
    return known


def _insert(connection: sa.Connection, now: Millis, fresh: Sequence[NewEmail], new_id: NewId) -> None:
    stored = [(new, _encode(new.email)) for new in fresh]
    _insert_emails.run(connection, [_email_row(new, content, now) for new, content in stored])
    _insert_deliveries.run(connection, [delivery_row(new_delivery(new, len(content), now)) for new, content in stored])
    _insert_recipients.run(connection, [row for new in fresh for row in _recipient_rows(new.email)])
    _insert_events.run(
        connection,
        [
            event_row(Event(email_id=new.email.id, type=type_, at=now), new_id())
            for new in fresh
            for type_ in (EventType.CREATED, EventType.QUEUED)
        ],
    )
    # In key order, so that two processes with the same keys wait for each other instead of deadlocking.
    _insert_keys.run(connection, sorted(_key_row(new, new.key, now) for new in fresh if new.key is not None))


def _email_row(new: NewEmail, content: bytes, now: Millis) -> Row:
    e = new.email
    tags = _encode(e.tags).decode()
    return (
        e.id, e.project, now, e.sender.email, e.sender.name, e.subject, tags, new.reference, new.stream, e.message_id,
        content,
    )  # fmt: skip


def new_delivery(new: NewEmail, size_bytes: int, now: Millis) -> Delivery:
    """The order to get it out, as it is accepted: due at once."""
    return Delivery(
        email_id=new.email.id,
        project=new.email.project,
        stream=new.stream,
        sender_domain=new.email.sender.domain,
        status=Status.QUEUED,
        due_at=now,
        expires_at=now + new.expires_in * 1000,
        expires_in=new.expires_in,
        on_doubt=new.on_doubt,
        attempt_timeout=new.attempt_timeout,
        own_providers=new.own_providers,
        size_bytes=size_bytes,
    )


def _recipient_rows(email: Email) -> list[Row]:
    everybody = [("to", a) for a in email.to] + [("cc", a) for a in email.cc] + [("bcc", a) for a in email.bcc]
    return [
        (email.id, position, kind, address.email, address.name, None, None)
        for position, (kind, address) in enumerate(everybody)
    ]


def _key_row(new: NewEmail, key: IdempotencyKey, now: Millis) -> Row:
    return new.email.project, key.value, key.request_hash, _encode(_accepted(new, now)).decode(), now
