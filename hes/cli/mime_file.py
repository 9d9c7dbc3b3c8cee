"""From a MIME file (`.eml`) to the API's fields. What these can't express is refused, never dropped.

Left out, since HES or the way makes it anew: Date, Message-ID, MIME-Version, and what servers wrote on the way.
"""

import email.policy
import mimetypes
from collections.abc import Callable, Iterator
from email import message_from_bytes
from email.headerregistry import Address
from email.message import EmailMessage
from typing import Any, cast

from msgspec import Struct

from hes.errors import HesError

_ADDRESSES = {"from": "From", "to": "To", "cc": "Cc", "bcc": "Bcc", "reply_to": "Reply-To"}
_MADE_ANEW = {
    "date",
    "message-id",
    "mime-version",
    "received",
    "return-path",
    "delivered-to",
    "dkim-signature",
    "received-spf",
    "authentication-results",
    "arc-seal",
    "arc-message-signature",
    "arc-authentication-results",
    "x-hes-id",  # in what the outbox keeps
    "x-hes-attempt",
}
MAX_FILE_BYTES = 64 * 1024 * 1024
_MAX_PARTS = 200
_MAX_DEPTH = 20
_MAX_HEADER = 100_000
"""Characters: more than a thousand recipients take."""
_MAX_CONTENT_HEADER = 4000
"""Of a header about a part. What the standard library takes for its parameters grows with the square of it."""
_ALTERNATIVES = {"text/plain", "text/html", "multipart/related", "multipart/mixed"}
_HARMLESS = {"name", "charset", "format", "delsp", "x-unix-mode", "x-mac-type", "x-mac-creator", "x-apple-part-url"}
"""Parameters of a content type that the API has another place for, or nobody needs."""


class CannotExpress(HesError):
    """The file holds something that the API has no field for, or is no email."""


class _Bounded(email.policy.EmailPolicy):
    """Refuses a header that is too long before anything reads what it says."""

    def header_source_parse(self, sourcelines: list[str]) -> tuple[str, str]:
        name = sourcelines[0].partition(":")[0]
        most = _MAX_CONTENT_HEADER if name.lower().startswith("content-") else _MAX_HEADER
        if sum(map(len, sourcelines)) > most:
            raise CannotExpress(f"the file has a {name[:40]} header of more than {most:,} characters")
        return super().header_source_parse(sourcelines)


class _Body(Struct):
    text: str | None = None
    html: str | None = None
    files: list[EmailMessage] = []


def read_mime(raw: bytes) -> dict[str, Any]:
    """The fields of `POST /v1/emails` that the file holds. Raises CannotExpress."""
    if len(raw) > MAX_FILE_BYTES:
        raise CannotExpress(f"the file has more than {MAX_FILE_BYTES // 1024 // 1024} MiB")
    policy: Any = _Bounded(linesep="\n", message_factory=_counting())
    try:
        return _fields(message_from_bytes(raw, policy=policy))
    except RecursionError:  # of the standard library's readers, which go one call deeper for each level
        raise CannotExpress(
            "the file holds parts within parts, or brackets within brackets, too deep to read"
        ) from None


def _counting() -> Callable[..., EmailMessage]:
    """Makes the message and each part of it."""
    count = 0

    def make(policy: email.policy.EmailPolicy) -> EmailMessage:
        nonlocal count
        count += 1
        if count > _MAX_PARTS + 1:  # the parser makes one more, to try
            raise CannotExpress(f"the file has more than {_MAX_PARTS} parts")
        return EmailMessage(policy)

    return make


def _fields(message: EmailMessage) -> dict[str, Any]:
    body = _Body()
    _walk(message, body)
    fields: dict[str, Any] = {"subject": _subject(message), "text": body.text, "html": body.html}
    for field, header in _ADDRESSES.items():
        fields[field] = _addresses(message, header)
    if senders := fields["from"]:
        if len(senders) > 1:
            raise CannotExpress("the file names several senders in From; an email here has one")
        fields["from"] = senders[0]
    _check_sender(message, fields["from"])
    fields["headers"] = dict(_headers(message))
    fields["attachments"] = [_file(part, number, body.html or "") for number, part in enumerate(body.files, 1)]
    _check_defects(message)
    return {name: value for name, value in fields.items() if value}


# --- headers ---------------------------------------------------------------------------------------------------------


def _subject(message: EmailMessage) -> str | None:
    subject = _only(message, "Subject")
    return None if subject is None else str(subject)


def _addresses(message: EmailMessage, name: str) -> list[dict[str, str | None]]:
    header = _only(message, name)
    return [] if header is None else [_address(address) for address in header.addresses]


