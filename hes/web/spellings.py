"""What other email APIs call things: a foreign field name is refused with the name that it has here."""

import re
from collections.abc import Iterable, Mapping

from msgspec import Struct
from msgspec.structs import fields

from hes.web.email_request import AttachedFile, EmailRequest, Mailbox


def squeezed(name: str) -> str:
    """`replyTo`, `Reply-To` and `reply_to` are one word."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _spellings(table: Mapping[str, str], own: Iterable[str]) -> dict[str, str]:
    """Each foreign word to what it is called here; and our own words, however they are written."""
    words = {word: f"`{ours}`" for ours, theirs in table.items() for word in theirs.split()}
    return words | {squeezed(name): f"`{name}`" for name in own}


def _fields(struct: type[Struct]) -> tuple[str, ...]:
    return tuple(field.encode_name for field in fields(struct))


EMAIL_WORDS = _spellings(
    {
        "send_at": "scheduledat scheduled scheduledfor deliverat deliverytime odeliverytime sendafter delay",
        "reply_to": "replytolist replytoaddress replytoaddresses replytos",
        "from": "fromemail fromname fromaddress fromemailaddress sender source",
        "to": "personalizations recipients recipient toemail toaddress toaddresses destination destinations",
        "html": "htmlbody htmlcontent htmlpart bodyhtml htmltext amphtml",
        "text": "textbody textcontent textpart bodytext plaintext plain plainbody",
        "subject": "subjectline title",
        "tags": "tag metadata categories category customargs customvariables emailtags",
        "headers": "header customheaders",
        "attachments": "attachment files file inlinedattachments",
        "template": "templateid templatename templatealias templateuuid",
        "variables": "templatemodel templatedata dynamictemplatedata substitutions mergevars globalmergevars params",
        "stream": "messagestream messagestreamid",
        "expires_in": "expiresat expires expiry ttl",
        "attempt_timeout": "timeout",
        "reference": "referenceid externalid clientreference customid",
        "raw": "mime rawmessage eml",
    },
    _fields(EmailRequest),
) | {
    "body": "`text` or `html`",
    "content": "`text` or `html`",
    "message": "`text` or `html`",
    "idempotencykey": "the header `Idempotency-Key`",
}
ADDRESS_WORDS = _spellings({"email": "address mail emailaddress"}, _fields(Mailbox))
ATTACHMENT_WORDS = _spellings(
    {
        "content_type": "type contenttype mimetype mime",
        "filename": "name file",
        "content": "data base64content rawcontent body",
        "content_id": "cid inlineid contentid",
    },
    _fields(AttachedFile),
)
