"""Accepting: from a checked email to its rows, many emails in one transaction."""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from msgspec.structs import replace

from hes.errors import KeyInUse, KeyReused
from hes.ids import NewId
from hes.model import Delivery, Email, EmailId, Event, EventType, Millis, Status
from hes.storage import tables
from hes.storage.batches import Insert, Row, padded
from hes.storage.database import is_of_a_lock, is_of_a_row
from hes.storage.ledger import delivery_row, event_row
from hes.storage.records import Accepted, BatchItem, IdempotencyKey, NewEmail, Reach

T = TypeVar("T")

KEY_LIFETIME_MS = 24 * 3600 * 1000

_encode = msgspec.json.Encoder().encode
_decode_accepted = msgspec.json.Decoder(Accepted).decode
_log = logging.getLogger("hes.storage")

_insert_emails = Insert(tables.emails)
_insert_deliveries = Insert(tables.deliveries)
_insert_recipients = Insert(tables.recipients)
_insert_events = Insert(tables.events)
_insert_keys = Insert(
    tables.idempotency,
    "ON CONFLICT (project, key) DO UPDATE SET request_hash = excluded.request_hash, answer = excluded.answer, "
    f"created_at = excluded.created_at WHERE idempotency.created_at <= excluded.created_at - {KEY_LIFETIME_MS} "
    "RETURNING project, key",
)
_tell_answer = (
    sa.update(tables.idempotency)
    .where(
        tables.idempotency.c.project == sa.bindparam("of_project"), tables.idempotency.c.key == sa.bindparam("of_key")
    )
    .values(answer=sa.bindparam("told"))
)

_OF_TESTS = "test "
"""What the keys of test emails begin with in the table. No caller's key can: they have no blanks.

Not a column of its own in the primary key: the version before names that key in its ON CONFLICT, and could not write
any more beside this one. What it wrote for test emails counts as a live email's, until it is gone.
"""
KeyName = tuple[str, str]
"""Project, and the caller's key as it stands in the table."""
_Known = dict[KeyName, tuple[bytes, bytes]]
"""Request hash and answer."""


def write(
    connection: sa.Connection, now: Millis, group: Sequence[NewEmail], new_id: NewId
) -> list[Accepted | Exception]:
    """Write the group in the caller's transaction; an answer for each, in order.

    An email whose key was used before is not written: it gets the first answer, or KeyReused.
    """
    wanted: dict[KeyName, tuple[bytes, bytes]] = {}
    for new in group:
        if new.key is not None:
            answer = _encode(_accepted(new, now))
            wanted.setdefault(_name_of(new, new.key), (new.key.request_hash, answer))
    used = _take_keys(connection, now, wanted)
    answers: list[Accepted | Exception] = []
    fresh: list[NewEmail] = []
    for new in group:
        if new.key is not None:
            name = _name_of(new, new.key)
            if name in used:
                answers.append(_repeated(new.key, *used[name]))
                continue
            used[name] = wanted[name]  # for a twin in this very group
        fresh.append(new)
        answers.append(_accepted(new, now))
    if fresh:
        insert(connection, now, fresh, new_id)
    return answers


def write_batch(
    connection: sa.Connection,
    now: Millis,
    reach: Reach,
    items: Sequence[NewEmail | BatchItem],
    key: IdempotencyKey | None,
    new_id: NewId,
) -> list[BatchItem]:
    """Write one request of many emails in the caller's transaction; an answer for each, in order. Raises KeyReused."""
    if key is not None:
        known = _take_keys(connection, now, {_name_within(reach, key): (key.request_hash, b"")})
        if (first := _first_answer_in(known, reach, key, list[BatchItem])) is not None:
            return first
    bad = _insert_what_can_be(connection, now, [item for item in items if isinstance(item, NewEmail)], new_id)
    answers = [_answer_of(item, now, bad) for item in items]
    if key is not None:
        project, name = _name_within(reach, key)
        told = {"of_project": project, "of_key": name, "told": _encode(answers).decode()}
        connection.execute(_tell_answer, told)
    return answers