def _only(message: EmailMessage, name: str) -> Any:
    """The header of that name, as the standard library reads it; None: there is none."""
    headers: list[Any] = message.get_all(name, [])
    if len(headers) > 1:
        raise CannotExpress(f"the file has more than one {name} header")
    for header in headers:
        _check_header(name, header)
    return headers[0] if headers else None


def _check_header(name: str, header: Any) -> None:
    """What the standard library could only guess, or replaced by something else."""
    if header.defects or "\N{REPLACEMENT CHARACTER}" in header:
        why = header.defects[0] if header.defects else "it holds bytes that are no text"
        raise CannotExpress(f"the file's {name} header can't be read: {why}")


def _address(address: Address) -> dict[str, str | None]:
    return {"email": address.addr_spec, "name": address.display_name or None}


def _check_sender(message: EmailMessage, sender: dict[str, str | None] | None) -> None:
    """A Sender header of its own says that somebody else sent it; HES and the providers make that one."""
    for other in _addresses(message, "Sender"):
        if sender is None or other["email"] != sender["email"]:
            raise CannotExpress("the file has a Sender that is not its From; HES sends in the name of From only")


def _headers(message: EmailMessage) -> Iterator[tuple[str, str]]:
    """The caller's own ones."""
    ours = {name.lower() for name in _ADDRESSES.values()} | {"subject", "sender"} | _MADE_ANEW
    seen: set[str] = set()
    for name, value in message.items():
        lower = name.lower()
        if lower in ours or lower.startswith("content-"):
            continue
        if lower in seen:
            raise CannotExpress(f"the file has the header {name} more than once; HES sends each of them once")
        seen.add(lower)
        _check_header(name, value)
        yield name, " ".join(str(value).split())


# --- parts -----------------------------------------------------------------------------------------------------------


def _walk(part: EmailMessage, body: _Body, depth: int = 0) -> None:
    if depth > _MAX_DEPTH:
        raise CannotExpress(f"the file holds parts within parts, more than {_MAX_DEPTH} deep")
    kind = part.get_content_type()
    if part.is_multipart() and kind != "message/rfc822":
        if kind not in {"multipart/mixed", "multipart/alternative", "multipart/related"}:
            raise CannotExpress(f"the file holds {kind}, which HES can't send as it is")
        for child in part.iter_parts():
            _check_alternative(kind, child)
            _walk(cast("EmailMessage", child), body, depth + 1)
    elif part.get_content_disposition() == "attachment" or part.get_filename() or part.get_content_maintype() != "text":
        body.files.append(part)
    elif kind == "text/plain" and body.text is None:
        body.text = _text(part)
    elif kind == "text/html" and body.html is None:
        body.html = _text(part)
    else:
        again = "a second" if kind in {"text/plain", "text/html"} else "a"
        raise CannotExpress(f"the file has {again} body of type {kind}; HES takes one text and one HTML body")


def _check_alternative(kind: str, child: Any) -> None:
    """As an attachment it would be shown beside the bodies instead of in place of them."""
    type_ = child.get_content_type()
    if kind == "multipart/alternative" and type_ not in _ALTERNATIVES:
        raise CannotExpress(f"the file offers {type_} as an alternative body; HES takes one text and one HTML body")


def _text(part: EmailMessage) -> str:
    try:
        return cast("str", part.get_content(errors="strict")).replace("\r\n", "\n")
    except (UnicodeDecodeError, LookupError):
        charset = part.get_content_charset("us-ascii")
        raise CannotExpress(f"the file's {part.get_content_type()} body is not the {charset} that it says") from None


def _file(part: EmailMessage, number: int, html: str) -> dict[str, Any]:
    kind = part.get_content_type()
    for name, value in part.get_params([], header="content-type")[1:]:
        if name.lower() not in _HARMLESS:
            raise CannotExpress(f"an attachment of type {kind} has the parameter {name}={value}, which HES can't send")
    made = {
        "filename": part.get_filename() or f"part-{number}{mimetypes.guess_extension(kind) or '.bin'}",
        "content_type": kind,
        "content": _bytes(part),
    }
    # Many programs give every attachment an id; only what the HTML shows is an inline image.
    content_id = str(part.get("Content-ID", "")).strip().removeprefix("<").removesuffix(">")
    return made | {"content_id": content_id} if content_id and f"cid:{content_id}" in html else made


def _bytes(part: EmailMessage) -> bytes:
    if part.get_content_type() == "message/rfc822":
        return cast("EmailMessage", part.get_payload(0)).as_bytes()
    return cast("bytes", part.get_payload(decode=True))


def _check_defects(message: EmailMessage) -> None:
    """Last, since some are found only when contents are read."""
    for part in message.walk():
        if part.defects:
            raise CannotExpress(f"the file is not a well-formed email: {type(part.defects[0]).__name__}")
