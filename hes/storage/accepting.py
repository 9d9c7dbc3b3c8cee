"""Accepting: from a checked email to its rows, many emails in one transaction."""

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from hes.errors import KeyReused
from hes.ids import NewId
from hes.model import Delivery, Event, EventType, Millis, Status
from hes.storage import tables
from hes.storage.ledger import delivery_row, event_row
from hes.storage.storage import Accepted, NewEmail

KEY_LIFETIME_MS = 24 * 3600 * 1000

_encode = msgspec.json.Encoder().encode

_insert_email = sa.insert(tables.emails)
_insert_delivery = sa.insert(tables.deliveries)
_insert_recipient = sa.insert(tables.recipients)
_insert_event = sa.insert(tables.events)
_insert_key = sa.insert(tables.idempotency)
_forget_key = sa.delete(tables.idempotency).where(
    tables.idempotency.c.project == sa.bindparam("of_project"), tables.idempotency.c.key == sa.bindparam("of_key")
)


async def write(
    connection: AsyncConnection, now: Millis, group: Sequence[NewEmail], new_id: NewId
) -> list[Accepted | Exception]:
    """Write the group in the caller's transaction; an answer for each, in order.

    An email whose key was used before is not written: it gets the first answer, or KeyReused.
    """
    known = await _keys_in_use(connection, now, group)
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
        await _insert(connection, now, fresh, new_id)
    return answers


def _accepted(new: NewEmail, now: Millis) -> Accepted:
    return Accepted(new.email.id, Status.QUEUED, now)


def _repeated(new: NewEmail, request_hash: bytes, first: Accepted) -> Accepted | KeyReused:
    if new.key is not None and new.key.request_hash == request_hash:
        return first
    detail = "this Idempotency-Key was used with another body; take a new key for a new email"
    return KeyReused(detail)


async def _keys_in_use(
    connection: AsyncConnection, now: Millis, group: Sequence[NewEmail]
) -> dict[tuple[str, str], tuple[bytes, Accepted]]:
    """What the group's keys were used for, by (project, key). Outlived ones are removed on the way."""
    names = sorted({(new.email.project, new.key.value) for new in group if new.key is not None})
    if not names:
        return {}
    keys = tables.idempotency.c
    found = await connection.execute(
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
        await connection.execute(_forget_key, outlived)
    return known


async def _insert(connection: AsyncConnection, now: Millis, fresh: Sequence[NewEmail], new_id: NewId) -> None:
    email_rows = []
    delivery_rows = []
    recipient_rows: list[dict[str, Any]] = []
    event_rows: list[dict[str, Any]] = []
    key_rows = []
    for new in fresh:
        email = new.email
        content = _encode(email)
        email_rows.append(
            {
                "id": email.id,
                "project": email.project,
                "created_at": now,
                "from_email": email.sender.email,
                "from_name": email.sender.name,
                "subject": email.subject,
                "tags": _encode(email.tags).decode(),
                "reference": new.reference,
                "stream": new.stream,
                "message_id": email.message_id,
                "content": content,
            }
        )
        delivery = Delivery(
            email_id=email.id,
            project=email.project,
            lane=new.lane,
            status=Status.QUEUED,
            due_at=now,
            expires_at=now + new.expires_in * 1000,
            expires_in=new.expires_in,
            on_doubt=new.on_doubt,
            attempt_timeout=new.attempt_timeout,
            own_providers=new.own_providers,
            size_bytes=len(content),
        )
        delivery_rows.append(delivery_row(delivery))
        everybody = [("to", a) for a in email.to] + [("cc", a) for a in email.cc] + [("bcc", a) for a in email.bcc]
        recipient_rows.extend(
            {
                "email_id": email.id,
                "position": position,
                "kind": kind,
                "email": address.email,
                "name": address.name,
                "status": None,
                "reason": None,
            }
            for position, (kind, address) in enumerate(everybody)
        )
        event_rows.extend(
            event_row(Event(email_id=email.id, type=type_, at=now), new_id())
            for type_ in (EventType.CREATED, EventType.QUEUED)
        )
        if new.key is not None:
            key_rows.append(
                {
                    "project": email.project,
                    "key": new.key.value,
                    "request_hash": new.key.request_hash,
                    "answer": _encode(_accepted(new, now)).decode(),
                    "created_at": now,
                }
            )
    await connection.execute(_insert_email, email_rows)
    await connection.execute(_insert_delivery, delivery_rows)
    await connection.execute(_insert_recipient, recipient_rows)
    await connection.execute(_insert_event, event_rows)
    if key_rows:
        # In key order, so that two processes with the same keys wait for each other instead of deadlocking.
        await connection.execute(_insert_key, sorted(key_rows, key=lambda row: (row["project"], row["key"])))