def _answer_of(item: NewEmail | BatchItem, now: Millis, bad: Collection[EmailId]) -> BatchItem:
    if isinstance(item, BatchItem):
        return item
    if item.email.id in bad:
        detail = "This email can't be stored."
        problem = {"type": "urn:hes:problem:invalid-email", "title": "Invalid email", "status": 422, "detail": detail}
        return BatchItem(problem=problem)
    return BatchItem(accepted=_accepted(item, now))


def _insert_what_can_be(
    connection: sa.Connection, now: Millis, news: Sequence[NewEmail], new_id: NewId
) -> set[EmailId]:
    """All at once; if the database refuses one of them, one by one. Returns those that it refuses."""
    if not news:
        return set()
    try:
        with connection.begin_nested():
            insert(connection, now, news, new_id)
    except sa.exc.DBAPIError as error:
        if not is_of_a_row(error):
            raise
        if len(news) == 1:
            _log.exception("email %s can't be stored", news[0].email.id)
            return {news[0].email.id}
        return {bad for new in news for bad in _insert_what_can_be(connection, now, [new], new_id)}
    return set()


def _status(new: NewEmail, now: Millis) -> Status:
    if new.is_draft:
        return Status.DRAFT
    return Status.SCHEDULED if new.send_at is not None and new.send_at > now else Status.QUEUED


def _accepted(new: NewEmail, now: Millis) -> Accepted:
    return Accepted(new.email.id, _status(new, now), now)


def _repeated(key: IdempotencyKey, request_hash: bytes, answer: bytes) -> Accepted | KeyReused:
    return _decode_accepted(answer) if key.request_hash == request_hash else _reused()


def first_answer(connection: sa.Connection, now: Millis, reach: Reach, key: IdempotencyKey, kind: type[T]) -> T | None:
    """What the request under this key was answered; None: there was none. Writes nothing. Raises KeyReused."""
    lasting = tables.idempotency.c.created_at > now - KEY_LIFETIME_MS
    return _first_answer_in(_look_up(connection, {_name_within(reach, key)}, lasting), reach, key, kind)


def _name_of(new: NewEmail, key: IdempotencyKey) -> KeyName:
    return _name(new.email.project, key, is_test=new.is_test)


def _name_within(reach: Reach, key: IdempotencyKey) -> KeyName:
    """Of whoever reaches test emails only, all that they hand in is a test."""
    return _name(reach.project, key, is_test=reach.only_test)


def _name(project: str, key: IdempotencyKey, *, is_test: bool) -> KeyName:
    return project, f"{_OF_TESTS}{key.value}" if is_test else key.value


def _first_answer_in(known: _Known, reach: Reach, key: IdempotencyKey, kind: type[T]) -> T | None:
    if (name := _name_within(reach, key)) not in known:
        return None
    request_hash, answer = known[name]
    if key.request_hash != request_hash:
        raise _reused()
    return msgspec.json.decode(answer, type=kind)


def _reused() -> KeyReused:
    detail = "this Idempotency-Key was used with another body; take a new key for a new email"
    return KeyReused(detail)


def _take_keys(connection: sa.Connection, now: Millis, wanted: Mapping[KeyName, tuple[bytes, bytes]]) -> _Known:
    """Take these keys, each with request hash and answer; returns what those that were in use were used for.

    A twin in another process that has not committed yet is waited for, but not for ever: then it is KeyInUse. An
    outlived key is as good as none.
    """
    if not wanted:
        return {}
    # In key order, so that two processes with the same keys wait for each other instead of deadlocking.
    rows = [(*name, request_hash, answer.decode(), now) for name, (request_hash, answer) in sorted(wanted.items())]
    try:
        taken = {(row.project, row.key) for row in _insert_keys.run(connection, rows)}
    except sa.exc.DBAPIError as error:
        if is_of_a_lock(error):
            raise KeyInUse from error
        raise
    if len(taken) == len(wanted):
        return {}
    return _look_up(connection, wanted.keys() - taken)


