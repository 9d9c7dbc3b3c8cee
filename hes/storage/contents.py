"""The emails themselves, as they were handed in."""

import logging
import re
from collections.abc import Collection, Sequence

import msgspec
import sqlalchemy as sa

from hes.model import Email, EmailId
from hes.storage import tables
from hes.storage.batches import padded

END_BYTES = 80
"""So many hold the trace: its name, a traceparent of 55 characters, quotes and brace."""

_log = logging.getLogger("hes.storage")

decode_email = msgspec.json.Decoder(Email).decode
_select = sa.select(tables.emails.c.id, tables.emails.c.content).where(
    tables.emails.c.id.in_(sa.bindparam("email_ids", expanding=True)), tables.emails.c.content.is_not(None)
)

_select_there = sa.select(tables.emails.c.id, tables.emails.c.content.is_not(None)).where(
    tables.emails.c.id.in_(sa.bindparam("email_ids", expanding=True))
)

_TRACE = re.compile(rb'"trace":"([0-9a-f-]{55})"\}$')
_length = sa.func.length(tables.emails.c.content, type_=sa.Integer)
_select_ends = sa.select(
    tables.emails.c.id,
    # The trace is the struct's last field, so what may be megabytes of attachments need not be read for it.
    sa.func.substr(tables.emails.c.content, _length - END_BYTES, type_=sa.LargeBinary),
).where(tables.emails.c.id.in_(sa.bindparam("email_ids", expanding=True)), tables.emails.c.content.is_not(None))


def contents(connection: sa.Connection, email_ids: Sequence[EmailId]) -> dict[EmailId, Email]:
    """The emails that can be read. One that can't be stays where it is and is told: it must not stop the others."""
    emails: dict[EmailId, Email] = {}
    if not email_ids:
        return emails
    for email_id, content in connection.execute(_select, {"email_ids": padded(email_ids)}):
        try:
            emails[email_id] = decode_email(content)
        except msgspec.MsgspecError:
            _log.exception("the stored content of email %s can't be read; it is not sent", email_id)
    return emails


def traces(connection: sa.Connection, email_ids: Sequence[EmailId]) -> dict[EmailId, str]:
    """The traceparents of these emails; those without one, or whose content was dropped, are left out."""
    if not email_ids:
        return {}
    rows = connection.execute(_select_ends, {"email_ids": padded(email_ids)})
    return {email_id: found[1].decode() for email_id, end in rows if (found := _TRACE.search(end)) is not None}


def still_there(connection: sa.Connection, email_ids: Collection[EmailId]) -> dict[EmailId, bool]:
    """Whether the content is, of each email that there is."""
    if not email_ids:
        return {}
    rows = connection.execute(_select_there, {"email_ids": padded(list(email_ids))})
    return {EmailId(email_id): bool(is_there) for email_id, is_there in rows}
