"""The emails themselves, as they were handed in."""

import logging
from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from hes.model import Email, EmailId
from hes.storage import tables
from hes.storage.batches import padded

_log = logging.getLogger("hes.storage")

decode_email = msgspec.json.Decoder(Email).decode
_select = sa.select(tables.emails.c.id, tables.emails.c.content).where(
    tables.emails.c.id.in_(sa.bindparam("email_ids", expanding=True)), tables.emails.c.content.is_not(None)
)


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