def _look_up(connection: sa.Connection, names: Collection[KeyName], *conditions: sa.ColumnElement[bool]) -> _Known:
    keys = tables.idempotency.c
    found = connection.execute(
        sa.select(keys.project, keys.key, keys.request_hash, keys.answer).where(
            sa.tuple_(keys.project, keys.key).in_(padded(sorted(names))), *conditions
        )
    )
    return {(project, key): (request_hash, answer.encode()) for project, key, request_hash, answer in found}


def insert(connection: sa.Connection, now: Millis, fresh: Sequence[NewEmail], new_id: NewId) -> None:
    """Emails, deliveries, recipients and the beginning of their timelines."""
    stored = [(new, _encode(new.email)) for new in fresh]
    _insert_emails.run(connection, [_email_row(new, content, now) for new, content in stored])
    _insert_deliveries.run(connection, [delivery_row(new_delivery(new, len(content), now)) for new, content in stored])
    _insert_recipients.run(connection, [row for new in fresh for row in _recipient_rows(new.email)])
    _insert_events.run(connection, [event_row(event, new_id()) for new in fresh for event in first_events(new, now)])


def first_events(new: NewEmail, now: Millis) -> list[Event]:
    """How a timeline begins."""
    created = Event(email_id=new.email.id, type=EventType.CREATED, at=now)
    match _status(new, now):
        case Status.DRAFT:
            return [created]
        case Status.SCHEDULED:
            data = {"send_at": new.send_at}
            return [created, Event(email_id=new.email.id, type=EventType.SCHEDULED, at=now, data=data)]
        case _:
            return [created, Event(email_id=new.email.id, type=EventType.QUEUED, at=now)]


def _email_row(new: NewEmail, content: bytes, now: Millis) -> Row:
    e = new.email
    tags = _encode(e.tags).decode()
    return (
        e.id, e.project, now, e.sender.email, e.sender.name, e.subject, tags, new.reference, new.stream, e.message_id,
        content, new.written_by,
    )  # fmt: skip


def new_delivery(new: NewEmail, size_bytes: int, now: Millis) -> Delivery:
    """The order to get it out, as it is accepted. A draft's time begins when it is sent."""
    due_at = max(now, new.send_at or now)
    return Delivery(
        email_id=new.email.id,
        project=new.email.project,
        stream=new.stream,
        sender_domain=new.email.sender.domain,
        is_test=new.is_test,
        status=_status(new, now),
        send_at=new.send_at,
        due_at=due_at,
        expires_at=due_at + new.expires_in * 1000,
        expires_in=new.expires_in,
        on_doubt=new.on_doubt,
        attempt_timeout=new.attempt_timeout,
        own_providers=new.own_providers,
        size_bytes=size_bytes,
    )


def rewrite(connection: sa.Connection, now: Millis, draft: Delivery, new: NewEmail) -> None:
    """Put `new` in the place of a draft that is locked in this transaction. Its timeline stays as it is."""
    content = _encode(new.email)
    delivery = replace(new_delivery(new, len(content), now), is_test=draft.is_test, version=draft.version + 1)
    emails, recipients = tables.emails, tables.recipients
    row = _named(emails, _email_row(new, content, now))
    del row["created_at"]
    connection.execute(sa.update(emails).where(emails.c.id == new.email.id).values(row))
    row = _named(tables.deliveries, delivery_row(delivery))
    connection.execute(sa.update(tables.deliveries).where(tables.deliveries.c.email_id == new.email.id).values(row))
    connection.execute(sa.delete(recipients).where(recipients.c.email_id == new.email.id))
    _insert_recipients.run(connection, _recipient_rows(new.email))


def _named(table: sa.Table, row: Row) -> dict[str, Any]:
    return dict(zip(table.columns.keys(), row, strict=True))


def _recipient_rows(email: Email) -> list[Row]:
    everybody = [("to", a) for a in email.to] + [("cc", a) for a in email.cc] + [("bcc", a) for a in email.bcc]
    return [
        (email.id, position, kind, address.email, address.name, None, None)
        for position, (kind, address) in enumerate(everybody)
    ]
