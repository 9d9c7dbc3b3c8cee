"""What is not needed any more goes: contents first, later all of an email. A few hundred at a time, never a long lock.

Age is that of the id, which begins with the time at which the email was handed in. Only what is at rest goes: not what
is on its way or held, however old it is. A draft's age is counted from its last edit, or from its own `send_at`.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from hes.ids import first_id_at
from hes.model import EmailId, Millis, Status
from hes.storage import tables
from hes.storage.batches import padded

AT_ONCE = 500

AT_REST = (Status.SENT, Status.DELIVERED, Status.BOUNCED, Status.COMPLAINED, Status.FAILED, Status.CANCELLED)

_email = tables.emails.c
_delivery = tables.deliveries.c
_old = (
    sa.select(_email.id)
    .join(tables.deliveries, _delivery.email_id == _email.id)
    .where(_email.id < sa.bindparam("before"), _delivery.status.in_([status.value for status in AT_REST]))
    .order_by(_email.id)
    .limit(AT_ONCE)
    .with_for_update(of=tables.deliveries, skip_locked=True)  # nobody may send it again meanwhile
)
_old_with_content = _old.where(sa.text(tables.HAS_CONTENT))

_old_drafts = (
    sa.select(_delivery.email_id)
    .where(sa.text(tables.IS_DRAFT), _delivery.due_at <= sa.bindparam("before"))
    .order_by(_delivery.due_at)
    .limit(AT_ONCE)
    .with_for_update(skip_locked=True)
)

_OF_AN_EMAIL = {
    tables.outbox: tables.outbox.c.email_id,
    tables.events: tables.events.c.email_id,
    tables.attempts: tables.attempts.c.email_id,
    tables.recipients: tables.recipients.c.email_id,
    tables.deliveries: _delivery.email_id,
    tables.emails: _email.id,
}


def drop_contents(connection: sa.Connection, before: Millis) -> int:
    """Of what was handed in before then. Returns of how many."""
    ids = _ids(connection, _old_with_content, before)
    drop_contents_of(connection, ids)
    return len(ids)


def drop_contents_of(connection: sa.Connection, ids: Sequence[str]) -> None:
    if ids:
        connection.execute(sa.update(tables.emails).where(_email.id.in_(padded(ids))).values(content=None))
        connection.execute(sa.delete(tables.outbox).where(tables.outbox.c.email_id.in_(padded(ids))))
        holds = _delivery.email_id.in_(padded(ids)), sa.text(tables.HOLDS_BYTES)
        connection.execute(sa.update(tables.deliveries).where(*holds).values(size_bytes=0))


def old_drafts(connection: sa.Connection, before: Millis) -> list[EmailId]:
    """Those that nobody edited since then, and that are to be sent before then."""
    return [EmailId(id_) for id_ in connection.execute(_old_drafts, {"before": before}).scalars()]


def drop_history(connection: sa.Connection, before: Millis) -> int:
    """All that there is of what was handed in before then. Returns of how many."""
    ids = _ids(connection, _old, before)
    if ids:
        for table, email_id in _OF_AN_EMAIL.items():
            connection.execute(sa.delete(table).where(email_id.in_(padded(ids))))
    return len(ids)


def _ids(connection: sa.Connection, old: sa.Select[Any], before: Millis) -> Sequence[str]:
    return connection.execute(old, {"before": first_id_at(before)}).scalars().all()
